package lockout

import (
	"errors"
	"testing"

	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

func start(t *testing.T) transport.TPM {
	t.Helper()
	link, err := swtpmtest.Start(t, swtpm.Options{EK: swtpm.None}).Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { link.Close() })
	return link
}

// lock tries wrong passwords until the TPM is in lockout.
func lock(t *testing.T, tpm transport.TPM) {
	t.Helper()
	for range 100 {
		if errors.Is(swtpm.Guess(tpm, "wrong"), tpm2.TPMRCLockout) {
			return
		}
	}
	t.Fatal("the TPM is not in lockout after 100 wrong guesses")
}

func TestLiftsALockout(t *testing.T) {
	t.Parallel()
	tpm := start(t)
	if was, err := Lift(tpm); was || err != nil {
		t.Errorf("Lift without a lockout: %v, %v", was, err)
	}
	lock(t, tpm)
	if s, err := Read(tpm); err != nil || !s.Locked || s.Password || s.Tries == 0 || s.Tries != s.Max || s.Interval <= 0 {
		t.Errorf("a TPM in lockout: %+v, %v", s, err)
	}
	if was, err := Lift(tpm); !was || err != nil {
		t.Errorf("Lift in lockout: %v, %v", was, err)
	}
	if s, err := Read(tpm); err != nil || s.Locked || s.Tries != 0 {
		t.Errorf("after Lift: %+v, %v", s, err)
	}
	if err := swtpm.Guess(tpm, swtpm.GuessedPassword); err != nil {
		t.Errorf("the TPM is still in lockout: %v", err)
	}
}

// If the TPM's lockout hierarchy has a password, Lift does not guess the password, because a wrong
// guess would lock the lockout hierarchy too.
func TestLockoutWithAPasswordIsLeftAlone(t *testing.T) {
	t.Parallel()
	tpm := start(t)
	setForeignPassword(t, tpm)
	lock(t, tpm)
	if was, err := Lift(tpm); !was || !errors.Is(err, ErrPassword) {
		t.Errorf("got %v, %v; want true, ErrPassword", was, err)
	}
	// Lift did not guess, so the password still works.
	if err := reset(tpm, []byte("theirs")); err != nil {
		t.Error(err)
	}
}

func setForeignPassword(t *testing.T, tpm transport.TPM) {
	t.Helper()
	set := tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: []byte("theirs")},
	}
	if _, err := set.Execute(tpm); err != nil {
		t.Fatal(err)
	}
}
