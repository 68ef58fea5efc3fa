package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ceremony is a hub and an offline root, each with its own folder. Its methods are the steps by
// which the root issues the certificates of the hub's CAs.
type ceremony struct {
	dir  string // the folder pki of the hub
	root *Root
}

func newCeremony(t *testing.T) *ceremony {
	t.Helper()
	root, err := MakeRoot(t.Context(), filepath.Join(t.TempDir(), "root"), "", Options{Name: "Port", Now: testNow})
	if err != nil {
		t.Fatal(err)
	}
	return &ceremony{filepath.Join(t.TempDir(), "pki"), root}
}

func (c *ceremony) request(t *testing.T, cas ...string) []byte {
	t.Helper()
	request, _, err := NewRequest(t.Context(), c.dir, RequestOptions{CAs: cas})
	if err != nil {
		t.Fatal(err)
	}
	return request
}

func (c *ceremony) answer(t *testing.T, request []byte) []byte {
	t.Helper()
	plan, err := c.root.Plan(request, testNow, DefaultTLSLife)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := c.root.Issue(plan)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func (c *ceremony) install(t *testing.T, answer []byte) *Hub {
	t.Helper()
	if _, err := Install(c.dir, answer, c.root.HubName(), testNow); err != nil {
		t.Fatal(err)
	}
	h, err := Open(c.dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// The method `whole` takes a new hub through all steps: the request, the root's answer, and the
// installation.
func (c *ceremony) whole(t *testing.T) *Hub {
	t.Helper()
	return c.install(t, c.answer(t, c.request(t)))
}

// handshake verifies the hub's TLS certificate as a client that trusts only the root would. It
// returns the chain that the hub serves.
func handshake(t *testing.T, h *Hub, now time.Time) ([]*x509.Certificate, error) {
	t.Helper()
	cert, err := h.TLSCertificate(func() time.Time { return now }, []string{"hub.example"})(nil)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	between := x509.NewCertPool()
	for i, der := range cert.Certificate {
		chain = append(chain, parse(t, der, nil))
		if i > 0 {
			between.AddCert(chain[i])
		}
	}
	_, err = chain[0].Verify(x509.VerifyOptions{Roots: pool(h.Root()), Intermediates: between, DNSName: "hub.example", CurrentTime: now})
	return chain, err
}

func TestHubWithAnOfflineRoot(t *testing.T) {
	t.Parallel()
	c := newCeremony(t)
	request := c.request(t)
	if bytes.Contains(request, []byte("PRIVATE")) {
		t.Error("the request has a private key")
	}
	if _, err := Open(c.dir, Options{}); err == nil || !strings.Contains(err.Error(), "ca install") {
		t.Errorf("a hub that waits for its certificates starts: %v", err)
	}
	h := c.install(t, c.answer(t, request))
	if !h.RootOffline() || present(c.dir, "root.key") || h.HubName() != c.root.HubName() || h.Created() {
		t.Errorf("offline %v, hub name %s", h.RootOffline(), h.HubName())
	}
	if present(filepath.Dir(c.dir), "pki.request") {
		t.Error("the keys of the request remain")
	}
	for name, want := range map[string]os.FileMode{"aca.key": 0o600, "device-ca.key": 0o600, "tls-ca.key": 0o600, "seal.key": 0o600, "root.crt": 0o644} {
		if info, err := os.Stat(filepath.Join(c.dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	chain, err := handshake(t, h, testNow)
	if err != nil || len(chain) != 2 || !chain[1].Equal(h.TLSCA()) {
		t.Fatalf("%d certificates, %v", len(chain), err)
	}
	if out, err := opensslVerify(t, h.Root(), h.TLSCA(), mustTLS(t, h, time.Now()), "-purpose", "sslserver"); err != nil {
		t.Errorf("openssl: %v\n%s", err, out)
	}
	key := generate(t, elliptic.P256())
	if err := asClient(h, mustIDevID(t, h, key.Public())); err != nil {
		t.Error(err)
	}
	for _, leaf := range []struct{ cert, ca *x509.Certificate }{{mustIDevIDNow(t, h, key.Public()), h.DeviceCA()}, {mustIAKNow(t, h, key.Public()), h.ACA()}} {
		if out, err := opensslVerify(t, h.Root(), leaf.ca, leaf.cert); err != nil {
			t.Errorf("openssl: %v\n%s", err, out)
		}
	}
	if got := h.Describe(); got[0].Key != KeyOffline || got[1].Key != KeyInFile || got[3].Forever || !got[2].Forever {
		t.Errorf("described as %+v", got)
	}
}

func mustTLS(t *testing.T, h *Hub, now time.Time) *x509.Certificate {
	t.Helper()
	cert, err := h.serverCertificate(now, []string{"hub.example"})
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf
}

// An attacker who has stolen the key of the TLS CA cannot issue device certificates with it,
// because the TLS CA may issue only certificates for the purpose serverAuth.
func TestTLSCACannotIssueDevices(t *testing.T) {
	t.Parallel()
	c := newCeremony(t)
	h := c.whole(t)
	key := generate(t, elliptic.P256())
	for name, ca := range map[string]struct {
		cert *x509.Certificate
		key  crypto.Signer
	}{"device CA": {h.DeviceCA(), h.device.key}, "TLS CA": {h.TLSCA(), h.tlsKey}} {
		leaf := forge(t, testDevice, false, ca.cert, ca.key.(*ecdsa.PrivateKey), key.Public())
		_, err := leaf.Verify(x509.VerifyOptions{Roots: pool(h.Root()), Intermediates: pool(ca.cert), CurrentTime: testNow, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if accepted := err == nil; accepted != (name == "device CA") {
			t.Errorf("a device of the %s: %v", name, err)
		}
	}
}

func TestTLSCAExpires(t *testing.T) {
	t.Parallel()
	h := newCeremony(t).whole(t)
	end := h.TLSCA().NotAfter
	if want := testNow.Add(DefaultTLSLife).Truncate(time.Second); !end.Equal(want) {
		t.Fatalf("the TLS CA ends at %s, not %s", end, want)
	}
	// A certificate never outlives its CA.
	if chain, err := handshake(t, h, end.Add(-48*time.Hour)); err != nil || !chain[0].NotAfter.Equal(end) {
		t.Errorf("two days before the end: %v", err)
	}
	now := end.Add(-48 * time.Hour)
	get := h.TLSCertificate(func() time.Time { return now }, []string{"hub.example"})
	first, err := get(nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := get(nil); err != nil || first != again {
		t.Errorf("each handshake makes a certificate: %v", err)
	}
	now = end.Add(time.Minute)
	if _, err := get(nil); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("after the end: %v", err)
	}
}

// The hub starts with the root's key, and then gets a TLS CA. After the operator moves the root's
// key away, the hub still has the same name and the same CAs, and still serves TLS.
func TestRootGoesOffline(t *testing.T) {
	t.Parallel()
	dir := openNewAt(t, filepath.Join(t.TempDir(), "pki"))
	before, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	root, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := &ceremony{dir, root}
	request := c.request(t, "tls-ca")
	plan, err := root.Plan(request, time.Now(), DefaultTLSLife)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := root.Issue(plan)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Install(dir, answer, "", time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "root.key"), filepath.Join(t.TempDir(), "root.key")); err != nil {
		t.Fatal(err)
	}
	h, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !h.RootOffline() || h.HubName() != before.HubName() || !h.DeviceCA().Equal(before.DeviceCA()) || !bytes.Equal(h.SealKey(), before.SealKey()) {
		t.Error("the hub changed")
	}
	if _, err := handshake(t, h, time.Now()); err != nil {
		t.Error(err)
	}
}

// A hub whose device CA and ACA were replaced still accepts devices with certificates of the former
// CAs.
func TestRenewedCAsAcceptFormerDevices(t *testing.T) {
	t.Parallel()
	c := newCeremony(t)
	h := c.whole(t)
	key := generate(t, elliptic.P256())
	device, iak := mustIDevID(t, h, key.Public()), mustIAK(t, h, key.Public())
	for range 2 { // the second renewal keeps the former CAs of the first renewal
		before := snapshot(t, c.dir)
		request := c.request(t, "device-ca", "aca", "tls-ca")
		if !maps.EqualFunc(before, snapshot(t, c.dir), bytes.Equal) {
			t.Fatal("a request changed the hub")
		}
		done, err := Install(c.dir, c.answer(t, request), "", testNow)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.EqualFunc(before, snapshot(t, done.Kept), bytes.Equal) {
			t.Error("the former folder is not complete")
		}
		if err := os.RemoveAll(done.Kept); err != nil { // the operator deletes the folder with the replaced keys
			t.Fatal(err)
		}
	}
	renewed, err := Open(c.dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if renewed.DeviceCA().Equal(h.DeviceCA()) || renewed.ACA().Equal(h.ACA()) || renewed.TLSCA().Equal(h.TLSCA()) || len(renewed.DeviceCAs()) != 3 {
		t.Fatalf("%d device CAs", len(renewed.DeviceCAs()))
	}
	if !bytes.Equal(renewed.SealKey(), h.SealKey()) || renewed.HubName() != h.HubName() {
		t.Error("the seal key or the hub name changed")
	}
	if err := asClient(renewed, device); err != nil {
		t.Errorf("a device of the former device CA: %v", err)
	}
	fresh := mustIDevID(t, renewed, key.Public())
	if err := asClient(renewed, fresh); err != nil {
		t.Errorf("a new device: %v", err)
	}
	if asClient(h, fresh) == nil {
		t.Error("the device CA has the former key")
	}
	if !renewed.IssuerOf(device.Raw, renewed.DeviceCA()).Equal(h.DeviceCA()) || !renewed.IssuerOf(iak.Raw, renewed.ACA()).Equal(h.ACA()) ||
		!renewed.IssuerOf(fresh.Raw, renewed.DeviceCA()).Equal(renewed.DeviceCA()) {
		t.Error("a certificate has the wrong issuer")
	}
	if asClient(renewed, iak) == nil {
		t.Error("an IAK of the former ACA is a TLS client")
	}
}

// reissue applies `change` to the certificate of one of the CAs in an answer, and signs the changed
// certificate with `key`.
func reissue(t *testing.T, answer []byte, title string, signer *x509.Certificate, key crypto.Signer, change func(*x509.Certificate)) []byte {
	t.Helper()
	list, err := parseCertificates(answer)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, c := range list {
		der := c.Raw
		if strings.HasSuffix(c.Subject.CommonName, title) {
			template := &x509.Certificate{
				SerialNumber: c.SerialNumber, Subject: c.Subject, NotBefore: c.NotBefore, NotAfter: c.NotAfter, IsCA: c.IsCA, BasicConstraintsValid: true,
				MaxPathLenZero: c.MaxPathLenZero, KeyUsage: c.KeyUsage, ExtKeyUsage: c.ExtKeyUsage, SubjectKeyId: c.SubjectKeyId, Policies: c.Policies,
			}
			change(template)
			if der, err = x509.CreateCertificate(rand.Reader, template, signer, c.PublicKey, key); err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, certPEM(der)...)
	}
	return out
}

// withKey returns a copy of a CA's certificate in which the public key is that of `key`. Without
// this, x509.CreateCertificate would refuse to sign with `key`.
func withKey(c *x509.Certificate, key crypto.Signer) *x509.Certificate {
	changed := *c
	changed.PublicKey = key.Public()
	return &changed
}

// A hub refuses any answer that differs from what it requested. The refusal changes nothing: the
// hub still accepts the right answer afterwards.
func TestInstallRefusesWrongAnswers(t *testing.T) {
	t.Parallel()
	c := newCeremony(t)
	request := c.request(t)
	right := c.answer(t, request)
	again := func(title string, change func(*x509.Certificate)) []byte {
		return reissue(t, right, title, c.root.cert, c.root.key, change)
	}
	list, err := parseCertificates(right)
	if err != nil {
		t.Fatal(err)
	}
	join := func(certs ...*x509.Certificate) (text []byte) {
		for _, c := range certs {
			text = append(text, certPEM(c.Raw)...)
		}
		return text
	}
	other := newCeremony(t)
	stranger := generate(t, elliptic.P256())
	flipped := bytes.Clone(list[2].Raw)
	flipped[len(flipped)-1] ^= 1
	for name, wrong := range map[string]struct {
		answer []byte
		want   string
	}{
		"root of an attacker":           {other.answer(t, request), "another root"},
		"answer to another request":     {c.answer(t, other.request(t)), "another request"},
		"one certificate is missing":    {join(list[:3]...), "has 2 CA certificates"},
		"one certificate too many":      {join(append(list, list[1])...), "has 4 CA certificates"},
		"a bit of a signature":          {append(join(list[0], list[1]), append(certPEM(flipped), join(list[3])...)...), "not signed"},
		"truncated":                     {right[:len(right)-30], "complete"},
		"empty":                         {nil, "complete"},
		"a private key":                 {append(bytes.Clone(right), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})...), "PRIVATE KEY"},
		"huge":                          {bytes.Repeat([]byte("\n"), maxRequest+1), "bytes"},
		"signed by another key":         {reissue(t, right, "Device CA", withKey(c.root.cert, stranger), stranger, func(*x509.Certificate) {}), "not signed"},
		"device CA for the ACA's title": {again("Device CA", func(c *x509.Certificate) { c.Subject.CommonName = "Port Attestation CA" }), "is not a Device CA"},
		"another name":                  {again("Device CA", func(c *x509.Certificate) { c.Subject.CommonName = "Other Device CA" }), "subject"},
		"device CA that expires":        {again("Device CA", func(c *x509.Certificate) { c.NotAfter = testNow.AddDate(9, 0, 0) }), "expires"},
		"TLS CA that expires at once":   {again("TLS CA", func(c *x509.Certificate) { c.NotAfter = testNow.AddDate(0, 0, 3) }), "30 days"},
		"TLS CA for every purpose":      {again("TLS CA", func(c *x509.Certificate) { c.ExtKeyUsage = nil }), "purpose"},
		"longer path":                   {again("Device CA", func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 3, false }), "path length"},
		"no path length":                {again("Device CA", func(c *x509.Certificate) { c.MaxPathLen = -1 }), "path length"},
		"a leaf":                        {again("Device CA", func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }), "not a CA"},
		"name constraints":              {again("TLS CA", func(c *x509.Certificate) { c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"x"}, true }), "critical"},
		"without policies":              {again("Device CA", func(c *x509.Certificate) { c.Policies = nil }), "policies"},
		"another key identifier":        {again("Device CA", func(c *x509.Certificate) { c.SubjectKeyId = []byte{1} }), "key identifier"},
	} {
		before := tree(t, filepath.Dir(c.dir))
		_, err := Install(c.dir, wrong.answer, c.root.HubName(), testNow)
		if err == nil {
			t.Fatalf("%s: accepted", name)
		}
		if !strings.Contains(err.Error(), wrong.want) {
			t.Errorf("%s: refused, but not for %q: %v", name, wrong.want, err)
		}
		if !maps.Equal(before, tree(t, filepath.Dir(c.dir))) {
			t.Errorf("%s: the hub's folder changed", name)
		}
	}
	for name, now := range map[string]time.Time{"starts in the future": testNow.Add(-time.Hour), "TLS CA has expired": testNow.Add(DefaultTLSLife)} {
		if _, err := Install(c.dir, right, c.root.HubName(), now); err == nil || !strings.Contains(err.Error(), "clock") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, hub := range map[string]string{"no hub name": "", "another hub name": other.root.HubName(), "not a hub name": "5f0c"} {
		if _, err := Install(c.dir, right, hub, testNow); err == nil || !strings.Contains(err.Error(), "hub name") {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.install(t, right)
	if _, err := Install(c.dir, right, c.root.HubName(), testNow); err == nil || !strings.Contains(err.Error(), "no request is open") {
		t.Errorf("the same answer again: %v", err)
	}
}

// A hub that already has CAs refuses the answer of another root, even if the operator passes that
// root's hub name to Install. It also refuses an answer to an earlier request.
func TestRenewalRefusesAnotherRoot(t *testing.T) {
	t.Parallel()
	c, other := newCeremony(t), newCeremony(t)
	c.whole(t)
	earlier := c.answer(t, c.request(t, "device-ca"))
	if err := CancelRequest(t.Context(), c.dir); err != nil {
		t.Fatal(err)
	}
	request := c.request(t, "device-ca")
	before := tree(t, filepath.Dir(c.dir))
	for name, answer := range map[string][]byte{"another root": other.answer(t, request), "an earlier request": earlier} {
		for _, hub := range []string{"", other.root.HubName()} {
			if _, err := Install(c.dir, answer, hub, testNow); err == nil {
				t.Errorf("%s: accepted with the hub name %q", name, hub)
			}
		}
	}
	if !maps.Equal(before, tree(t, filepath.Dir(c.dir))) {
		t.Error("the hub's folder changed")
	}
	c.install(t, c.answer(t, request))
}

// forgedRequest returns a request for a CA with the given title and the public key of `key`. If
// `change` is not nil, forgedRequest applies it to the DER of the request.
func forgedRequest(t *testing.T, title string, key crypto.Signer, change func([]byte)) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: title}}, key)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(der)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// The root refuses requests for certificates that no hub needs, and requests whose sender does not
// prove that it holds the private key.
func TestRootRefusesForgedRequests(t *testing.T) {
	t.Parallel()
	c := newCeremony(t)
	one, two := generate(t, elliptic.P256()), generate(t, elliptic.P256())
	for name, wrong := range map[string]struct {
		request []byte
		want    string
	}{
		"a root":                {forgedRequest(t, "Root CA", one, nil), "a root signs only"},
		"a server":              {forgedRequest(t, "hub.example", one, nil), "a root signs only"},
		"without the key":       {forgedRequest(t, "Device CA", one, func(der []byte) { der[len(der)-1] ^= 1 }), "does not prove"},
		"one key for two CAs":   {append(forgedRequest(t, "Device CA", one, nil), forgedRequest(t, "Attestation CA", one, nil)...), "same key"},
		"two keys for one CA":   {append(forgedRequest(t, "Device CA", one, nil), forgedRequest(t, "Device CA", two, nil)...), "two keys"},
		"the root's own key":    {forgedRequest(t, "Device CA", c.root.key, nil), "own key"},
		"a P-521 key":           {forgedRequest(t, "Device CA", generate(t, elliptic.P521()), nil), "P-256 or P-384"},
		"a certificate instead": {certPEM(c.root.cert.Raw), "CERTIFICATE"},
		"no request":            {[]byte("garbage"), "complete"},
		"truncated":             {forgedRequest(t, "Device CA", one, nil)[:200], "complete"},
		"huge":                  {bytes.Repeat([]byte("\n"), maxRequest+1), "bytes"},
	} {
		if _, err := c.root.Plan(wrong.request, testNow, DefaultTLSLife); err == nil || !strings.Contains(err.Error(), wrong.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The root takes only the key from the request, so the extensions and names in the request have
	// no effect.
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:         pkix.Name{CommonName: "Device CA", Organization: []string{"Mallory"}},
		DNSNames:        []string{"hub.example"},
		ExtraExtensions: []pkix.Extension{{Id: oidPantacorOwner, Value: []byte("mallory")}},
	}, one)
	if err != nil {
		t.Fatal(err)
	}
	list, err := parseCertificates(c.answer(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))
	if err != nil {
		t.Fatal(err)
	}
	if got := list[1]; got.Subject.String() != "CN=Port Device CA,O=Gangway" || len(got.DNSNames) > 0 || len(got.Extensions) != 5 {
		t.Errorf("the certificate of %s has names %v and %d extensions", got.Subject, got.DNSNames, len(got.Extensions))
	}
	if _, err := c.root.Plan(forgedRequest(t, "TLS CA", one, nil), testNow, 24*time.Hour); err == nil {
		t.Error("a TLS CA for a day is accepted")
	}
	if _, err := c.root.Plan(forgedRequest(t, "TLS CA", one, nil), testNow.AddDate(-1, 0, 0), DefaultTLSLife); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("a clock before the root's start: %v", err)
	}
}

func TestRequestRefusals(t *testing.T) {
	t.Parallel()
	c := newCeremony(t)
	for name, cas := range map[string][]string{"root": {"root"}, "unknown": {"x"}, "only one": {"tls-ca"}, "twice": {"aca", "aca"}} {
		if _, _, err := NewRequest(t.Context(), c.dir, RequestOptions{CAs: cas}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if left := tree(t, filepath.Dir(c.dir)); len(left) != 0 {
		t.Errorf("refused requests left %d things", len(left))
	}
	first := c.request(t)
	if _, _, err := NewRequest(t.Context(), c.dir, RequestOptions{}); err == nil || !strings.Contains(err.Error(), "a request is open") {
		t.Errorf("a second request: %v", err)
	}
	c.install(t, c.answer(t, first))
	if _, _, err := NewRequest(t.Context(), c.dir, RequestOptions{}); err == nil || !strings.Contains(err.Error(), "name the CAs") {
		t.Errorf("a renewal of nothing: %v", err)
	}
	if err := CancelRequest(t.Context(), c.dir); err == nil {
		t.Error("a cancellation without a request succeeds")
	}
	if _, err := MakeRoot(t.Context(), filepath.Dir(c.dir), "", Options{}); err == nil {
		t.Error("a new root replaces a folder")
	}
}

// A hub with an offline root refuses to start if a file is missing or belongs to another hub.
func TestOpenRefusesAnIncompleteOfflineHub(t *testing.T) {
	t.Parallel()
	c, other := newCeremony(t), newCeremony(t)
	c.whole(t)
	other.whole(t)
	c.install(t, c.answer(t, c.request(t, "device-ca")))
	good := snapshot(t, c.dir)
	for name := range good {
		if err := os.Remove(filepath.Join(c.dir, name)); err != nil {
			t.Fatal(err)
		}
		_, err := Open(c.dir, Options{})
		if optional := name == "device-ca.previous.crt"; (err == nil) != optional {
			t.Errorf("without %s: %v", name, err)
		}
		if strings.HasSuffix(name, "crt") {
			from := strings.Replace(name, ".previous", "", 1)
			copyFile(t, filepath.Join(other.dir, from), filepath.Join(c.dir, name))
			if _, err := Open(c.dir, Options{}); err == nil {
				t.Errorf("with %s of another hub: accepted", name)
			}
		}
		if err := os.WriteFile(filepath.Join(c.dir, name), good[name], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(c.dir, Options{}); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"tls-ca.crt", "tls-ca.key"} {
		if err := os.Remove(filepath.Join(c.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(c.dir, Options{}); err == nil || !strings.Contains(err.Error(), "TLS CA") {
		t.Errorf("without root.key and TLS CA: %v", err)
	}
}

// A real TLS client, which trusts only the root, can connect to a hub with an offline root.
func TestTLSClientOfAnOfflineHub(t *testing.T) {
	t.Parallel()
	h := newCeremony(t).whole(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: h.TLSCertificate(func() time.Time { return testNow }, []string{"127.0.0.1"})})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: pool(h.Root()), Time: func() time.Time { return testNow }})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
