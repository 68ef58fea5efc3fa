package e2e_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
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

	"gangway/device/agent"
	"gangway/hub/evidence"
	"gangway/hub/fetch"
	"gangway/hub/store"
	"gangway/hub/trust"
	"gangway/internal/hubtest"
)

// makerSite is the web site of a TPM maker. It runs on loopback with the host name localhost.
type makerSite struct {
	url   string
	asked atomic.Int32
	mu    sync.Mutex
	pages map[string][]byte
}

func newMakerSite(t *testing.T) *makerSite {
	t.Helper()
	w := &makerSite{pages: map[string][]byte{}}
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.asked.Add(1)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.pages[r.URL.Path] == nil {
			http.NotFound(rw, r)
			return
		}
		rw.Write(w.pages[r.URL.Path])
	}))
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	w.url = "http://localhost:" + port
	return w
}

func (w *makerSite) set(path string, page []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pages[path] = page
}

// onlineHub starts a hub that trusts the CA `root` and downloads certificates and revocation lists
// as the options `o` allow. It returns the hub, and a pointer to the verdict on the latest
// enrolment.
func onlineHub(t *testing.T, root *authority, o fetch.Options) (*hubtest.Hub, *atomic.Pointer[evidence.Verdict]) {
	t.Helper()
	h := hubtest.New(t, []*x509.Certificate{root.cert}, nil)
	h.Policy(t, h.Owner.ID, "version: 1\nunknown_maker: refuse\n")
	f, err := fetch.New(o)
	if err != nil {
		t.Fatal(err)
	}
	h.Service.Online = f
	var verdict atomic.Pointer[evidence.Verdict]
	h.Service.Observe = func(_ store.Enrolment, v *evidence.Verdict) { verdict.Store(v) }
	return h, &verdict
}

func loopback(a netip.AddrPort) bool { return a.Addr().IsLoopback() }

// The hub fetches the intermediate CAs of an EK certificate from the maker's site if neither the
// TPM nor the trust store has them. It fetches only from hosts that the operator allows.
func TestIntermediatesAreFetchedFromTheHostsThatTheOperatorNames(t *testing.T) {
	t.Parallel()
	w := newMakerSite(t)
	root := newAuthority(t, "root", nil)
	one := newAuthorityWith(t, "intermediate", root, nil)
	w.set("/one", one.cert.Raw)
	two := newAuthorityWith(t, "issuing", one, func(c *x509.Certificate) { c.IssuingCertificateURL = []string{w.url + "/one"} })
	w.set("/two", two.cert.Raw)
	tpm, _ := tpmCertifiedBy(t, two, func(c *x509.Certificate) { c.IssuingCertificateURL = []string{w.url + "/two"} })

	for name, o := range map[string]fetch.Options{
		"no host named":       {},
		"another host named":  {IssuerHosts: []string{"pki.maker.example"}, AllowAddress: loopback},
		"the address refused": {IssuerHosts: []string{"localhost"}}, // without AllowAddress, as in production, the hub refuses a loopback address
	} {
		h, _ := onlineHub(t, root, o)
		if _, err := onboard(t, tpm, h.Token(t, h.Owner, nil), t.TempDir()); err == nil || !strings.Contains(err.Error(), "does not chain") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := w.asked.Load(); n != 0 {
		t.Fatalf("the hub sent %d requests to a host that is not allowed", n)
	}
	allowed := fetch.Options{IssuerHosts: []string{"localhost"}, AllowAddress: loopback}
	h, verdict := onlineHub(t, root, allowed)
	if _, err := onboard(t, tpm, h.Token(t, h.Owner, nil), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if notes := strings.Join(verdict.Load().Notes, "\n"); strings.Count(notes, "was fetched from localhost") != 2 {
		t.Errorf("the verdict does not name both fetched certificates: %s", notes)
	}
	// The hub must not trust a fetched certificate as a root.
	w.set("/one", root.cert.Raw)
	stranger := newAuthority(t, "root", nil)
	h, _ = onlineHub(t, stranger, allowed)
	if _, err := onboard(t, tpm, h.Token(t, h.Owner, nil), t.TempDir()); err == nil || !strings.Contains(err.Error(), "does not chain") {
		t.Errorf("a fetched root: %v", err)
	}
}

func TestRevokedTPMIsRefused(t *testing.T) {
	t.Parallel()
	w := newMakerSite(t)
	root := newAuthority(t, "root", nil)
	one := newAuthorityWith(t, "issuing", root, func(c *x509.Certificate) { c.CRLDistributionPoints = []string{w.url + "/root.crl"} })
	tpm, leaf := tpmCertifiedBy(t, one, func(c *x509.Certificate) { c.CRLDistributionPoints = []string{w.url + "/one.crl"} })
	list := func(by *authority, serials ...*big.Int) []byte {
		l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
		for _, s := range serials {
			l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: time.Now()})
		}
		der, err := x509.CreateRevocationList(rand.Reader, l, by.cert, by.key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	try := func(mode fetch.CRLMode) (string, *evidence.Verdict) {
		h, verdict := onlineHub(t, root, fetch.Options{CRLHosts: []string{"localhost"}, CRLs: mode, AllowAddress: loopback})
		// The trust store has only the root and the issuing CA.
		h.Service.SetTrust(trust.NewSet(trust.FromX509("test", []*x509.Certificate{root.cert}, []*x509.Certificate{one.cert})...))
		if _, err := onboard(t, tpm, h.Token(t, h.Owner, nil), t.TempDir()); err != nil {
			return err.Error(), nil
		}
		return "", verdict.Load()
	}
	// If the maker's site has no revocation list, the verdict says so.
	if refused, v := try(fetch.CRLsSoft); refused != "" || !strings.Contains(strings.Join(v.Notes, " "), "the hub could not check whether the EK certificate is revoked") {
		t.Errorf("without a list, soft mode: %q", refused)
	}
	w.set("/root.crl", list(root))
	w.set("/one.crl", list(one))
	if refused, v := try(fetch.CRLsHard); refused != "" || v.Checks[len(v.Checks)-1].Check != "ek-revocation" {
		t.Errorf("not revoked: %q", refused)
	}
	w.set("/one.crl", list(one, leaf.SerialNumber))
	for _, mode := range []fetch.CRLMode{fetch.CRLsSoft, fetch.CRLsHard} {
		if refused, _ := try(mode); !strings.Contains(refused, "has revoked the TPM's EK certificate") {
			t.Errorf("revoked, mode %v: %q", mode, refused)
		}
	}
	w.set("/one.crl", list(one))
	w.set("/root.crl", list(root, one.cert.SerialNumber))
	if refused, _ := try(fetch.CRLsSoft); !strings.Contains(refused, "which is in the chain of the EK certificate") {
		t.Errorf("its CA revoked: %q", refused)
	}
}

// With --check-crls hard, a device waits as long as the maker's site has no revocation list. After
// the list appears, the device onboards without any action by a person.
func TestDeviceWaitsForTheRevocationList(t *testing.T) {
	t.Parallel()
	w := newMakerSite(t)
	root := newAuthority(t, "root", nil)
	tpm, _ := tpmCertifiedBy(t, root, func(c *x509.Certificate) { c.CRLDistributionPoints = []string{w.url + "/root.crl"} })
	var ahead atomic.Int64
	h, _ := onlineHub(t, root, fetch.Options{
		CRLHosts: []string{"localhost"}, CRLs: fetch.CRLsHard, AllowAddress: loopback,
		Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateRevocationList(rand.Reader, l, root.cert, root.key)
	if err != nil {
		t.Fatal(err)
	}
	waited := false
	a, err := agent.New(agent.Config{
		Token: h.Token(t, h.Owner, nil), TPM: tpm.Address(), StateDir: t.TempDir(), Model: "test machine", Serial: "0001",
		Progress: func(s agent.Progress) {
			if s.Name == "waiting" && strings.Contains(s.Detail, "could not check whether") {
				waited = true
				w.set("/root.crl", der)
				ahead.Store(int64(time.Hour)) // longer than the hub caches a failed download
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := a.Onboard(ctx); err != nil || !waited {
		t.Errorf("the device waited: %v; error %v", waited, err)
	}
}
