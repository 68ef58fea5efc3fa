// Package race lets a test skip itself under the race detector. It is for tests in which the race
// detector cannot find a race. The detector makes these tests up to ten times as slow. Such tests
// use only one goroutine, or they call one handler after another, while other tests call these
// handlers concurrently.
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
