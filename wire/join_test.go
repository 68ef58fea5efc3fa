package wire

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gangway/tcg"

	"pgregory.net/rapid"
)

func testKeys(t testing.TB, seed byte) Keys {
	t.Helper()
	k, err := DeriveKeys(bytes.Repeat([]byte{seed}, CredentialSize), [32]byte{seed})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSealedReplyOpens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		content := rapid.SliceOfN(rapid.Byte(), 0, 9000).Draw(r, "content")
		k := testKeys(t, rapid.Byte().Draw(r, "seed"))
		sealed, err := Seal(k, content)
		if err != nil {
			r.Fatal(err)
		}
		got, err := Open(k, sealed)
		if err != nil || !bytes.Equal(got, content) {
			r.Fatalf("opened %.100x, %v", got, err)
		}
	})
}

func TestSealedReplyDoesNotOpenWithAnotherKey(t *testing.T) {
	t.Parallel()
	sealed, err := Seal(testKeys(t, 1), []byte("certificates"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testKeys(t, 2), sealed); err != ErrSealed {
		t.Fatalf("got %v", err)
	}
}

func TestRejectsAlteredSealedReply(t *testing.T) {
	t.Parallel()
	k := testKeys(t, 1)
	sealed, err := Seal(k, []byte("certificates"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		for _, bit := range []byte{1, 0x80} {
			altered := bytes.Clone(sealed)
			altered[i] ^= bit
			if _, err := Open(k, altered); err == nil {
				t.Fatalf("byte %d altered and still opened", i)
			}
		}
	}
	for n := range sealed {
		if _, err := Open(k, sealed[:n]); err == nil {
			t.Fatalf("opened with %d of %d bytes", n, len(sealed))
		}
	}
	if _, err := Open(k, append(bytes.Clone(sealed), 0)); err == nil {
		t.Fatal("opened with a byte after it")
	}
}

// OpenSSL opens a sealed reply, so the author of another device needs no code of this project.
func TestOpenSSLOpensTheSealedReply(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed: apt-get install openssl")
	}
	k := testKeys(t, 7)
	sealed, err := Seal(k, []byte("certificates of this TPM\n"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "reply.der")
	if err := os.WriteFile(file, sealed, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(key []byte) ([]byte, error) {
		return exec.Command("openssl", "cms", "-decrypt", "-binary", "-inform", "DER", "-in", file,
			"-secretkey", hex.EncodeToString(key), "-secretkeyid", hex.EncodeToString([]byte(KeyID))).CombinedOutput()
	}
	if out, err := open(k.Wrapping); err != nil || string(out) != "certificates of this TPM\n" {
		t.Fatalf("openssl: %v: %s", err, out)
	}
	if out, err := open(testKeys(t, 8).Wrapping); err == nil {
		t.Fatalf("openssl opened it with another key: %s", out)
	}
}

func TestCADataRoundTrips(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		d := &CAData{
			HubName:  rapid.StringN(1, 64, 255).Draw(r, "hub"),
			Owner:    rapid.StringMatching(`[a-z:/]{1,64}`).Draw(r, "owner"),
			TokenID:  NewID(),
			EKPublic: rapid.SliceOfN(rapid.Byte(), 1, 1024).Draw(r, "ek"),
			Proof:    rapid.SliceOfN(rapid.Byte(), 64, 64).Draw(r, "proof"),
		}
		for range rapid.IntRange(0, MaxIntermediates).Draw(r, "n") {
			d.Chain = append(d.Chain, rapid.SliceOfN(rapid.Byte(), 1, 2000).Draw(r, "cert"))
		}
		if why := rapid.Byte().Draw(r, "why"); why != 0 {
			d.Omission = tcg.Omission{Why: tcg.OmissionReason(why), Index: rapid.Uint32().Draw(r, "index")}
		}
		b, err := d.Encode()
		if err != nil {
			r.Fatal(err)
		}
		got, err := ParseCAData(b)
		if err != nil {
			r.Fatal(err)
		}
		again, err := got.Encode()
		if err != nil || !bytes.Equal(again, b) {
			r.Fatal("does not round-trip")
		}
		if got.Omission != d.Omission {
			r.Fatalf("%+v became %+v", d.Omission, got.Omission)
		}
		if _, err := ParseCAData(append(b, 0)); err == nil {
			r.Fatal("a byte after it was accepted")
		}
	})
}

func FuzzParseCAData(f *testing.F) {
	d := CAData{HubName: "h", Owner: "o", TokenID: NewID(), EKPublic: []byte{1}, Proof: make([]byte, 64), Chain: [][]byte{{1}}}
	b, err := d.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	d.Omission = tcg.Omission{Why: tcg.CertificateOfOtherKey, Index: 0x01C00002}
	if b, err = d.Encode(); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(append(bytes.Clone(b[:len(b)-5]), 0, 0, 0, 0, 0)) // a statement with reason 0, which is not valid
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseCAData(b)
		if err != nil {
			return
		}
		if again, err := d.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatal("two encodings of the same data")
		}
	})
}

func FuzzOpen(f *testing.F) {
	k := testKeys(f, 1)
	sealed, err := Seal(k, []byte("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, b []byte) {
		if content, err := Open(k, b); err == nil && string(content) != "x" {
			t.Fatalf("forged: %q", content)
		}
	})
}

func FuzzParseReply(f *testing.F) {
	f.Add([]byte(`{"credential-blob":"AA==","secret":"AA==","sealed":"AA=="}`))
	f.Fuzz(func(t *testing.T, b []byte) { ParseReply(b) })
}

func goodToken() map[string]any {
	return map[string]any{
		"id": "0123456789abcdef01234567", "owner": AccountPRN + "0123456789abcdef01234567",
		"token": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "hub": "https://hub.example:12443",
		"hub-name": strings.Repeat("ab", 32), "hub-ca": testCA,
	}
}

func TestTokenFile(t *testing.T) {
	t.Parallel()
	good := goodToken()
	good["more"] = "Pantacor's files have more fields"
	b, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := ParseTokenFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(tok.Token) > 66 {
		t.Errorf("the token has %d characters; Pantavisor keeps 66", len(tok.Token))
	}
	for field, values := range map[string][]any{
		"id":       {nil, "", "0123456789ABCDEF01234567", "../etc/passwd"},
		"owner":    {nil, "0123456789abcdef01234567", AccountPRN + "x"},
		"token":    {nil, "", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA!", strings.Repeat("A", 64)},
		"hub":      {nil, "http://hub.example", "https://", "https://hub.example/path", "https://u:p@hub.example", "hub.example"},
		"hub-name": {nil, "ab", strings.Repeat("AB", 32), strings.Repeat("zz", 32)},
		"hub-ca":   {nil, "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
	} {
		for _, v := range values {
			bad := goodToken()
			bad[field] = v
			if v == nil {
				delete(bad, field)
			}
			b, err := json.Marshal(bad)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ParseTokenFile(b); err == nil {
				t.Errorf("%s = %v was accepted", field, v)
			}
		}
	}
	if _, err := ParseTokenFile(append(b, '{')); err == nil {
		t.Error("data after it was accepted")
	}
}

func FuzzParseTokenFile(f *testing.F) {
	b, err := json.Marshal(goodToken())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) { ParseTokenFile(b) })
}

// An ownership proof is valid for only one key, hub, owner and token: no two different sets of
// these fields give the same message.
func TestOwnershipMessagesDiffer(t *testing.T) {
	t.Parallel()
	base := []string{"hub", "owner", "token", "name"}
	seen := map[string][]string{}
	for _, f := range [][]string{base, {"hubo", "wner", "token", "name"}, {"hub", "ownert", "oken", "name"}, {"hub", "owner", "tokenn", "ame"}, {"hub", "owner", "token", "other"}} {
		m := string(OwnershipMessage(f[0], f[1], f[2], []byte(f[3])))
		if was, ok := seen[m]; ok {
			t.Errorf("%q and %q give the same message", f, was)
		}
		seen[m] = f
	}
}

func TestOwnershipKeyDependsOnSecretAndToken(t *testing.T) {
	t.Parallel()
	secret := NewSecret()
	a, err := OwnershipKey(secret, "a")
	if err != nil {
		t.Fatal(err)
	}
	again, _ := OwnershipKey(secret, "a")
	b, _ := OwnershipKey(secret, "b")
	c, _ := OwnershipKey(NewSecret(), "a")
	if !a.Equal(again) || a.Equal(b) || a.Equal(c) {
		t.Error("the key does not depend on exactly the secret and the token's id")
	}
	if bytes.Contains(a.Public().(ed25519.PublicKey), secret) {
		t.Error("the public key contains the secret")
	}
}

func TestActivationProofIsForOneConnectionAndCertificate(t *testing.T) {
	t.Parallel()
	k := testKeys(t, 1)
	exporter, cert := bytes.Repeat([]byte{1}, ExporterSize), [32]byte{1}
	proof := ActivationProof(k, exporter, cert)
	if !VerifyActivationProof(k, exporter, cert, proof) {
		t.Fatal("a good proof was refused")
	}
	for name, ok := range map[string]bool{
		"another connection":  VerifyActivationProof(k, bytes.Repeat([]byte{2}, ExporterSize), cert, proof),
		"another certificate": VerifyActivationProof(k, exporter, [32]byte{2}, proof),
		"another request":     VerifyActivationProof(testKeys(t, 2), exporter, cert, proof),
		"no exporter":         VerifyActivationProof(k, nil, cert, ActivationProof(k, nil, cert)),
		"no proof":            VerifyActivationProof(k, exporter, cert, nil),
		"half a proof":        VerifyActivationProof(k, exporter, cert, proof[:16]),
	} {
		if ok {
			t.Errorf("a proof with %s was accepted", name)
		}
	}
}

func TestReplyEncodesAsJSON(t *testing.T) {
	t.Parallel()
	r := &Reply{CredentialBlob: []byte("blob"), Secret: bytes.Repeat([]byte{0xFB, 0xFF}, 50), Sealed: []byte("sealed")}
	want, err := json.Marshal(r)
	if err != nil || !bytes.Equal(r.Encode(), want) {
		t.Errorf("%.200s, want %.200s, %v", r.Encode(), want, err)
	}
	again, err := ParseReply(r.Encode())
	if err != nil || !bytes.Equal(again.Secret, r.Secret) {
		t.Errorf("%+v, %v", again, err)
	}
}
