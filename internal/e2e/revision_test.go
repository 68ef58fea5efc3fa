package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/store"
)

// The agent downloads, installs, tests and commits a revision, and reports its progress. If the
// test of a revision fails, the agent rolls the revision back, and the owner can read the cause.
func TestAgentAppliesRevisionsAndRollsBackBadOnes(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run()
	m.waitForTrail()
	good := m.post(map[string]string{"app/root": "one", "app/same": "shared"})
	if p := m.waitForStatus(good, "DONE"); p.Progress != 100 {
		t.Errorf("progress %+v", p)
	}
	if got := m.installed("app/root"); got != "one" {
		t.Errorf("installed: %q", got)
	}
	bad := m.post(map[string]string{"app/root": "two", "app/same": "shared", "hook/test.sh": "echo the pump does not start; exit 7\n"})
	p := m.waitForStatus(bad, "ERROR")
	if !strings.Contains(p.Message, "code 7") || !strings.Contains(p.Message, "the pump does not start") {
		t.Errorf("the progress message is %q, want the exit code and the output of the test", p.Message)
	}
	if got := m.installed("app/root"); got != "one" {
		t.Errorf("installed after rolling back: %q", got)
	}
	third := m.post(map[string]string{"app/root": "three"})
	m.waitForStatus(third, "DONE")
	status, err := exec.Command(agentBinary, "status", "--state", m.path("state")).Output()
	if err != nil || !regexp.MustCompile(`(?m)^revision +3$`).Match(status) {
		t.Errorf("status: %s %v", status, err)
	}
	want := []string{"install 1", "test 1", "commit 1", "install 2", "test 2", "rollback 2", "install 3", "test 3", "commit 3"}
	if got := m.calls(); !slices.Equal(got, want) {
		t.Errorf("calls: %v", got)
	}
	// The agent keeps the current and the previous revision with their objects, and deletes all
	// others.
	eventually(t, "old revisions and objects are removed", func() bool {
		folders, _ := os.ReadDir(m.path("state", "trail", "revisions"))
		objects, _ := filepath.Glob(m.path("state", "trail", "objects", "*", "*"))
		parts, _ := os.ReadDir(m.path("state", "trail", "incoming"))
		return len(folders) == 2 && len(objects) == 3 && len(parts) == 0
	})
	m.stop()
}

// A kill of the agent during any call of the hook (install, test, commit, ...) does not change the
// result. The test kills the agent during the first call of each kind, and starts the agent again.
// At the end each revision has the right status.
func TestKilledAgentComesToTheRightEnd(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run()
	m.waitForTrail()
	m.waitForStatus(m.post(map[string]string{"app/root": "base"}), "DONE")
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
			p := m.waitForStatus(rev, c.end)
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
			// The hook process of the killed agent must end before the new agent starts the hook.
			if left := leftProcesses(t, m.dir); len(left) > 0 {
				t.Errorf("processes of the killed agent still run: %v", left)
			}
		})
	}
}

// leftProcesses returns the running processes whose working folder is the hook's working folder.
func leftProcesses(t *testing.T, dir string) (found []string) {
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

// If a revision crashes the machine at each try, the agent rolls the revision back after three
// tries.
func TestRevisionThatStopsTheMachineIsRolledBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run()
	m.waitForTrail()
	m.waitForStatus(m.post(map[string]string{"app/root": "base"}), "DONE")
	rev := m.post(map[string]string{"app/root": "deadly", "hook/test.sh": "echo x >>deaths; sleep 600\n"})
	for n := 1; n <= 3; n++ {
		eventually(t, "the test begins", func() bool {
			b, _ := os.ReadFile(m.path("deaths"))
			return len(b) == 2*n
		})
		m.kill()
		m.run()
	}
	if p := m.waitForStatus(rev, "ERROR"); !strings.Contains(p.Message, "stopped 3 times") {
		t.Errorf("the progress message is %q", p.Message)
	}
	if got := m.installed("app/root"); got != "base" {
		t.Errorf("installed: %q", got)
	}
}

// If the hook asks for a reboot, the agent tests the revision only after the machine has restarted.
func TestRevisionThatNeedsARebootIsTestedAfterIt(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run()
	m.waitForTrail()
	m.waitForStatus(m.post(map[string]string{"app/root": "base"}), "DONE")
	reboots := "ln -sfn \"$2\" installed; exit 10\n"
	rev := m.post(map[string]string{"app/root": "kernel", "hook/install.sh": reboots, "hook/reboot.sh": "echo x >>reboots\n"})
	called := func(n int) func() bool {
		return func() bool {
			b, _ := os.ReadFile(m.path("reboots"))
			return len(b) == 2*n
		}
	}
	eventually(t, "the agent calls the hook to reboot", called(1))
	// Restart only the agent: the boot id stays the same, so the agent must call the hook to reboot
	// again.
	m.kill()
	m.run()
	eventually(t, "the agent calls the hook to reboot again", called(2))
	if calls := m.calls(); slices.Contains(calls, fmt.Sprintf("test %d", rev)) {
		t.Fatalf("tested before the reboot: %v", calls)
	}
	m.kill()
	m.setBootID("second")
	m.run()
	m.waitForStatus(rev, "DONE")
	// A rollback may need a reboot too.
	bad := m.post(map[string]string{"app/root": "broken", "hook/test.sh": "exit 3\n", "hook/rollback.sh": "ln -sfn \"$GANGWAY_FORMER\" installed; exit 10\n", "hook/reboot.sh": "echo x >>reboots\n"})
	eventually(t, "the agent calls the hook to reboot for the rollback", called(3))
	m.kill()
	m.setBootID("third")
	m.run()
	if p := m.waitForStatus(bad, "ERROR"); !strings.Contains(p.Message, "code 3") {
		t.Errorf("the progress message is %q", p.Message)
	}
	if got := m.installed("app/root"); got != "kernel" {
		t.Errorf("installed: %q", got)
	}
}

// The agent survives an unreachable hub. If the connection breaks during a download, the agent
// later continues the download at the same position. If it breaks during the test of the revision,
// the agent waits for the hub before it commits the revision.
func TestAgentOutlivesAHubThatIsAway(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run()
	m.waitForTrail()
	large := strings.Repeat("0123456789abcdef", 1<<20) // 16 MiB
	m.link.breakOnceAfter(9 << 20)
	rev := m.post(map[string]string{"app/root": large, "hook/test.sh": "echo x >testing; while [ ! -e away ]; do sleep 0.05; done\n"})
	eventually(t, "the test begins", func() bool {
		_, err := os.Stat(m.path("testing"))
		return err == nil
	})
	if !strings.Contains(m.log.String(), "broke after") {
		t.Error("the download was not interrupted")
	}
	m.link.setCut(true)
	if err := os.WriteFile(m.path("away"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the agent waits", func() bool { return strings.Contains(m.log.String(), "Waiting for the hub") })
	if slices.Contains(m.calls(), fmt.Sprintf("commit %d", rev)) {
		t.Error("the revision was committed although it did not reach the hub")
	}
	m.link.setCut(false)
	m.waitForStatus(rev, "DONE")
	if m.installed("app/root") != large {
		t.Error("another content is installed")
	}
}

// If the agent is killed in the middle of a download, it later continues the download at the same
// position instead of starting again.
func TestKilledDownloadIsGoneOnWith(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.args = append(m.args, "--revisions", m.path("data"))
	m.run()
	m.waitForTrail()
	large := strings.Repeat("fedcba9876543210", 1<<20) // 16 MiB
	sum := m.object(large)
	part := m.path("data", "incoming", sum)
	m.link.stallAfter(10 << 20)
	rev := m.post(map[string]string{"app/root": large})
	var had int64
	eventually(t, "the download stalls in its middle", func() bool {
		info, err := os.Stat(part)
		if err != nil || info.Size() < 8<<20 {
			return false
		}
		had = info.Size()
		return true
	})
	m.kill()
	m.link.stallAfter(0)
	before := m.link.carried.Load()
	m.run()
	m.waitForStatus(rev, "DONE")
	if m.installed("app/root") != large {
		t.Error("another content is installed")
	}
	if again := m.link.carried.Load() - before; again > int64(len(large))-had+(1<<20) {
		t.Errorf("%d bytes were downloaded after the kill, although %d of %d were there", again, had, len(large))
	}
}

// The agent rolls back a revision with which the machine cannot reach the hub.
func TestRevisionThatCutsTheMachineOffIsRolledBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.args = append(m.args, "--hub-within", "2s")
	m.run()
	m.waitForTrail()
	m.waitForStatus(m.post(map[string]string{"app/root": "base"}), "DONE")
	rev := m.post(map[string]string{"app/root": "lonely", "hook/test.sh": "echo x >testing; while [ ! -e away ]; do sleep 0.05; done\n"})
	eventually(t, "the test begins", func() bool {
		_, err := os.Stat(m.path("testing"))
		return err == nil
	})
	m.link.setCut(true)
	if err := os.WriteFile(m.path("away"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the revision is rolled back", func() bool { return slices.Contains(m.calls(), fmt.Sprintf("rollback %d", rev)) })
	m.link.setCut(false)
	if p := m.waitForStatus(rev, "ERROR"); !strings.Contains(p.Message, "the hub could not be reached") {
		t.Errorf("the progress message is %q", p.Message)
	}
	if got := m.installed("app/root"); got != "base" {
		t.Errorf("installed: %q", got)
	}
}

// The agent can be killed at any instant: the installed revision is always complete, and it is
// always the revision that the hub lists as done.
func TestAgentKilledAtAnyInstantTellsTheTruth(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run()
	m.waitForTrail()
	m.waitForStatus(m.post(map[string]string{"app/a": "0", "app/b": "0"}), "DONE")
	m.kill()
	installed := "0"
	kills := 0
	for n := 1; n <= 6; n++ {
		value := fmt.Sprint(n)
		files := map[string]string{"app/a": value, "app/b": value, "app/large": strings.Repeat(value, 2<<20), "hook/install.sh": "sleep 0.3\n", "hook/commit.sh": "sleep 0.1\n", "hook/rollback.sh": "sleep 0.2\n"}
		if n%3 == 0 {
			files["hook/test.sh"] = "sleep 0.05; exit 1\n"
		}
		rev := m.post(files)
		var p progress
		for tries := 1; ; tries++ {
			m.run()
			// Let the agent run longer in each try, so that the test also ends on a slow machine.
			time.Sleep(time.Duration(40+rand.IntN(100*(2+tries))) * time.Millisecond)
			m.kill()
			kills++
			if p = m.progress(rev); p.Status == "DONE" || p.Status == "ERROR" {
				break
			}
			if tries == 100 {
				t.Fatalf("revision %d is %+v after %d kills: %v", rev, p, kills, m.calls())
			}
		}
		switch {
		case p.Status == "DONE" && n%3 == 0:
			t.Fatalf("revision %d is DONE although its test fails", rev)
		case p.Status == "DONE":
			installed = value
		case n%3 != 0 && !strings.Contains(p.Message, "stopped 3 times"):
			t.Fatalf("revision %d failed although its test passes: %+v", rev, p)
		}
		if a, b := m.installed("app/a"), m.installed("app/b"); a != installed || b != installed {
			t.Fatalf("revision %d is %s (%s), and %q and %q are installed", rev, p.Status, p.Message, a, b)
		}
	}
	t.Logf("%d kills", kills)
}

// The agent rolls back a revision that its owner cancels during the installation. It refuses a
// state with a path outside the revision's folder.
func TestAgentObeysItsOwnerAndNoBadState(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run()
	m.waitForTrail()
	m.waitForStatus(m.post(map[string]string{"app/root": "base"}), "DONE")
	rev := m.post(map[string]string{"app/root": "unwanted", "hook/install.sh": "echo x >installing; while [ ! -e givenup ]; do sleep 0.05; done\n"})
	eventually(t, "the installation begins", func() bool {
		_, err := os.Stat(m.path("installing"))
		return err == nil
	})
	m.ada.call("PUT", fmt.Sprintf("/trails/%s/steps/%d/wontgo", m.id, rev), map[string]string{}, new(any))
	if err := os.WriteFile(m.path("givenup"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the revision is rolled back", func() bool { return slices.Contains(m.calls(), fmt.Sprintf("rollback %d", rev)) })
	eventually(t, "the revision before is installed", func() bool { return m.installed("app/root") == "base" })
	if p := m.progress(rev); p.Status != "WONTGO" {
		t.Errorf("progress %+v", p)
	}
	evil := m.post(map[string]string{"../../../escaped": "x"})
	if p := m.waitForStatus(evil, "WONTGO"); !strings.Contains(p.Message, "is not a path inside") {
		t.Errorf("the progress message is %q", p.Message)
	}
	if slices.Contains(m.calls(), fmt.Sprintf("install %d", evil)) {
		t.Error("the hook installed the refused revision")
	}
	m.waitForStatus(m.post(map[string]string{"app/root": "next"}), "DONE")
}

// The device's hook gets the owner's user-meta, even if the hook failed once. The hub gets log
// lines that programs write to the agent's socket. The device's report has the same keys as
// Pantavisor's.
func TestAgentReportsSendsLinesAndTakesUserMeta(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	hook := "#!/bin/sh\ncd \"$(dirname \"$0\")\"\nif [ ! -e once ]; then touch once; exit 1; fi\ncp \"$2\" received\n"
	if err := os.WriteFile(m.path("meta-hook"), []byte(hook), 0o755); err != nil {
		t.Fatal(err)
	}
	sockets, err := os.MkdirTemp("", "log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	m.args = append(m.args, "--user-meta-hook", m.path("meta-hook"), "--log-socket", filepath.Join(sockets, "s"))
	m.ada.call("PATCH", "/devices/"+m.id+"/user-meta", map[string]any{"speed": 3, "gone": 1}, new(any))
	m.run()
	m.waitForTrail()
	wantReceived := func(want string) {
		t.Helper()
		eventually(t, "the hook receives "+want, func() bool {
			b, _ := os.ReadFile(m.path("received"))
			return strings.TrimSpace(string(b)) == want
		})
	}
	wantReceived(`{"gone":1,"speed":3}`)
	m.ada.call("PATCH", "/devices/"+m.id+"/user-meta", map[string]any{"gone": nil}, new(any))
	wantReceived(`{"speed":3}`)

	conn, err := net.Dial("unixgram", filepath.Join(sockets, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("<14>from the socket")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the line arrives", func() bool {
		list, err := m.hub.Store.Logs(t.Context(), store.LogFilter{Owner: m.hub.Owner.ID, Devices: []string{m.id}, Limit: 1000, Bytes: 1 << 20})
		return err == nil && slices.ContainsFunc(list, func(e store.LogEntry) bool {
			return e.Message == "from the socket" && e.Source == "socket" && e.Level == "INFO"
		})
	})
	var meta map[string]any
	eventually(t, "the device reports its revision", func() bool {
		d, err := m.hub.Store.Device(t.Context(), m.id)
		if err != nil {
			t.Fatal(err)
		}
		meta = d.DeviceMeta
		return meta["pantavisor.revision"] == "0"
	})
	for _, key := range []string{"gangway.version", "pantavisor.arch", "pantavisor.uname", "pantavisor.mode", "pantahub.address", "pantahub.claimed",
		"pantahub.online", "pantahub.state", "interfaces", "storage", "sysinfo", "time"} {
		if _, ok := meta[key]; !ok {
			t.Errorf("%s is not reported", key)
		}
	}
	if cards, ok := meta["interfaces"].(map[string]any); !ok || cards["lo.ipv4"] == nil {
		t.Errorf("interfaces: %v", meta["interfaces"])
	}
}
