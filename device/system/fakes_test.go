package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gangway/device/install"
	"gangway/device/install/netfile"
	"gangway/device/install/slots"
)

var errBroken = errors.New("it is broken")

// lab simulates a machine with an installed system. The machine's folders are in the test's
// temporary folder. The lab records each step, in order.
type lab struct {
	t     *testing.T
	dir   string
	began time.Time
	off   chan struct{} // closed when the machine restarts
	mu    sync.Mutex
	log   []string // guarded by mu

	failing map[string]error // the error that a step returns, by the step's name
	tpm     error
	there   time.Duration // time from the start until the disk appears
	locked  bool          // the data partition is encrypted
	pin     bool          // the disk has a PIN
	counted string        // the boot entry whose boot attempts the boot manager counts

	keys          string     // the keys of Secure Boot; guarded by mu
	running, kept slots.Slot // kept is guarded by mu
	tried         bool

	// agent simulates gangway-agent and returns its exit code.
	agent func(l *lab, command string, args []string) int
}

// inLab runs a test on a machine with a fake clock.
func inLab(t *testing.T, f func(l *lab)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &lab{t: t, dir: t.TempDir(), began: time.Now(), off: make(chan struct{}), failing: map[string]error{}, running: slots.A, kept: slots.A, agent: connects}
		defer l.end()
		l.write("esp/"+install.TokenPath, `{"secret":"s3cret"}`)
		l.write("data/x", "")
		l.write("dev/sda2", strings.Repeat("\x00", 4096))
		f(l)
	})
}

// The function `connects` simulates an agent that onboards in two seconds, reports after five
// seconds, and continues to run.
func connects(l *lab, command string, args []string) int {
	if command == "onboard" {
		l.sleep(2 * time.Second)
		l.status(agentStatus{Phase: "active", DeviceID: "d1", Nick: "otter", OwnerNick: "ada", Hub: "https://hub.example"})
		return 0
	}
	l.sleep(5 * time.Second)
	l.report()
	l.sleep(1000 * time.Hour)
	return 0
}

// The function `onboards` simulates an agent that onboards and then does not reach the hub.
func onboards(l *lab, command string, args []string) int {
	if command == "onboard" {
		return connects(l, command, args)
	}
	l.sleep(1000 * time.Hour)
	return 0
}

func (l *lab) paths() Paths {
	in := func(name string) string { return filepath.Join(l.dir, name) }
	return Paths{Dev: in("dev"), ESP: in("esp"), Data: in("data"), NetworkReport: in("report.txt"), Escrow: in("escrow.age"), Settings: in("network.txt"), RevisionKey: in("revision-key.pem")}
}

func (l *lab) system() *System {
	return &System{
		Screen: l, TPM: labTPM{l}, Firmware: l, Disks: l, Network: l, Agent: l, Slots: l, Terminals: labDesks{l}, Wipe: l.wipe,
		Watchdog: func() { l.step("watchdog") }, Restart: l.restart, BootID: func() (string, error) { return "boot-1", nil },
		TrialTime: TrialTime, NetworkTime: NetworkTime, Paths: l.paths(),
	}
}

// The method `run` runs the system for some time, or until it restarts the machine.
func (l *lab) run(d time.Duration) {
	go l.system().Run()
	l.wait(d)
}

func (l *lab) wait(d time.Duration) {
	select {
	case <-l.off:
	case <-time.After(d):
	}
	synctest.Wait()
}

// end switches the machine off: each goroutine of the machine then ends at its next step.
func (l *lab) end() {
	l.writeStatus(agentStatus{LastReport: time.Now().Add(time.Hour)}) // ends the goroutines that wait for a report
	select {
	case <-l.off:
	default:
		close(l.off)
	}
	time.Sleep(2 * TrialTime)
	synctest.Wait()
}

func (l *lab) restart() {
	l.step("restart")
	close(l.off)
	runtime.Goexit()
}

// The method `alive` ends the calling goroutine if the machine is off.
func (l *lab) alive() {
	select {
	case <-l.off:
		runtime.Goexit()
	default:
	}
}

// sleep waits for a time, or until the machine is off.
func (l *lab) sleep(d time.Duration) {
	select {
	case <-l.off:
	case <-time.After(d):
	}
}

func (l *lab) step(format string, args ...any) error {
	l.alive()
	l.mu.Lock()
	defer l.mu.Unlock()
	s := fmt.Sprintf(format, args...)
	l.log = append(l.log, s)
	return l.failing[s]
}

// The method `did` reports whether all of `steps` happened, in this order.
func (l *lab) did(steps ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	steps = slices.DeleteFunc(slices.Clone(steps), func(s string) bool { return s == "" })
	for _, s := range l.log {
		if len(steps) > 0 && strings.HasPrefix(s, steps[0]) {
			steps = steps[1:]
		}
	}
	return len(steps) == 0
}

func (l *lab) want(steps ...string) {
	l.t.Helper()
	if !l.did(steps...) {
		l.t.Errorf("want, in order\n\t%s\ngot\n\t%s", strings.Join(steps, "\n\t"), strings.Join(l.log, "\n\t"))
	}
}

// count returns how often a step happened.
func (l *lab) count(step string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.log {
		if s == step {
			n++
		}
	}
	return n
}

// The method `never` fails the test if one of `steps` happened.
func (l *lab) never(steps ...string) {
	l.t.Helper()
	for _, s := range steps {
		if l.did(s) {
			l.t.Errorf("%q happened:\n\t%s", s, strings.Join(l.log, "\n\t"))
		}
	}
}

func (l *lab) write(name, content string) {
	l.t.Helper()
	name = filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		l.t.Error(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		l.t.Error(err)
	}
}

// The method `status` writes the agent's state file.
func (l *lab) status(a agentStatus) {
	select {
	case <-l.off: // a machine that is off writes nothing
	default:
		l.writeStatus(a)
	}
}

func (l *lab) writeStatus(a agentStatus) {
	b, err := json.Marshal(a)
	if err != nil {
		l.t.Error(err)
	}
	l.write("data/gangway-agent/state.json", string(b))
}

// The method `report` records in the agent's state file that the hub accepted a report.
func (l *lab) report() {
	a := readStatus(l.paths())
	a.LastReport = time.Now()
	l.status(a)
}

func (l *lab) StartPanel(title string)             { l.step("panel %s", title) }
func (l *lab) Logf(format string, args ...any)     { l.step("log "+format, args...) }
func (l *lab) Serialf(format string, args ...any)  { l.step("serial "+format, args...) }
func (l *lab) Statusf(format string, args ...any)  { l.step("status "+format, args...) }
func (l *lab) Alarmf(format string, args ...any)   { l.step("alarm "+format, args...) }
func (l *lab) RedrawWhole(alarm bool, text string) { l.step("redraw %v %s", alarm, text) }
func (l *lab) Fact(name, value string)             { l.step("fact %s: %s", name, value) }
func (l *lab) ShowCode(address string) error       { return l.step("code %s", address) }

func (l *lab) BootedFrom() (string, error) { return "esp-guid", l.step("booted from") }
func (l *lab) Counted() (string, error)    { return l.counted, l.failing["counted"] }

func (l *lab) SecureBootKeys() string {
	l.alive()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.keys
}

func (l *lab) Find(espGUID string) (*install.Installed, error) {
	if espGUID != "esp-guid" || time.Since(l.began) < l.there {
		return nil, fs.ErrNotExist
	}
	return &install.Installed{Disk: "sda", ESPGUID: espGUID}, l.step("find the disk")
}

func (l *lab) MountESP(*install.Installed) error { return l.step("mount the ESP") }
func (l *lab) MountData(device string) error     { return l.step("mount %s", device) }

func (l *lab) Unlock(_ *install.Installed, ask func(string) string) (string, bool, error) {
	if l.pin {
		if typed := ask(""); typed != "246810" {
			return "", true, errBroken
		}
	}
	return "/dev/dm-0", l.locked, l.step("unlock")
}

func (l *lab) ClearTPM(*install.Installed) error { return l.step("clear the TPM") }

func (l *lab) BindKey(_ *install.Installed, needed slots.Slot) (bool, error) {
	if needed != slots.None {
		return true, l.step("bind the key, also for slot %s", needed)
	}
	return true, l.step("bind the key now")
}

func (l *lab) Grow(device string) (int64, error) { return 3 << 30, l.step("grow %s", device) }

func (l *lab) Up(s *netfile.Settings) { l.step("network with VLAN %d", s.VLAN) }

func (l *lab) Run(args ...string) (int, error) {
	select {
	case <-l.off: // the caller continues, and ends at its next step
		return -1, errBroken
	default:
	}
	if err := l.step("agent %s", strings.ReplaceAll(strings.Join(args, " "), l.dir, "")); err != nil {
		return -1, err
	}
	return l.agent(l, args[0], args[1:]), nil
}

func (l *lab) Trial() (running, kept slots.Slot, tried bool, err error) {
	l.mu.Lock()
	running, kept, tried = l.running, l.kept, l.tried
	l.mu.Unlock()
	return running, kept, tried, l.step("trial")
}

func (l *lab) Default() (slots.Slot, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept, nil
}

type labTPM struct{ l *lab }

func (t labTPM) Check() error { t.l.step("check the TPM"); return t.l.tpm }
func (t labTPM) LiftLockout() { t.l.step("lift the lockout") }

type labDesks struct{ l *lab }

func (s labDesks) Start()   { s.l.step("terminals") }
func (s labDesks) Mounted() { s.l.step("terminals: mounted") }

func (s labDesks) Ask(_ string, show func()) string {
	show()
	s.l.step("ask for the PIN")
	return "246810"
}

func (l *lab) wipe(espGUID string) {
	l.step("wipe %s", espGUID)
	close(l.off)
	runtime.Goexit()
}

// The method `files` returns the names of the files in a folder of the machine.
func (l *lab) files(dir string) (names []string) {
	entries, err := os.ReadDir(filepath.Join(l.dir, dir))
	if err != nil {
		l.t.Error(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}
