// Package trail reads the messages about a device's trail, its sequence of revisions. The hub
// parses states, progress reports and filters by status; the device parses pending revisions and
// object records; the image builder parses first revisions.
//
// Parsers are strict: they refuse a text that two programs could understand differently, so the
// device reads exactly the values that the hub checked. docs/trails.md describes states and
// statuses.
//
// The package does no I/O, keeps no state and reads no clock.
package trail
