package diskkey

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"gangway/device/identity/tpmrc"
	"gangway/device/install/lockout"
	"gangway/device/install/luks"
	"gangway/device/install/seal"
	"gangway/device/install/storagekey"
	"gangway/internal/eventlog"
)

const recovery = "cccccccc-cccccccc-cccccccc-cccccccc-cccccccc-cccccccc-cccccccc-cccccccc"

// withRecovery gives the lab's disk a recovery key of the usual form, and binds the disk's key to a
// system.
func withRecovery(t *testing.T) (*lab, System) {
	t.Helper()
	l := install(t)
	one := system(t, "one", l.owner)
	passphrase, token, err := seal.NewFirst(l.tpm)
	if err != nil {
		t.Fatal(err)
	}
	head, _, err := luks.Format([]luks.Slot{{Passphrase: passphrase, Token: token}, {Passphrase: []byte(recovery)}})
	if err != nil {
		t.Fatal(err)
	}
	l.disk = &disk{b: head, left: -1}
	l.start(t, "one")
	if _, err := l.bind(one); err != nil {
		t.Fatal(err)
	}
	return l, one
}

// opensWith returns nil if the machine opens its disk with the given PIN, and an error otherwise.
// "" stands for no PIN.
func (l *lab) opensWith(t *testing.T, s System, pin string) error {
	t.Helper()
	tpm := storagekey.Hold(l.tpm)
	defer tpm.Close()
	passphrase, err := Unlock(tpm, l.disk, s.Approvals)
	if err == nil && pin != "" {
		passphrase, err = WithPIN(tpm, l.disk, passphrase, pin)
	}
	if err == nil {
		_, err = luks.Open(l.disk, passphrase)
	}
	return err
}

// setPIN gives the lab's disk a PIN, while the system `running` runs.
func (l *lab) setPIN(current, pin string, running System, others ...System) error {
	return SetPIN(l.tpm, l.disk, l.owner.Public(), Boot{Log: l.log.Bytes(), Variable: l.variable}, current, pin, running, others...)
}

func (l *lab) wantOpen(t *testing.T, s System, pin string) {
	t.Helper()
	if err := l.opensWith(t, s, pin); err != nil {
		t.Fatalf("the disk does not open with the PIN %q: %v", pin, err)
	}
}

// A person sets a PIN, changes it and removes it. An update in between does not need the PIN. As
// long as the disk has a PIN, an approved system cannot open the disk without it. The recovery key
// always opens the disk.
func TestPINAndUpdates(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("restarts a TPM four times")
	}
	l, one := withRecovery(t)
	two := system(t, "two", l.owner)
	l.wantOpen(t, one, "")
	if err := l.setPIN("", "246810", one); err != nil {
		t.Fatal(err)
	}
	if err := l.opensWith(t, one, ""); !errors.Is(err, luks.ErrPassphrase) {
		t.Errorf("without the PIN: %v", err)
	}
	l.wantOpen(t, one, "246810")
	if _, err := l.bind(one, two); err != nil { // the hook does this without the PIN
		t.Fatal(err)
	}
	l.start(t, "two")
	l.wantOpen(t, two, "246810")
	l.start(t, "one")
	l.wantOpen(t, one, "246810")

	if err := l.setPIN("246810", "second-PIN", one, two); err != nil {
		t.Fatal(err)
	}
	l.wantOpen(t, one, "second-PIN")
	if err := l.opensWith(t, one, "246810"); !errors.Is(err, seal.ErrWrongPIN) {
		t.Errorf("with the former PIN: %v", err)
	}
	l.start(t, "two")
	l.wantOpen(t, two, "second-PIN") // the change of the PIN kept the key bound to both systems
	l.start(t, "one")
	if _, err := luks.Open(l.disk, RecoveryKey(" "+strings.ToUpper(recovery)+"\n")); err != nil {
		t.Errorf("the recovery key: %v", err)
	}
	if err := l.setPIN(strings.Replace(recovery, "c", "d", 1), "third-PIN", one); !errors.Is(err, ErrWrongRecoveryKey) {
		t.Errorf("a wrong recovery key: %v", err)
	}
	if err := l.setPIN(recovery, "third-PIN", one); err != nil { // a forgotten PIN
		t.Fatal(err)
	}
	l.wantOpen(t, one, "third-PIN")
	if err := l.setPIN("third-PIN", "", one); err != nil {
		t.Fatal(err)
	}
	l.wantOpen(t, one, "")
	if s, err := lockout.Read(l.tpm); err != nil || s.Password {
		t.Errorf("after the PIN was removed, the lockout password stays: %+v, %v", s, err)
	}
}

// A thief has two copies of the disk's header and key slots, one from the time of a former PIN and
// one from a time without a PIN. The thief knows the former PIN, steals the machine, and tries the
// halves of the passphrase from each time.
func TestCopyOfTheHeaderFromBeforeThePINOpensNothing(t *testing.T) {
	t.Parallel()
	l, one := withRecovery(t)
	copies := [][]byte{bytes.Clone(l.disk.b)}
	if err := l.setPIN("", "246810", one); err != nil {
		t.Fatal(err)
	}
	copies = append(copies, bytes.Clone(l.disk.b))
	if err := l.setPIN("246810", "second-PIN", one); err != nil {
		t.Fatal(err)
	}
	now := bytes.Clone(l.disk.b)
	l.start(t, "one")
	for i, b := range copies { // the former header as it was
		l.disk.b = bytes.Clone(b)
		for _, pin := range []string{"", "246810", "second-PIN"} {
			if err := l.opensWith(t, one, pin); err == nil {
				t.Errorf("copy %d opens with the PIN %q", i, pin)
			}
		}
	}
	l.disk.b = now
	released, err := l.unlock(one.Approvals)
	if err != nil {
		t.Fatal(err)
	}
	// Try the present half for the boot together with the former half for the PIN, on each version
	// of the disk's header.
	pins, err := luks.Tokens(bytes.NewReader(copies[1]), seal.PINType)
	if err != nil || len(pins) != 1 {
		t.Fatal(pins, err)
	}
	share, err := seal.OpenPIN(l.tpm, pins[0], "246810")
	if err != nil {
		t.Fatal(err)
	}
	joined, err := seal.Join(released, share)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range append(copies, now) {
		for name, p := range map[string][]byte{"present half": released, "present and former half": joined} {
			if _, err := luks.Open(bytes.NewReader(b), p); !errors.Is(err, luks.ErrPassphrase) {
				t.Errorf("version %d with the %s: %v", i, name, err)
			}
		}
	}
	l.wantOpen(t, one, "second-PIN")
}

// A thief copies the disk, puts a request to wipe onto the EFI system partition, and cuts the power
// in the middle of the wipe. The TPM loses its keys and the lockout password in the same step. So
// while it still has the keys, it also limits guesses, and once it has lost them, no PIN opens the
// thief's copy.
func TestWipeClearsTheTPMInOneStep(t *testing.T) {
	t.Parallel()
	l, one := withRecovery(t)
	if err := ClearTPM(l.tpm, l.disk, one.Approvals); err != nil { // no PIN: the wipe itself clears the TPM
		t.Fatal(err)
	}
	l.wantOpen(t, one, "")
	if err := l.setPIN("", "246810", one); err != nil {
		t.Fatal(err)
	}
	if err := lockout.Clear(l.tpm); !errors.Is(err, lockout.ErrNotClearable) {
		t.Errorf("a stick clears a TPM that protects a PIN: %v", err)
	}
	if err := ClearTPM(l.tpm, l.disk, one.Approvals); err != nil {
		t.Fatal(err)
	}
	if s, err := lockout.Read(l.tpm); err != nil || s.Password {
		t.Errorf("after the clear: %+v, %v", s, err)
	}
	if err := l.opensWith(t, one, "246810"); !errors.Is(err, storagekey.ErrOther) {
		t.Errorf("the copy of the disk: %v", err)
	}
	if _, err := luks.Open(l.disk, RecoveryKey(recovery)); err != nil {
		t.Errorf("the recovery key: %v", err)
	}
	if err := ClearTPM(l.tpm, l.disk, one.Approvals); err != nil { // the next start after a power cut
		t.Errorf("a second clear: %v", err)
	}
}

// If another program has set the password of the TPM's lockout hierarchy, the TPM would not protect
// a PIN, so SetPIN refuses to set one.
func TestForeignLockoutPasswordPreventsAPIN(t *testing.T) {
	t.Parallel()
	l, one := withRecovery(t)
	before := bytes.Clone(l.disk.b)
	if err := lockout.Protect(l.tpm, nil, []byte("of another program"), false); err != nil {
		t.Fatal(err)
	}
	if err := l.setPIN("", "246810", one); !errors.Is(err, lockout.ErrForeignPassword) {
		t.Errorf("got %v; want ErrForeignPassword", err)
	}
	if !bytes.Equal(l.disk.b, before) {
		t.Error("the refusal changed the disk")
	}
	l.wantOpen(t, one, "")
}

// A thief of the whole machine guesses the PIN. After a few guesses, the TPM refuses even the right
// PIN, and a restart does not help, because only the owner's system can reset the TPM's count. If a
// person types the right PIN after a mistake, the count is reset. The recovery key works during a
// lockout too.
func TestGuessingThePINLocksTheTPM(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("guesses a PIN ten times")
	}
	l, one := withRecovery(t)
	if err := l.setPIN("", "246810", one); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := l.opensWith(t, one, "135791"); !errors.Is(err, seal.ErrWrongPIN) {
			t.Fatalf("a wrong PIN: %v", err)
		}
	}
	if s, err := lockout.Read(l.tpm); err != nil || s.Tries != 3 || s.Max != lockout.Tries || s.Interval != lockout.Interval {
		t.Errorf("after three wrong PINs: %+v, %v", s, err)
	}
	l.wantOpen(t, one, "246810")
	if s, err := lockout.Read(l.tpm); err != nil || s.Tries != 0 {
		t.Errorf("after the right PIN: %+v, %v", s, err)
	}
	locked := false
	for range lockout.Tries + 1 {
		var cause *tpmrc.Cause
		if err := l.opensWith(t, one, "135791"); errors.As(err, &cause) && cause.Code == tpmrc.CodeLockout {
			locked = true
		}
	}
	if !locked {
		t.Error("the TPM is not in lockout after many wrong PINs")
	}
	if was, err := lockout.Lift(l.tpm); !was || !errors.Is(err, lockout.ErrPassword) {
		t.Errorf("anyone can lift the lockout: %v, %v", was, err)
	}
	l.start(t, "one")
	if err := l.opensWith(t, one, "246810"); err == nil {
		t.Error("the right PIN works in lockout, so guesses cost nothing")
	}
	if _, err := luks.Open(l.disk, RecoveryKey(recovery)); err != nil {
		t.Errorf("the recovery key in lockout: %v", err)
	}
}

// The right PIN does not help a system that the owner did not approve.
func TestPINDoesNotOpenTheDiskForAForeignSystem(t *testing.T) {
	t.Parallel()
	l, one := withRecovery(t)
	if err := l.setPIN("", "246810", one); err != nil {
		t.Fatal(err)
	}
	l.start(t, "one", eventlog.Event{PCR: 4, Type: eventlog.EFIBootApplication, Digest: sum("a bootkit")})
	if err := l.opensWith(t, one, "246810"); !errors.Is(err, seal.ErrNotReleased) {
		t.Errorf("with the PIN: %v", err)
	}
	if err := l.setPIN(recovery, "another-PIN", one); !errors.Is(err, seal.ErrNotReleased) {
		t.Errorf("setting a PIN: %v", err)
	}
}

func TestSetPINRefuses(t *testing.T) {
	t.Parallel()
	l, one := withRecovery(t)
	for _, bad := range []string{"12345", strings.Repeat("1", seal.MaxPIN+1), "12 456", "Ünsinn", "123456\x00"} {
		if err := l.setPIN("", bad, one); err == nil {
			t.Errorf("the PIN %q is accepted", bad)
		}
	}
	if err := l.setPIN("", "", one); err == nil {
		t.Error("a PIN that does not exist was removed")
	}
	plain := install(t)
	if err := plain.setPIN("", "246810", one); !errors.Is(err, ErrPINNeedsBinding) {
		t.Errorf("a disk that every system opens: %v", err)
	}
}

// The power is cut at any write. The disk still opens with the former PIN or with the new PIN, and
// with the recovery key. A second attempt to set the PIN then succeeds. "" stands for no PIN.
func TestPowerCutWhileThePINIsSet(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("sets a PIN many times")
	}
	l, one := withRecovery(t)
	// A key slot has 504 sectors, and each copy of the header has 32. When a PIN is set for the
	// first time, the header is also written once before that.
	for _, c := range []struct {
		from, to string
		cuts     []int
	}{
		{"", "246810", []int{0, 16, 48, 64, 584, 616, 640}},
		{"246810", "second-PIN", []int{0, 300, 520, 552, 900}},
		{"second-PIN", "", []int{0, 520, 552, 900, 1088, 1120}},
	} {
		seen := map[string]bool{}
		for _, cut := range c.cuts {
			l.disk.left = cut
			err := l.setPIN(c.from, c.to, one)
			l.disk.left = -1
			var now []string
			for _, pin := range []string{c.from, c.to} {
				if l.opensWith(t, one, pin) == nil {
					now = append(now, pin)
				}
			}
			if len(now) != 1 || err == nil && now[0] != c.to {
				t.Fatalf("from %q to %q, cut after %d sectors: the disk opens with %q; %v", c.from, c.to, cut, now, err)
			}
			seen[now[0]] = true
			if _, err := luks.Open(l.disk, RecoveryKey(recovery)); err != nil {
				t.Errorf("from %q to %q, cut after %d sectors: the recovery key: %v", c.from, c.to, cut, err)
			}
			if now[0] == c.to && cut != c.cuts[len(c.cuts)-1] {
				if err := l.setPIN(c.to, c.from, one); err != nil { // back, for the next cut
					t.Fatalf("from %q to %q, cut after %d sectors: the next change: %v", c.from, c.to, cut, err)
				}
			}
		}
		if len(seen) != 2 {
			t.Errorf("from %q to %q: the cuts left only %v", c.from, c.to, seen)
		}
		l.wantOpen(t, one, c.to)
	}
	if err := l.setPIN("", "246810", one); err != nil { // a power cut left nothing that stands in the way
		t.Fatal(err)
	}
	if err := l.setPIN("246810", "", one); err != nil {
		t.Fatal(err)
	}
	if s, err := lockout.Read(l.tpm); err != nil || s.Password {
		t.Errorf("at the end, the lockout password stays: %+v, %v", s, err)
	}
}
