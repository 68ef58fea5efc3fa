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
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"gangway/device/install"
	"gangway/image"
)

const stubPath = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

const goodCmdline = "quiet panic=5 gangway.mode=system"

// uki makes a real unified kernel image with a fake kernel.
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

// machine simulates the firmware and the boot manager of a machine that restarts again and again.
// Its agent calls the hook as package device/agent/revision does.
type machine struct {
	*testing.T
	hook    Hook
	systems map[string]bool // whether a system boots; the key is the SHA-256 of the system
	out     bytes.Buffer
	starts  int  // number of boots
	stick   bool // an installer stick is plugged in, and the firmware boots it first
	runs    string
	running Slot
	changes int // number of changes
	cutAt   int // number of the change before which the power fails; -1: no power cut
	last    string
	r       *rand.Rand
}

// One of these panics ends a call of the hook if the test cuts the power, or if the hook restarts
// the machine.
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
	m.addSystem(first, true)
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

func (m *machine) addSystem(system []byte, comesUp bool) {
	sum, err := digest(bytes.NewReader(system))
	if err != nil {
		m.Fatal(err)
	}
	m.systems[sum] = comesUp
}

func (m *machine) variable(name string) string {
	return filepath.Join(string(m.hook.ESP.Firmware), name+"-"+loader)
}

// The method `change` runs before each change, and cuts the power if the test set cutAt to this
// change.
func (m *machine) change(what string) {
	if m.changes == m.cutAt {
		panic(cut{})
	}
	m.changes++
	m.last = what
}

// start simulates a boot. The boot manager removes the one-shot variable. Then it tries the entry
// that the variable named, the default entry, and any other entry, in this order. If the system
// does not boot, the machine boots again.
func (m *machine) start() {
	m.Helper()
	for range 10 {
		if err := os.RemoveAll(m.hook.Volatile); err != nil {
			m.Fatal(err)
		}
		m.starts++
		if m.stick { // the stick's boot manager removes the variable, and its installer restarts the machine from the disk
			if err := errors.Join(os.RemoveAll(m.variable("LoaderEntryOneShot")), m.hook.ESP.Firmware.NoteStick()); err != nil {
				m.Fatal(err)
			}
		}
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
	m.Fatal("the machine does not come up in 10 boots")
}

func (m *machine) comesUp(wanted []string) bool {
	m.Helper()
	for _, entry := range wanted {
		b, err := os.ReadFile(filepath.Join(m.hook.ESP.Dir, folder, entry))
		if err != nil || !bytes.HasPrefix(b, []byte("MZ")) {
			continue // the boot manager ignores such a file
		}
		sum, err := digest(bytes.NewReader(b))
		if err != nil {
			m.Fatal(err)
		}
		good, whole := m.systems[sum]
		if !whole {
			m.Fatalf("the machine boots an incomplete system from %s, after the change %q", entry, m.last)
		}
		m.runs, m.running = sum, slotOf(entry)
		var v []byte
		for _, u := range utf16.Encode([]rune(entry + "\x00")) {
			v = binary.LittleEndian.AppendUint16(v, u)
		}
		m.write(m.variable("LoaderEntrySelected"), append([]byte{6, 0, 0, 0}, v...))
		return good
	}
	m.Fatalf("no system boots, after the change %q", m.last)
	return false
}

// The method `call` calls the hook and returns the hook's exit code, or -1 if the machine restarted
// during the call.
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

// lose simulates the loss of data that were not flushed. A slot that was being written keeps its
// first sector, but loses some of the other sectors and a part of its end.
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

// apply does what the agent does with a revision: if the machine stopped during a call of the
// hook, apply repeats the call. apply returns the revision's status.
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
				m.Fatalf("the rollback failed: %s", &m.out)
			}
		}
		m.Fatal("the rollback does not end after 10 calls")
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

// The method `revision` makes a revision's folder as the agent does.
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

// expect checks which system runs, now and after the next boot.
func (m *machine) expect(system []byte, s Slot) {
	m.Helper()
	if !m.runsOf(system) || m.running != s {
		m.Errorf("the wrong system runs, in slot %s (want %s); the hook said %q", m.running, s, &m.out)
	}
	m.start()
	if !m.runsOf(system) || m.running != s {
		m.Errorf("after the next boot the wrong system runs, in slot %s (want %s)", m.running, s)
	}
}

// The hook writes each new system to the slot that is not running. If the revision's file is not a
// system, or if the new system does not boot, the machine keeps its previous system.
func TestSystemsGoFromSlotToSlot(t *testing.T) {
	t.Parallel()
	one, two, three, bad := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline+" two=2"), uki(t, 3, goodCmdline), uki(t, 4, goodCmdline)
	m := newMachine(t, one)
	m.addSystem(two, true)
	m.addSystem(three, true)
	m.addSystem(bad, false)
	for n, c := range []struct {
		system []byte
		status string
		then   []byte
		slot   Slot
	}{
		{nil, "DONE", one, A},
		{two, "DONE", two, B},
		{two, "DONE", two, B}, // a revision with the same system
		{bad, "ERROR", two, B},
		{[]byte("no system"), "ERROR", two, B},
		{three, "DONE", three, A},
		{nil, "DONE", three, A},
		{two, "DONE", two, B},
		{three, "DONE", three, A}, // slot A still has this system
		{bad, "ERROR", three, A},
	} {
		if got := m.apply(m.revision(n, c.system)); got != c.status {
			t.Errorf("revision %d: %s, want %s; the hook said %q", n, got, c.status, &m.out)
		}
		m.expect(c.then, c.slot)
	}
}

// If a new system's kernel panics, the machine boots this system only once. The revision's status
// tells the owner the reason.
func TestSystemThatPanicsFallsBack(t *testing.T) {
	t.Parallel()
	one, bad := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline)
	m := newMachine(t, one)
	m.addSystem(bad, false)
	rev := m.revision(1, bad)
	if code := m.call("install", rev); code != ExitReboot {
		t.Fatalf("install: %d: %s", code, &m.out)
	}
	m.call("reboot", rev)
	if m.starts != 3 { // the first boot, the boot that panics, and the fallback
		t.Errorf("%d boots, want 3", m.starts)
	}
	if code := m.call("test", rev); code != 1 || !strings.Contains(m.out.String(), "the machine fell back to slot a") {
		t.Errorf("test: %d %q", code, &m.out)
	}
	if code := m.call("commit", rev); code == 0 {
		t.Error("the commit of a system that does not run succeeds")
	}
	if code := m.call("rollback", rev); code != 0 {
		t.Errorf("rollback: %d %q", code, &m.out)
	}
	if _, err := os.Stat(m.hook.ESP.path(B)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the bad system is still there: %v", err)
	}
	m.expect(one, A)
}

// If the machine boots from an installer stick instead of the new system, the revision's status
// names the stick and the remedy. The next update, without the stick, succeeds. If the new system
// of a later update fails, the status does not name the stick.
func TestStickThatStartsInsteadOfTheNewSystemIsNamed(t *testing.T) {
	t.Parallel()
	one, two, bad := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline), uki(t, 3, goodCmdline)
	m := newMachine(t, one)
	m.addSystem(two, true)
	m.addSystem(bad, false)
	update := func(rev string) string {
		m.Helper()
		if code := m.call("install", rev); code != ExitReboot {
			t.Fatalf("install: %d: %s", code, &m.out)
		}
		m.call("reboot", rev)
		m.call("test", rev)
		return m.out.String()
	}
	const stick = "installer stick"
	m.stick = true
	if said := update(m.revision(1, two)); !strings.Contains(said, stick) || !strings.Contains(said, "fell back to slot a") || !strings.Contains(said, "take the stick out") {
		t.Errorf("with a stick, the test prints %q", said)
	}
	m.expect(one, A)
	m.stick = false
	again := m.revision(2, two)
	if said := update(again); strings.Contains(said, stick) {
		t.Errorf("without the stick, the test prints %q", said)
	}
	m.call("commit", again)
	m.expect(two, B)
	if said := update(m.revision(3, bad)); strings.Contains(said, stick) || !strings.Contains(said, "the new system did not start") {
		t.Errorf("after a system that does not boot, the test prints %q", said)
	}
}

// The agent may roll back a system that boots, for example because the system did not reach the
// hub. The rollback needs a restart, after which the previous system runs. A power cut has the same
// effect as the restart.
func TestSystemThatIsRolledBackIsGone(t *testing.T) {
	t.Parallel()
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
				m.Error("the test of a system that does not run succeeds")
			}
			if code := m.call("rollback", rev); code != 0 {
				m.Errorf("rollback: %d %q", code, &m.out)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, one)
			m.addSystem(two, true)
			rev := m.revision(1, two)
			m.call("install", rev)
			m.call("reboot", rev)
			if running, kept, tried, err := m.hook.Trial(); running != B || kept != A || !tried || err != nil {
				t.Fatalf("slot %s runs, the default is %s, on trial: %v, %v; want b, a, true", running, kept, tried, err)
			}
			if m.call("test", rev) != 0 {
				t.Fatalf("test fails: %q", &m.out)
			}
			end(m, rev)
			m.expect(one, A)
		})
	}
}

// The machine's power may fail at any moment while the hook installs, commits or rolls back a
// revision. A complete system then boots, and the revision's status matches the running system.
func TestPowerCutAtAnyChangeLeavesASystemThatStarts(t *testing.T) {
	t.Parallel()
	one, two, three := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline), uki(t, 3, goodCmdline+" x")
	for _, comesUp := range []bool{true, false} {
		cuts, ends := 0, map[string]int{}
		for cutAt := 0; ; cutAt++ {
			m := newMachine(t, one)
			m.addSystem(two, true)
			m.addSystem(three, comesUp)
			if got := m.apply(m.revision(1, two)); got != "DONE" {
				t.Fatalf("the first update: %s %q", got, &m.out)
			}
			m.r = rand.New(rand.NewPCG(uint64(cutAt), 0))
			m.cutAt = m.changes + cutAt
			status := m.apply(m.revision(2, three))
			if m.cutAt != -1 { // the revision ended before this change
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
				t.Errorf("cut at change %d (%s): status %s", cutAt, m.last, status)
			}
			m.addSystem(three, true) // a later revision succeeds
			if got := m.apply(m.revision(3, three)); got != "DONE" {
				t.Errorf("after the cut at %d: %s %q", cutAt, got, &m.out)
			}
			m.expect(three, A)
		}
		t.Logf("cut at each of %d changes: %v", cuts, ends)
		if cuts < 8 {
			t.Errorf("only %d changes, want at least 8", cuts)
		}
	}
}

// The hook refuses a file that is not a Gangway system, before it writes to a slot.
func TestRefusesWhatIsNoSystem(t *testing.T) {
	t.Parallel()
	one, two := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline)
	alter := func(old, new string) []byte {
		b := bytes.Clone(two)
		at := bytes.Index(b, []byte(old))
		if old == "HdrS" { // the boot stub also contains these bytes
			at = bytes.LastIndex(b, []byte(old))
		}
		if at < 0 {
			t.Fatalf("the image does not contain %q", old)
		}
		copy(b[at:], new)
		return b
	}
	pe := int(binary.LittleEndian.Uint32(two[0x3C:]))
	for name, c := range map[string]struct {
		system []byte
		want   string
	}{
		"nothing":              {[]byte{}, "not an EFI program"},
		"text":                 {[]byte("#!/bin/sh\n"), "not an EFI program"},
		"a program for Linux":  {append([]byte("\x7fELF"), make([]byte, 4096)...), "not an EFI program"},
		"only a stub":          {read(t, stubPath), "no complete section .linux"},
		"cut short":            {two[:len(two)-100_000], "truncated"},
		"cut in its headers":   {two[:pe+30], "not an EFI program"},
		"another architecture": {alter("\x64\x86", "\x64\xAA"), "not an EFI program"},
		"no kernel":            {alter("HdrS", "hdrs"), "not a kernel"},
		"no initramfs":         {alter(".initrd\x00", ".inited\x00"), "no complete section .initrd"},
		"two command lines":    {alter(".osrel\x00\x00", ".cmdline"), "twice"},
		"an installer":         {uki(t, 5, "panic=30 gangway.mode=auto gangway.manifest=00"), "gangway.mode=auto"},
		"hangs after a panic":  {uki(t, 6, "gangway.mode=system"), "panic=SECONDS"},
		"panic=0":              {uki(t, 7, "panic=5 gangway.mode=system panic=0"), "panic=SECONDS"},
		"a second mode":        {uki(t, 8, goodCmdline+" gangway.mode=tpm"), "gangway.mode=tpm"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, one)
			m.addSystem(two, true)
			if got := m.apply(m.revision(1, two)); got != "DONE" {
				t.Fatalf("the first update: %s %q", got, &m.out)
			}
			before := m.changes
			rev := m.revision(2, nil)
			m.write(filepath.Join(rev, "files", SystemPath), c.system)
			if code := m.call("install", rev); code != 1 || !strings.Contains(m.out.String(), c.want) {
				t.Errorf("install: %d %q; want 1 and %q", code, &m.out, c.want)
			}
			if code := m.call("rollback", rev); code != 0 {
				t.Errorf("rollback: %d %q", code, &m.out)
			}
			if m.changes != before {
				t.Errorf("the hook changed something: %s", m.last)
			}
			if sum, err := m.hook.ESP.Sum(A); err != nil || !m.systems[sum] {
				t.Errorf("the slot to fall back to has lost its system: %v", err)
			}
			m.expect(two, B)
		})
	}
}

// The hook refuses a system that does not fit on the EFI system partition beside the running
// system. Both slots stay unchanged.
func TestSystemLargerThanTheRoomIsRefused(t *testing.T) {
	t.Parallel()
	one, two := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline)
	m := newMachine(t, one)
	m.addSystem(two, true)
	m.hook.ESP.free = func() (int64, error) { return int64(len(two)) + reserve - 1, nil }
	rev := m.revision(1, two)
	if code := m.call("install", rev); code != 1 || !strings.Contains(m.out.String(), "has room for 2 MiB") {
		t.Errorf("install without room: %d %q", code, &m.out)
	}
	if code := m.call("rollback", rev); code != 0 || m.changes != 0 {
		t.Errorf("rollback: %d %q, %d changes", code, &m.out, m.changes)
	}
	m.expect(one, A)
	m.hook.ESP.free = func() (int64, error) { return int64(len(two)) + reserve, nil }
	if got := m.apply(rev); got != "DONE" {
		t.Errorf("install with just enough room: %s %q", got, &m.out)
	}
	if err := Check(bytes.NewReader(nil), MaxSystem+1); err == nil {
		t.Error("a file larger than MaxSystem is accepted")
	}
}

// The hook accepts a revision's system only if the path SystemPath is a regular file.
func TestOnlyAFileIsASystem(t *testing.T) {
	t.Parallel()
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

// If the default slot did not boot, the machine must still be able to fall back to the running
// system. So the hook does not overwrite the running slot.
func TestWhatRunsIsNeverWrittenOver(t *testing.T) {
	t.Parallel()
	one, two, three := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline), uki(t, 3, goodCmdline)
	m := newMachine(t, one)
	m.addSystem(two, true)
	m.addSystem(three, true)
	if got := m.apply(m.revision(1, two)); got != "DONE" {
		t.Fatalf("the first update: %s %q", got, &m.out)
	}
	broken := bytes.Clone(two)
	clear(broken[:sector])
	m.write(m.hook.ESP.path(B), broken)
	m.start()
	if running, kept, tried, err := m.hook.Trial(); running != A || kept != B || tried || err != nil {
		t.Fatalf("slot %s runs, the default is %s, on trial: %v, %v; want a, b, false", running, kept, tried, err)
	}
	for cutAt := range 4 {
		m.cutAt = m.changes + cutAt
		m.call("install", m.revision(2, three))
		m.expect(one, A)
	}
	m.cutAt = -1
	if got := m.apply(m.revision(3, three)); got != "DONE" {
		t.Errorf("the update without a cut: %s %q", got, &m.out)
	}
	m.expect(three, B)
}

// Until the first boot of an installation has succeeded, the hook refuses an update, because the
// machine has no proven system to fall back to.
func TestNoUpdateBeforeTheFirstBootIsGood(t *testing.T) {
	t.Parallel()
	one, two := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline)
	m := newMachine(t, one)
	if err := os.Rename(m.hook.ESP.path(A), filepath.Join(m.hook.ESP.Dir, folder, "gangway-a+2-1.efi")); err != nil {
		t.Fatal(err)
	}
	if code := m.call("install", m.revision(1, two)); code != 1 || !strings.Contains(m.out.String(), "has not completed its first boot") || m.changes != 0 {
		t.Errorf("install before the first boot is good: %d %q", code, &m.out)
	}
}

// If a faulty disk returns bytes other than those that the hook wrote to a slot, the hook must not
// make the slot bootable.
func TestSlotThatHoldsSomethingElseIsNotStarted(t *testing.T) {
	t.Parallel()
	one, two := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline)
	m := newMachine(t, one)
	sum, err := digest(bytes.NewReader(uki(t, 3, goodCmdline)))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.hook.ESP.Write(B, bytes.NewReader(two), int64(len(two)), sum); err == nil || !strings.Contains(err.Error(), "different data from what was written") {
		t.Errorf("got %v", err)
	}
	if b := read(t, m.hook.ESP.path(B)); bytes.HasPrefix(b, []byte("MZ")) {
		t.Error("the slot is bootable")
	}
}

// SetDefault does not change the boot manager's other settings.
func TestDefaultIsOneLetterOfTheSettings(t *testing.T) {
	t.Parallel()
	m := newMachine(t, uki(t, 1, goodCmdline))
	conf := filepath.Join(m.hook.ESP.Dir, LoaderConf)
	const text = "# gangway-a.efi\ntimeout 3\n  default \tgangway-%s.efi\r\nconsole-mode max\n"
	m.write(conf, fmt.Appendf(nil, text, "a"))
	for _, s := range []Slot{B, B, A} {
		if err := m.hook.ESP.SetDefault(s); err != nil {
			t.Fatal(err)
		}
		if got := string(read(t, conf)); got != fmt.Sprintf(text, s) {
			t.Errorf("the settings are %q", got)
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
			t.Error("a file that is not a program passes Check")
		}
	})
}

// A system that cannot open the machine's encrypted disk must not start. The hook binds the disk's
// key to the new system while the machine still runs the previous system.
func TestSystemThatCannotOpenTheDiskIsNotTried(t *testing.T) {
	t.Parallel()
	one, two, three := uki(t, 1, goodCmdline), uki(t, 2, goodCmdline+" two=2"), uki(t, 3, goodCmdline)
	m := newMachine(t, one)
	m.addSystem(two, true)
	m.addSystem(three, true)
	var bound []Slot
	refuse := false
	m.hook.BindKey = func(s Slot) error {
		bound = append(bound, s)
		switch name, err := m.hook.ESP.File(s); {
		case err != nil:
			t.Errorf("the slot is empty when the key is bound: %v", err)
		case !bytes.Equal(read(t, name), two) && !bytes.Equal(read(t, name), three):
			t.Error("the slot has another system when the key is bound")
		}
		if _, err := os.Stat(m.variable("LoaderEntryOneShot")); err == nil {
			t.Error("the firmware starts the system before the key is bound")
		}
		if refuse {
			return errors.New("its owner did not approve the system")
		}
		return nil
	}
	if got := m.apply(m.revision(1, two)); got != "DONE" || !slices.Equal(bound, []Slot{B}) {
		t.Errorf("got %s, and the key was bound to %v", got, bound)
	}
	m.expect(two, B)
	refuse = true
	if got := m.apply(m.revision(2, three)); got != "ERROR" {
		t.Errorf("a system that cannot open the disk: %s", got)
	}
	m.expect(two, B)
}
