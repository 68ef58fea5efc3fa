package manifest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// example returns a manifest with every field.
func example() *Manifest {
	digests := func(n int) map[string]string {
		return map[string]string{"SHA-256": hexOf(n, 32), "SHA-384": hexOf(n, 48), "SHA-512": hexOf(n, 64)}
	}
	pcr11 := map[string]map[string]string{}
	for bank, digest := range digests(4) {
		pcr11[bank] = map[string]string{"": digest, "enter-initrd:leave-initrd": digest}
	}
	return &Manifest{
		Format: Format, Name: "shop floor 1.4", Made: time.Date(2026, 11, 29, 15, 0, 0, 0, time.UTC), Sequence: 1795964400,
		BootManager: &Program{SHA256: hexOf(1, 32), Authenticode: digests(1)},
		System: System{
			Program: Program{SHA256: hexOf(2, 32), Authenticode: digests(2)},
			Kernel:  Program{SHA256: hexOf(3, 32), Authenticode: digests(3)},
			Cmdline: "console=tty0 quiet", PCR11: pcr11,
		},
		SecureBoot: &SecureBoot{
			Variables: []Variable{{"PK", digests(5)}, {"KEK", digests(6)}, {"db", digests(7)}},
			Authority: digests(8),
		},
		Installers: []System{{
			Program: Program{SHA256: hexOf(9, 32), Authenticode: digests(9)},
			Kernel:  Program{SHA256: hexOf(3, 32), Authenticode: digests(3)},
			Cmdline: "quiet gangway.mode=auto", PCR11: pcr11,
		}},
	}
}

func hexOf(n, size int) string { return strings.Repeat(fmt.Sprintf("%02x", n), size) }

func newP256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// rsa2048 is one key for all tests, because a new key takes a second of CPU time.
var rsa2048 = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func mustSign(t testing.TB, m *Manifest, key crypto.Signer) string {
	t.Helper()
	text, err := Sign(m, key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func keyID(t testing.TB, key crypto.PublicKey) string {
	t.Helper()
	id, err := KeyID(key)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// forge signs any header and any payload with a P-256 key. Sign would refuse most of these headers
// and payloads.
func forge(t testing.TB, key *ecdsa.PrivateKey, header, payload string) string {
	t.Helper()
	text := b64([]byte(header)) + "." + b64([]byte(payload))
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	var sig [64]byte
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return text + "." + b64(sig[:])
}

func es256Header(t testing.TB, key *ecdsa.PrivateKey) string {
	return fmt.Sprintf(`{"alg":"ES256","kid":"%s","typ":"gangway-manifest"}`, keyID(t, key.Public()))
}

// Parse reads what Sign wrote, with either kind of key.
func TestSignedManifestIsRead(t *testing.T) {
	other := newP256(t)
	for _, key := range []crypto.Signer{newP256(t), rsa2048()} {
		m := example()
		text := mustSign(t, m, key)
		got, by, err := Parse("\n "+text+"\n", []crypto.PublicKey{other.Public(), key.Public()})
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, m) {
			t.Errorf("the manifest changed:\n%+v\n%+v", got, m)
		}
		if keyID(t, by) != keyID(t, key.Public()) {
			t.Error("Parse returned another key than the one that signed")
		}
		shown, kid, err := Unverified(text)
		if err != nil || kid != keyID(t, key.Public()) || !reflect.DeepEqual(shown, m) {
			t.Errorf("Unverified: %+v, %q, %v", shown, kid, err)
		}
	}
}

// If forge gets a valid header and a valid payload, Parse accepts the text. So when Parse refuses a
// forged text in another test, the reason is what that test changed in the header or the payload.
func TestForgeMakesAValidText(t *testing.T) {
	key := newP256(t)
	text := forge(t, key, es256Header(t, key), string(mustJSON(t, example())))
	if _, _, err := Parse(text, []crypto.PublicKey{key.Public()}); err != nil {
		t.Fatal(err)
	}
}

// A PS256 signature has a salt of 32 bytes (RFC 7518, 3.5), so other programs accept it too.
func TestPS256SaltHasTheSizeOfTheHash(t *testing.T) {
	text := mustSign(t, example(), rsa2048())
	signed, sig := cutLast(text)
	b, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(signed))
	if err := rsa.VerifyPSS(&rsa2048().PublicKey, crypto.SHA256, sum[:], b, &rsa.PSSOptions{SaltLength: 32}); err != nil {
		t.Error(err)
	}
}

// cutLast separates the signature from the signed text.
func cutLast(text string) (signed, signature string) {
	i := strings.LastIndex(text, ".")
	return text[:i], text[i+1:]
}

// RS256 is accepted too: some TPM keys are restricted to this scheme.
func TestRS256IsRead(t *testing.T) {
	key := rsa2048()
	text := b64(fmt.Appendf(nil, `{"alg":"RS256","kid":"%s","typ":"gangway-manifest"}`, keyID(t, key.Public()))) + "." + b64(mustJSON(t, example()))
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Parse(text+"."+b64(sig), []crypto.PublicKey{key.Public()}); err != nil {
		t.Error(err)
	}
}

func TestRejectsKeyOfAnotherOwner(t *testing.T) {
	text := mustSign(t, example(), newP256(t))
	for _, trusted := range [][]crypto.PublicKey{nil, {newP256(t).Public()}, {newP256(t).Public(), rsa2048().Public()}} {
		if m, _, err := Parse(text, trusted); !errors.Is(err, ErrUntrusted) || m != nil {
			t.Errorf("%d trusted keys: %v", len(trusted), err)
		}
	}
}

// An attacker signs a manifest with the attacker's own key, and writes the kid of the owner's key
// into the header. Parse must refuse this manifest.
func TestRejectsKidOfAnotherKey(t *testing.T) {
	owner, attacker := newP256(t), newP256(t)
	text := forge(t, attacker, es256Header(t, owner), string(mustJSON(t, example())))
	if _, _, err := Parse(text, []crypto.PublicKey{owner.Public()}); !errors.Is(err, ErrSignature) {
		t.Errorf("got %v", err)
	}
}

// The test changes a bit in the header, the payload or the signature. Parse refuses each changed
// text.
func TestRejectsAlteredText(t *testing.T) {
	key := newP256(t)
	text := mustSign(t, example(), key)
	parts := strings.Split(text, ".")
	for i, part := range parts {
		raw, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(raw); at += 1 + len(raw)/50 {
			changed := append([]byte(nil), raw...)
			changed[at] ^= 1
			all := append([]string(nil), parts...)
			all[i] = b64(changed)
			if m, _, err := Parse(strings.Join(all, "."), []crypto.PublicKey{key.Public()}); err == nil || m != nil {
				t.Fatalf("part %d, byte %d: accepted", i, at)
			}
		}
	}
}

// An attacker combines the payload of one manifest with the signature of another. Parse refuses the
// combination.
func TestRejectsSignatureOfAnotherManifest(t *testing.T) {
	key := newP256(t)
	old := example()
	old.Sequence--
	a, b := mustSign(t, example(), key), mustSign(t, old, key)
	signed, _ := cutLast(a)
	_, sig := cutLast(b)
	if _, _, err := Parse(signed+"."+sig, []crypto.PublicKey{key.Public()}); !errors.Is(err, ErrSignature) {
		t.Errorf("got %v", err)
	}
}

// An attacker knows the owner's public key. The attacker uses it as the secret of an HMAC, or names
// the algorithm "none". Parse must refuse both texts.
func TestRejectsAlgorithmConfusion(t *testing.T) {
	ec, rs := newP256(t), rsa2048()
	payload := b64(mustJSON(t, example()))
	for _, key := range []crypto.Signer{ec, rs} {
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		publicPEM, err := MarshalKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		for _, alg := range []string{"HS256", "none", "None", "", "ES384", "EdDSA", "PS512", "RS512", "ES256K"} {
			head := b64(fmt.Appendf(nil, `{"alg":%q,"kid":"%s","typ":"gangway-manifest"}`, alg, keyID(t, key.Public())))
			for _, secret := range [][]byte{spki, publicPEM} {
				mac := hmac.New(sha256.New, secret)
				mac.Write([]byte(head + "." + payload))
				if m, _, err := Parse(head+"."+payload+"."+b64(mac.Sum(nil)), []crypto.PublicKey{key.Public()}); !errors.Is(err, ErrSignature) || m != nil {
					t.Errorf("%q: got %v", alg, err)
				}
			}
			if _, _, err := Parse(head+"."+payload+".", []crypto.PublicKey{key.Public()}); !errors.Is(err, ErrForm) {
				t.Errorf("%q without a signature: got %v", alg, err)
			}
		}
	}
	// The header names an algorithm for another kind of key: ECDSA for an RSA key.
	head := b64(fmt.Appendf(nil, `{"alg":"ES256","kid":"%s","typ":"gangway-manifest"}`, keyID(t, rs.Public())))
	if _, _, err := Parse(head+"."+payload+"."+b64(make([]byte, 64)), []crypto.PublicKey{rs.Public()}); !errors.Is(err, ErrSignature) {
		t.Errorf("ES256 with an RSA key: got %v", err)
	}
}

// The header has a member in addition to alg, kid and typ, or has alg twice. Parse refuses the
// text, even if the owner's key signed it: the member could name a rule that this version does not
// apply, or contain a key.
func TestRejectsCritAndOtherHeaderMembers(t *testing.T) {
	key := newP256(t)
	jwk := string(mustJSON(t, jose.JSONWebKey{Key: key.Public()}))
	payload := string(mustJSON(t, example()))
	for _, member := range []string{
		`"crit":["b64"],"b64":false`, `"crit":["exp"],"exp":1`, `"crit":[]`, `"b64":false`, `"jwk":` + jwk,
		`"jku":"https://attacker.example/jwks"`, `"x5c":[]`, `"x5u":"https://attacker.example/"`, `"cty":"json"`, `"nonce":"AAAA"`, `"alg":"ES256"`, `"Alg":"ES256"`,
	} {
		text := forge(t, key, strings.TrimSuffix(es256Header(t, key), "}")+","+member+"}", payload)
		if _, _, err := Parse(text, []crypto.PublicKey{key.Public()}); !errors.Is(err, ErrForm) {
			t.Errorf("%s: got %v", member, err)
		}
	}
}

// The owner's key may also sign other texts, such as tokens of another system. Parse must not
// accept such a text as a manifest.
func TestRejectsSignedTextOfAnotherType(t *testing.T) {
	key := newP256(t)
	for _, typ := range []string{`"typ":"JWT"`, `"typ":""`, `"typ":"GANGWAY-MANIFEST"`, `"typ":null`} {
		header := strings.Replace(es256Header(t, key), `"typ":"gangway-manifest"`, typ, 1)
		if _, _, err := Parse(forge(t, key, header, string(mustJSON(t, example()))), []crypto.PublicKey{key.Public()}); !errors.Is(err, ErrForm) {
			t.Errorf("%s: got %v", typ, err)
		}
	}
}

// Apart from the signature, a manifest has only one valid text: Parse refuses other base64
// encodings of the same bytes.
func TestRejectsOtherSpellingsOfTheText(t *testing.T) {
	key := newP256(t)
	text := mustSign(t, example(), key)
	parts := strings.Split(text, ".")
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := parts[2][len(parts[2])-1] // a signature of 64 bytes leaves 4 unused bits in the last character
	sloppy := parts[2][:len(parts[2])-1] + string(alphabet[strings.IndexByte(alphabet, last)|1])
	for name, changed := range map[string]string{
		"a line break":      text[:20] + "\n" + text[20:],
		"a space":           text[:20] + " " + text[20:],
		"padding":           text + "=",
		"unused bits":       parts[0] + "." + parts[1] + "." + sloppy,
		"a fourth part":     text + ".AAAA",
		"the JSON form":     fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, parts[1], parts[0], parts[2]),
		"no payload":        parts[0] + ".." + parts[2],
		"no text":           "",
		"two dots":          "..",
		"a byte above 0x7F": text[:30] + "é" + text[30:],
	} {
		if _, _, err := Parse(changed, []crypto.PublicKey{key.Public()}); !errors.Is(err, ErrForm) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// A careless builder, or an attacker with the key, could sign these payloads. Sign and Parse must
// refuse them.
func TestRejectsSignedPayload(t *testing.T) {
	key := newP256(t)
	valid := string(mustJSON(t, example()))
	replace := func(old, new string) string {
		if !strings.Contains(valid, old) {
			t.Fatalf("the example has no %s", old)
		}
		return strings.Replace(valid, old, new, 1)
	}
	for name, payload := range map[string]string{
		"a name twice":             `{"sequence":1,` + valid[1:],
		"a bank twice":             replace(`"authenticode":{`, `"authenticode":{"SHA-256":"`+hexOf(9, 32)+`",`),
		"another case":             replace(`"sequence"`, `"Sequence"`),
		"an unknown member":        `{"accept-all":true,` + valid[1:],
		"data after the object":    valid + "{}",
		"null":                     "null",
		"an array":                 "[]",
		"not UTF-8":                replace("shop floor", "shop \xff"),
		"another format":           replace(`"format":1`, `"format":2`),
		"a sequence above 2^53":    replace(`"sequence":1795964400`, `"sequence":9007199254740992`),
		"a negative sequence":      replace(`"sequence":1795964400`, `"sequence":-1`),
		"a sequence with fraction": replace(`"sequence":1795964400`, `"sequence":1.5`),
		"a short digest":           replace(hexOf(2, 32), hexOf(2, 31)),
		"a long digest":            replace(hexOf(2, 32), hexOf(2, 33)),
		"a digest in upper case":   replace(`"sha256":"`+hexOf(2, 32), `"sha256":"`+strings.Repeat("0A", 32)),
		"a digest of another bank": replace(`"SHA-384":"`+hexOf(2, 48), `"SHA-384":"`+hexOf(2, 32)),
		"deep nesting":             replace(`"name":"shop floor 1.4"`, `"name":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)),
	} {
		if payload == valid {
			t.Fatalf("%s: the payload did not change", name)
		}
		if m, _, err := Parse(forge(t, key, es256Header(t, key), payload), []crypto.PublicKey{key.Public()}); !errors.Is(err, ErrForm) || m != nil {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestRejectsHugeText(t *testing.T) {
	key := newP256(t)
	for _, text := range []string{
		strings.Repeat(".", MaxSize+1),
		mustSign(t, example(), key) + strings.Repeat("\n", MaxSize),
	} {
		if _, _, err := Parse(text, []crypto.PublicKey{key.Public()}); !errors.Is(err, ErrForm) {
			t.Errorf("got %v", err)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	if err := example().Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Manifest){
		"no name":                       func(m *Manifest) { m.Name = "" },
		"a long name":                   func(m *Manifest) { m.Name = strings.Repeat("x", MaxName+1) },
		"a name that reverses the line": func(m *Manifest) { m.Name = "safe\u202Etxt.exe" },
		"a terminal's control sequence": func(m *Manifest) { m.Name = "x\x1b[2J" },
		"no time":                       func(m *Manifest) { m.Made = time.Time{} },
		"no banks":                      func(m *Manifest) { m.System.Authenticode = nil },
		"SHA-1":                         func(m *Manifest) { m.System.Authenticode = map[string]string{"SHA-1": hexOf(1, 20)} },
		"a bank less in the boot manager": func(m *Manifest) {
			delete(m.BootManager.Authenticode, "SHA-512")
		},
		"a bank less in the kernel":      func(m *Manifest) { delete(m.System.Kernel.Authenticode, "SHA-256") },
		"a bank less in PCR 11":          func(m *Manifest) { delete(m.System.PCR11, "SHA-384") },
		"no value before the first word": func(m *Manifest) { delete(m.System.PCR11["SHA-256"], "") },
		"words that are not words":       func(m *Manifest) { m.System.PCR11["SHA-256"]["a b"] = hexOf(1, 32) },
		"too many phases": func(m *Manifest) {
			for i := range maxPhases {
				m.System.PCR11["SHA-256"][fmt.Sprintf("word%d", i)] = hexOf(1, 32)
			}
		},
		"a long command line":     func(m *Manifest) { m.System.Cmdline = strings.Repeat("x", maxCmdline+1) },
		"two command lines":       func(m *Manifest) { m.System.Cmdline = "a\nb" },
		"an unknown variable":     func(m *Manifest) { m.SecureBoot.Variables[0].Name = "MokList" },
		"a variable twice":        func(m *Manifest) { m.SecureBoot.Variables[1].Name = "PK" },
		"no variables":            func(m *Manifest) { m.SecureBoot.Variables = nil },
		"a variable's event":      func(m *Manifest) { m.SecureBoot.Variables[0].Events = nil },
		"an installer's PCR 11":   func(m *Manifest) { m.Installers[0].PCR11 = nil },
		"an installer's kernel":   func(m *Manifest) { m.Installers[0].Kernel.SHA256 = "" },
		"too many installers":     func(m *Manifest) { m.Installers = slices.Repeat(m.Installers, maxInstallers+1) },
		"installers of an update": func(m *Manifest) { m.BootManager = nil },
		"a bank of the authority": func(m *Manifest) { delete(m.SecureBoot.Authority, "SHA-256") },
	} {
		m := example()
		change(m)
		if err := m.Check(); !errors.Is(err, ErrForm) {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := Sign(m, newP256(t)); !errors.Is(err, ErrForm) {
			t.Errorf("%s: Sign: got %v", name, err)
		}
	}
	small := example()
	small.BootManager, small.SecureBoot, small.Installers = nil, nil, nil
	for _, digests := range []map[string]string{small.System.Authenticode, small.System.Kernel.Authenticode} {
		maps.DeleteFunc(digests, func(bank, _ string) bool { return bank != "SHA-256" })
	}
	small.System.PCR11 = map[string]map[string]string{"SHA-256": {"": hexOf(1, 32)}}
	if err := small.Check(); err != nil {
		t.Errorf("the smallest manifest: %v", err)
	}
}

// If TPMs cannot verify a key's signatures, Sign refuses the key. Parse does not trust such a key,
// even if the caller passes it as trusted.
func TestRejectsKeysThatTPMsCannotVerify(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	exponent3 := &rsa.PublicKey{N: rsa2048().N, E: 3}
	short := &rsa.PublicKey{N: new(big.Int).Rsh(rsa2048().N, 1024), E: 65537}
	for name, c := range map[string]struct {
		key  crypto.PublicKey
		says string
	}{
		"Ed25519":          {ed.Public(), "TPMs cannot verify Ed25519"},
		"P-384":            {p384.Public(), "P-384"},
		"RSA exponent 3":   {exponent3, "exponent 3"},
		"RSA of 1024 bits": {short, "1024 bits"},
		"no key":           {nil, "nil"},
	} {
		if err := CheckKey(c.key); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, key := range []crypto.Signer{p384, ed} {
		if _, err := Sign(example(), key); !errors.Is(err, ErrKey) {
			t.Errorf("%T signed: %v", key, err)
		}
	}
	spki, err := x509.MarshalPKIXPublicKey(ed.Public())
	if err != nil {
		t.Fatal(err)
	}
	text := b64(fmt.Appendf(nil, `{"alg":"EdDSA","kid":"%x","typ":"gangway-manifest"}`, sha256.Sum256(spki))) + "." + b64(mustJSON(t, example()))
	text += "." + b64(ed25519.Sign(ed, []byte(text)))
	if _, _, err := Parse(text, []crypto.PublicKey{ed.Public()}); !errors.Is(err, ErrUntrusted) {
		t.Errorf("an Ed25519 signature: %v", err)
	}
}

func TestKeyFiles(t *testing.T) {
	for _, key := range []crypto.Signer{newP256(t), rsa2048()} {
		text, err := MarshalKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseKey(text)
		if err != nil || keyID(t, got) != keyID(t, key.Public()) {
			t.Errorf("%v", err)
		}
		for _, bad := range []string{"", "x", string(text) + string(text), strings.ReplaceAll(string(text), "PUBLIC", "PRIVATE")} {
			if _, err := ParseKey([]byte(bad)); err == nil {
				t.Errorf("accepted %.60q", bad)
			}
		}
	}
}

// For any text, Parse returns either a manifest or an error. If Parse accepts a text, it returns
// the manifest that was signed.
func FuzzParse(f *testing.F) {
	key := newP256(f)
	text := mustSign(f, example(), key)
	f.Add(text)
	f.Add("")
	f.Add("..")
	f.Add(`{"payload":"","signatures":[]}`)
	f.Add(forge(f, key, `{}`, `{}`))
	f.Fuzz(func(t *testing.T, in string) {
		m, by, err := Parse(in, []crypto.PublicKey{key.Public()})
		if (m == nil) != (err != nil) || (by == nil) != (err != nil) {
			t.Fatalf("manifest %v, key %v, error %v", m, by, err)
		}
		if err == nil && !reflect.DeepEqual(m, example()) {
			t.Fatalf("accepted another manifest: %q", in)
		}
		if m, _, err := Unverified(in); err == nil && m.Check() != nil {
			t.Fatalf("Unverified returned a manifest that Check refuses: %q", in)
		}
	})
}
