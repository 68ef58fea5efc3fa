package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"gangway/device/install/storagekey"

	"github.com/google/go-tpm/tpm2/transport"
)

// firstSealed seals a passphrase as the installer does for an approved system.
func firstSealed(t *testing.T, tpm transport.TPM) ([]byte, json.RawMessage) {
	t.Helper()
	passphrase, tok, err := NewFirst(tpm)
	if err != nil {
		t.Fatal(err)
	}
	return passphrase, must(json.Marshal(tok))(t)
}

// A thief who copied the disk's header after the installation has the LUKS2 token that the
// installer wrote, and a system for which PCR 7 has the same value. After the counter has advanced,
// the copy must be worthless, even if the thief raises the limit in the token, or deletes the
// counter and makes a new counter.
func TestSealOfTheInstallerEndsWhenTheCounterAdvances(t *testing.T) {
	t.Parallel()
	chip := startChip(t)
	passphrase, raw := firstSealed(t, open(t, chip))
	if bytes.Contains(raw, passphrase) {
		t.Error("the token holds the passphrase")
	}
	tpm := boot(t, chip, start{programs: "live system"})
	for range 4 { // a TPM has room for few objects and sessions: none may stay
		if got := must(OpenFirst(tpm, raw))(t); !bytes.Equal(got, passphrase) {
			t.Fatal("another passphrase")
		}
	}
	if err := Advance(tpm, nil); err != nil {
		t.Fatal(err)
	}
	var tok map[string]any
	if err := json.Unmarshal(raw, &tok); err != nil {
		t.Fatal(err)
	}
	tok["limit"] = 1 << 40
	altered := must(json.Marshal(tok))(t)
	refuses := func(when string) {
		t.Helper()
		for name, raw := range map[string]json.RawMessage{"the token": raw, "the token with a higher limit": altered} {
			if _, err := OpenFirst(tpm, raw); !errors.Is(err, ErrNotReleased) {
				t.Errorf("%s, %s: %v; want ErrNotReleased", when, name, err)
			}
		}
	}
	refuses("after the counter advanced")
	if err := deleteCounter(tpm); err != nil {
		t.Fatal(err)
	}
	refuses("without a counter")
	must(Counter(tpm))(t)
	refuses("with a new counter")
}

// A passphrase that the installer sealed can be opened only with the same TPM and in the same state
// of Secure Boot.
func TestSealOfTheInstallerNeedsTPMAndSecureBoot(t *testing.T) {
	t.Parallel()
	chip := startChip(t)
	_, raw := firstSealed(t, open(t, chip))
	other := startTPM(t)
	must(Counter(other))(t)
	if _, err := OpenFirst(other, raw); !errors.Is(err, storagekey.ErrOther) {
		t.Errorf("another TPM: %v; want ErrOther", err)
	}
	if _, err := OpenFirst(boot(t, chip, start{secureBoot: "on"}), raw); !errors.Is(err, ErrNotReleased) {
		t.Errorf("Secure Boot on: %v; want ErrNotReleased", err)
	}
	for name, raw := range map[string]string{
		"not JSON": "x", "another type": `{"type":"systemd-tpm2"}`, "no blob": `{"type":"gangway-tpm2-first","counter":25184087}`,
		"another index": string(bytes.Replace(raw, []byte("25184087"), []byte("25184088"), 1)),
	} {
		if _, err := OpenFirst(other, json.RawMessage(raw)); err == nil || errors.Is(err, ErrNotReleased) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// If another program uses the NV index of the counter, the installer cannot seal the disk's key. If
// it sealed the key without the counter, the owner's system could never bind the key.
func TestSealOfTheInstallerNeedsTheCounter(t *testing.T) {
	t.Parallel()
	chip := startChip(t)
	if err := chip.DefineNV(counterIndex, []byte("12345678"), foreign); err != nil {
		t.Fatal(err)
	}
	if _, _, err := NewFirst(open(t, chip)); err == nil {
		t.Error("sealed without a counter")
	}
}
