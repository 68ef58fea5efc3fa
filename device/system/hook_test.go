package system

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/device/install/slots"
)

// hookSlots simulates the slots. It records each call of Do.
type hookSlots struct{ l *lab }

func (h hookSlots) Do(verb, folder string) int {
	h.l.step("%s %s", verb, folder)
	return 10
}

func (h hookSlots) Trial() (running, kept slots.Slot, tried bool, err error) {
	return slots.B, slots.A, h.l.tried, h.l.failing["trial"]
}

// hook runs gangway-hook.
func (l *lab) hook(args ...string) (code int, errOut string) {
	var b bytes.Buffer
	h := &Hook{Logf: l.Logf, Paths: l.paths(), Slots: hookSlots{l}, Restart: func() error { return l.step("restart") }, ErrOut: &b}
	code = h.Run(args)
	return code, b.String()
}

func TestHookIsCalledForARevision(t *testing.T) {
	inLab(t, func(l *lab) {
		if code, _ := l.hook("install", "/data/r1"); code != 10 || !l.did("install /data/r1") {
			t.Errorf("code %d: %q", code, l.log)
		}
		for _, args := range [][]string{nil, {"install"}, {"install", "a", "b"}} {
			if code, out := l.hook(args...); code != 2 || !strings.Contains(out, "gangway-hook install|reboot") {
				t.Errorf("%q: code %d, %q", args, code, out)
			}
		}
	})
}

// If the owner sets new network settings, the hook restarts the machine. If the machine is busy,
// the hook exits with code 1, and the agent calls the hook again later. If the settings have a
// mistake, the hook exits with code 0, because a later call would not help.
func TestHookForUserMeta(t *testing.T) {
	t.Parallel()
	const good = `{"gangway.network":"version = 1\nvlan = 7\n"}`
	for name, c := range map[string]struct {
		meta  string
		spoil func(l *lab)
		code  int
		says  []string
	}{
		"new settings":        {good, nil, 0, []string{"log The owner has set other network settings. The machine restarts to try them.", "restart"}},
		"no settings":         {`{"site":"oslo"}`, nil, 0, nil},
		"a mistake":           {`{"gangway.network":"vlan 7"}`, nil, 0, []string{"log The network settings of the owner cannot be used: "}},
		"not JSON":            {`{`, nil, 1, []string{"log "}},
		"a system on trial":   {good, func(l *lab) { l.tried = true }, 1, []string{"log the owner's network settings must wait: a new system is on trial"}},
		"no restart":          {good, func(l *lab) { l.failing["restart"] = errBroken }, 1, []string{"restart", "log it is broken"}},
		"an unreadable trial": {good, func(l *lab) { l.failing["trial"], l.tried = errBroken, true }, 0, []string{"restart"}},
		"a revision that is installed": {good, func(l *lab) {
			l.status(agentStatus{Phase: "active", DeviceID: "d1"})
			l.write("data/gangway-agent/trail/journal.json", `{"version":1,"device":"d1","begun":true,"step":{"rev":3,"phase":"installing"}}`)
		}, 1, []string{"log the owner's network settings must wait: revision 3 is being installed"}},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.write("user-meta.json", c.meta)
				if c.spoil != nil {
					c.spoil(l)
				}
				code, _ := l.hook("user-meta", filepath.Join(l.dir, "user-meta.json"))
				if code != c.code {
					t.Errorf("code %d: %q", code, l.log)
				}
				l.want(c.says...)
				if l.did("restart") != (len(c.says) > 0 && strings.Contains(strings.Join(c.says, "\n"), "restart")) {
					t.Errorf("%q", l.log)
				}
				if b, err := os.ReadFile(l.paths().NetworkReport); err != nil || !strings.Contains(string(b), "in force: automatic") {
					t.Errorf("the report: %s, %v", b, err)
				}
			})
		})
	}
}

// A machine without a disk onboards at each start. It switches off at the event that
// gangway.poweroff on the kernel's command line names.
func TestLiveSystem(t *testing.T) {
	t.Parallel()
	const args = "--set-clock --network-file /n.txt --state /run/gangway-agent"
	for name, c := range map[string]struct {
		poweroff string
		onboard  int
		want     []string
		after    time.Duration // time after which Live returns; 0: never
	}{
		"as soon as it is onboarded": {"onboarded", 0, []string{"agent onboard --token-file /etc/gangway/device_autojointoken.json " + args, "log onboarded"}, time.Second},
		"when the agent ends":        {"exit", 0, []string{"log onboarded", "agent run " + args, "log the agent ended with code 9"}, 2 * time.Second},
		"when it is refused":         {"exit", exitRefused, []string{"log the agent ended with code 3"}, time.Second},
		"never":                      {"", 0, []string{"agent run", "log the agent ended with code 9", "agent onboard", "agent run"}, 0},
		"never, after a refusal":     {"", exitRefused, []string{"agent onboard", "log the agent ended with code 3", "agent onboard"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.agent = func(l *lab, command string, args []string) int {
					l.sleep(time.Second)
					if command == "onboard" {
						return c.onboard
					}
					return 9
				}
				returned := make(chan time.Duration, 1)
				go func() {
					Live(l, "/n.txt", c.poweroff, l.Logf)
					returned <- time.Since(l.began)
				}()
				if c.onboard == exitRefused && c.after == 0 {
					l.wait(refusedWait)
					l.never("log onboarded")
					if l.did("agent onboard", "agent onboard") {
						t.Error("it does not wait after a refusal")
					}
				}
				l.wait(refusedWait)
				l.want(c.want...)
				select {
				case after := <-returned:
					if after != c.after {
						t.Errorf("it returned after %s", after)
					}
				default:
					if c.after != 0 {
						t.Error("it does not return")
					}
				}
				if c.poweroff == "onboarded" {
					l.never("agent run")
				}
			})
		})
	}
	t.Run("an agent that is not there", func(t *testing.T) {
		inLab(t, func(l *lab) {
			l.failing["agent onboard --token-file /etc/gangway/device_autojointoken.json "+args] = errBroken
			Live(l, "/n.txt", "exit", l.Logf)
			l.want("log starting the agent failed: it is broken")
		})
	})
}
