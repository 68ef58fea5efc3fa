package fetch

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
	"golang.org/x/net/dns/dnsmessage"
)

// site is the web site of a TPM maker: an HTTP server on loopback that counts its requests.
type site struct {
	*httptest.Server
	mu    sync.Mutex
	pages map[string]http.HandlerFunc
	asked atomic.Int32
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{pages: map[string]http.HandlerFunc{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		s.mu.Lock()
		page := s.pages[r.URL.Path]
		s.mu.Unlock()
		if page == nil {
			http.NotFound(w, r)
			return
		}
		page(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// at makes the site answer requests for `path` with `page`. It returns the URL, with the host name
// localhost.
func (s *site) at(path string, page http.HandlerFunc) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[path] = page
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return "http://localhost:" + port + path
}

func content(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.Write(b) }
}

// onlyLoopback allows only addresses of this machine, for the test's server.
func onlyLoopback(a netip.AddrPort) bool { return a.Addr().IsLoopback() }

func newFetcher(t *testing.T, o Options) *Fetcher {
	t.Helper()
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func local(t *testing.T) *Fetcher {
	return newFetcher(t, Options{IssuerHosts: []string{"localhost"}, CRLHosts: []string{"localhost"}, AllowAddress: onlyLoopback})
}

// ca is one certificate with its key.
type ca struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// issue makes a certificate signed by the CA `above`, or a self-signed certificate if `above` is
// nil. The function `change` may alter the certificate before it is signed, for example to add
// URLs.
func issue(t testing.TB, name string, isCA bool, above *ca, change func(*x509.Certificate)) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true,
		IsCA: isCA,
	}
	if isCA {
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if change != nil {
		change(template)
	}
	parent, signer := template, crypto.Signer(key)
	if above != nil {
		parent, signer = above.cert, above.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &ca{cert, key}
}

func issuedAt(url string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.IssuingCertificateURL = []string{url} }
}

// message returns a PKCS #7 message that contains only certificates.
func message(certs ...*ca) []byte {
	zero := casn1.Tag(0).Constructed().ContextSpecific()
	var b cryptobyte.Builder
	b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(oidSignedData)
		b.AddASN1(zero, func(b *cryptobyte.Builder) {
			b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1Int64(1)
				b.AddASN1(casn1.SET, func(*cryptobyte.Builder) {})
				b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1})
				})
				b.AddASN1(zero, func(b *cryptobyte.Builder) {
					for _, c := range certs {
						b.AddBytes(c.cert.Raw)
					}
				})
				b.AddASN1(casn1.SET, func(*cryptobyte.Builder) {})
			})
		})
	})
	return b.BytesOrPanic()
}

func armour(kind string, ders ...[]byte) (out []byte) {
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	return out
}

func TestFetchesTheIssuersInEveryForm(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	root := issue(t, "root", true, nil, nil)
	rootURL := s.at("/root", content(root.cert.Raw))
	one := issue(t, "one", true, root, issuedAt(rootURL))
	stranger := issue(t, "stranger", true, nil, nil)
	for name, body := range map[string][]byte{
		"DER":             one.cert.Raw,
		"PEM":             armour("CERTIFICATE", one.cert.Raw),
		"PEM of several":  armour("CERTIFICATE", stranger.cert.Raw, one.cert.Raw),
		"PKCS 7":          message(one),
		"PKCS 7, more":    message(stranger, root, one),
		"PKCS 7 in PEM":   armour("PKCS7", message(stranger, one)),
		"PEM behind text": append([]byte("a maker's CA:\n"), armour("CERTIFICATE", one.cert.Raw)...),
	} {
		leaf := issue(t, "leaf", false, one, issuedAt(s.at("/"+strings.ReplaceAll(name, " ", "-"), content(body))))
		links, notes := local(t).Links(t.Context(), leaf.cert)
		if len(links) != 2 || !links[0].Equal(one.cert) || !links[1].Equal(root.cert) {
			t.Errorf("%s: %d links; %q", name, len(links), notes)
		}
		if len(notes) != 2 || !strings.Contains(notes[0], `"CN=one" was fetched from localhost`) {
			t.Errorf("%s: notes %q", name, notes)
		}
	}
}

// The fetcher cannot reach services on the hub's machine, in the hub's network or in the hub's
// cloud, even if an allowed host name resolves to the address of such a service.
func TestFetchReachesNoAddressThatIsNotPublic(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	leaf := issue(t, "leaf", false, issue(t, "one", true, nil, nil), issuedAt(s.at("/one", content(nil))))
	f := newFetcher(t, Options{IssuerHosts: []string{"localhost"}}) // with the address check that the hub uses
	f.anyPort = true                                                // the site's port is not 80
	links, notes := f.Links(t.Context(), leaf.cert)
	if len(links) != 0 || len(notes) != 1 || !strings.Contains(notes[0], "fetching from this address is not allowed") {
		t.Errorf("%d links, %q", len(links), notes)
	}
	if s.asked.Load() != 0 {
		t.Error("the server got a request")
	}
	for text, public := range map[string]bool{
		"8.8.8.8": true, "193.99.144.80": true, "2606:4700::6810:84e5": true, "64:ff9b::808:808": true,
		"127.0.0.1": false, "127.255.0.9": false, "::1": false, "::ffff:127.0.0.1": false, "0.0.0.0": false, "::": false, "0.1.2.3": false,
		"10.1.2.3": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.0.1": false, "::ffff:10.0.0.1": false, "fd00::1": false, "fd00:ec2::254": false,
		"169.254.169.254": false, "::ffff:169.254.169.254": false, "fe80::1": false, "fe80::1%eth0": false, "64:ff9b::a9fe:a9fe": false, "2002:a9fe:a9fe::1": false,
		"64:ff9b:1::1": false, "100.64.0.1": false, "100.100.100.200": false, "192.0.0.192": false, "198.18.0.1": false, "224.0.0.1": false, "255.255.255.255": false,
		"ff02::1": false, "2001:db8::1": false, "2001::1": false, "fec0::1": false, "::7f00:1": false,
	} {
		if got := IsPublic(netip.MustParseAddr(text)); got != public {
			t.Errorf("Public(%s) = %v", text, got)
		}
	}
	if IsPublic(netip.Addr{}) {
		t.Error("the zero address is public")
	}
}

// nameServer returns a resolver whose name server answers each address query with the next of
// `answers`, and repeats the last one.
func nameServer(t *testing.T, answers ...[4]byte) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	var n atomic.Int32
	go func() {
		buf := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:size]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.RecursionAvailable = true, true
			m.Additionals = nil
			if m.Questions[0].Type == dnsmessage.TypeA {
				a := answers[min(int(n.Add(1)), len(answers))-1]
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET},
					Body:   &dnsmessage.AResource{A: a},
				}}
			}
			if out, err := m.Pack(); err == nil {
				conn.WriteTo(out, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// DNS rebinding: an attacker's host name first resolves to the maker's address, and later to an
// address of the hub's machine. The attack fails, because the hub checks the address to which the
// socket connects.
func TestRebindingANameGetsNowhere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	var dialled []netip.Addr
	f := newFetcher(t, Options{
		IssuerHosts: []string{"pki.maker.example"},
		Resolver:    nameServer(t, [4]byte{192, 0, 2, 1}, [4]byte{127, 0, 0, 1}, [4]byte{169, 254, 169, 254}),
		AllowAddress: func(a netip.AddrPort) bool {
			dialled = append(dialled, a.Addr())
			return IsPublic(a.Addr())
		},
	})
	for i := range 3 {
		leaf := issue(t, "leaf", false, issue(t, "one", true, nil, nil), issuedAt(fmt.Sprintf("http://pki.maker.example:%s/%d", port, i)))
		if links, notes := f.Links(t.Context(), leaf.cert); len(links) != 0 || !strings.Contains(fmt.Sprint(notes), "fetching from this address is not allowed") {
			t.Errorf("%d links, %q", len(links), notes)
		}
	}
	if s.asked.Load() != 0 {
		t.Error("the hub's own machine got a request")
	}
	if len(dialled) != 3 || dialled[0] == dialled[1] {
		t.Errorf("the name led to %v", dialled)
	}
	// With a similar name server and an allowed address, the fetch succeeds, so it was the address
	// that made the fetch above fail.
	f = newFetcher(t, Options{IssuerHosts: []string{"pki.maker.example"}, Resolver: nameServer(t, [4]byte{127, 0, 0, 1}), AllowAddress: onlyLoopback})
	one := issue(t, "one", true, nil, nil)
	s.at("/one", content(one.cert.Raw))
	leaf := issue(t, "leaf", false, one, issuedAt("http://pki.maker.example:"+port+"/one"))
	if links, notes := f.Links(t.Context(), leaf.cert); len(links) != 1 {
		t.Errorf("%d links, %q", len(links), notes)
	}
}

func TestFetchesFromNamedHostsAlone(t *testing.T) {
	t.Parallel()
	f := newFetcher(t, Options{IssuerHosts: []string{"PKI.maker.example."}, AllowAddress: nil})
	for raw, ok := range map[string]bool{
		"http://pki.maker.example/ca.crt":         true,
		"https://PKI.Maker.Example./ca.crt":       true,
		"http://pki.maker.example:80/ca.crt":      true,
		"https://pki.maker.example:443/ca.crt":    true,
		"http://pki.maker.example/a?b=c#d":        true,
		"http://pki.maker.example:22/ca.crt":      false,
		"https://pki.maker.example:80/ca.crt":     false,
		"http://maker.example/ca.crt":             false,
		"http://x.pki.maker.example/ca.crt":       false,
		"http://pki.maker.example.evil.example/":  false,
		"http://evil.example/pki.maker.example":   false,
		"http://pki.maker.example@evil.example/":  false,
		"http://u:p@pki.maker.example/ca.crt":     false,
		"ldap://pki.maker.example/cn=ca":          false,
		"file:///etc/passwd":                      false,
		"http://127.0.0.1/":                       false,
		"http://[::1]/":                           false,
		"http://2130706433/":                      false,
		"http:pki.maker.example/ca.crt":           false,
		"//pki.maker.example/ca.crt":              false,
		"http://pki.maker.example\r\nX: y/ca.crt": false,
		"":      false,
		"http:": false,
		"http://pki.maker.example/" + strings.Repeat("a", maxURL): false,
	} {
		if _, err := f.target(raw, f.issuerHosts); (err == nil) != ok {
			t.Errorf("%.60q: %v", raw, err)
		}
	}
	for _, bad := range []string{"", " ", "*.maker.example", "http://pki.maker.example", "pki.maker.example:80", "127.0.0.1", "::1", "a b", "a/b", "user@host"} {
		if _, err := New(Options{IssuerHosts: []string{bad}}); err == nil {
			t.Errorf("%q was accepted as a host name", bad)
		}
	}
	// A host that is allowed for revocation lists is not allowed for issuers.
	f = newFetcher(t, Options{CRLHosts: []string{"crl.maker.example"}})
	leaf := issue(t, "leaf", false, issue(t, "one", true, nil, nil), issuedAt("http://crl.maker.example/one"))
	if links, notes := f.Links(t.Context(), leaf.cert); links != nil || notes != nil {
		t.Errorf("%d links, %q", len(links), notes)
	}
}

func TestFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	s, inner := newSite(t), newSite(t)
	one := issue(t, "one", true, nil, nil)
	target := inner.at("/secret", content(one.cert.Raw))
	for _, status := range []int{301, 302, 303, 307, 308} {
		leaf := issue(t, "leaf", false, one, issuedAt(s.at(fmt.Sprint("/", status), func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target, status)
		})))
		links, notes := local(t).Links(t.Context(), leaf.cert)
		if len(links) != 0 || len(notes) != 1 || !strings.Contains(notes[0], fmt.Sprint("answered ", status)) {
			t.Errorf("%d: %d links, %q", status, len(links), notes)
		}
	}
	if inner.asked.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

func TestBoundsWhatItFetches(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	one := issue(t, "one", true, nil, nil)
	big := bytes.Repeat([]byte{'x'}, maxIssuer+1)
	for name, page := range map[string]http.HandlerFunc{
		"too long, and says so": content(big),
		"too long, in chunks": func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				w.Write(big[:4096])
				w.(http.Flusher).Flush()
			}
		},
		"packed": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(big[:100])
		},
		"not found": func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"a page":    content([]byte("<html>")),
		"nothing":   content(nil),
		"no issuer": content(issue(t, "one", true, nil, nil).cert.Raw), // a CA with the issuer's name and another key
		"no CA":     content(issue(t, "one", false, nil, nil).cert.Raw),
		"breaks off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "999")
			w.Write(big[:9])
		},
		"big headers": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", string(big)); w.Write(one.cert.Raw) },
	} {
		leaf := issue(t, "leaf", false, one, issuedAt(s.at("/"+strings.ReplaceAll(name, " ", "-"), page)))
		if links, notes := local(t).Links(t.Context(), leaf.cert); len(links) != 0 || len(notes) != 1 {
			t.Errorf("%s: %d links, %q", name, len(links), notes)
		}
	}
	// In a chain of 12 CAs, each certificate names the URL of its issuer. The fetcher stops after
	// maxDepth certificates.
	var above *ca
	for i := range 12 {
		name := fmt.Sprintf("/deep-%d", i)
		var change func(*x509.Certificate)
		if above != nil {
			change = issuedAt(s.at(fmt.Sprintf("/deep-%d", i-1), content(above.cert.Raw)))
		}
		above = issue(t, name, true, above, change)
	}
	leaf := issue(t, "leaf", false, above, issuedAt(s.at("/deep-11", content(above.cert.Raw))))
	if links, _ := local(t).Links(t.Context(), leaf.cert); len(links) != maxDepth {
		t.Errorf("%d links of a chain of 12", len(links))
	}
	// If a certificate has 50 URLs, the fetcher tries only maxURLs of them.
	var urls []string
	for i := range 50 {
		urls = append(urls, s.at(fmt.Sprint("/none-", i), content(nil)))
	}
	before := s.asked.Load()
	leaf = issue(t, "leaf", false, one, func(c *x509.Certificate) { c.IssuingCertificateURL = urls })
	local(t).Links(t.Context(), leaf.cert)
	if n := s.asked.Load() - before; n != maxURLs {
		t.Errorf("%d addresses of one certificate were asked", n)
	}
}

// If many devices need the same CA certificate, the fetcher fetches it only once. It also caches a
// failure.
func TestAsksOnceAndKeepsTheAnswer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var ahead atomic.Int64
	f := newFetcher(t, Options{
		IssuerHosts: []string{"localhost"}, AllowAddress: onlyLoopback,
		Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	one := issue(t, "one", true, nil, nil)
	leaf := issue(t, "leaf", false, one, issuedAt(s.at("/slow", func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(50 * time.Millisecond)
		w.Write(one.cert.Raw)
	})))
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if links, notes := f.Links(t.Context(), leaf.cert); len(links) != 1 {
				t.Errorf("%d links, %q", len(links), notes)
			}
		})
	}
	wg.Wait()
	if n := s.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	ahead.Store(int64(keepIssuer + time.Minute))
	f.Links(t.Context(), leaf.cert)
	if n := s.asked.Load(); n != 2 {
		t.Errorf("an expired response was used: fetched %d times", n)
	}
	broken := issue(t, "leaf", false, one, issuedAt(s.at("/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })))
	for range 5 {
		f.Links(t.Context(), broken.cert)
	}
	if n := s.asked.Load(); n != 3 {
		t.Errorf("fetched again after a failure: %d", n)
	}
	ahead.Add(int64(keepFailure + time.Minute))
	s.at("/broken", content(one.cert.Raw))
	if links, _ := f.Links(t.Context(), broken.cert); len(links) != 1 {
		t.Error("a failure was cached permanently")
	}
}

// If a maker's host does not answer, or an attacker sends certificates with many URLs, the requests
// of other devices are not delayed.
func TestHangingHostDelaysNobodyElse(t *testing.T) { // not parallel: it measures time
	s := newSite(t)
	f := local(t)
	stuck := make(chan struct{})
	defer close(stuck)
	one := issue(t, "one", true, nil, nil)
	good := issue(t, "leaf", false, one, issuedAt(s.at("/good", content(one.cert.Raw))))
	if links, notes := f.Links(t.Context(), good.cert); len(links) != 1 {
		t.Fatalf("%q", notes)
	}
	var hanging sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for i := range 100 {
		leaf := issue(t, "leaf", false, one, issuedAt(s.at(fmt.Sprint("/hang-", i), func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-stuck:
			case <-r.Context().Done():
			}
		})))
		hanging.Go(func() { f.Links(ctx, leaf.cert) })
	}
	for s.asked.Load() < 1+maxAtOnce {
		time.Sleep(time.Millisecond)
	}
	start := time.Now()
	if links, _ := f.Links(t.Context(), good.cert); len(links) != 1 {
		t.Error("a cached link waited for the hanging host")
	}
	new := issue(t, "leaf", false, one, issuedAt(s.at("/new", content(one.cert.Raw))))
	if _, notes := f.Links(t.Context(), new.cert); len(notes) != 1 || !strings.Contains(notes[0], "too many fetches") {
		t.Errorf("%q", notes)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %s", took)
	}
	if n := s.asked.Load(); n > 1+maxAtOnce {
		t.Errorf("%d fetches were under way", n-1)
	}
	cancel() // the waiting requests end immediately
	start = time.Now()
	hanging.Wait()
	if took := time.Since(start); took > time.Second {
		t.Errorf("giving up took %s", took)
	}
}

func TestKeepsNoMoreThanItsBound(t *testing.T) {
	t.Parallel()
	f := local(t)
	for i := range 3 * maxEntries {
		f.store(fmt.Sprint(i), &answer{body: make([]byte, 200<<10), until: time.Now().Add(time.Hour)})
		if len(f.cache) > maxEntries || f.size > maxKept {
			t.Fatalf("%d answers of %d bytes", len(f.cache), f.size)
		}
	}
	total := 0
	for _, a := range f.cache {
		total += len(a.body)
	}
	if total != f.size || len(f.cache) < 100 {
		t.Errorf("%d answers of %d bytes, counted %d", len(f.cache), total, f.size)
	}
}

func FuzzParseCertificates(f *testing.F) {
	one := issue(f, "one", true, nil, nil)
	f.Add(one.cert.Raw)
	f.Add(message(one))
	f.Add(armour("PKCS7", message(one, one)))
	f.Add(armour("CERTIFICATE", one.cert.Raw))
	f.Fuzz(func(t *testing.T, b []byte) {
		certs, err := ParseCertificates(b)
		if (err == nil) != (len(certs) > 0) || len(certs) > maxCerts {
			t.Fatalf("%d certificates, %v", len(certs), err)
		}
	})
}
