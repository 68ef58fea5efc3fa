package installer

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gangway/device/install"
	"gangway/device/install/luks"
	"gangway/device/install/netfile"
	"gangway/internal/finding"
	"gangway/wire"
)

const manifestSum = "044d6bc9872f9ad01a40f42e4a5a8006de148291dced9b8fd8f6ea6cd0683989"

// lab simulates a machine with a stick, disks, a TPM and firmware, and a person at the machine. It
// records each step, in order.
type lab struct {
	t     *testing.T
	began time.Time
	mu    sync.Mutex
	log   []string // guarded by mu
	input chan string

	stick   *Stick
	noStick error
	// noStickUsed is true if the machine was started from its own disk and not from a stick.
	noStickUsed bool
	settings    *netfile.Settings
	badText     error
	disks       []install.Disk
	later       []install.Disk                // the list of disks from the time `comeAt` on; nil: the list does not change
	comeAt      time.Duration                 // the time at which the list of disks changes to `later`
	systems     map[string]*install.Installed // by disk
	unread      map[string]error
	tpm         error
	findings    []finding.Finding
	failing     map[string]error // the error that a step returns, by the step's name
	firmwares   string           // the GUID of the EFI system partition that the firmware's boot entry names
}

func newLab(t *testing.T, disks ...install.Disk) *lab {
	return &lab{
		t: t, began: time.Now(), input: make(chan string), disks: disks,
		stick:   &Stick{Disk: "sdz", SHA256: manifestSum, Manifest: &install.Manifest{Hub: "https://hub.example", Owner: "ada", Disk: install.Largest, Escrow: "age1x"}},
		systems: map[string]*install.Installed{}, failing: map[string]error{}, unread: map[string]error{},
	}
}

func (l *lab) installer() *Installer {
	return &Installer{Manifest: manifestSum, Screen: l, Sticks: l, Disks: l, TPM: tpm{l}, Firmware: firmware{l}, Power: l, Machine: checked{l}}
}

// The method `run` runs an installer until the machine restarts or switches off. After the time
// `after`, a person starts to type the words in `typed`. The person types each word when the
// installer has read the previous word. An empty word is the Enter key only.
func (l *lab) run(mode func(*Installer), after time.Duration, typed ...string) {
	off := make(chan bool)
	var person sync.WaitGroup
	person.Go(func() {
		time.Sleep(after)
		for _, word := range typed {
			select {
			case l.input <- word:
			case <-off:
			}
		}
	})
	go func() {
		defer close(off)
		mode(l.installer())
	}()
	<-off
	person.Wait()
	synctest.Wait()
}

func (l *lab) step(format string, args ...any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.began) > 24*time.Hour {
		l.t.Errorf("the machine does not switch off; it did\n\t%s", strings.Join(l.log[:min(len(l.log), 40)], "\n\t"))
		runtime.Goexit()
	}
	s := fmt.Sprintf(format, args...)
	l.log = append(l.log, s)
	return l.failing[s]
}

// The method `did` reports whether all of `steps` happened, in this order.
func (l *lab) did(steps ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
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

// The method `never` fails the test if one of `steps` happened.
func (l *lab) never(steps ...string) {
	l.t.Helper()
	for _, s := range steps {
		if l.did(s) {
			l.t.Errorf("%q happened:\n\t%s", s, strings.Join(l.log, "\n\t"))
		}
	}
}

// The methods of Screen. Redraw is not recorded, because its text depends on the time.
func (l *lab) StartPanel(title string)            { l.step("panel %s", title) }
func (l *lab) Logf(format string, args ...any)    { l.step("log "+format, args...) }
func (l *lab) Serialf(format string, args ...any) { l.step("serial "+format, args...) }
func (l *lab) Statusf(format string, args ...any) { l.step("status "+format, args...) }
func (l *lab) Alarmf(format string, args ...any)  { l.step("alarm "+format, args...) }
func (l *lab) Fact(name, value string)            { l.step("fact %s: %s", name, value) }
func (l *lab) Redraw(alarm bool, text string)     {}
func (l *lab) Input() <-chan string               { return l.input }

// The methods of Power. They end the goroutine, because a machine that is off runs nothing.
func (l *lab) PowerOff() { l.step("power off"); runtime.Goexit() }
func (l *lab) Restart()  { l.step("restart"); runtime.Goexit() }

func (l *lab) Find(manifest string, patience time.Duration) (*Stick, error) {
	l.step("find the stick for %s", patience)
	if manifest != manifestSum {
		return nil, errOther
	}
	return l.stick, l.noStick
}

func (l *lab) Mounted(manifest string) (*Stick, error) {
	if err := l.step("the mounted stick"); err != nil {
		return nil, err
	}
	return l.stick, l.noStick
}

func (l *lab) Network() (*netfile.Settings, error) { return l.settings, l.badText }
func (l *lab) Forget()                             { l.step("unmount the stick") }
func (l *lab) Marks(s *Stick) []string             { return []string{s.Disk, "guid-of-" + s.Disk} }

func (l *lab) List(marks ...string) ([]install.Disk, error) {
	if !l.noStickUsed && !slices.Contains(marks, "sdz") {
		l.t.Errorf("the stick is not marked: %q", marks)
	}
	if err := l.step("list %d", len(marks)); err != nil {
		return nil, err
	}
	if l.later != nil && time.Since(l.began) >= l.comeAt {
		return slices.Clone(l.later), nil
	}
	return slices.Clone(l.disks), nil
}

func (l *lab) System(d install.Disk) (*install.Installed, error) {
	if err := l.unread[d.Name]; err != nil {
		return nil, err
	}
	if i := l.systems[d.Name]; i != nil {
		return i, nil
	}
	return nil, fs.ErrNotExist
}

func (l *lab) Install(s *Stick, d *install.Disk, slots []luks.Slot, progress install.Progress) error {
	progress("write", 1, 2)
	if err := l.step("install to %s with %d keys and VLAN %d", d.Name, len(slots), vlan(s.network)); err != nil {
		return err
	}
	l.systems[d.Name] = &install.Installed{Disk: d.Name, Whole: true, DiskGUID: install.DiskGUID(s.SHA256), ESPGUID: "esp-" + d.Name}
	return nil
}

func vlan(s *netfile.Settings) int {
	if s == nil {
		return 0
	}
	return s.VLAN
}

func (l *lab) Table(d install.Disk) ([]byte, error) {
	return []byte("table of " + d.Name), l.step("read the table of %s", d.Name)
}

func (l *lab) WriteReport(d install.Disk, i *install.Installed, r *wire.InstallReport) error {
	return l.step("write the report on the %s to %s", r.Table, i.Disk)
}

func (l *lab) BringNetwork(i *install.Installed, s *netfile.Settings) error {
	return l.step("bring VLAN %d to %s", s.VLAN, i.Disk)
}

func (l *lab) Erase(d install.Disk, i *install.Installed, progress install.Progress) error {
	return l.step("erase %s", d.Name)
}

func (l *lab) Unlist(d install.Disk, progress install.Progress) error {
	return l.step("unlist %s", d.Name)
}

func (l *lab) Sync() { l.step("sync") }

type tpm struct{ l *lab }

func (t tpm) Check() error { t.l.step("check the TPM"); return t.l.tpm }
func (t tpm) Clear() error { return t.l.step("clear the TPM") }

func (t tpm) NewKeys(m *install.Manifest) (*Keys, error) {
	return &Keys{Recovery: newRecoveryKey()}, t.l.step("keys for %s", m.Escrow)
}

func (t tpm) Report(table []byte) (*wire.InstallReport, error) {
	return &wire.InstallReport{Table: table}, t.l.step("sign the %s", table)
}

type checked struct{ l *lab }

func (c checked) Examine() []finding.Finding { c.l.step("check the machine"); return c.l.findings }

type firmware struct{ l *lab }

func (f firmware) Start(i *install.Installed) error { return f.l.step("start %s", i.Disk) }
func (f firmware) NoteStick() error                 { return f.l.step("note the stick") }
func (f firmware) Names(esp string) bool            { return esp == f.l.firmwares }
func (f firmware) Forget() error                    { return f.l.step("forget the boot entry") }

var errBroken = errors.New("it is broken")
