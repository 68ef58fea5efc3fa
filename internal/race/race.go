// Package race lets a test skip itself under the race detector. It is for tests that use only one
// goroutine: in such tests the race detector can find no races, but makes the tests ten times as
// slow.
package race

import "testing"

// Skip skips a test under the race detector. The call must be the first line of the test, because
// scripts/test.sh searches for such tests and runs them without the race detector.
func Skip(t testing.TB) {
	t.Helper()
	if Enabled {
		t.Skip("skipped under the race detector: scripts/test.sh runs it without the detector")
	}
}
