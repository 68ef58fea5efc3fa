// Package factory makes a device's first revision from one or more sources that pvr can merge:
// checkouts, exports, and trails (the revisions of other devices) on a hub. The command
// `gangway image build --merge` calls Merge, which merges the sources in their order, as `pvr merge`
// does. Package image/stick writes the result to the USB stick that installs the device.
//
// The package does not trust a source. It checks a source's state as the hub and the device do,
// accepts an object only if its SHA-256 matches, never uses a name from a source as a path, and
// bounds everything that it reads.
package factory
