// Package race keeps tests of one goroutine away from the race detector, which
// finds nothing in them and makes them ten times as slow.
package race

import "testing"

// Skip skips a test under the race detector. It is the first line of the test:
// scripts/test.sh finds the test by it, and runs it without the detector.
func Skip(t testing.TB) {
	t.Helper()
	if Enabled {
		t.Skip("not under the race detector: scripts/test.sh runs it without")
	}
}
