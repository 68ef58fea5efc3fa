// Package race excludes tests from the race detector. It is for tests that use only one goroutine:
// the detector can find nothing in such a test, but makes it ten times as slow.
package race

import "testing"

// Skip skips a test under the race detector. It must be the first line of the test, because
// scripts/test.sh finds the test by this line and runs it without the detector.
func Skip(t testing.TB) {
	t.Helper()
	if Enabled {
		t.Skip("skipped under the race detector: scripts/test.sh runs it without the detector")
	}
}
