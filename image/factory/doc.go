// Package factory makes a device's first revision from pvr's sources: a
// checkout, an export, or a trail on a hub. They are merged in their order, as
// `pvr merge` does it.
//
// A source is not trusted: its state is read by the rules of the hub and of the
// device, an object counts by its SHA-256 alone, no name of a source becomes a
// path, and everything is bounded.
package factory
