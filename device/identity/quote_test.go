package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"os/exec"
	"slices"
	"testing"

	"gangway/internal/swtpm"
	"gangway/tcg"
)

func TestQuotesWhatTheTPMHolds(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.P384)
	nonce := bytes.Repeat([]byte{7}, 32)
	for _, algorithm := range []Algorithm{P256, P384, RSA2048} {
		tpm := open(t, s)
		id := load(t, tpm, Options{Algorithm: algorithm})
		name, public := id.IAKName, id.IAK
		id.Close()
		before := tpm.Stats().ByOperation[OpQuote].Commands
		q, err := LoadQuote(t.Context(), tpm, Options{Algorithm: algorithm}, nonce)
		if err != nil {
			t.Fatal(err)
		}
		if n := tpm.Stats().ByOperation[OpQuote].Commands - before; n > 8 {
			t.Errorf("%s: %d commands", algorithm, n)
		}
		a, err := tcg.ParseQuote(q.Attest)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := tcg.EndorsementQualifiedName(name)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := tcg.ParseSignature(q.Signature)
		if err != nil || public.Verify(q.Attest, sig) != nil || !bytes.Equal(a.QualifiedSigner, signer) || !bytes.Equal(a.ExtraData, nonce) {
			t.Errorf("%s: another key's quote, or over something else: %v", algorithm, err)
		}
		if len(q.PCRs) != 16 || len(a.Selection) != 1 || a.Selection[0].Hash != q.Bank || !slices.Equal(a.Selection[0].PCRs, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}) {
			t.Errorf("%s: %d values, selection %+v", algorithm, len(q.PCRs), a.Selection)
		}
		if err := tpm.Close(); err != nil {
			t.Error(err)
		}
		assertEmpty(t, s)
	}
	if _, err := LoadQuote(t.Context(), open(t, s), Options{}, []byte("short")); err == nil {
		t.Error("a nonce of five bytes")
	}
}

func TestQuoteShowsAnExtendedPCR(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.P384)
	event := sha256.Sum256([]byte("event"))
	if err := s.ExtendPCR(4, event[:]); err != nil {
		t.Fatal(err)
	}
	q, err := LoadQuote(t.Context(), open(t, s), Options{}, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(append(make([]byte, 32), event[:]...))
	if q.Bank != tcg.AlgSHA256 || !bytes.Equal(q.PCRs[4], want[:]) || !bytes.Equal(q.PCRs[5], make([]byte, 32)) {
		t.Errorf("bank %x, PCR 4 %x", q.Bank, q.PCRs[4])
	}
	assertEmpty(t, s)
}

// The machine's firmware may measure into the TPM's SHA-256 bank and leave the SHA-384 bank empty.
// LoadQuote quotes the bank with measurements.
func TestQuotesTheBankIntoWhichSomethingWasMeasured(t *testing.T) {
	t.Parallel()
	const tool = "tpm2_pcrallocate"
	if _, err := exec.LookPath(tool); err != nil {
		t.Skip(tool + " is not installed: package tpm2-tools")
	}
	s := startTPM(t, swtpm.P384)
	if out, err := exec.Command(tool, "-T", s.TCTI(), "sha256:all+sha384:all").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	quotes := func(want tcg.AlgID) {
		t.Helper()
		q, err := LoadQuote(t.Context(), open(t, s), Options{}, make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		if q.Bank != want {
			t.Errorf("bank %x, %x was expected", q.Bank, want)
		}
	}
	extend := func(what string) {
		t.Helper()
		if out, err := exec.Command("tpm2_pcrextend", "-T", s.TCTI(), what).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	word := sha512.Sum384([]byte("os-separator"))
	quotes(tcg.AlgSHA384) // both banks are empty
	event := sha256.Sum256([]byte("event"))
	if err := s.ExtendPCR(4, event[:]); err != nil {
		t.Fatal(err)
	}
	quotes(tcg.AlgSHA256)
	extend(fmt.Sprintf("4:sha384=%x", word))
	quotes(tcg.AlgSHA256)
	extend(fmt.Sprintf("4:sha384=%x", word)) // a measurement by the firmware
	quotes(tcg.AlgSHA384)
}

func TestQuoteIsCancelled(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.P384)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := LoadQuote(ctx, open(t, s), Options{}, make([]byte, 32)); err == nil {
		t.Error("no error")
	}
	assertEmpty(t, s)
}
