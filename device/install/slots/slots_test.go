package slots

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"gangway/device/install"
	"gangway/image"
)

const stubPath = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

const goodCmdline = "quiet panic=5 gangway.mode=system"

// uki makes a real unified kernel image around a kernel that is none.
func uki(t testing.TB, seed uint64, cmdline string) []byte {
	t.Helper()
	stub, err := os.ReadFile(stubPath)
	if err != nil {
		t.Skip("not installed: systemd-boot-efi")
	}
	kernel := make([]byte, 5<<19)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(kernel)
	copy(kernel[0x202:], "HdrS")
	b, err := image.UKI{Stub: stub, Kernel: kernel, Initrd: []byte("initrd"), Cmdline: cmdline, OSRelease: "ID=gangway\n"}.Build()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// machine is what firmware and boot manager make of the files: one that is
// switched on again and again. Its agent keeps a journal, as package
// device/agent/trail does.
type machine struct {
	*testing.T
	hook    Hook
	systems map[string]bool // by their hash: whether they come up
	out     bytes.Buffer
	starts  int // so far
	runs    string
	running Slot
	changes int // so far
	cutAt   int // the change before which the power is cut
	last    string
	r       *rand.Rand
}

// cut and restarted are what ends a call.
type (
	cut       struct{}
	restarted struct{}
)

const loader = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

func newMachine(t *testing.T, first []byte) *machine {
	t.Helper()
	m := &machine{T: t, systems: map[string]bool{}, cutAt: -1, r: rand.New(rand.NewPCG(1, 1))}
	dir := t.TempDir()
	m.hook = Hook{
		ESP: ESP{Dir: filepath.Join(dir, "esp"), Firmware: install.Firmware(filepath.Join(dir, "vars")), before: m.change},
		Dir: filepath.Join(dir, "data"), Volatile: filepath.Join(dir, "run"),
		Restart: func() error { panic(restarted{}) }, Sleep: func(time.Duration) {}, Out: &m.out,
	}
	for _, d := range []string{"esp/EFI/Linux", "esp/loader", "vars"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	m.write(m.hook.ESP.path(A), first)
	m.write(filepath.Join(m.hook.ESP.Dir, LoaderConf), Conf(A))
	m.knows(first, true)
	m.start()
	return m
}

func (m *machine) write(name string, b []byte) {
	m.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		m.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		m.Fatal(err)
	}
}

func (m *machine) knows(system []byte, comesUp bool) {
	sum, err := digest(bytes.NewReader(system))
	if err != nil {
		m.Fatal(err)
	}
	m.systems[sum] = comesUp
}

func (m *machine) variable(name string) string {
	return filepath.Join(string(m.hook.ESP.Firmware), name+"-"+loader)
}

// change is told of each change before it is made.
func (m *machine) change(what string) {
	if m.changes == m.cutAt {
		panic(cut{})
	}
	m.changes++
	m.last = what
}

// start is the boot manager: the entry of the variable, which it removes, then
// the one of its settings, then any other; and what that comes to.
func (m *machine) start() {
	m.Helper()
	for range 10 {
		if err := os.RemoveAll(m.hook.Volatile); err != nil {
			m.Fatal(err)
		}
		m.starts++
		wanted := []string{}
		if b, err := os.ReadFile(m.variable("LoaderEntryOneShot")); err == nil {
			var u []uint16
			for b = b[4:]; len(b) > 1; b = b[2:] {
				u = append(u, binary.LittleEndian.Uint16(b))
			}
			wanted = append(wanted, strings.TrimRight(string(utf16.Decode(u)), "\x00"))
			if err := os.Remove(m.variable("LoaderEntryOneShot")); err != nil {
				m.Fatal(err)
			}
		}
		conf, err := os.ReadFile(filepath.Join(m.hook.ESP.Dir, LoaderConf))
		if err != nil {
			m.Fatal(err)
		}
		_, def, _ := strings.Cut(string(conf), "default ")
		wanted = append(wanted, strings.TrimSpace(def), B.Entry(), A.Entry())
		if m.comesUp(wanted) {
			return
		}
	}
	m.Fatal("the machine does not come up")
}

func (m *machine) comesUp(wanted []string) bool {
	m.Helper()
	for _, entry := range wanted {
		b, err := os.ReadFile(filepath.Join(m.hook.ESP.Dir, folder, entry))
		if err != nil || !bytes.HasPrefix(b, []byte("MZ")) {
			continue // no entry, to the boot manager
		}
		sum, err := digest(bytes.NewReader(b))
		if err != nil {
			m.Fatal(err)
		}
		good, whole := m.systems[sum]
		if !whole {
			m.Fatalf("the machine starts a system that is not whole, from %s, after %q", entry, m.last)
		}
		m.runs, m.running = sum, of(entry)
		var v []byte
		for _, u := range utf16.Encode([]rune(entry + "\x00")) {
			v = binary.LittleEndian.AppendUint16(v, u)
		}
		m.write(m.variable("LoaderEntrySelected"), append([]byte{6, 0, 0, 0}, v...))
		return good
	}
	m.Fatalf("nothing starts, after %q", m.last)
	return false
}

// call calls the hook. -1: the machine was started anew in it.
func (m *machine) call(verb, revision string) (code int) {
	m.Helper()
	defer func() {
		switch e := recover().(type) {
		case nil:
		case cut:
			m.cutAt = -1
			m.lose()
			m.start()
			code = -1
		case restarted:
			m.start()
			code = -1
		default:
			panic(e)
		}
	}()
	m.out.Reset()
	return m.hook.Do(verb, revision)
}

// lose is what a disk may lose of a slot that was being written, and not
// flushed: any of its sectors but the first, or all of it.
func (m *machine) lose() {
	if !strings.HasPrefix(m.last, "write ") {
		return
	}
	name := m.hook.ESP.path(Slot(m.last[len("write ")]))
	b, err := os.ReadFile(name)
	if err != nil {
		m.Fatal(err)
	}
	for at := sector; at < len(b); at += sector {
		if m.r.IntN(4) == 0 {
			clear(b[at:min(at+sector, len(b))])
		}
	}
	m.write(name, b[:len(b)/(1+m.r.IntN(3))])
}

// apply is the agent's way with a revision: each call is made again when the
// machine stopped in it. It returns the step's status.
func (m *machine) apply(revision string) string {
	m.Helper()
	const most = 3
	rollback := func() string {
		for range 10 {
			switch m.call("rollback", revision) {
			case 0:
				return "ERROR"
			case ExitReboot:
				for starts := m.starts; starts == m.starts; {
					m.call("reboot", revision)
				}
				return "ERROR"
			case -1:
			default:
				m.Fatalf("rolling back failed: %s", &m.out)
			}
		}
		m.Fatal("rolling back does not end")
		return ""
	}
	for _, verb := range []string{"install", "test", "commit"} {
		code := -1
		for tries := 0; code == -1; tries++ {
			if tries == most {
				return rollback()
			}
			code = m.call(verb, revision)
		}
		if code == ExitReboot && verb == "install" {
			for starts := m.starts; starts == m.starts; {
				m.call("reboot", revision)
			}
			continue
		}
		if code != 0 {
			return rollback()
		}
	}
	return "DONE"
}

// revision lays a revision out as the agent does.
func (m *machine) revision(n int, system []byte) string {
	m.Helper()
	dir := filepath.Join(m.TempDir(), fmt.Sprintf("%d-0123456789abcdef", n))
	if system != nil {
		m.write(filepath.Join(dir, "files", SystemPath), system)
	}
	m.write(filepath.Join(dir, "files", "app.json"), []byte("{}"))
	return dir
}

func (m *machine) runsOf(system []byte) bool {
	sum, err := digest(bytes.NewReader(system))
	return err == nil && sum == m.runs
}

// expect checks what runs now, and what will after the next start.
func (m *machine) expect(system []byte, s Slot) {
	m.Helper()
	if !m.runsOf(system) || m.running != s {
		m.Errorf("the wrong system runs, in slot %s; the hook said %q", m.running, &m.out)
	}
	m.start()
	if !m.runsOf(system) || m.running != s {
		m.Errorf("the wrong system starts the next time, in slot %s", m.running)
	}
}

// One system after the other goes to the slot that does not run; one that does
// not come up, or is none, changes nothing.
func TestSystemsGoFromSlotToSlot(t *testing.T) {
	one, two, three, bad := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline+" two=2"), uki(t, 3, goodCmdline), uki(t, 4, goodCmdline)
	m := newMachine(t, one)
	m.knows(two, true)
	m.knows(three, true)
	m.knows(bad, false)
	for n, c := range []struct {
		system []byte
		status string
		then   []byte
		slot   Slot
	}{
		{nil, "DONE", one, A},
		{two, "DONE", two, B},
		{two, "DONE", two, B}, // with other documents
		{bad, "ERROR", two, B},
		{[]byte("no system"), "ERROR", two, B},
		{three, "DONE", three, A},
		{nil, "DONE", three, A},
		{two, "DONE", two, B},
		{three, "DONE", three, A}, // which is still there
		{bad, "ERROR", three, A},
	} {
		if got := m.apply(m.revision(n, c.system)); got != c.status {
			t.Errorf("%d: %s, %s was expected; the hook said %q", n, got, c.status, &m.out)
		}
		m.expect(c.then, c.slot)
	}
}

// A new system that panics is started once, and its owner reads what happened.
func TestSystemThatPanicsFallsBack(t *testing.T) {
	one, bad := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline)
	m := newMachine(t, one)
	m.knows(bad, false)
	rev := m.revision(1, bad)
	if code := m.call("install", rev); code != ExitReboot {
		t.Fatalf("%d: %s", code, &m.out)
	}
	m.call("reboot", rev)
	if m.starts != 3 { // the first, the bad one, and back
		t.Errorf("%d starts", m.starts)
	}
	if code := m.call("test", rev); code != 1 || !strings.Contains(m.out.String(), "the machine fell back to slot a") {
		t.Errorf("test: %d %q", code, &m.out)
	}
	if code := m.call("commit", rev); code == 0 {
		t.Error("it is made permanent")
	}
	if code := m.call("rollback", rev); code != 0 {
		t.Errorf("rollback: %d %q", code, &m.out)
	}
	if _, err := os.Stat(m.hook.ESP.path(B)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the bad system is still there: %v", err)
	}
	m.expect(one, A)
}

// A system that comes up and is rolled back, since it did not reach the hub
// say, needs a restart, after which the former one runs; also when the power
// fails instead, and when its own first process restarts the machine.
func TestSystemThatIsRolledBackIsGone(t *testing.T) {
	one, two := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline)
	for name, end := range map[string]func(m *machine, rev string){
		"rolled back": func(m *machine, rev string) {
			if code := m.call("rollback", rev); code != ExitReboot {
				m.Errorf("rollback: %d %q", code, &m.out)
			}
			m.call("reboot", rev)
		},
		"switched off": func(m *machine, rev string) {
			m.start()
			if code := m.call("test", rev); code == 0 {
				m.Error("the test passes")
			}
			if code := m.call("rollback", rev); code != 0 {
				m.Errorf("rollback: %d %q", code, &m.out)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, one)
			m.knows(two, true)
			rev := m.revision(1, two)
			m.call("install", rev)
			m.call("reboot", rev)
			if running, kept, tried, err := m.hook.Trial(); running != B || kept != A || !tried || err != nil {
				t.Fatalf("slot %s runs, %s is kept, tried: %v, %v", running, kept, tried, err)
			}
			if m.call("test", rev) != 0 {
				t.Fatal(&m.out)
			}
			end(m, rev)
			m.expect(one, A)
		})
	}
}

// Whenever the power is cut, in installing, committing or rolling back, what
// starts is whole, and the step ends as what runs.
func TestPowerCutAtAnyChangeLeavesASystemThatStarts(t *testing.T) {
	one, two, three := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline), uki(t, 3, goodCmdline+" x")
	for _, comesUp := range []bool{true, false} {
		cuts, ends := 0, map[string]int{}
		for cutAt := 0; ; cutAt++ {
			m := newMachine(t, one)
			m.knows(two, true)
			m.knows(three, comesUp)
			if got := m.apply(m.revision(1, two)); got != "DONE" {
				t.Fatal(got)
			}
			m.r = rand.New(rand.NewPCG(uint64(cutAt), 0))
			m.cutAt = m.changes + cutAt
			status := m.apply(m.revision(2, three))
			if m.cutAt != -1 { // there was no such change
				break
			}
			cuts++
			ends[status]++
			switch {
			case status == "DONE" && comesUp:
				m.expect(three, A)
			case status == "ERROR":
				m.expect(two, B)
			default:
				t.Errorf("cut at %d (%s): %s", cutAt, m.last, status)
			}
			m.knows(three, true) // and the next one is taken
			if got := m.apply(m.revision(3, three)); got != "DONE" {
				t.Errorf("after the cut at %d: %s %q", cutAt, got, &m.out)
			}
			m.expect(three, A)
		}
		t.Logf("cut at each of %d changes: %v", cuts, ends)
		if cuts < 8 {
			t.Errorf("only %d changes", cuts)
		}
	}
}

// What is no system of ours is refused before anything is written.
func TestRefusesWhatIsNoSystem(t *testing.T) {
	one, two := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline)
	alter := func(old, new string) []byte {
		b := bytes.Clone(two)
		at := bytes.Index(b, []byte(old))
		if old == "HdrS" { // the stub has it too
			at = bytes.LastIndex(b, []byte(old))
		}
		if at < 0 {
			t.Fatalf("there is no %q", old)
		}
		copy(b[at:], new)
		return b
	}
	pe := int(binary.LittleEndian.Uint32(two[0x3C:]))
	for name, c := range map[string]struct {
		system []byte
		want   string
	}{
		"nothing":              {[]byte{}, "no EFI program"},
		"text":                 {[]byte("#!/bin/sh\n"), "no EFI program"},
		"a program for Linux":  {append([]byte("\x7fELF"), make([]byte, 4096)...), "no EFI program"},
		"a stub alone":         {read(t, stubPath), "no whole section .linux"},
		"cut short":            {two[:len(two)-100_000], "cut short"},
		"cut in its headers":   {two[:pe+30], "no EFI program"},
		"another architecture": {alter("\x64\x86", "\x64\xAA"), "no EFI program"},
		"no kernel":            {alter("HdrS", "hdrs"), "no kernel"},
		"no initramfs":         {alter(".initrd\x00", ".inited\x00"), "no whole section .initrd"},
		"two command lines":    {alter(".osrel\x00\x00", ".cmdline"), "two sections"},
		"an installer":         {uki(t, 5, "panic=30 gangway.mode=auto gangway.manifest=00"), "gangway.mode=auto"},
		"a panic stands still": {uki(t, 6, "gangway.mode=system"), "panic=SECONDS"},
		"panic=0":              {uki(t, 7, "panic=5 gangway.mode=system panic=0"), "panic=SECONDS"},
		"another mode at last": {uki(t, 8, goodCmdline+" gangway.mode=tpm"), "gangway.mode=tpm"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, one)
			m.knows(two, true)
			if got := m.apply(m.revision(1, two)); got != "DONE" {
				t.Fatal(got)
			}
			before := m.changes
			rev := m.revision(2, nil)
			m.write(filepath.Join(rev, "files", SystemPath), c.system)
			if code := m.call("install", rev); code != 1 || !strings.Contains(m.out.String(), c.want) {
				t.Errorf("%d %q", code, &m.out)
			}
			if code := m.call("rollback", rev); code != 0 {
				t.Errorf("rollback: %d %q", code, &m.out)
			}
			if m.changes != before {
				t.Errorf("it has changed something: %s", m.last)
			}
			if sum, err := m.hook.ESP.Sum(A); err != nil || !m.systems[sum] {
				t.Errorf("what would be fallen back to is gone: %v", err)
			}
			m.expect(two, B)
		})
	}
}

// A system for which there is no room beside the one that runs leaves both as
// they are.
func TestSystemLargerThanTheRoomIsRefused(t *testing.T) {
	one, two := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline)
	m := newMachine(t, one)
	m.knows(two, true)
	m.hook.ESP.free = func() (int64, error) { return int64(len(two)) + reserve - 1, nil }
	rev := m.revision(1, two)
	if code := m.call("install", rev); code != 1 || !strings.Contains(m.out.String(), "there is room for 2") {
		t.Errorf("%d %q", code, &m.out)
	}
	if code := m.call("rollback", rev); code != 0 || m.changes != 0 {
		t.Errorf("rollback: %d %q, %d changes", code, &m.out, m.changes)
	}
	m.expect(one, A)
	m.hook.ESP.free = func() (int64, error) { return int64(len(two)) + reserve, nil }
	if got := m.apply(rev); got != "DONE" {
		t.Errorf("%s %q", got, &m.out)
	}
	if err := Check(bytes.NewReader(nil), MaxSystem+1); err == nil {
		t.Error("a file without end is read")
	}
}

// In the place of the system's file only a file counts.
func TestOnlyAFileIsASystem(t *testing.T) {
	one, two := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline)
	m := newMachine(t, one)
	outside := filepath.Join(t.TempDir(), "system.efi")
	m.write(outside, two)
	for n, make := range []func(path string) error{
		func(path string) error { return os.Mkdir(path, 0o700) },
		func(path string) error { return os.Symlink(outside, path) },
	} {
		rev := m.revision(n, nil)
		path := filepath.Join(rev, "files", SystemPath)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), make(path)); err != nil {
			t.Fatal(err)
		}
		if got := m.apply(rev); got != "ERROR" || m.changes != 0 {
			t.Errorf("%d: %s, %d changes", n, got, m.changes)
		}
	}
	if code := m.call("destroy", m.revision(9, two)); code != 2 {
		t.Errorf("an unknown verb: %d", code)
	}
}

// Where the default did not start, the system that did is the one to fall back
// to.
func TestWhatRunsIsNeverWrittenOver(t *testing.T) {
	one, two, three := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline), uki(t, 3, goodCmdline)
	m := newMachine(t, one)
	m.knows(two, true)
	m.knows(three, true)
	if got := m.apply(m.revision(1, two)); got != "DONE" {
		t.Fatal(got)
	}
	broken := bytes.Clone(two)
	clear(broken[:sector])
	m.write(m.hook.ESP.path(B), broken)
	m.start()
	if running, kept, tried, err := m.hook.Trial(); running != A || kept != B || tried || err != nil {
		t.Fatalf("slot %s runs, %s is kept, tried: %v, %v", running, kept, tried, err)
	}
	for cutAt := range 4 {
		m.cutAt = m.changes + cutAt
		m.call("install", m.revision(2, three))
		m.expect(one, A)
	}
	m.cutAt = -1
	if got := m.apply(m.revision(3, three)); got != "DONE" {
		t.Errorf("%s %q", got, &m.out)
	}
	m.expect(three, B)
}

// Before the first boot is marked good there is nothing to fall back to.
func TestNoUpdateBeforeTheFirstBootIsGood(t *testing.T) {
	one, two := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline)
	m := newMachine(t, one)
	if err := os.Rename(m.hook.ESP.path(A), filepath.Join(m.hook.ESP.Dir, folder, "gangway-a+2-1.efi")); err != nil {
		t.Fatal(err)
	}
	if code := m.call("install", m.revision(1, two)); code != 1 || !strings.Contains(m.out.String(), "not marked good") || m.changes != 0 {
		t.Errorf("%d %q", code, &m.out)
	}
}

// A disk that keeps something else than was written is not started from.
func TestSlotThatHoldsSomethingElseIsNotStarted(t *testing.T) {
	one, two := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline)
	m := newMachine(t, one)
	sum, err := digest(bytes.NewReader(uki(t, 3, goodCmdline)))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.hook.ESP.Write(B, bytes.NewReader(two), int64(len(two)), sum); err == nil || !strings.Contains(err.Error(), "does not hold") {
		t.Errorf("%v", err)
	}
	if b := read(t, m.hook.ESP.path(B)); bytes.HasPrefix(b, []byte("MZ")) {
		t.Error("it would be started")
	}
}

// Other settings of the boot manager stay as they are.
func TestDefaultIsOneLetterOfTheSettings(t *testing.T) {
	m := newMachine(t, uki(t, 1, goodCmdline))
	conf := filepath.Join(m.hook.ESP.Dir, LoaderConf)
	const text = "# gangway-a.efi\ntimeout 3\n  default \tgangway-%s.efi\r\nconsole-mode max\n"
	m.write(conf, fmt.Appendf(nil, text, "a"))
	for _, s := range []Slot{B, B, A} {
		if err := m.hook.ESP.SetDefault(s); err != nil {
			t.Fatal(err)
		}
		if got := string(read(t, conf)); got != fmt.Sprintf(text, s) {
			t.Errorf("%q", got)
		}
	}
	for _, none := range []string{"", "default gangway-c.efi\n", "default gangway-a+1.efi\n", "default @saved\n", "default\n"} {
		m.write(conf, []byte(none))
		if err := m.hook.ESP.SetDefault(B); err == nil || string(read(t, conf)) != none {
			t.Errorf("%q is changed to %q", none, read(t, conf))
		}
	}
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte("MZ"))
	if stub, err := os.ReadFile(stubPath); err == nil {
		kernel := make([]byte, 0x300)
		copy(kernel[0x202:], "HdrS")
		b, err := image.UKI{Stub: stub, Kernel: kernel, Initrd: []byte("initrd"), Cmdline: goodCmdline}.Build()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if Check(bytes.NewReader(b), int64(len(b))) == nil && !bytes.HasPrefix(b, []byte("MZ")) {
			t.Error("no program is taken for a system")
		}
	})
}
