package lockout

import (
	"errors"
	"testing"

	"gangway/internal/swtpm"

	"github.com/google/go-tpm/tpm2"
)

var mine = []byte("the password of this disk's system")

// While the lockout hierarchy is protected, nobody else can reset the count of wrong guesses, set
// other limits or clear the TPM. A second call of Protect changes nothing. After Unprotect,
// everyone can do these things again.
func TestProtectedTPMCountsGuesses(t *testing.T) {
	t.Parallel()
	tpm := start(t)
	for _, again := range []bool{false, true} {
		if err := Protect(tpm, nil, mine, again); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := Read(tpm); err != nil || !s.Password || s.Max != Tries || s.Interval != Interval {
		t.Errorf("protected: %+v, %v", s, err)
	}
	for range 3 {
		if err := swtpm.Guess(tpm, "wrong"); !errors.Is(err, tpm2.TPMRCAuthFail) {
			t.Fatal(err)
		}
	}
	if err := Forgive(tpm, mine); err != nil {
		t.Error(err)
	}
	if s, err := Read(tpm); err != nil || s.Tries != 0 {
		t.Errorf("after Forgive: %+v, %v", s, err)
	}
	lock(t, tpm)
	if was, err := Lift(tpm); !was || !errors.Is(err, ErrPassword) {
		t.Errorf("anyone lifts the lockout: %v, %v", was, err)
	}
	if err := Clear(tpm); !errors.Is(err, ErrNotClearable) {
		t.Errorf("anyone clears the TPM: %v", err)
	}
	if err := Unprotect(tpm, nil, mine); err != nil { // also in lockout
		t.Fatal(err)
	}
	if err := Unprotect(tpm, nil, mine); err != nil {
		t.Errorf("the second Unprotect: %v", err)
	}
	if was, err := Lift(tpm); !was || err != nil {
		t.Errorf("Lift after Unprotect: %v, %v", was, err)
	}
	if err := Clear(tpm); err != nil {
		t.Errorf("Clear after Unprotect: %v", err)
	}
}

// Protect does not guess a password that another program has set, because a wrong guess locks the
// hierarchy.
func TestProtectGuessesNoPassword(t *testing.T) {
	t.Parallel()
	tpm := start(t)
	setForeignPassword(t, tpm)
	if err := Protect(tpm, nil, mine, false); !errors.Is(err, ErrForeignPassword) {
		t.Errorf("got %v; want ErrForeignPassword", err)
	}
	if err := reset(tpm, []byte("theirs")); err != nil {
		t.Errorf("Protect tried a password: %v", err)
	}
}

// ClearProtected clears only a TPM with a lockout password. If it removed the password first, the
// TPM would for a moment have its keys and no password.
func TestClearProtectedNeedsThePassword(t *testing.T) {
	t.Parallel()
	tpm := start(t)
	if err := ClearProtected(tpm, nil, mine); err != nil {
		t.Errorf("without a password: %v", err)
	}
	owner := primaryName(t, tpm, tpm2.TPMRHOwner, 0)
	if err := Protect(tpm, nil, mine, false); err != nil {
		t.Fatal(err)
	}
	if got := primaryName(t, tpm, tpm2.TPMRHOwner, 0); string(got) != string(owner) {
		t.Error("ClearProtected cleared a TPM without a password")
	}
	if err := ClearProtected(tpm, nil, mine); err != nil {
		t.Fatal(err)
	}
	if got := primaryName(t, tpm, tpm2.TPMRHOwner, 0); string(got) == string(owner) {
		t.Error("the TPM is not cleared")
	}
	if s, err := Read(tpm); err != nil || s.Password {
		t.Errorf("after the clear: %+v, %v", s, err)
	}
}
