package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// The function `day` returns the start of day `n` in this test's own count of days. The hub's CA is
// valid from day 1000.
func day(n int) time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, n-1000) }

type testCA struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestCA(t *testing.T) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hub"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: day(1000), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{t, cert, key}
}

// serve starts a hub at 127.0.0.1. The hub's certificate is valid from the day `from` to the day
// `to`. The Date header of the hub's answers has the day `today`.
func (ca *testCA) serve(from, to, today int, change func(*x509.Certificate)) *httptest.Server {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "tls"}, NotBefore: day(from), NotAfter: day(to),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", day(today).Format(http.TimeFormat))
		io.WriteString(w, "{}")
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // the tests provoke handshake errors
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	ca.t.Cleanup(s.Close)
	return s
}

// The method `ask` sends a request to the hub at `url` from a machine whose clock shows `clock`. It
// returns the time to which the agent set the clock because of the hub's answer, or the zero time
// if the agent did not set the clock.
func (ca *testCA) ask(url string, clock time.Time) (set time.Time, err error) {
	ca.t.Helper()
	h, err := newHub(newAddresses([]string{url}, ""), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})), nil)
	if err != nil {
		ca.t.Fatal(err)
	}
	defer h.close()
	h.now = func() time.Time { return clock }
	h.clock = &clockSetter{set: func(t time.Time) error { set = t; return nil }, say: func(time.Time, time.Time, error) {}}
	_, err = h.send(ca.t.Context(), "GET", "/", "", nil)
	blobs := h.newBlobClient(h.url()) // a second kind of client, which must verify the hub in the same way
	defer blobs.CloseIdleConnections()
	resp, other := blobs.Get(url)
	if other == nil {
		resp.Body.Close()
	}
	if (err == nil) != (other == nil) {
		ca.t.Errorf("asked %v, downloaded %v", err, other)
	}
	return set, err
}

// A machine without a clock, or with a clock in another century, reaches its hub. The hub's answer
// then sets the machine's clock.
func TestWrongClockDoesNotKeepTheHubOut(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	s := ca.serve(1500, 1600, 1550, nil)
	for name, clock := range map[string]time.Time{
		"1970": time.Unix(0, 0), "before the hub": day(10), "the firmware's day": day(1200), "2099": time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), "an hour behind": day(1550).Add(-time.Hour),
	} {
		set, err := ca.ask(s.URL, clock)
		if err != nil || !set.Equal(day(1550)) {
			t.Errorf("%s: %v, set to %s", name, err, set)
		}
	}
	for name, clock := range map[string]time.Time{"right": day(1550), "a day ahead": day(1551), "a minute behind": day(1550).Add(-time.Minute)} {
		if set, err := ca.ask(s.URL, clock); err != nil || !set.IsZero() {
			t.Errorf("%s: %v, set to %s", name, err, set)
		}
	}
}

// If the machine's clock is plausible, the machine refuses a hub certificate that has expired. If
// the clock is clearly wrong, the machine does not compare it with the certificate's dates.
// Whatever the clock shows, the machine refuses a certificate that another CA issued, or that is
// for another host or for a client.
func TestWrongClockExcusesNothingButDates(t *testing.T) {
	t.Parallel()
	ca, other := newTestCA(t), newTestCA(t)
	for name, c := range map[string]struct {
		s     *httptest.Server
		clock time.Time
		want  string
	}{
		"expired":              {ca.serve(1500, 1600, 1550, nil), day(1700), "expired"},
		"another CA's, 1970":   {other.serve(1500, 1600, 1550, nil), time.Unix(0, 0), "unknown authority"},
		"another host's, 1970": {ca.serve(1500, 1600, 1550, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 2)} }), time.Unix(0, 0), "127.0.0.1"},
		"a client's, 1970":     {ca.serve(1500, 1600, 1550, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), time.Unix(0, 0), "incompatible key usage"},
		"another's, later":     {other.serve(1500, 1600, 1550, nil), day(1550), "unknown authority"},
	} {
		set, err := ca.ask(c.s.URL, c.clock)
		var wrong *tls.CertificateVerificationError
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if !set.IsZero() {
			t.Errorf("%s: the clock was set to %s", name, set)
		}
	}
}

// Attack: a thief has an old certificate of the hub, with its key, and answers the machine's
// requests. These answers cannot set a plausible clock back, and cannot set any clock to a date
// after the certificate's expiry.
func TestStolenCertificateSetsNoClockBackOrBeyondIt(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	for name, c := range map[string]struct {
		today int
		clock time.Time
	}{
		"back":                    {1510, day(1590)},
		"beyond the certificate":  {1700, day(1550)},
		"before the certificate":  {1400, time.Unix(0, 0)},
		"beyond it, for no clock": {30000, time.Unix(0, 0)},
		"before the CA, for 2099": {500, time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if set, err := ca.ask(ca.serve(1500, 1600, c.today, nil).URL, c.clock); err != nil || !set.IsZero() {
			t.Errorf("%s: %v, set to %s", name, err, set)
		}
	}
}
