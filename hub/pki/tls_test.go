package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// connect makes a TLS connection in memory, and returns the errors of both ends.
func connect(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	a, b := net.Pipe()
	deadline := time.Now().Add(20 * time.Second)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	done := make(chan error, 1)
	go func() {
		s := tls.Server(a, server)
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		a.Close()
		done <- err
	}()
	c := tls.Client(b, client)
	clientErr = c.Handshake()
	if clientErr == nil {
		// In TLS 1.3, a client learns only from its first read that the server refused its
		// certificate.
		_, clientErr = c.Read(make([]byte, 1))
	}
	b.Close()
	return <-done, clientErr
}

func serverConfig(h *Hub) *tls.Config {
	now := func() time.Time { return testNow }
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Time: now, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: h.ClientCAs(),
		GetCertificate: h.TLSCertificate(now, []string{"hub.example", "192.0.2.1", "2001:db8::1"}),
	}
}

func clientConfig(h *Hub, key crypto.PrivateKey, chain ...*x509.Certificate) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS13, Time: func() time.Time { return testNow }, RootCAs: pool(h.Root()), ServerName: "hub.example"}
	own := tls.Certificate{PrivateKey: key}
	for _, x := range chain {
		own.Certificate = append(own.Certificate, x.Raw)
	}
	// Send the client certificate even if the server does not request one, as an attacker would.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
	return c
}

func TestDeviceConnects(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	key := generate(t, elliptic.P256())
	leaf := mustIDevID(t, h, key.Public())
	for name, host := range map[string]string{"DNS name": "hub.example", "IPv4": "192.0.2.1", "IPv6": "2001:db8::1"} {
		t.Run(name, func(t *testing.T) {
			client := clientConfig(h, key, leaf, h.DeviceCA())
			client.ServerName = host
			client.VerifyConnection = func(s tls.ConnectionState) error {
				if n := len(s.PeerCertificates); n != 1 {
					t.Errorf("the hub sends %d certificates, although its root need not be sent", n)
				}
				return nil
			}
			if s, c := connect(t, serverConfig(h), client); s != nil || c != nil {
				t.Errorf("server: %v, client: %v", s, c)
			}
		})
	}
	client := clientConfig(h, key, leaf, h.DeviceCA())
	client.ServerName = "other.example"
	if _, err := connect(t, serverConfig(h), client); err == nil {
		t.Error("the hub's certificate is valid for another name")
	}
}

// Only a peer with a device's key and IDevID certificate is accepted as a TLS client. All other
// peers are refused, even if this hub issued their certificates.
func TestOnlyDevicesAreTLSClients(t *testing.T) {
	t.Parallel()
	h, other := openNew(t, Options{}), openNew(t, Options{})
	key := generate(t, elliptic.P256())
	pub := key.Public()
	self := selfSigned(t, key)
	leaf := mustIDevID(t, h, pub)
	server, err := h.TLSCertificate(func() time.Time { return testNow }, []string{"hub.example"})(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*tls.Config{
		"IAK":                          clientConfig(h, key, mustIAK(t, h, pub), h.ACA()),
		"IAK, with the whole chain":    clientConfig(h, key, mustIAK(t, h, pub), h.ACA(), h.Root()),
		"IAK, then the device CA":      clientConfig(h, key, mustIAK(t, h, pub), h.DeviceCA()),
		"IDevID of another hub":        clientConfig(h, key, mustIDevID(t, other, pub), other.DeviceCA(), other.Root()),
		"self-signed":                  clientConfig(h, key, self),
		"self-signed, then the IDevID": clientConfig(h, key, self, leaf, h.DeviceCA()),
		"the hub's own":                clientConfig(h, server.PrivateKey, server.Leaf, h.Root()),
		"IDevID, without its key":      clientConfig(h, generate(t, elliptic.P256()), leaf, h.DeviceCA()),
		"issued by an IDevID":          clientConfig(h, key, issuedBy(t, leaf, key, pub), leaf, h.DeviceCA()),
		"nothing":                      {MinVersion: tls.VersionTLS13, Time: func() time.Time { return testNow }, RootCAs: pool(h.Root()), ServerName: "hub.example"},
	} {
		t.Run(name, func(t *testing.T) {
			if s, cl := connect(t, serverConfig(h), c); s == nil {
				t.Errorf("the server accepts it; client: %v", cl)
			}
		})
	}
}

func TestTLSCertificate(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{Now: time.Now()})
	now := time.Now()
	names := []string{"hub.example", "*.hub.example", "localhost", "my_host", "192.0.2.1", "::1"}
	get := h.TLSCertificate(func() time.Time { return now }, names)
	names[0] = "changed.example" // the caller changes its slice after the call to TLSCertificate
	first, err := get(nil)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := opensslVerify(t, h.Root(), nil, first.Leaf, "-purpose", "sslserver", "-verify_hostname", "a.hub.example"); err != nil {
		t.Errorf("openssl: %v\n%s", err, out)
	}
	if got := strings.Join(first.Leaf.DNSNames, " "); got != "hub.example *.hub.example localhost my_host" || len(first.Leaf.IPAddresses) != 2 {
		t.Errorf("names %s, %v", got, first.Leaf.IPAddresses)
	}
	if c := first.Leaf; c.IsCA || len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth || c.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Error("it is valid for more than a TLS server")
	}
	if life := first.Leaf.NotAfter.Sub(now); life > 398*24*time.Hour {
		t.Errorf("its lifetime is %v, more than browsers accept", life)
	}
	if c := first.Leaf; !c.BasicConstraintsValid || now.Sub(c.NotBefore) < 5*time.Minute {
		t.Errorf("basic constraints %v; from %v: a peer whose clock is five minutes slow refuses it", c.BasicConstraintsValid, c.NotBefore)
	}
	if k, ok := first.PrivateKey.(*ecdsa.PrivateKey); !ok || k.Curve != elliptic.P256() {
		t.Error("its key is not ECDSA P-256")
	}
}

func TestTLSCertificateIsRenewed(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	m := &module{key: h.rootKey.(*ecdsa.PrivateKey)}
	h.rootKey = m
	now := testNow
	get := h.TLSCertificate(func() time.Time { return now }, []string{"hub.example"})
	at := func(when time.Time) *tls.Certificate {
		t.Helper()
		now = when
		c, err := get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := at(testNow)
	if at(testNow.Add(tlsLife*2/3-time.Minute)) != first {
		t.Error("renewed although more than a third of its lifetime is left")
	}
	m.fail = errors.New("the module is away")
	if at(testNow.Add(tlsLife-time.Minute)) != first {
		t.Error("a valid certificate is not used while the root's key is unavailable")
	}
	now = testNow.Add(tlsLife + time.Minute)
	if _, err := get(nil); !errors.Is(err, m.fail) {
		t.Errorf("an expired certificate is used: %v", err)
	}
	m.fail = nil
	second := at(testNow.Add(tlsLife * 2 / 3))
	if second == first || second.Leaf.NotAfter.Before(testNow.Add(tlsLife*5/3-time.Minute)) {
		t.Error("not renewed although less than a third of its lifetime is left")
	}
	if first.PrivateKey.(*ecdsa.PrivateKey).Equal(second.PrivateKey) {
		t.Error("renewed with the old key")
	}
	// If somebody corrects a clock that was fast, the hub makes a new certificate, because the old
	// one is not valid yet.
	if third := at(testNow); third == second || third.Leaf.NotBefore.After(testNow) {
		t.Error("a certificate that is not yet valid is used")
	}
}

func TestRefusedServerNames(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	for _, name := range []string{"", ".", "a..b", "hub.example.", "hub example", "https://hub.example", "hub.example:443", "hüb.example", "*", "a.*.example", "\x00", strings.Repeat("a", 64),
		strings.Repeat("a.", 127) + "a", strings.Repeat("a.", 126) + "aa"} {
		if c, err := h.TLSCertificate(time.Now, []string{"hub.example", name})(nil); err == nil {
			t.Errorf("%q: %v", name, c.Leaf.DNSNames)
		}
	}
	for _, name := range []string{strings.Repeat("a", 63), strings.Repeat("a.", 126) + "a"} {
		if _, err := h.TLSCertificate(time.Now, []string{name})(nil); err != nil {
			t.Errorf("%d characters: %v", len(name), err)
		}
	}
	if _, err := h.TLSCertificate(time.Now, nil)(nil); err == nil {
		t.Error("a certificate for no name")
	}
}
