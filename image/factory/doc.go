// Package factory makes a device's first revision from pvr's sources: a checkout, an export, or
// a trail on a hub. `gangway image build --merge` calls Merge, and package image/stick puts the
// result on the stick. Sources are merged in their order, as `pvr merge` does it.
//
// A source is not trusted. Its state is parsed by the rules of the hub and of the device. An
// object is accepted only if its SHA-256 matches. No name from a source becomes a path.
// Everything is bounded.
package factory
