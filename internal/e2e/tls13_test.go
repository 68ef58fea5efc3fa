package e2e_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/internal/brief"
)

// tls13Client connects with the example TLS client examples/tls13.py, sends "ping" 10,000 times,
// and prints the exporter and the response.
const tls13Client = `
import sys
sys.path.insert(0, "../../examples")
import tls13
from cryptography import x509
_, host, port, roots = sys.argv
try:
    with tls13.Connection(host, int(port), [x509.load_pem_x509_certificate(open(roots, "rb").read())], timeout=10) as c:
        print(c.exporter("EXPORTER-test", 48).hex())
        c.write(b"ping" * 10000)
        got = b""
        while part := c.read():
            got += part
        print(len(got), got[:8].decode())
except tls13.TLSError as e:
    print("refused:", e)
`

// server is a TLS server with a certificate that is made for one test case.
type server struct {
	ca, leaf x509.Certificate
	caKey    *ecdsa.PrivateKey
	key      crypto.Signer
	config   tls.Config
	// `shows` changes the certificate before the server uses it. `wire` wraps the connection, to
	// change the bytes that the server sends.
	shows func(*tls.Certificate)
	wire  func(net.Conn) net.Conn
}

// The example TLS client (examples/tls13.py) connects to a valid server, exchanges data, and
// computes the same exporter as the server. It refuses an impostor, and a handshake that an
// attacker on the network altered.
func TestStudyTLSClient(t *testing.T) {
	needPython(t)
	needFullRun(t)
	t.Parallel()
	other := func(t *testing.T) *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t) }
	for name, c := range map[string]struct {
		change func(*testing.T, *server)
		want   string // part of the client's error; "" if the client must connect
	}{
		"a good one":                         {nil, ""},
		"a CA on P-384":                      {func(t *testing.T, s *server) { s.caKey = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t) }, ""},
		"asks for a certificate":             {func(_ *testing.T, s *server) { s.config.ClientAuth = tls.RequestClientCert }, ""},
		"insists on a certificate":           {func(_ *testing.T, s *server) { s.config.ClientAuth = tls.RequireAnyClientCert }, "alert 116"},
		"another CA of the same name":        {func(t *testing.T, s *server) { s.shows = func(c *tls.Certificate) { *c = s.issue(t, other(t)) } }, "not by the hub's CA"},
		"another key than the certificate's": {func(t *testing.T, s *server) { s.shows = func(c *tls.Certificate) { c.PrivateKey = other(t) } }, "does not have the key"},
		"another name":                       {func(_ *testing.T, s *server) { s.leaf.IPAddresses, s.leaf.DNSNames = nil, []string{"hub.example"} }, "is not for 127.0.0.1"},
		"a name that is an address":          {func(_ *testing.T, s *server) { s.leaf.IPAddresses, s.leaf.DNSNames = nil, []string{"127.0.0.1"} }, "is not for 127.0.0.1"},
		"expired":                            {func(_ *testing.T, s *server) { s.leaf.NotAfter = time.Now().Add(-time.Hour) }, "expired"},
		"not yet valid":                      {func(_ *testing.T, s *server) { s.leaf.NotBefore = time.Now().Add(time.Hour) }, "not valid yet"},
		"an expired CA":                      {func(_ *testing.T, s *server) { s.ca.NotAfter = time.Now().Add(-time.Hour) }, "expired"},
		"for clients":                        {func(_ *testing.T, s *server) { s.leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, "another purpose"},
		"issued by what is not a CA":         {func(_ *testing.T, s *server) { s.ca.IsCA = false }, "is not a CA"},
		"a CA that may not sign":             {func(_ *testing.T, s *server) { s.ca.KeyUsage = x509.KeyUsageCRLSign }, "is not a CA"},
		"an unknown critical extension": {func(_ *testing.T, s *server) {
			s.leaf.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}, "critical extension 1.2.3.4"},
		"an RSA key":       {func(t *testing.T, s *server) { s.key = must(rsa.GenerateKey(rand.Reader, 2048))(t) }, "alert 40"},
		"TLS 1.2":          {func(_ *testing.T, s *server) { s.config.MaxVersion = tls.VersionTLS12 }, "alert 70"},
		"another group":    {func(_ *testing.T, s *server) { s.config.CurvePreferences = []tls.CurveID{tls.CurveP384} }, "alert 40"},
		"another protocol": {func(_ *testing.T, s *server) { s.config.NextProtos = []string{"another"} }, "alert 120"},
		// The flipped bit is in the field random of the server's hello.
		"an altered hello":     {func(_ *testing.T, s *server) { s.wire = flipBit(30) }, "altered"},
		"an altered handshake": {func(_ *testing.T, s *server) { s.wire = flipBit(400) }, "altered"},
		"cut off":              {func(_ *testing.T, s *server) { s.wire = cutAfter(2000) }, "ended without a word"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			if c.change != nil {
				c.change(t, s)
			}
			exporter, said := s.connectOnce(t)
			if c.want != "" {
				if !strings.Contains(said, "refused: ") || !strings.Contains(said, c.want) {
					t.Errorf("the client printed %q, want %q", brief.Of(said), c.want)
				}
				return
			}
			if want := hex.EncodeToString(exporter) + "\n40000 pongpong\n"; said != want {
				t.Errorf("the client printed %q, want %q", brief.Of(said), want)
			}
		})
	}
}

func newServer(t *testing.T) *server {
	now := time.Now()
	return &server{
		caKey: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t),
		key:   must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t),
		ca: x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign},
		leaf: x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "a server"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}},
		config: tls.Config{NextProtos: []string{"h2", "http/1.1"}},
	}
}

// issue returns the server's certificate, signed with the CA key `caKey`.
func (s *server) issue(t *testing.T, caKey *ecdsa.PrivateKey) tls.Certificate {
	t.Helper()
	der := must(x509.CreateCertificate(rand.Reader, &s.leaf, &s.ca, s.key.Public(), caKey))(t)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: s.key}
}

// connectOnce runs the client once, and returns the server's exporter and the client's output.
func (s *server) connectOnce(t *testing.T) (exporter []byte, said string) {
	t.Helper()
	ca := must(x509.CreateCertificate(rand.Reader, &s.ca, &s.ca, s.caKey.Public(), s.caKey))(t)
	roots := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca}), 0o600); err != nil {
		t.Fatal(err)
	}
	shown := s.issue(t, s.caKey)
	if s.shows != nil {
		s.shows(&shown)
	}
	s.config.Certificates = []tls.Certificate{shown}
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer l.Close()
	done := make(chan []byte, 1)
	go func() { done <- s.serve(l) }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	out, err := exec.Command(python, "-B", "-c", tls13Client, "127.0.0.1", port, roots).CombinedOutput()
	if err != nil {
		t.Fatalf("the client: %v: %s", err, out)
	}
	l.Close()
	return <-done, string(out)
}

// serve accepts one connection, reads 40,000 bytes and sends 40,000 bytes.
func (s *server) serve(l net.Listener) (exporter []byte) {
	raw, err := l.Accept()
	if err != nil {
		return nil
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(20 * time.Second))
	wire := raw
	if s.wire != nil {
		wire = s.wire(raw)
	}
	c := tls.Server(wire, &s.config)
	if c.Handshake() != nil {
		io.Copy(io.Discard, raw) // keep reading: otherwise the kernel sends a TCP reset, which discards the TLS alert
		return nil
	}
	state := c.ConnectionState()
	if exporter, err = state.ExportKeyingMaterial("EXPORTER-test", nil, 48); err != nil {
		return nil
	}
	got := make([]byte, 40000)
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, bytes.Repeat([]byte("ping"), 10000)) {
		return nil
	}
	c.Write(bytes.Repeat([]byte("pong"), 10000))
	c.Close()
	return exporter
}

// altered is a connection that calls the function `change` with the data of each write.
type altered struct {
	net.Conn
	at     int
	change func(c *altered, b []byte) (int, error)
}

func (a *altered) Write(b []byte) (int, error) {
	n, err := a.change(a, b)
	a.at += len(b)
	return n, err
}

// flipBit returns a wrapper that flips one bit of the byte at this offset of the server's output.
func flipBit(offset int) func(net.Conn) net.Conn {
	return func(c net.Conn) net.Conn {
		return &altered{Conn: c, change: func(a *altered, b []byte) (int, error) {
			b = bytes.Clone(b)
			if i := offset - a.at; i >= 0 && i < len(b) {
				b[i] ^= 1
			}
			return a.Conn.Write(b)
		}}
	}
}

// cutAfter returns a wrapper that closes the connection after this many bytes, without a TLS alert.
func cutAfter(offset int) func(net.Conn) net.Conn {
	return func(c net.Conn) net.Conn {
		return &altered{Conn: c, change: func(a *altered, b []byte) (int, error) {
			if i := offset - a.at; i < len(b) {
				a.Conn.Write(b[:max(0, i)])
				a.Conn.Close()
				return 0, io.ErrClosedPipe
			}
			return a.Conn.Write(b)
		}}
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
