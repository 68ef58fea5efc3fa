// Package factory makes a device's first revision from pvr's sources: a checkout, an export, or a
// trail on a hub. `gangway image build --merge` calls Merge, and package image/stick writes the
// result to the USB stick that installs the device. Merge merges the sources in their order, as
// `pvr merge` does.
//
// The package does not trust a source. It makes the same checks of a source's state as the hub and
// the device. It accepts an object only if the object's SHA-256 matches. It never uses a name from
// a source as a path. It bounds everything that it reads.
package factory
