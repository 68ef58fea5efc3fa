package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A revision is downloaded, installed, tested, made permanent, and reported;
// one whose test fails is rolled back, and the owner reads why.
func TestAgentAppliesRevisionsAndRollsBackBadOnes(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run()
	m.begun()
	good := m.post(map[string]string{"app/root": "one", "app/same": "shared"})
	if p := m.becomes(good, "DONE"); p.Progress != 100 {
		t.Errorf("%+v", p)
	}
	if got := m.installed("app/root"); got != "one" {
		t.Errorf("installed: %q", got)
	}
	bad := m.post(map[string]string{"app/root": "two", "app/same": "shared", "hook/test.sh": "echo the pump does not start; exit 7\n"})
	p := m.becomes(bad, "ERROR")
	if !strings.Contains(p.Message, "code 7") || !strings.Contains(p.Message, "the pump does not start") {
		t.Errorf("the owner reads %q", p.Message)
	}
	if got := m.installed("app/root"); got != "one" {
		t.Errorf("installed after rolling back: %q", got)
	}
	third := m.post(map[string]string{"app/root": "three"})
	m.becomes(third, "DONE")
	want := []string{"install 1", "test 1", "commit 1", "install 2", "test 2", "rollback 2", "install 3", "test 3", "commit 3"}
	if got := m.calls(); !slices.Equal(got, want) {
		t.Errorf("calls: %v", got)
	}
	// The current revision, the former, and their objects are kept alone.
	eventually(t, "old revisions and objects are removed", func() bool {
		folders, _ := os.ReadDir(m.path("state", "trail", "revisions"))
		objects, _ := filepath.Glob(m.path("state", "trail", "objects", "*", "*"))
		parts, _ := os.ReadDir(m.path("state", "trail", "incoming"))
		return len(folders) == 2 && len(objects) == 3 && len(parts) == 0
	})
	m.stop()
}

// The agent is killed in the middle of each call of the hook, at its first
// try, and started again: each revision comes to its right end.
func TestKilledAgentComesToTheRightEnd(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run()
	m.begun()
	m.becomes(m.post(map[string]string{"app/root": "base"}), "DONE")
	hang := func(verb string) string {
		return fmt.Sprintf("if [ \"$GANGWAY_TRY\" = 1 ]; then echo here >%s-%s; sleep 600 & wait; fi\n", verb, "$GANGWAY_REV")
	}
	for _, c := range []struct{ verb, end, now string }{
		{"install", "DONE", "new"}, {"test", "DONE", "new"}, {"commit", "DONE", "new"}, {"rollback", "ERROR", "before"},
	} {
		t.Run(c.verb, func(t *testing.T) {
			before := m.installed("app/root")
			files := map[string]string{"app/root": "new " + c.verb, "hook/" + c.verb + ".sh": hang(c.verb)}
			if c.verb == "rollback" {
				files["hook/test.sh"] = "exit 1\n"
			}
			rev := m.post(files)
			eventually(t, "the hook is called", func() bool {
				_, err := os.Stat(m.path(fmt.Sprintf("%s-%d", c.verb, rev)))
				return err == nil
			})
			m.kill()
			m.run()
			p := m.becomes(rev, c.end)
			want := "new " + c.verb
			if c.now == "before" {
				want = before
			}
			if got := m.installed("app/root"); got != want {
				t.Errorf("installed: %q (%+v)", got, p)
			}
			if n := strings.Count(strings.Join(m.calls(), "\n"), fmt.Sprintf("%s %d", c.verb, rev)); n != 2 {
				t.Errorf("%d calls: %v", n, m.calls())
			}
			// What the killed agent had started is not beside what the new one did.
			if left := sleepers(t, m.dir); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
		})
	}
}

// sleepers are the processes that the hook left in its folder.
func sleepers(t *testing.T, dir string) (found []string) {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range list {
		if at, err := os.Readlink(path); err == nil && at == dir {
			found = append(found, path)
		}
	}
	return found
}

// A revision that takes the machine down each time is given up.
func TestRevisionThatStopsTheMachineIsRolledBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run()
	m.begun()
	m.becomes(m.post(map[string]string{"app/root": "base"}), "DONE")
	rev := m.post(map[string]string{"app/root": "deadly", "hook/test.sh": "echo x >>deaths; sleep 600\n"})
	for n := 1; n <= 3; n++ {
		eventually(t, "the test begins", func() bool {
			b, _ := os.ReadFile(m.path("deaths"))
			return len(b) == 2*n
		})
		m.kill()
		m.run()
	}
	if p := m.becomes(rev, "ERROR"); !strings.Contains(p.Message, "stopped 3 times") {
		t.Errorf("%q", p.Message)
	}
	if got := m.installed("app/root"); got != "base" {
		t.Errorf("installed: %q", got)
	}
}

// The hook asks for a reboot: the machine starts anew, and the test comes
// after it.
func TestRevisionThatNeedsARebootIsTestedAfterIt(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run()
	m.begun()
	m.becomes(m.post(map[string]string{"app/root": "base"}), "DONE")
	reboots := "ln -sfn \"$2\" installed; exit 10\n"
	rev := m.post(map[string]string{"app/root": "kernel", "hook/install.sh": reboots, "hook/reboot.sh": "echo x >>reboots\n"})
	called := func(n int) func() bool {
		return func() bool {
			b, _ := os.ReadFile(m.path("reboots"))
			return len(b) == 2*n
		}
	}
	eventually(t, "the hook is told to reboot", called(1))
	// The agent alone was started anew: it is the same start of the machine.
	m.kill()
	m.run()
	eventually(t, "it reports again", func() bool { return strings.Count(m.log.String(), "Connected") > 0 })
	if calls := m.calls(); slices.Contains(calls, fmt.Sprintf("test %d", rev)) {
		t.Fatalf("tested before the reboot: %v", calls)
	}
	m.kill()
	m.starts("second")
	m.run()
	m.becomes(rev, "DONE")
	// And back: rolling back may need one too.
	bad := m.post(map[string]string{"app/root": "broken", "hook/test.sh": "exit 3\n", "hook/rollback.sh": "ln -sfn \"$GANGWAY_FORMER\" installed; exit 10\n", "hook/reboot.sh": "echo x >>reboots\n"})
	eventually(t, "the hook is told to reboot", called(2))
	m.kill()
	m.starts("third")
	m.run()
	if p := m.becomes(bad, "ERROR"); !strings.Contains(p.Message, "code 3") {
		t.Errorf("%q", p.Message)
	}
	if got := m.installed("app/root"); got != "kernel" {
		t.Errorf("installed: %q", got)
	}
}

// The hub goes away during the download, which is gone on with where it broke,
// and during the test, which waits for it.
func TestAgentOutlivesAHubThatIsAway(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run()
	m.begun()
	large := strings.Repeat("0123456789abcdef", 1<<20) // 16 MiB
	m.wire.breaksAfter(9 << 20)
	rev := m.post(map[string]string{"app/root": large, "hook/test.sh": "echo x >testing; while [ ! -e away ]; do sleep 0.05; done\n"})
	eventually(t, "the test begins", func() bool {
		_, err := os.Stat(m.path("testing"))
		return err == nil
	})
	if !strings.Contains(m.log.String(), "broke after") {
		t.Error("the download did not break")
	}
	m.wire.away(true)
	if err := os.WriteFile(m.path("away"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the agent waits", func() bool { return strings.Contains(m.log.String(), "Waiting for the hub") })
	if slices.Contains(m.calls(), fmt.Sprintf("commit %d", rev)) {
		t.Error("it was made permanent though the hub was not reached with it")
	}
	m.wire.away(false)
	m.becomes(rev, "DONE")
	if m.installed("app/root") != large {
		t.Error("installed is something else")
	}
}

// A revision with which the hub cannot be reached is no good.
func TestRevisionThatCutsTheMachineOffIsRolledBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.args = append(m.args, "--hub-within", "2s")
	m.run()
	m.begun()
	m.becomes(m.post(map[string]string{"app/root": "base"}), "DONE")
	rev := m.post(map[string]string{"app/root": "lonely", "hook/test.sh": "echo x >testing; while [ ! -e away ]; do sleep 0.05; done\n"})
	eventually(t, "the test begins", func() bool {
		_, err := os.Stat(m.path("testing"))
		return err == nil
	})
	m.wire.away(true)
	if err := os.WriteFile(m.path("away"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is rolled back", func() bool { return slices.Contains(m.calls(), fmt.Sprintf("rollback %d", rev)) })
	m.wire.away(false)
	if p := m.becomes(rev, "ERROR"); !strings.Contains(p.Message, "the hub could not be reached") {
		t.Errorf("%q", p.Message)
	}
	if got := m.installed("app/root"); got != "base" {
		t.Errorf("installed: %q", got)
	}
}
