// Package race lets a test skip itself under the race detector, which makes some tests ten times as
// slow. It is only for tests in which the detector cannot find a race: tests that use only one
// goroutine, and tests that call one handler after another, if other tests call these handlers
// concurrently.
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
