package pki

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// tbsCertificate has the fields of RFC 5280, 4.1.
type tbsCertificate struct {
	Version    int `asn1:"explicit,tag:0"`
	Serial     *big.Int
	Algorithm  asn1.RawValue
	Issuer     asn1.RawValue
	Validity   asn1.RawValue
	Subject    asn1.RawValue
	PublicKey  asn1.RawValue
	Extensions []pkix.Extension `asn1:"explicit,tag:3"`
}

func fields(t testing.TB, c *x509.Certificate) tbsCertificate {
	t.Helper()
	var tbs tbsCertificate
	if rest, err := asn1.Unmarshal(c.RawTBSCertificate, &tbs); err != nil || len(rest) > 0 {
		t.Fatalf("TBSCertificate: %v, %d bytes after it", err, len(rest))
	}
	// The order of extensions has no meaning (RFC 5280, 4.2), so they are compared in sorted order.
	slices.SortFunc(tbs.Extensions, func(a, b pkix.Extension) int { return cmp.Compare(a.Id.String(), b.Id.String()) })
	return tbs
}

// checkSameAsX509 checks that each field of a certificate has the same bytes as in the certificate
// that x509.CreateCertificate makes from the template.
func checkSameAsX509(t testing.TB, got *x509.Certificate, template *x509.Certificate, ca *issuer, pub crypto.PublicKey) {
	t.Helper()
	template.SerialNumber = got.SerialNumber
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, pub, ca.key)
	want := parse(t, der, err)
	g, w := fields(t, got), fields(t, want)
	for _, f := range []struct {
		name      string
		got, want []byte
	}{
		{"version and serial", append(g.Serial.Bytes(), byte(g.Version)), append(w.Serial.Bytes(), byte(w.Version))},
		{"signature algorithm", g.Algorithm.FullBytes, w.Algorithm.FullBytes},
		{"issuer", g.Issuer.FullBytes, w.Issuer.FullBytes},
		{"validity", g.Validity.FullBytes, w.Validity.FullBytes},
		{"subject", g.Subject.FullBytes, w.Subject.FullBytes},
		{"public key", g.PublicKey.FullBytes, w.PublicKey.FullBytes},
	} {
		if !bytes.Equal(f.got, f.want) {
			t.Fatalf("%s: %.100x, crypto/x509 makes %.100x", f.name, f.got, f.want)
		}
	}
	if len(g.Extensions) != len(w.Extensions) {
		t.Fatalf("%d extensions, crypto/x509 makes %d", len(g.Extensions), len(w.Extensions))
	}
	for i, e := range g.Extensions {
		if x := w.Extensions[i]; !e.Id.Equal(x.Id) || e.Critical != x.Critical || !bytes.Equal(e.Value, x.Value) {
			t.Fatalf("extension %v: critical %v, %x; crypto/x509 makes %v: critical %v, %x", e.Id, e.Critical, e.Value, x.Id, x.Critical, x.Value)
		}
	}
	if got.SignatureAlgorithm != want.SignatureAlgorithm {
		t.Fatalf("signed with %v, crypto/x509 with %v", got.SignatureAlgorithm, want.SignatureAlgorithm)
	}
}

// subjectAltName encodes the extension with encoding/asn1, as an independent check of altName.
func subjectAltName(t testing.TB, hwSerial []byte, uri string) pkix.Extension {
	t.Helper()
	type hardwareModuleName struct {
		Type   asn1.ObjectIdentifier
		Serial []byte
	}
	type otherName struct {
		ID    asn1.ObjectIdentifier
		Value hardwareModuleName `asn1:"explicit,tag:0"`
	}
	other, err := asn1.MarshalWithParams(otherName{asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 4},
		hardwareModuleName{asn1.ObjectIdentifier{2, 23, 133, 1, 2}, hwSerial}}, "tag:0")
	if err != nil {
		t.Fatal(err)
	}
	names := []asn1.RawValue{{FullBytes: other}}
	if uri != "" {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
	}
	value, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}
}

func pantacor(n int, value string) pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 54621, 100, n}, Value: []byte(value)}
}

func policyOIDs(t testing.TB, last ...uint64) (ids []x509.OID) {
	t.Helper()
	for _, n := range last {
		id, err := x509.OIDFromInts([]uint64{2, 23, 133, 11, 1, n})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

var endOfTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// policiesOf returns the TCG's policies that a certificate must have, given the last number of each
// policy's OID. If the key is not known to be in a TPM, a certificate has no policies.
func policiesOf(t testing.TB, resident bool, last ...uint64) []x509.OID {
	if !resident {
		return nil
	}
	return policyOIDs(t, last...)
}

func iakTemplate(t testing.TB, r IAKRequest) *x509.Certificate {
	name := hex.EncodeToString(r.AKName)
	return &x509.Certificate{
		Subject:            pkix.Name{CommonName: "IAK " + name[4:20], SerialNumber: r.DeviceID},
		NotBefore:          r.NotBefore.Add(-5 * time.Minute),
		NotAfter:           endOfTime,
		KeyUsage:           x509.KeyUsageDigitalSignature,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}},
		Policies:           policiesOf(t, r.Resident, 1, 2, 3),
		SubjectKeyId:       keyIdentifier(t, r.PublicKey),
		ExtraExtensions:    []pkix.Extension{subjectAltName(t, r.HWSerial, r.URI), pantacor(0, name)},
	}
}

func idevidTemplate(t testing.TB, r IDevIDRequest) *x509.Certificate {
	return &x509.Certificate{
		Subject:      pkix.Name{Organization: []string{"Gangway"}, CommonName: r.DeviceID, SerialNumber: r.DeviceID},
		NotBefore:    r.NotBefore.Add(-5 * time.Minute),
		NotAfter:     endOfTime,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		Policies:     policiesOf(t, r.Resident, 1, 2),
		SubjectKeyId: keyIdentifier(t, r.PublicKey),
		ExtraExtensions: []pkix.Extension{subjectAltName(t, r.HWSerial, ""), pantacor(0, hex.EncodeToString(r.AKName)),
			pantacor(1, r.OwnerPRN), pantacor(3, r.TokenID), pantacor(9, r.DevicePRN)},
	}
}

// keyIdentifier computes a key identifier (RFC 7093, method 1) from crypto/x509's encoding of the
// key, as an independent check of publicKeyInfo.
func keyIdentifier(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(info.Key.Bytes)
	return sum[:20]
}

// checkVerifies checks that `c` is a leaf certificate for signatures, and that crypto/x509 verifies
// its chain for the given usage, even in 100 years.
func checkVerifies(t testing.TB, h *Hub, c *x509.Certificate, ca *x509.Certificate, usage x509.ExtKeyUsage) {
	t.Helper()
	if len(c.UnhandledCriticalExtensions) > 0 {
		t.Fatalf("critical extensions that crypto/x509 does not know: %v", c.UnhandledCriticalExtensions)
	}
	if c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Fatalf("CA %v, key usage %b", c.IsCA, c.KeyUsage)
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: pool(h.Root()), Intermediates: pool(ca), CurrentTime: testNow.AddDate(100, 0, 0), KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		t.Fatal(err)
	}
}

func TestCertificatesAreWhatX509WouldMake(t *testing.T) {
	t.Parallel()
	keys := subjectKeys(t)
	kinds := slices.Sorted(func(yield func(string) bool) {
		for k := range keys {
			if !yield(k) {
				return
			}
		}
	})
	names := rapid.StringMatching(`[a-zA-Z0-9'()+,./:?=&@*;!#\-]{1,40}`)
	odd := rapid.SampledFrom([]string{"Werft Süd", "港口", "Порт № 7", "a&b*c@d", "ﬀ e\u0301 \U0001F6A2", strings.Repeat("\U0001F6A2", 40), "-"})
	hubs := map[string]*Hub{}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		for i := range 6 {
			name := odd.Example(i)
			if i%2 == 1 {
				name = names.Example(i)
			}
			h := openNew(t, Options{Name: name, Curve: curve})
			if cn := h.ACA().Subject.CommonName; cn != name+" Attestation CA" {
				t.Fatalf("the ACA of %q is %q", name, cn)
			}
			hubs[curve.Params().Name+" "+name] = h
		}
	}
	hubNames := make([]string, 0, len(hubs))
	for n := range hubs {
		hubNames = append(hubNames, n)
	}
	slices.Sort(hubNames)

	printable := rapid.StringMatching(`[ -~]{1,128}`)
	rapid.Check(t, func(rt *rapid.T) {
		h := hubs[rapid.SampledFrom(hubNames).Draw(rt, "hub")]
		pub := keys[rapid.SampledFrom(kinds).Draw(rt, "key")]
		size := rapid.SampledFrom([]int{32, 48, 64}).Draw(rt, "name's hash")
		ak := append([]byte{0, map[int]byte{32: 0x0B, 48: 0x0C, 64: 0x0D}[size]}, rapid.SliceOfN(rapid.Byte(), size, size).Draw(rt, "AK name")...)
		id := rapid.StringMatching(`[0-9a-f]{24}`).Draw(rt, "device")
		hw := rapid.SliceOfN(rapid.Byte(), 1, 128).Draw(rt, "hwSerialNum")
		at := time.Unix(rapid.Int64Range(0, 253370764800).Draw(rt, "time"), rapid.Int64Range(0, 999999999).Draw(rt, "ns")).
			In(time.FixedZone("", rapid.IntRange(-12, 14).Draw(rt, "zone")*3600))
		if y := at.UTC().Year(); y > 9998 {
			at = at.AddDate(9998-y, 0, 0)
		}
		uri := rapid.OneOf(rapid.Just(""), rapid.StringMatching(`https?://([a-z0-9]{1,9}\.){0,3}[a-z]{1,9}(:[0-9]{1,4})?(/[a-z0-9._~-]{0,20}){0,3}`), rapid.Just("https://[2001:db8::1]:8443/x")).Draw(rt, "URI")

		iak := IAKRequest{PublicKey: pub, DeviceID: id, AKName: ak, HWSerial: hw, NotBefore: at, URI: uri, Resident: rapid.Bool().Draw(rt, "resident")}
		raw, err := h.IssueIAK(iak)
		c := parse(t, raw, err)
		checkSameAsX509(t, c, iakTemplate(t, iak), h.aca, pub)
		if err := c.CheckSignatureFrom(h.ACA()); err != nil {
			rt.Fatal(err)
		}
		if uri != "" {
			if u, err := url.Parse(uri); err != nil || len(c.URIs) != 1 || c.URIs[0].String() != u.String() {
				rt.Fatalf("URIs %v, want %s", c.URIs, uri)
			}
		}

		idevid := IDevIDRequest{PublicKey: pub, DeviceID: id, AKName: ak, HWSerial: hw, NotBefore: at,
			OwnerPRN: printable.Draw(rt, "owner"), TokenID: printable.Draw(rt, "token"), DevicePRN: printable.Draw(rt, "prn"), Resident: iak.Resident}
		raw, err = h.IssueIDevID(idevid)
		c = parse(t, raw, err)
		checkSameAsX509(t, c, idevidTemplate(t, idevid), h.device, pub)
		if err := c.CheckSignatureFrom(h.DeviceCA()); err != nil {
			rt.Fatal(err)
		}
	})
}

// IAK and IDevID certificates have the subject, lifetime, usages, policies and extensions of their
// profiles, as crypto/x509 reads them.
func TestProfiles(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{Name: "Test"})
	pub := generate(t, elliptic.P256()).Public()
	text := hex.EncodeToString(akName(0x0B, 32))
	values := func(c *x509.Certificate) map[string]string {
		m := map[string]string{}
		for _, e := range c.Extensions {
			if strings.HasPrefix(e.Id.String(), "1.3.6.1.4.1.54621.100.") {
				if e.Critical {
					t.Errorf("%v is critical", e.Id)
				}
				m[strings.TrimPrefix(e.Id.String(), "1.3.6.1.4.1.54621.100.")] = string(e.Value)
			}
		}
		return m
	}
	for name, c := range map[string]struct {
		cert, ca          *x509.Certificate
		subject, policies string
		usage             x509.ExtKeyUsage
		pantacor          map[string]string
	}{
		"IAK": {mustIAK(t, h, pub), h.ACA(), "SERIALNUMBER=" + testDevice + ",CN=IAK a5a5a5a5a5a5a5a5", "2.23.133.11.1.1 2.23.133.11.1.2 2.23.133.11.1.3",
			x509.ExtKeyUsageAny, map[string]string{"0": text}},
		"IDevID": {mustIDevID(t, h, pub), h.DeviceCA(), "SERIALNUMBER=" + testDevice + ",CN=" + testDevice + ",O=Gangway", "2.23.133.11.1.1 2.23.133.11.1.2",
			x509.ExtKeyUsageClientAuth, map[string]string{"0": text, "1": testOwner, "3": "bbbbbbbbbbbbbbbbbbbbbbbb", "9": "prn:::devices:/" + testDevice}},
	} {
		t.Run(name, func(t *testing.T) {
			checkVerifies(t, h, c.cert, c.ca, c.usage)
			if got := c.cert.Subject.String(); got != c.subject {
				t.Errorf("subject %s, want %s", got, c.subject)
			}
			if !c.cert.NotBefore.Equal(time.Date(2026, 11, 23, 12, 29, 56, 0, time.UTC)) || !c.cert.NotAfter.Equal(endOfTime) {
				t.Errorf("valid from %v to %v", c.cert.NotBefore, c.cert.NotAfter)
			}
			if !bytes.Contains(c.cert.RawTBSCertificate, []byte("\x18\x0f99991231235959Z")) {
				t.Error("notAfter is not 99991231235959Z")
			}
			var policies []string
			for _, p := range c.cert.Policies {
				policies = append(policies, p.String())
			}
			if got := strings.Join(policies, " "); got != c.policies {
				t.Errorf("policies %s, want %s", got, c.policies)
			}
			if got := values(c.cert); len(got) != len(c.pantacor) {
				t.Errorf("Pantacor's extensions %q, want %q", got, c.pantacor)
			} else {
				for k, want := range c.pantacor {
					if got[k] != want {
						t.Errorf("extension .%s is %q, want %q", k, got[k], want)
					}
				}
			}
			if !bytes.Equal(c.cert.AuthorityKeyId, c.ca.SubjectKeyId) || len(c.cert.SubjectKeyId) != 20 {
				t.Error("the key identifiers are wrong")
			}
		})
	}
	if c := mustIAK(t, h, pub); len(c.ExtKeyUsage) != 0 || len(c.UnknownExtKeyUsage) != 1 || c.UnknownExtKeyUsage[0].String() != "2.23.133.8.3" {
		t.Errorf("the IAK's purposes: %v %v", c.ExtKeyUsage, c.UnknownExtKeyUsage)
	}
	if c := mustIDevID(t, h, pub); len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || len(c.UnknownExtKeyUsage) != 0 {
		t.Errorf("the IDevID's purposes: %v %v", c.ExtKeyUsage, c.UnknownExtKeyUsage)
	}
}

func TestOpenSSLAcceptsTheCertificates(t *testing.T) {
	t.Parallel()
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
		h := openNew(t, Options{Name: "Werft Süd", Curve: curve, Now: time.Now()})
		for kind, pub := range subjectKeys(t) {
			t.Run(curve.Params().Name+"/"+kind, func(t *testing.T) {
				if out, err := opensslVerify(t, h.Root(), h.ACA(), mustIAKNow(t, h, pub)); err != nil {
					t.Errorf("IAK: %v\n%s", err, out)
				}
				leaf := mustIDevIDNow(t, h, pub)
				if out, err := opensslVerify(t, h.Root(), h.DeviceCA(), leaf, "-purpose", "sslclient"); err != nil {
					t.Errorf("IDevID: %v\n%s", err, out)
				}
			})
		}
	}
}

// An auditor may require the TCG's policies when verifying a chain, so the policies must be valid
// in the whole chain from the root. An IDevID certificate does not have the policy for restricted
// keys.
func TestPoliciesHoldFromTheRoot(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{Now: time.Now()})
	pub := generate(t, elliptic.P256()).Public()
	for name, c := range map[string]struct {
		cert, ca *x509.Certificate
		has      int
	}{
		"IAK":    {mustIAKNow(t, h, pub), h.ACA(), 3},
		"IDevID": {mustIDevIDNow(t, h, pub), h.DeviceCA(), 2},
	} {
		for n := 1; n <= 4; n++ {
			policy := "2.23.133.11.1." + strconv.Itoa(n)
			out, err := opensslVerify(t, h.Root(), c.ca, c.cert, "-explicit_policy", "-policy", policy)
			if (err == nil) != (n <= c.has) {
				t.Errorf("%s, policy %s: %v\n%s", name, policy, err, out)
			}
		}
	}
}

// The SAN extension has exactly the expected bytes, which were written by hand, so that the test
// does not depend on an encoder.
func TestAlternativeNames(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	r := iakRequest(generate(t, elliptic.P256()).Public())
	r.HWSerial, r.URI = []byte("INTC:0011"), "https://h/x"
	der, err := h.IssueIAK(r)
	c := parse(t, der, err)
	const want = "302f" + // GeneralNames
		"a020" + // otherName
		"06082b06010505070804" + // id-on-hardwareModuleName
		"a014" + "3012" + // HardwareModuleName
		"06056781050102" + // hwType: a TPM 2.0
		"0409494e54433a30303131" + // hwSerialNum
		"860b68747470733a2f2f682f78" // uniformResourceIdentifier
	i := slices.IndexFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSubjectAltName) })
	if i < 0 || c.Extensions[i].Critical || hex.EncodeToString(c.Extensions[i].Value) != want {
		t.Errorf("the alternative names are not %s but, at %d, in %+v", want, i, c.Extensions)
	}
}

func mustIAKNow(t testing.TB, h *Hub, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	r := iakRequest(pub)
	r.NotBefore = time.Now()
	der, err := h.IssueIAK(r)
	return parse(t, der, err)
}

func mustIDevIDNow(t testing.TB, h *Hub, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	r := idevidRequest(pub)
	r.NotBefore = time.Now()
	der, err := h.IssueIDevID(r)
	return parse(t, der, err)
}

func TestIssuingFromManyAtOnce(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	pub := generate(t, elliptic.P256()).Public()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				a, err := h.IssueIAK(iakRequest(pub))
				b, err2 := h.IssueIDevID(idevidRequest(pub))
				if err := errors.Join(err, err2); err != nil {
					t.Error(err)
					return
				}
				x, err := x509.ParseCertificate(a)
				y, err2 := x509.ParseCertificate(b)
				if err := errors.Join(err, err2); err != nil {
					t.Error(err)
					return
				}
				if err := errors.Join(x.CheckSignatureFrom(h.ACA()), y.CheckSignatureFrom(h.DeviceCA())); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// module stands for an HSM: it is a crypto.Signer of a type that package pki does not know.
type module struct {
	key  *ecdsa.PrivateKey
	fail error
}

func (m *module) Public() crypto.PublicKey { return m.key.Public() }
func (m *module) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	if m.fail != nil {
		return nil, m.fail
	}
	return m.key.Sign(r, digest, o)
}

// The hub can issue certificates if the key of a CA is in an HSM.
func TestSigningInAModule(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{Curve: elliptic.P384()})
	m := &module{key: h.device.key.(*ecdsa.PrivateKey)}
	h.device.key = m
	pub := generate(t, elliptic.P256()).Public()
	checkVerifies(t, h, mustIDevID(t, h, pub), h.DeviceCA(), x509.ExtKeyUsageClientAuth)
	m.fail = errors.New("the module is away")
	if der, err := h.IssueIDevID(idevidRequest(pub)); !errors.Is(err, m.fail) || der != nil {
		t.Errorf("%d bytes and %v from an unavailable module", len(der), err)
	}
}

func TestRefusedRequests(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	pub := generate(t, elliptic.P256()).Public()
	long := strings.Repeat("a", 129)
	even := rsaPublic(t, 2048)
	even.N.SetBit(even.N, 0, 0)
	negative := rsaPublic(t, 2048)
	negative.N.Neg(negative.N)
	exponent := func(e int) *rsa.PublicKey { k := rsaPublic(t, 2048); k.E = e; return k }
	beyond31 := int64(1)<<31 + 1 // negative if an int has 32 bits
	type common struct {
		PublicKey crypto.PublicKey
		DeviceID  string
		AKName    []byte
		HWSerial  []byte
		NotBefore time.Time
	}
	for name, change := range map[string]func(*common){
		"no key":                 func(c *common) { c.PublicKey = nil },
		"nil ECDSA key":          func(c *common) { c.PublicKey = (*ecdsa.PublicKey)(nil) },
		"nil RSA key":            func(c *common) { c.PublicKey = (*rsa.PublicKey)(nil) },
		"empty ECDSA key":        func(c *common) { c.PublicKey = &ecdsa.PublicKey{} },
		"empty RSA key":          func(c *common) { c.PublicKey = &rsa.PublicKey{} },
		"key by value":           func(c *common) { c.PublicKey = *rsaPublic(t, 2048) },
		"P-224":                  func(c *common) { c.PublicKey = generate(t, elliptic.P224()).Public() },
		"point off the curve":    func(c *common) { c.PublicKey = offCurve(t) },
		"private key":            func(c *common) { c.PublicKey = generate(t, elliptic.P256()) },
		"RSA 1024":               func(c *common) { c.PublicKey = rsaPublic(t, 1024) },
		"RSA 2047":               func(c *common) { c.PublicKey = rsaPublic(t, 2047) },
		"RSA 4097":               func(c *common) { c.PublicKey = rsaPublic(t, 4097) },
		"RSA even modulus":       func(c *common) { c.PublicKey = even },
		"RSA negative modulus":   func(c *common) { c.PublicKey = negative },
		"RSA exponent 0":         func(c *common) { c.PublicKey = exponent(0) },
		"RSA exponent 1":         func(c *common) { c.PublicKey = exponent(1) },
		"RSA exponent -3":        func(c *common) { c.PublicKey = exponent(-3) },
		"RSA exponent even":      func(c *common) { c.PublicKey = exponent(65536) },
		"RSA exponent too large": func(c *common) { c.PublicKey = exponent(int(beyond31)) },
		"no device id":           func(c *common) { c.DeviceID = "" },
		"short device id":        func(c *common) { c.DeviceID = testDevice[1:] },
		"device id not hex":      func(c *common) { c.DeviceID = "g" + testDevice[1:] },
		"no AK name":             func(c *common) { c.AKName = nil },
		"AK name of 1 byte":      func(c *common) { c.AKName = []byte{0} },
		"AK name's hash SHA-1":   func(c *common) { c.AKName = akName(0x04, 20) },
		"AK name too long":       func(c *common) { c.AKName = akName(0x0B, 48) },
		"AK name SHA-384, short": func(c *common) { c.AKName = akName(0x0C, 32) },
		"AK name SHA-512, short": func(c *common) { c.AKName = akName(0x0D, 48) },
		"AK name is a handle":    func(c *common) { c.AKName = []byte{0x40, 0, 0, 0x0B} },
		"no hardware serial":     func(c *common) { c.HWSerial = nil },
		"long hardware serial":   func(c *common) { c.HWSerial = make([]byte, 129) },
		"no time":                func(c *common) { c.NotBefore = time.Time{} },
		"time before 1970":       func(c *common) { c.NotBefore = time.Unix(-1, 0) },
		"time after the end":     func(c *common) { c.NotBefore = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC) },
		"time beyond DER":        func(c *common) { c.NotBefore = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := iakRequest(pub), idevidRequest(pub)
			c := common{pub, a.DeviceID, a.AKName, a.HWSerial, a.NotBefore}
			change(&c)
			a.PublicKey, a.DeviceID, a.AKName, a.HWSerial, a.NotBefore = c.PublicKey, c.DeviceID, c.AKName, c.HWSerial, c.NotBefore
			b.PublicKey, b.DeviceID, b.AKName, b.HWSerial, b.NotBefore = c.PublicKey, c.DeviceID, c.AKName, c.HWSerial, c.NotBefore
			refused(t)(h.IssueIAK(a))
			refused(t)(h.IssueIDevID(b))
		})
	}
	for name, uri := range map[string]string{
		"not a URI": "%zz", "no scheme": "hub.example/x", "no host": "https:///x", "only a port": "https://:8443/x", "a file": "file:///etc/passwd", "a script": "javascript:alert(1)",
		"host ends with a dot": "https://hub.example./x", "dot before the port": "https://hub.example.:8443/x", "empty label": "https://hub..example/x", "leading dot": "https://.example/x",
		"open bracket": "https://[::1/x", "empty brackets": "https://[]/x", "a space": "https://hub.example/a b", "a line": "https://hub.example/\n", "not ASCII": "https://hub.example/ü",
		"escaped host": "https://hub%20x.example/", "escaped letter": "https://h%C3%BCb.example/", "too long": "https://hub.example/" + strings.Repeat("a", 493),
	} {
		t.Run("URI "+name, func(t *testing.T) {
			r := iakRequest(pub)
			r.URI = uri
			refused(t)(h.IssueIAK(r))
		})
	}
	for name, change := range map[string]func(*IDevIDRequest, string){
		"owner":  func(r *IDevIDRequest, s string) { r.OwnerPRN = s },
		"token":  func(r *IDevIDRequest, s string) { r.TokenID = s },
		"device": func(r *IDevIDRequest, s string) { r.DevicePRN = s },
	} {
		for what, s := range map[string]string{"empty": "", "long": long, "UTF-8": "prn:ü", "line": "a\nb", "NUL": "a\x00", "DEL": "a\x7f"} {
			t.Run(name+" "+what, func(t *testing.T) {
				r := idevidRequest(pub)
				change(&r, s)
				refused(t)(h.IssueIDevID(r))
			})
		}
	}
}

// Values at the documented limits are accepted.
func TestLongestRequestsAreAccepted(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	pub := generate(t, elliptic.P256()).Public()
	for _, n := range []int{1, 128} {
		a, b := iakRequest(pub), idevidRequest(pub)
		text := strings.Repeat("a", n)
		a.HWSerial, b.HWSerial = []byte(text), []byte(text)
		b.OwnerPRN, b.TokenID, b.DevicePRN = text, text, text
		der, err := h.IssueIAK(a)
		checkSameAsX509(t, parse(t, der, err), iakTemplate(t, a), h.aca, pub)
		der, err = h.IssueIDevID(b)
		checkSameAsX509(t, parse(t, der, err), idevidTemplate(t, b), h.device, pub)
	}
	a := iakRequest(pub)
	a.URI = "https://hub.example/" + strings.Repeat("a", 492)
	a.NotBefore = time.Date(9998, 12, 31, 23, 59, 59, 0, time.UTC)
	der, err := h.IssueIAK(a)
	c := parse(t, der, err)
	checkSameAsX509(t, c, iakTemplate(t, a), h.aca, pub)
	if len(a.URI) != 512 || len(c.URIs) != 1 || c.URIs[0].String() != a.URI {
		t.Errorf("the URI of %d characters is %v", len(a.URI), c.URIs)
	}
}

func refused(t *testing.T) func([]byte, error) {
	return func(der []byte, err error) {
		t.Helper()
		if err == nil || der != nil {
			t.Errorf("issued %d bytes, error %v", len(der), err)
		} else if !strings.HasPrefix(err.Error(), "pki: ") {
			t.Errorf("the error does not name its package: %v", err)
		}
	}
}

func offCurve(t *testing.T) *ecdsa.PublicKey {
	k := generate(t, elliptic.P256()).PublicKey
	//lint:ignore SA1019 the test needs a key that no function of the standard library makes
	k.X = new(big.Int).Xor(k.X, big.NewInt(1))
	return &k
}
