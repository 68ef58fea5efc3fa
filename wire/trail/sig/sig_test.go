package sig_test

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
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/wire/trail"
	"gangway/wire/trail/sig"
	"gangway/wire/trail/sig/sigtest"

	"github.com/go-jose/go-jose/v4"
)

var sumA, sumB = strings.Repeat("a", 64), strings.Repeat("b", 64)

// The function `owners` returns a complete state for an owner to sign.
func owners(sequence int) sigtest.State {
	return sigtest.State{
		"app/root.squashfs": sumA, "app/run.json": map[string]any{"name": "app", "memory": 9007199254740992},
		sig.SequencePath: map[string]any{"sequence": sequence},
	}
}

func verify(t testing.TB, s sigtest.State, keys *sig.Keys) (*sig.Signed, error) {
	t.Helper()
	return verifyText(t, s.Text(t), keys)
}

func verifyText(t testing.TB, text []byte, keys *sig.Keys) (*sig.Signed, error) {
	t.Helper()
	state, err := trail.ParseState(text)
	if err != nil {
		t.Fatal(err)
	}
	return sig.Verify(state, keys)
}

// wantRefusal checks that a refusal has a code, a reason and a remedy.
func wantRefusal(t *testing.T, signed *sig.Signed, err error, code sig.Code) {
	t.Helper()
	var r *sig.Refusal
	if !errors.As(err, &r) || r.Code != code || r.Reason == "" || r.Remedy == "" || signed != nil {
		t.Errorf("got %+v, %v; want the refusal %s", signed, err, code)
	}
}

func TestVerifiesWhatTheOwnerSigned(t *testing.T) {
	t.Parallel()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"P-256": sigtest.NewKey(t), "P-384": p384, "RSA": weak} {
		s := owners(7)
		s["app/src.json"] = map[string]any{"docker_name": "x"}
		all := sigtest.All()
		all["pvs"] = map[string]any{"include": []string{"**"}, "exclude": []string{"app/src.json", "_sigs/owner.json"}}
		signed, err := verify(t, sigtest.Sign(t, s, "owner", key, all), sigtest.Keys(t, sigtest.NewKey(t), key))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if signed.Sequence != 7 || signed.Keys != nil || strings.Join(signed.State.Names(), " ") != "#spec app/root.squashfs app/run.json gangway/revision.json" {
			t.Errorf("%s: %+v %q", name, signed, signed.State.Names())
		}
	}
}

// The device acts only on signed bytes, so the state that Verify returns has only signed members.
// Verify accepts some members without a signature, such as src.json, but does not return them.
func TestUnsignedMembersAreNotInTheVerifiedState(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	h := with("pvs", map[string]any{"include": []string{"**"}, "exclude": []string{"app/src.json", "_sigs/another.json", "_sigs/owner.json"}})
	s := sigtest.Sign(t, owners(1), "owner", key, h)
	s["app/src.json"] = map[string]any{"evil": true}
	s["_sigs/another.json"] = map[string]any{"evil": true}
	signed, err := verify(t, s, sigtest.Keys(t, key))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(signed.State.JSON), "evil") || strings.Contains(string(signed.State.JSON), "_sigs") {
		t.Errorf("%s", signed.State.JSON)
	}
}

func TestRejectsUnsignedRevision(t *testing.T) {
	t.Parallel()
	signed, err := verify(t, owners(1), sigtest.Keys(t, sigtest.NewKey(t)))
	wantRefusal(t, signed, err, sig.CodeUnsigned)
}

func TestRejectsSignatureOfAnotherKey(t *testing.T) {
	t.Parallel()
	signed, err := verify(t, sigtest.Sign(t, owners(1), "owner", sigtest.NewKey(t), sigtest.All()), sigtest.Keys(t, sigtest.NewKey(t)))
	wantRefusal(t, signed, err, sig.CodeSignature)
}

// An attacker signs a state with the attacker's own key, and puts the public key into the header of
// the signature, as pvr does. The device must refuse the state, because it trusts only pinned keys.
func TestRejectsKeyFromTheSignatureItself(t *testing.T) {
	t.Parallel()
	attacker := sigtest.NewKey(t)
	s := sigtest.Sign(t, owners(1), "owner", attacker, with("jwk", jose.JSONWebKey{Key: attacker.Public(), KeyID: "owner"}))
	if _, err := verify(t, s, sigtest.Keys(t, attacker)); err != nil {
		t.Fatal(err) // the signature itself is good
	}
	signed, err := verify(t, s, sigtest.Keys(t, sigtest.NewKey(t)))
	wantRefusal(t, signed, err, sig.CodeSignature)
}

func TestRejectsAlteredRevision(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	good := sigtest.Sign(t, owners(1), "owner", key, sigtest.All())
	for name, change := range map[string]func(sigtest.State){
		"another object":            func(s sigtest.State) { s["app/root.squashfs"] = sumB },
		"another document":          func(s sigtest.State) { s["app/run.json"] = map[string]any{"name": "evil"} },
		"a removed file":            func(s sigtest.State) { delete(s, "app/run.json") },
		"an added file":             func(s sigtest.State) { s["app/extra"] = sumB },
		"another sequence number":   func(s sigtest.State) { s[sig.SequencePath] = map[string]any{"sequence": 9} },
		"another spec":              func(s sigtest.State) { s["#spec"] = "pantavisor-multi-platform@1" },
		"a number beyond a float64": func(s sigtest.State) { s["app/run.json"].(map[string]any)["memory"] = json.Number("9007199254740993") },
	} {
		s := maps.Clone(good)
		s["app/run.json"] = maps.Clone(good["app/run.json"].(map[string]any))
		change(s)
		signed, err := verify(t, s, sigtest.Keys(t, key))
		if err == nil {
			t.Errorf("%s is accepted", name)
			continue
		}
		wantRefusal(t, signed, err, sig.CodeSignature)
	}
}

// The owner signed only one part of the revision. The device must refuse the revision, because the
// hub could have replaced the other parts.
func TestRejectsOmittedPart(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	h := sigtest.Header{"pvs": map[string]any{"include": []string{"app/root.squashfs", sig.SequencePath}, "exclude": []string{}}}
	signed, err := verify(t, sigtest.Sign(t, owners(1), "owner", key, h), sigtest.Keys(t, key))
	wantRefusal(t, signed, err, sig.CodePart)
	if !strings.Contains(fmt.Sprint(err), "app/run.json") {
		t.Errorf("%v does not name the part", err)
	}
}

func TestRejectsUnsignedExtraFile(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	names := []string{"app/root.squashfs", "app/run.json", sig.SequencePath, "#spec"}
	h := sigtest.Header{"pvs": map[string]any{"include": names, "exclude": []string{}}}
	good := sigtest.Sign(t, owners(1), "owner", key, h)
	if _, err := verify(t, good, sigtest.Keys(t, key)); err != nil {
		t.Fatal(err)
	}
	for _, extra := range []string{"app/evil", "zzz", "_sigs/evil.squashfs", "_config/app/evil", "src.json.d/x"} {
		s := maps.Clone(good)
		s[extra] = sumB
		signed, err := verify(t, s, sigtest.Keys(t, key))
		wantRefusal(t, signed, err, sig.CodePart)
	}
}

// Together, two signatures cover all members of the state. Verify refuses the state, because a hub
// could combine parts of an old and a new revision in this way.
func TestRejectsPartsOfDifferentRevisions(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	s := owners(1)
	for name, files := range map[string][]string{"one": {"app/root.squashfs", "#spec"}, "two": {"app/run.json", sig.SequencePath}} {
		s = sigtest.Sign(t, s, name, key, sigtest.Header{"pvs": map[string]any{"include": files, "exclude": []string{}}})
	}
	signed, err := verify(t, s, sigtest.Keys(t, key))
	wantRefusal(t, signed, err, sig.CodePart)
}

// A state with a valid signature by a pinned key is accepted, even if it also has a signature by an
// unknown key.
func TestGoodSignatureBesideOthers(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	h := sigtest.Header{"pvs": map[string]any{"include": []string{"**"}, "exclude": []string{"_sigs/owner.json", "_sigs/aaa.json", "_sigs/zzz.json"}}}
	s := sigtest.Sign(t, owners(1), "owner", key, h)
	s = sigtest.Sign(t, s, "aaa", sigtest.NewKey(t), h)
	s["_sigs/zzz.json"] = 1
	if _, err := verify(t, s, sigtest.Keys(t, key)); err != nil {
		t.Error(err)
	}
}

func TestRejectsAlgorithmConfusion(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	public := []byte(sigtest.PEM(t, key))
	good := sigtest.Document(t, owners(1), key, sigtest.All(), nil)
	for name, doc := range map[string]map[string]any{
		"HS256 with the public key as the secret": hs256(t, owners(1), public),
		"no algorithm":             {"#spec": "pvs@2", "protected": encode(t, header("none")), "signature": ""},
		"an algorithm of RSA":      {"#spec": "pvs@2", "protected": encode(t, header("RS256")), "signature": good["signature"]},
		"an algorithm of P-384":    {"#spec": "pvs@2", "protected": encode(t, header("ES384")), "signature": good["signature"]},
		"EdDSA":                    {"#spec": "pvs@2", "protected": encode(t, header("EdDSA")), "signature": good["signature"]},
		"a critical header":        sigtest.Document(t, owners(1), key, with("crit", []string{"b64"}), nil),
		"an unencoded payload":     sigtest.Document(t, owners(1), key, with("b64", false), nil),
		"another type":             sigtest.Document(t, owners(1), key, with("typ", "JWT"), nil),
		"another case of a header": sigtest.Document(t, owners(1), key, with("PVS", map[string]any{"include": []string{}}), nil),
		"no patterns":              sigtest.Document(t, owners(1), key, with("pvs", nil), nil),
		"another spec":             edited(good, "#spec", "pvs@1"),
		"an unprotected header":    edited(good, "header", map[string]any{"alg": "ES256"}),
		"an embedded payload":      edited(good, "payload", "e30"),
		"a signature with padding": edited(good, "signature", good["signature"].(string)+"="),
		"an empty signature":       edited(good, "signature", ""),
	} {
		s := owners(1)
		s["_sigs/owner.json"] = doc
		signed, err := verify(t, s, sigtest.Keys(t, key))
		if err == nil {
			t.Errorf("%s is accepted", name)
			continue
		}
		wantRefusal(t, signed, err, sig.CodeSignature)
	}
}

func header(alg string) map[string]any {
	h := map[string]any{"alg": alg, "typ": "PVS"}
	maps.Copy(h, sigtest.All())
	return h
}

func with(name string, value any) sigtest.Header {
	h := sigtest.All()
	h[name] = value
	return h
}

func edited(doc map[string]any, name string, value any) map[string]any {
	doc = maps.Clone(doc)
	doc[name] = value
	return doc
}

func encode(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func hs256(t *testing.T, s sigtest.State, secret []byte) map[string]any {
	t.Helper()
	state, err := trail.ParseState(s.Text(t))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := state.Payload(func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	protected := encode(t, header("HS256"))
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s.%s", protected, base64.RawURLEncoding.EncodeToString(payload))
	return map[string]any{"#spec": "pvs@2", "protected": protected, "signature": base64.RawURLEncoding.EncodeToString(mac.Sum(nil))}
}

// Verify refuses duplicate names, because two programs could read a text with duplicate names
// differently.
func TestRejectsDuplicateNames(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	text := string(sigtest.Sign(t, owners(1), "owner", key, sigtest.All()).Text(t))
	for _, duplicate := range []string{
		strings.Replace(text, `{`, `{"app/root.squashfs":"`+sumB+`",`, 1),
		strings.Replace(text, `"_sigs/owner.json":{`, `"_sigs/owner.json":{"#spec":"pvs@2",`, 1),
	} {
		if _, err := trail.ParseState([]byte(duplicate)); err == nil {
			t.Errorf("accepted: %s", duplicate)
		}
	}
	// The protected header is JSON text in a string of the signature, so its names need a check of
	// their own.
	raw := `{"alg":"ES256","typ":"PVS","pvs":{"include":[],"exclude":[]},"pvs":{"include":["**"],"exclude":["_sigs/owner.json"]}}`
	s := owners(1)
	doc := sigtest.Document(t, s, key, sigtest.All(), nil)
	doc["protected"] = base64.RawURLEncoding.EncodeToString([]byte(raw))
	s["_sigs/owner.json"] = doc
	signed, err := verify(t, s, sigtest.Keys(t, key))
	wantRefusal(t, signed, err, sig.CodeSignature)
	if !strings.Contains(fmt.Sprint(err), "twice") {
		t.Errorf("%v", err)
	}
}

func TestSequenceNumbers(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	for _, c := range []struct {
		document any
		code     sig.Code
	}{
		{map[string]any{"sequence": 1}, ""},
		{map[string]any{"sequence": 1<<53 - 1}, ""},
		{map[string]any{"sequence": 1 << 53}, sig.CodeSequence},
		{map[string]any{"sequence": 0}, sig.CodeSequence},
		{map[string]any{"sequence": -1}, sig.CodeSequence},
		{map[string]any{"sequence": 1.5}, sig.CodeSequence},
		{map[string]any{"sequence": "2"}, sig.CodeSequence},
		{map[string]any{"sequence": json.Number("1e400")}, ""},
		{map[string]any{"sequence": 1, "more": 1}, sig.CodeSequence},
		{map[string]any{"sequence": 1, "keys": []string{}}, sig.CodeKeys},
		{map[string]any{"sequence": 1, "keys": []string{"x"}}, sig.CodeKeys},
		{map[string]any{"sequence": 1, "devices": []string{}}, sig.CodeSequence},
		{map[string]any{"sequence": 1, "devices": []string{"a"}}, ""},
		{map[string]any{}, sig.CodeSequence},
		{nil, sig.CodeSequence},
		{sumA, sig.CodeSequence},
	} {
		s := owners(1)
		s[sig.SequencePath] = c.document
		if n, ok := c.document.(map[string]any); ok && n["sequence"] == json.Number("1e400") {
			continue // ParseState refuses the number
		}
		signed, err := verify(t, sigtest.Sign(t, s, "owner", key, sigtest.All()), sigtest.Keys(t, key))
		switch {
		case c.code == "" && err != nil:
			t.Errorf("%v: %v", c.document, err)
		case c.code != "":
			wantRefusal(t, signed, err, c.code)
		}
	}
	s := owners(1)
	delete(s, sig.SequencePath)
	signed, err := verify(t, sigtest.Sign(t, s, "owner", key, sigtest.All()), sigtest.Keys(t, key))
	wantRefusal(t, signed, err, sig.CodeSequence)
}

// A device accepts new keys of its owner only from a revision that one of the present keys signed.
func TestNewKeysAreStatedByTheOldKey(t *testing.T) {
	t.Parallel()
	old, next := sigtest.NewKey(t), sigtest.NewKey(t)
	s := owners(1)
	s[sig.SequencePath] = map[string]any{"sequence": 2, "keys": []string{sigtest.PEM(t, next)}}
	signed, err := verify(t, sigtest.Sign(t, s, "owner", old, sigtest.All()), sigtest.Keys(t, old))
	if err != nil || signed.Keys.Name() != sigtest.Keys(t, next).Name() {
		t.Fatalf("%+v, %v", signed, err)
	}
	signed, err = verify(t, sigtest.Sign(t, s, "owner", next, sigtest.All()), sigtest.Keys(t, old))
	wantRefusal(t, signed, err, sig.CodeSignature) // the new key signed the statement about itself
}

// certificate issues a certificate for a key.
func certificate(t *testing.T, key crypto.Signer, ca bool, usage x509.ExtKeyUsage, parent *x509.Certificate, parentKey crypto.Signer) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: fmt.Sprint("ca ", ca)},
		NotBefore: time.Unix(1e9, 0), NotAfter: time.Unix(1e9+1000, 0), // long expired
		IsCA: ca, BasicConstraintsValid: true,
	}
	if !ca {
		c.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	}
	if parent == nil {
		parent, parentKey = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestCertificatesOfAPinnedCA(t *testing.T) {
	t.Parallel()
	caKey, otherKey, leafKey := sigtest.NewKey(t), sigtest.NewKey(t), sigtest.NewKey(t)
	ca := certificate(t, caKey, true, 0, nil, nil)
	other := certificate(t, otherKey, true, 0, nil, nil)
	leaf := certificate(t, leafKey, false, x509.ExtKeyUsageCodeSigning, ca, caKey)
	keys, err := sig.ParseKeys(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}))
	if err != nil {
		t.Fatal(err)
	}
	pinnedToo, err := sig.ParseKeys([]byte(string(keys.PEM()) + sigtest.PEM(t, otherKey)))
	if err != nil {
		t.Fatal(err)
	}
	bad := sigtest.All()
	bad["x5c"] = []string{base64.StdEncoding.EncodeToString(other.Raw)}
	if _, err := verify(t, sigtest.Sign(t, owners(1), "owner", otherKey, bad), pinnedToo); err != nil {
		t.Errorf("a pinned key does not count, because its certificate is of an unknown CA: %v", err)
	}
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		key   crypto.Signer
		good  bool
	}{
		"a leaf of the CA":           {[]*x509.Certificate{leaf}, leafKey, true},
		"with the CA's certificate":  {[]*x509.Certificate{leaf, ca}, leafKey, true},
		"without a certificate":      {nil, leafKey, false},
		"the leaf of another CA":     {[]*x509.Certificate{certificate(t, leafKey, false, x509.ExtKeyUsageCodeSigning, other, otherKey), other}, leafKey, false},
		"another usage":              {[]*x509.Certificate{certificate(t, leafKey, false, x509.ExtKeyUsageServerAuth, ca, caKey)}, leafKey, false},
		"another key than the leaf":  {[]*x509.Certificate{leaf}, sigtest.NewKey(t), false},
		"a longer chain":             {[]*x509.Certificate{leaf, ca, ca, ca, ca}, leafKey, false},
		"the leaf as an issuer":      {[]*x509.Certificate{certificate(t, otherKey, false, x509.ExtKeyUsageCodeSigning, leaf, leafKey), leaf}, otherKey, false},
		"a certificate of a pin key": {[]*x509.Certificate{other}, otherKey, false},
	} {
		h := sigtest.All()
		var x5c []string
		for _, c := range c.chain {
			x5c = append(x5c, base64.StdEncoding.EncodeToString(c.Raw))
		}
		if x5c != nil {
			h["x5c"] = x5c
		}
		signed, err := verify(t, sigtest.Sign(t, owners(1), "owner", c.key, h), keys)
		if c.good && err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !c.good {
			if err == nil {
				t.Errorf("%s is accepted", name)
			}
			wantRefusal(t, signed, err, sig.CodeSignature)
		}
	}
}

func TestKeyFiles(t *testing.T) {
	t.Parallel()
	one, two := sigtest.PEM(t, sigtest.NewKey(t)), sigtest.PEM(t, sigtest.NewKey(t))
	a, err := sig.ParseKeys([]byte(one + "\n" + two))
	if err != nil {
		t.Fatal(err)
	}
	b, err := sig.ParseKeys([]byte(two + one + two))
	if err != nil || a.Name() != b.Name() {
		t.Errorf("the order of keys changes the name: %v", err)
	}
	if again, err := sig.ParseKeys(a.PEM()); err != nil || again.Name() != a.Name() || again.Len() != 2 {
		t.Errorf("%v, %v", again, err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip(err) // the Go runtime refuses such a key itself
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty": "", "not PEM": "key", "text after the key": one + "x", "text before the key": "x" + one,
		"a private key": "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n", "a small key": sigtest.PEM(t, small),
		"Ed25519, which TPMs cannot verify": sigtest.PEM(t, edwards), "too many": strings.Repeat(one, 9), "too large": strings.Repeat("\n", sig.MaxKeys+1) + one,
	} {
		if _, err := sig.ParseKeys([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestPatterns(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	for _, c := range []struct {
		include, exclude []string
		good             bool
	}{
		{[]string{"**"}, []string{"_sigs/*"}, true},
		{[]string{"**/*"}, []string{"_sigs/**"}, true},
		{[]string{"*", "*/*"}, []string{"_sigs/owner.json"}, true},
		{[]string{"#spec", "app/r*", "gangway/revision.jso?"}, nil, true},
		{[]string{"app/**", "**/revision.json"}, nil, true},
		{[]string{"#spec/**", "app/**/**", "**/gangway/**/revision.json/**"}, nil, true},
		{[]string{"**/app/*", "#spec", "gangway/*/**"}, []string{"app"}, true},
		{[]string{"**/app/*", "#spec", "gangway/*/*"}, nil, false},
		{[]string{"*"}, nil, false},
		{[]string{"app/*"}, nil, false},
		{[]string{"**"}, []string{"**"}, false},
		{[]string{"**"}, []string{"_sigs/**", "app/**"}, false},
		{[]string{"**", "[a]"}, []string{"_sigs/**"}, false},
		{[]string{"**", "{a,b}"}, []string{"_sigs/**"}, false},
		{strings.Split(strings.Repeat("**,", 20), ","), []string{"_sigs/**"}, false},
		{[]string{strings.Repeat("*", 600)}, []string{"_sigs/**"}, false},
		{nil, nil, false},
	} {
		s := owners(1)
		selected := []byte(s.Text(t))
		state, err := trail.ParseState(selected)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := state.Payload(func(string) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		if len(c.include) == 2 && c.include[0] == "app/**" {
			if payload, err = state.Payload(func(name string) bool { return name != "#spec" }); err != nil {
				t.Fatal(err)
			}
		}
		s["_sigs/owner.json"] = sigtest.Document(t, s, key, sigtest.Header{"pvs": map[string]any{"include": c.include, "exclude": c.exclude}}, payload)
		if _, err := verify(t, s, sigtest.Keys(t, key)); (err == nil) != c.good {
			t.Errorf("%q without %q: %v", c.include, c.exclude, err)
		}
	}
}

// An attacker can choose the patterns, because they are read before the signature is verified. A
// matcher that tries every way to match each "**" would not end in any useful time with these
// patterns.
func TestCostlyPatterns(t *testing.T) {
	t.Parallel()
	s := sigtest.State{}
	for n := range 500 {
		s[strings.Repeat("a/", 30)+fmt.Sprint(n)] = sumA
	}
	for n, pattern := range []string{strings.Repeat("**/", 15) + "b", strings.Repeat("**/a/", 7) + "b", strings.Repeat("**/?*/", 7) + "b"} {
		include := slices.Repeat([]string{pattern}, 16)
		s[fmt.Sprintf("_sigs/%d.json", n)] = sigtest.Document(t, sigtest.State{}, sigtest.NewKey(t), sigtest.Header{"pvs": map[string]any{"include": include, "exclude": []string{}}}, []byte("{}"))
	}
	signed, err := verify(t, s, sigtest.Keys(t, sigtest.NewKey(t)))
	wantRefusal(t, signed, err, sig.CodeSignature)
	if !strings.Contains(fmt.Sprint(err), "key(s) were tried") {
		t.Errorf("%v: the patterns were not matched", err)
	}
}

// The fuzzer changes a state that the test has signed. If Verify accepts the changed state, it must
// return exactly the content that the test signed.
func FuzzVerify(f *testing.F) {
	key := sigtest.NewKey(f)
	keys := sigtest.Keys(f, key)
	s := sigtest.Sign(f, owners(3), "owner", key, sigtest.All())
	f.Add(s.Text(f))
	f.Add(owners(1).Text(f))
	genuine, err := verify(f, s, keys)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		state, err := trail.ParseState(text)
		if err != nil {
			return
		}
		signed, err := sig.Verify(state, keys)
		if err == nil && string(signed.State.JSON) != string(genuine.State.JSON) {
			t.Errorf("accepted: %s", text)
		}
	})
}
