// Package sigtest signs states in the format pvs@2, for tests. It can make the same signatures as
// pvr, or the wrong signatures that an attacker might make.
package sigtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"slices"
	"testing"

	"gangway/wire/trail"
	"gangway/wire/trail/sig"

	"github.com/go-jose/go-jose/v4"
)

// State is the content of a state: values by name.
type State map[string]any

// Text returns the state as JSON. It adds "#spec" if it is missing.
func (s State) Text(t testing.TB) []byte {
	t.Helper()
	all := State{"#spec": "pantavisor-service-system@1"}
	maps.Copy(all, s)
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Header has members that Sign adds to the protected header, or replaces in it.
type Header map[string]any

// All returns the patterns with which an owner signs a whole state.
func All() Header {
	return Header{"pvs": map[string]any{"include": []string{"**"}, "exclude": []string{"_sigs/owner.json"}}}
}

// NewKey makes a P-256 key.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// PEM returns the public key of a private key as a key file.
func PEM(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// Keys returns the public keys of private keys, as a device pins them.
func Keys(t testing.TB, keys ...crypto.Signer) *sig.Keys {
	t.Helper()
	var text string
	for _, k := range keys {
		text += PEM(t, k)
	}
	parsed, err := sig.ParseKeys([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// Sign signs a state, and returns a copy of the state with the signature `_sigs/NAME.json`. The
// header's patterns are those of `h`.
func Sign(t testing.TB, s State, name string, key crypto.Signer, h Header) State {
	t.Helper()
	signed := maps.Clone(s)
	signed[sig.Dir+name+".json"] = Document(t, s, key, h, nil)
	return signed
}

// Document returns the document of a signature. If `payload` is nil, the payload contains the
// members that the patterns select.
func Document(t testing.TB, s State, key crypto.Signer, h Header, payload []byte) map[string]any {
	t.Helper()
	header := Header{"alg": "ES256", "typ": "PVS", "jwk": jose.JSONWebKey{Key: key.Public()}}
	if k, ok := key.(*ecdsa.PrivateKey); ok && k.Curve == elliptic.P384() {
		header["alg"] = "ES384"
	}
	if _, ok := key.(*rsa.PrivateKey); ok {
		header["alg"] = "RS256"
	}
	maps.Copy(header, h)
	raw, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	if payload == nil {
		payload = selected(t, s, raw)
	}
	protected := base64.RawURLEncoding.EncodeToString(raw)
	input := protected + "." + base64.RawURLEncoding.EncodeToString(payload)
	return map[string]any{"#spec": "pvs@2", "protected": protected, "signature": base64.RawURLEncoding.EncodeToString(sign(t, key, input))}
}

// The function `selected` returns the payload that the header selects. It knows only the patterns
// "**" and whole names.
func selected(t testing.TB, s State, header []byte) []byte {
	t.Helper()
	var h struct {
		PVS struct{ Include, Exclude []string }
	}
	if err := json.Unmarshal(header, &h); err != nil {
		t.Fatal(err)
	}
	has := func(list []string, name string) bool {
		return slices.Contains(list, name) || slices.Contains(list, "**")
	}
	state, err := trail.ParseState(s.Text(t))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := state.Payload(func(name string) bool { return has(h.PVS.Include, name) && !has(h.PVS.Exclude, name) })
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// The function `sign` makes the signature of a JWS (RFC 7518, 3.3 and 3.4).
func sign(t testing.TB, key crypto.Signer, input string) []byte {
	t.Helper()
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		digest, size := sha256.Sum256([]byte(input)), 32
		sum := digest[:]
		if key.Curve == elliptic.P384() {
			d := sha512.Sum384([]byte(input))
			sum, size = d[:], 48
		}
		r, s, err := ecdsa.Sign(rand.Reader, key, sum)
		if err != nil {
			t.Fatal(err)
		}
		return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
	case *rsa.PrivateKey:
		sum := sha256.Sum256([]byte(input))
		b, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	t.Fatalf("a key of type %T", key)
	return nil
}
