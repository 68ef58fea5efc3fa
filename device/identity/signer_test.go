package identity

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"testing"

	"gangway/internal/swtpm"
	"gangway/tcg"
)

const hashOpts = crypto.SHA256

func TestLoadSignerTakesOneCommand(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	id := load(t, open(t, s), Options{})
	want := string(id.IDevIDName)
	id.Close()
	tpm := open(t, s)
	signer, err := LoadSigner(t.Context(), tpm, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if n := tpm.Stats().Total.Commands; n != 1 {
		t.Errorf("%d commands", n)
	}
	if string(signer.IDevIDName) != want {
		t.Error("another key than Load's")
	}
	handshake(t, signer)
	if err := signer.Close(); err != nil {
		t.Error(err)
	}
	if _, err := signer.Sign(nil, make([]byte, 32), hashOpts); !errors.Is(err, ErrClosed) {
		t.Errorf("Sign after Close: %v", err)
	}
	assertEmpty(t, s)
}

func TestSignerIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	signer := load(t, open(t, s), Options{}).Signer()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			digest := sha256.Sum256(newSecret())
			for range 3 {
				if _, err := signer.Sign(rand.Reader, digest[:], hashOpts); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestSignerRefusesWhatTheKeyCannotDo(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	signer := load(t, open(t, s), Options{}).Signer()
	for name, c := range map[string]struct {
		digest []byte
		opts   crypto.Hash
	}{
		"another hash":     {make([]byte, 48), crypto.SHA384},
		"SHA-1":            {make([]byte, 20), crypto.SHA1},
		"no hash":          {make([]byte, 32), 0},
		"digest too short": {make([]byte, 31), crypto.SHA256},
	} {
		if _, err := signer.Sign(nil, c.digest, c.opts); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func TestRSASignerDoesBothPaddings(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	signer := load(t, open(t, s), Options{Algorithm: RSA2048}).Signer()
	pub := signer.Public().(*rsa.PublicKey)
	digest := sha256.Sum256([]byte("x"))
	sig, err := signer.Sign(nil, digest[:], crypto.SHA256)
	if err != nil || rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig) != nil {
		t.Errorf("PKCS #1: %v", err)
	}
	long := sha512.Sum384([]byte("x"))
	opts := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA384}
	sig, err = signer.Sign(nil, long[:], opts)
	if err != nil || rsa.VerifyPSS(pub, crypto.SHA384, long[:], sig, opts) != nil {
		t.Errorf("PSS: %v", err)
	}
}

// TestRejectsPSSSaltThatTLSRefuses: some old TPMs sign with the longest possible salt. Sign refuses
// such a signature, and accepts a signature with a correct salt.
func TestRejectsPSSSaltThatTLSRefuses(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("x"))
	opts := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	signature := func(salt int) []byte {
		sig, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: salt})
		if err != nil {
			t.Fatal(err)
		}
		raw := binary.BigEndian.AppendUint16(nil, uint16(tcg.AlgRSAPSS))
		raw = binary.BigEndian.AppendUint16(raw, uint16(tcg.AlgSHA256))
		raw = binary.BigEndian.AppendUint16(raw, uint16(len(sig)))
		return append(raw, sig...)
	}
	if _, err := verifyRSA(&key.PublicKey, digest[:], crypto.SHA256, opts, signature(256-32-2)); !errors.Is(err, ErrPSSSalt) || !strings.Contains(err.Error(), "ECC") {
		t.Errorf("longest salt: %v", err)
	}
	if _, err := verifyRSA(&key.PublicKey, digest[:], crypto.SHA256, opts, signature(32)); err != nil {
		t.Errorf("salt of the hash's length: %v", err)
	}
	digest[0] ^= 1
	if _, err := verifyRSA(&key.PublicKey, digest[:], crypto.SHA256, opts, signature(32)[:200]); err == nil {
		t.Error("a broken signature was accepted")
	}
}
