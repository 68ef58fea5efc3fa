// Package trail reads the messages of a trail, a device's sequence of
// revisions, for both sides: states, progress reports and filters by status for
// the hub; waiting revisions and object records for the device; first revisions
// for the image.
//
// Parsers are strict: they refuse a text that two readers could understand
// differently, so one side reads a text as the other side has checked it.
// docs/agent.md and docs/pvr.md describe the messages.
//
// The package is pure: no I/O, no state, no clock.
package trail
