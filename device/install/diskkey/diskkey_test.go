package diskkey

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"gangway/device/install/approval"
	"gangway/device/install/luks"
	"gangway/device/install/seal"
	"gangway/device/install/storagekey"
	"gangway/internal/eventlog"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/uuid"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func sum(text string) []byte {
	d := sha256.Sum256([]byte(text))
	return d[:]
}

// log returns the event log of a machine that boots the system with the given name.
func log(system string, more ...eventlog.Event) eventlog.Log { return logWith("keys", system, more...) }

// logWith returns the event log of a boot on a machine whose variable db has the value `keys`.
func logWith(keys, system string, more ...eventlog.Event) eventlog.Log {
	l := eventlog.Log{
		{PCR: 7, Type: eventlog.EFIVariableDriver, Data: eventlog.Variable("SecureBoot", []byte{0})},
		{PCR: 7, Type: eventlog.EFIVariableDriver, Data: eventlog.Variable("PK", nil)},
		{PCR: 7, Type: eventlog.EFIVariableDriver, Data: eventlog.Variable("db", []byte(keys))},
		{PCR: 7, Type: eventlog.Separator, Data: make([]byte, 4)},
		{PCR: 4, Type: eventlog.EFIAction, Data: []byte("Calling EFI Application from Boot Option")},
		{PCR: 4, Type: eventlog.Separator, Data: make([]byte, 4)},
		{PCR: 4, Type: eventlog.EFIBootApplication, Digest: sum("boot manager")},
		{PCR: 4, Type: eventlog.EFIBootApplication, Digest: sum(system)},
		{PCR: 4, Type: eventlog.EFIBootApplication, Digest: sum("kernel of " + system)},
		{PCR: 12, Type: eventlog.IPL, Data: eventlog.UTF16("mode=system of=" + system)},
		{PCR: 11, Type: eventlog.IPL, Digest: sum("sections of " + system)},
		{PCR: 12, Type: eventlog.IPL, Data: eventlog.UTF16("mode=system of=" + system)},
	}
	return append(l, more...)
}

// system returns the system with the given name, approved by each of the given keys.
func system(t *testing.T, name string, keys ...crypto.Signer) System {
	t.Helper()
	s := System{Cmdline: "mode=system of=" + name, Program: sum(name), Kernel: sum("kernel of " + name), PCR11: log(name).PCRs()[approval.PCR]}
	for _, k := range keys {
		s.Approvals = append(s.Approvals, must(approval.Sign(k, s.PCR11))(t))
	}
	return s
}

// lab is a machine with an encrypted disk, and the key of the machine's owner.
type lab struct {
	owner crypto.Signer
	chip  *swtpm.TPM
	tpm   transport.TPMCloser
	disk  *disk
	log   eventlog.Log // of the present start
	keys  string       // present value of the variable db
}

// disk keeps the first bytes of a disk in memory. After `left` sectors have been written, every
// further write fails, as after a power cut.
type disk struct {
	b    []byte
	left int // negative: no power cut
}

const (
	labRecovery = "the recovery key of the machine"
	headers     = 32 << 10 // size of both copies of the header; the key slots follow
)

var errPowerCut = errors.New("power cut")

func (d *disk) ReadAt(p []byte, at int64) (int, error) { return copy(p, d.b[at:]), nil }

func (d *disk) WriteAt(p []byte, at int64) (int, error) {
	const sector = 512
	for n := 0; n < len(p); n += sector {
		if d.left == 0 {
			return n, errPowerCut
		}
		d.left--
		copy(d.b[int(at)+n:], p[n:n+sector])
	}
	return len(p), nil
}

func (d *disk) Sync() error {
	if d.left == 0 {
		return errPowerCut
	}
	return nil
}

// install makes a machine with a disk key that is sealed, in the same way as by the installer, for
// a system that the machine's owner approved.
func install(t *testing.T) *lab {
	t.Helper()
	return installWith(t, seal.NewFirst)
}

// installWith makes a machine with a disk key that the function `sealed` has sealed.
func installWith(t *testing.T, sealed func(transport.TPM) ([]byte, map[string]any, error)) *lab {
	t.Helper()
	l := &lab{keys: "keys", owner: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t), chip: swtpmtest.Start(t, swtpm.Options{EK: swtpm.None})}
	l.start(t, "installer")
	passphrase, token, err := sealed(l.tpm)
	if err != nil {
		t.Fatal(err)
	}
	head, _, err := luks.Format([]luks.Slot{{Passphrase: passphrase, Token: token}, {Passphrase: []byte(labRecovery)}})
	if err != nil {
		t.Fatal(err)
	}
	l.disk = &disk{b: head, left: -1}
	return l
}

// start restarts the machine with the named system.
func (l *lab) start(t *testing.T, name string, more ...eventlog.Event) {
	t.Helper()
	l.startWith(t, logWith(l.keys, name, more...))
}

// startWith restarts the machine, which then measures the events in the given log.
func (l *lab) startWith(t *testing.T, measured eventlog.Log) {
	t.Helper()
	if l.tpm != nil {
		l.tpm.Close()
	}
	if err := l.chip.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.log = measured
	if err := l.log.Extend(l.chip.ExtendPCR); err != nil {
		t.Fatal(err)
	}
	l.tpm = must(l.chip.Open())(t)
	t.Cleanup(func() { l.tpm.Close() })
}

// variable returns the present value of a firmware variable.
func (l *lab) variable(name string, vendor uuid.UUID) ([]byte, error) {
	const global = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	if name != "db" || vendor.String() != global {
		return nil, fs.ErrNotExist
	}
	return []byte(l.keys), nil
}

func (l *lab) bind(running System, others ...System) (bool, error) {
	return Bind(l.tpm, l.disk, l.owner.Public(), Boot{Log: l.log.Bytes(), Variable: l.variable}, running, others...)
}

func (l *lab) unlock(approvals []approval.Approval) ([]byte, error) {
	tpm := storagekey.Hold(l.tpm)
	defer tpm.Close()
	return Unlock(tpm, l.disk, approvals)
}

// The method `opens` reports whether the system that runs on the machine opens the disk with the
// approvals of the system `s`.
func (l *lab) opens(t *testing.T, s System) bool {
	t.Helper()
	passphrase, err := l.unlock(s.Approvals)
	if err != nil {
		if !errors.Is(err, seal.ErrNotReleased) {
			t.Fatalf("got %v; want ErrNotReleased", err)
		}
		return false
	}
	_, err = luks.Open(l.disk, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	return true
}

// A machine boots for the first time, gets an update, rolls the update back, and later keeps the
// update. After each step, the disk must open for the systems in the slots and for no other system.
func TestKeyFollowsTheSystemsOnTheDisk(t *testing.T) {
	t.Parallel()
	l := install(t)
	one, two := system(t, "one", l.owner), system(t, "two", l.owner)
	l.start(t, "one")
	if !must(l.bind(one))(t) {
		t.Error("the first start did not bind the key")
	}
	if must(l.bind(one))(t) {
		t.Error("the key was bound a second time")
	}
	copied := bytes.Clone(l.disk.b) // a thief's copy of the header, made while system one was in use
	l.start(t, "two")
	if l.opens(t, two) {
		t.Error("before the update, system two opens the disk")
	}
	l.start(t, "one")
	must(l.bind(one, two))(t) // the update is written to the other slot
	l.start(t, "two")
	if !l.opens(t, two) {
		t.Fatal("after the update, system two does not open the disk")
	}
	l.start(t, "one")
	if !l.opens(t, one) {
		t.Fatal("after the roll-back, system one does not open the disk")
	}
	l.start(t, "two")
	must(l.bind(two))(t) // no slot has system one now
	l.start(t, "one")
	if l.opens(t, one) {
		t.Error("system one, which was removed, opens the disk")
	}
	l.disk.b = copied
	if l.opens(t, one) {
		t.Error("system one, which was removed, opens the disk with an old copy of the header")
	}
}

// A thief starts a system of their own on the machine, with Secure Boot off. The thief's system can
// extend any value into PCR 11, and has the approvals of the owner's systems. The disk must not
// open.
func TestForeignSystemDoesNotOpenTheDisk(t *testing.T) {
	t.Parallel()
	l := install(t)
	one := system(t, "one", l.owner)
	l.start(t, "one")
	must(l.bind(one))(t)
	l.start(t, "live system")
	if l.opens(t, one) {
		t.Error("a foreign system opens the disk")
	}
	if err := l.chip.ExtendPCR(approval.PCR, sum("sections of one")); err != nil {
		t.Fatal(err)
	}
	if l.opens(t, one) {
		t.Error("a foreign system that extends PCR 11 opens the disk")
	}
	if _, err := l.bind(one); !errors.Is(err, seal.ErrNotReleased) {
		t.Errorf("a foreign system binds the key: %v", err)
	}
}

// The hub orders an update to a system that the owner has not approved. The disk must not open for
// this system.
func TestSystemThatOnlyTheHubWantsDoesNotOpenTheDisk(t *testing.T) {
	t.Parallel()
	l := install(t)
	one, hubs := system(t, "one", l.owner), system(t, "the hub's", must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t))
	l.start(t, "one")
	must(l.bind(one, hubs))(t)
	l.start(t, "the hub's")
	if l.opens(t, hubs) {
		t.Error("a system without the owner's approval opens the disk")
	}
}

// With Secure Boot on, systemd's stub starts its kernel without the firmware's help, so PCR 4 has
// no digest of the kernel. The disk must still open for the systems in the slots.
func TestKeyFollowsTheSystemsIfFirmwareStartsNoKernel(t *testing.T) {
	t.Parallel()
	l := install(t)
	one, two := system(t, "one", l.owner), system(t, "two", l.owner)
	start := func(name string) {
		t.Helper()
		without := slices.DeleteFunc(log(name), func(e eventlog.Event) bool { return bytes.Equal(e.Digest, sum("kernel of "+name)) })
		l.startWith(t, without)
	}
	start("one")
	if _, err := l.bind(one, two); err != nil {
		t.Fatal(err)
	}
	start("two")
	if !l.opens(t, two) {
		t.Error("the update does not open the disk")
	}
	start("evil")
	if l.opens(t, one) {
		t.Error("a foreign system opens the disk")
	}
}

// If the firmware's event log does not explain PCR 4, a prediction could be wrong and lock the
// disk. So the disk's key must stay bound to the same systems as before.
func TestKeyIsNotBoundOnAPrediction(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("restarts a TPM many times")
	}
	one := func(l *lab) System { return system(t, "one", l.owner) }
	for name, spoil := range map[string]func(*lab){
		"no log":                 func(l *lab) { l.log = nil },
		"a log without an event": func(l *lab) { l.log = append(l.log[:5:5], l.log[6:]...) },
		"a program started twice": func(l *lab) {
			l.start(t, "one", eventlog.Event{PCR: 4, Type: eventlog.EFIBootApplication, Digest: sum("one")})
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := install(t)
			l.start(t, "one")
			spoil(l)
			if _, err := l.bind(one(l), system(t, "two", l.owner)); !errors.Is(err, ErrUnpredictable) {
				t.Errorf("got %v; want ErrUnpredictable", err)
			}
			l.start(t, "two")
			if !l.opens(t, one(l)) {
				t.Error("the disk is locked")
			}
		})
	}
}

// While the system runs, a program adds a certificate to db, as updates of the Secure Boot keys do.
// The disk must open at the next boot, even if the firmware refuses the change, and also for the
// system in the other slot. When the key has then been bound again under the new Secure Boot keys,
// the former keys no longer open the disk.
func TestChangedSecureBootKeysDoNotLockTheDisk(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("restarts a TPM many times")
	}
	l := install(t)
	one, two := system(t, "one", l.owner), system(t, "two", l.owner)
	l.start(t, "one")
	must(l.bind(one, two))(t)
	l.keys = "keys and the certificate of 2023"
	if !must(l.bind(one, two))(t) {
		t.Fatal("the key was not bound to the changed keys")
	}
	for _, keys := range []string{"keys", "keys and the certificate of 2023"} {
		l.keys = keys
		for _, s := range []struct {
			name string
			System
		}{{"one", one}, {"two", two}} {
			if l.start(t, s.name); !l.opens(t, s.System) {
				t.Errorf("system %s does not open the disk with the %s", s.name, keys)
			}
		}
	}
	l.start(t, "one")
	must(l.bind(one))(t)
	l.keys = "keys"
	if l.start(t, "one"); l.opens(t, one) {
		t.Error("the former keys open the disk")
	}
}

// A thief with access to the disk makes the boot menu's editor available, and starts the owner's
// system with another command line. The firmware and systemd's stub start the approved system as
// usual, so only PCR 12 shows the difference. The disk must not open.
func TestApprovedSystemWithAnotherCommandLineDoesNotOpenTheDisk(t *testing.T) {
	t.Parallel()
	l := install(t)
	one := system(t, "one", l.owner)
	altered := eventlog.Event{PCR: 12, Type: eventlog.IPL, Data: eventlog.UTF16("rdinit=/bin/sh")}
	l.start(t, "one", altered)
	if _, err := l.bind(one); !errors.Is(err, ErrAdditions) {
		t.Errorf("the key is bound to a system with another command line: %v", err)
	}
	l.start(t, "one")
	must(l.bind(one))(t)
	l.start(t, "one", altered)
	if l.opens(t, one) {
		t.Error("the system opens the disk with another command line")
	}
}

// The power may be cut at any write to the disk, and before the TPM's counter advances. Whichever
// of the systems in the slots the machine boots after that, the disk must open, and it must be
// possible to bind the key again.
func TestPowerCutWhileBindingNeverLocksTheDisk(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("restarts a TPM many times")
	}
	l := install(t)
	one, two := system(t, "one", l.owner), system(t, "two", l.owner)
	l.start(t, "one")
	must(l.bind(one))(t)
	before := bytes.Clone(l.disk.b)
	for _, cut := range []int{0, 1, 31, 32, 33, 63, 64} { // each of the two copies of the header has 32 sectors
		l.disk.b, l.disk.left = bytes.Clone(before), cut
		if _, err := l.bind(one, two); !errors.Is(err, errPowerCut) {
			t.Fatalf("cut after %d sectors: %v", cut, err)
		}
		l.disk.left = -1
		l.start(t, "one")
		if !l.opens(t, one) {
			t.Fatalf("cut after %d sectors: the disk is locked", cut)
		}
		if must(l.bind(one, two))(t); !l.opens(t, one) {
			t.Fatalf("cut after %d sectors, and bound again: the disk is locked", cut)
		}
		l.start(t, "two")
		if !l.opens(t, two) {
			t.Fatalf("cut after %d sectors, and bound again: system two does not open the disk", cut)
		}
		l.start(t, "one")
		must(l.bind(one))(t)
		before = bytes.Clone(l.disk.b)
	}
}

// A thief copies the disk's header and key slots after the installation, before the system's first
// boot. Later, the thief steals the machine with its disk, puts the copy back, and boots either the
// owner's system or a system of their own. PCR 7 has the same value all the time. The disk must not
// open.
func TestOldHeaderCopyDoesNotOpenTheDiskAfterTheFirstBinding(t *testing.T) {
	t.Parallel()
	l := install(t)
	one := system(t, "one", l.owner)
	old := bytes.Clone(l.disk.b)
	l.start(t, "one")
	if !l.opens(t, one) {
		t.Fatal("the disk does not open at the first start")
	}
	installers := must(l.unlock(nil))(t) // what a thief could learn before the first binding
	must(l.bind(one))(t)
	now := l.disk.b
	for _, name := range []string{"live system", "one"} {
		l.start(t, name)
		if l.disk.b = bytes.Clone(old); l.opens(t, one) {
			t.Errorf("%s opens the disk with the old copy", name)
		}
	}
	// One key slot was replaced. The other one is for the recovery key.
	if _, err := luks.Open(bytes.NewReader(now), installers); !errors.Is(err, luks.ErrPassphrase) {
		t.Errorf("the installer's passphrase opens the disk: %v", err)
	}
	key := must(luks.Open(bytes.NewReader(old), installers))(t)
	if got := must(luks.Open(bytes.NewReader(now), []byte(labRecovery)))(t); !bytes.Equal(got, key) {
		t.Error("the recovery key gives another key")
	}
	// The old key slot has been erased, so the old header opens nothing if it replaces the present
	// one.
	mixed := append(bytes.Clone(old[:headers]), now[headers:]...)
	if _, err := luks.Open(bytes.NewReader(mixed), installers); !errors.Is(err, luks.ErrPassphrase) {
		t.Errorf("the key slot of the installer's passphrase is still on the disk: %v", err)
	}
	l.disk.b = now
	l.start(t, "one")
	if !l.opens(t, one) {
		t.Error("the disk does not open any more")
	}
}

// A machine that was installed without an approved system, or by an earlier version, has the LUKS2
// token of systemd-cryptenroll. An approved update binds the key, and makes a new passphrase. After
// that, a copy of the LUKS2 token alone does not open the disk, but a copy of both the LUKS2 token
// and the key slots opens it for ever, as docs/security.md says.
func TestOldTokenDoesNotOpenTheDiskAfterTheFirstBinding(t *testing.T) {
	t.Parallel()
	l := installWith(t, seal.New)
	one := system(t, "one", l.owner)
	token := must(luks.Token(l.disk, seal.TokenType))(t)
	l.start(t, "one")
	if must(IsBound(l.disk))(t) {
		t.Error("a disk that every system opens counts as bound")
	}
	must(l.bind(one))(t)
	l.start(t, "live system")
	passphrase := must(seal.Open(l.tpm, token))(t)
	if _, err := luks.Open(l.disk, passphrase); !errors.Is(err, luks.ErrPassphrase) {
		t.Errorf("the old token opens the disk: %v", err)
	}
	l.start(t, "one")
	if !must(IsBound(l.disk))(t) || !l.opens(t, one) {
		t.Error("the disk does not open for its owner's system")
	}
}

// The power is cut at any write while the key is bound for the first time. The disk still opens at
// the next boot, and with the recovery key. The key is then bound, and after that an old copy of
// the header opens nothing.
func TestPowerCutInTheFirstBindingNeverLocksTheDisk(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("restarts a TPM many times")
	}
	// A key slot has 504 sectors, and each copy of the header has 32. The writes are in this order:
	// a key slot, the two copies of the header, the old key slot.
	const slot, header = 504, 32
	l := install(t)
	one := system(t, "one", l.owner)
	for _, cut := range []int{0, 1, slot - 1, slot, slot + 1, slot + header, slot + header + 1, slot + 2*header, slot + 2*header + 1, 2*slot + 2*header} {
		passphrase, token, err := seal.NewFirst(l.tpm)
		if err != nil {
			t.Fatal(err)
		}
		head, _, err := luks.Format([]luks.Slot{{Passphrase: passphrase, Token: token}, {Passphrase: []byte(labRecovery)}})
		if err != nil {
			t.Fatal(err)
		}
		old := bytes.Clone(head)
		l.disk = &disk{b: head, left: cut}
		l.start(t, "one")
		if _, err := l.bind(one); !errors.Is(err, errPowerCut) {
			t.Fatalf("cut after %d sectors: %v", cut, err)
		}
		l.disk.left = -1
		l.start(t, "one")
		if !l.opens(t, one) {
			t.Fatalf("cut after %d sectors: the disk is locked", cut)
		}
		if _, err := luks.Open(l.disk, []byte(labRecovery)); err != nil {
			t.Fatalf("cut after %d sectors: the recovery key: %v", cut, err)
		}
		if must(l.bind(one))(t); !l.opens(t, one) || !must(IsBound(l.disk))(t) {
			t.Fatalf("cut after %d sectors, and bound again: the disk is locked or not bound", cut)
		}
		now := l.disk.b
		if l.disk.b = old; l.opens(t, one) {
			t.Fatalf("cut after %d sectors, and bound again: the old copy opens the disk", cut)
		}
		l.disk.b = now
	}
}

// A disk's header has room for all the LUKS2 tokens that the systems in two slots need.
func TestHeaderHasRoomForTwoSystems(t *testing.T) {
	t.Parallel()
	l := install(t)
	l.start(t, "one")
	must(l.bind(system(t, "one", l.owner), system(t, "two", l.owner)))(t)
	list := must(luks.Tokens(l.disk, seal.BoundType))(t)
	first := must(luks.Tokens(l.disk, seal.FirstType))(t)
	if len(list) != 2 || len(first) != 0 {
		t.Errorf("%d bound and %d first tokens; want 2 and 0", len(list), len(first))
	}
	for _, raw := range list {
		if text := string(raw); !json.Valid(raw) || !strings.Contains(text, `"keyslots":["0"]`) {
			t.Errorf("token %s", text)
		}
	}
}
