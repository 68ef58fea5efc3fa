package fetch

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gangway/hub/evidence"
)

// revoke makes the revocation list of the CA `by`. The function `change` may alter the list before
// the CA signs it.
func revoke(t testing.TB, by *ca, change func(*x509.RevocationList), serials ...*big.Int) []byte {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, s := range serials {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: time.Now().Add(-time.Hour)})
	}
	if change != nil {
		change(l)
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, by.cert, by.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func listedAt(urls ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.CRLDistributionPoints = urls }
}

func checker(t *testing.T, mode CRLMode) *Fetcher {
	return newFetcher(t, Options{CRLHosts: []string{"localhost"}, CRLs: mode, AllowAddress: onlyLoopback})
}

// family issues a root, a CA certificate that the root signs, and an EK certificate that the CA
// signs. The CA certificate names the site's /root.crl as its revocation list, and the EK
// certificate names /one.crl. The test must add these lists to the site.
func family(t *testing.T, s *site) (root, one, leaf *ca) {
	t.Helper()
	root = issue(t, "root", true, nil, nil)
	one = issue(t, "one", true, root, listedAt(s.at("/root.crl", http.NotFound)))
	leaf = issue(t, "leaf", false, one, listedAt(s.at("/one.crl", http.NotFound)))
	return root, one, leaf
}

// A certificate is refused if it is on the revocation list of its own issuer, but not if it is only
// on the list of another CA.
func TestRejectsRevokedCertificates(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	root, one, leaf := family(t, s)
	other := big.NewInt(12345)
	for name, c := range map[string]struct {
		ofRoot, ofOne []*big.Int
		code          string
	}{
		"none":                 {nil, nil, ""},
		"others":               {[]*big.Int{other}, []*big.Int{other, big.NewInt(-5)}, ""},
		"the leaf":             {nil, []*big.Int{other, leaf.cert.SerialNumber}, CodeRevoked},
		"the CA":               {[]*big.Int{one.cert.SerialNumber}, nil, CodeCARevoked},
		"the leaf, by the top": {[]*big.Int{leaf.cert.SerialNumber}, nil, ""}, // the root did not issue the leaf
	} {
		s.at("/root.crl", content(revoke(t, root, nil, c.ofRoot...)))
		s.at("/one.crl", content(revoke(t, one, nil, c.ofOne...)))
		for _, mode := range []CRLMode{CRLsSoft, CRLsHard} {
			notes, refusal := checker(t, mode).Revocation(t.Context(), leaf.cert, []*x509.Certificate{one.cert, root.cert})
			code := ""
			if refusal != nil {
				code = refusal.Code
				if refusal.Reason == "" || refusal.Hint == "" {
					t.Errorf("%s: no reason or no hint", name)
				}
			}
			if code != c.code || len(notes) != 0 {
				t.Errorf("%s: refused with %q, want %q; %q", name, code, c.code, notes)
			}
		}
	}
	if notes, refusal := checker(t, CRLsOff).Revocation(t.Context(), leaf.cert, []*x509.Certificate{one.cert, root.cert}); notes != nil || refusal != nil {
		t.Error("checked though it is off")
	}
}

// The hub does not use a revocation list that is invalid, expired or signed by another CA. In mode
// soft, the verdict has a note about the list. In mode hard, the hub refuses the device.
func TestListThatIsNoGoodIsNotBelieved(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	root, one, leaf := family(t, s)
	s.at("/root.crl", content(revoke(t, root, nil)))
	impostor := issue(t, "one", true, nil, nil)
	point := func(critical bool, fields ...asn1.RawValue) func(*x509.RevocationList) {
		value, err := asn1.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: oidIssuingDistributionPoint, Critical: critical, Value: value}}
		}
	}
	flag := func(n int) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: n, Bytes: []byte{0xFF}}
	}
	spoil := func(b []byte) []byte { b[len(b)-1] ^= 1; return b }
	for name, c := range map[string]struct {
		page http.HandlerFunc
		good bool
	}{
		"good":                          {content(revoke(t, one, nil)), true},
		"for end entities":              {content(revoke(t, one, point(true, flag(1)))), true},
		"for end entities, not said so": {content(revoke(t, one, point(false, flag(1)))), true},
		"for CAs":                       {content(revoke(t, one, point(true, flag(2)))), false},
		"for some reasons":              {content(revoke(t, one, point(true, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 3, Bytes: []byte{1, 2}}))), false},
		"indirect":                      {content(revoke(t, one, point(true, flag(4)))), false},
		"for attribute certificates":    {content(revoke(t, one, point(true, flag(5)))), false},
		"of an unknown kind": {content(revoke(t, one, func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}} // delta
		})), false},
		"ended": {content(revoke(t, one, func(l *x509.RevocationList) {
			l.ThisUpdate, l.NextUpdate = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
		})), false},
		"of the future": {content(revoke(t, one, func(l *x509.RevocationList) {
			l.ThisUpdate, l.NextUpdate = time.Now().Add(time.Hour), time.Now().Add(24*time.Hour)
		})), false},
		"by another of that name": {content(revoke(t, impostor, nil)), false},
		"by another CA":           {content(revoke(t, root, nil)), false},
		"altered":                 {content(spoil(revoke(t, one, nil))), false},
		"empty":                   {content(nil), false},
		"a certificate":           {content(one.cert.Raw), false},
		"not there":               {http.NotFound, false},
		"too long":                {content(make([]byte, maxCRL+1)), false},
	} {
		s.at("/one.crl", c.page)
		notes, refusal := checker(t, CRLsSoft).Revocation(t.Context(), leaf.cert, []*x509.Certificate{one.cert, root.cert})
		if refusal != nil || (len(notes) == 0) != c.good {
			t.Errorf("%s, softly: %q, %v", name, notes, refusal)
		}
		_, refusal = checker(t, CRLsHard).Revocation(t.Context(), leaf.cert, []*x509.Certificate{one.cert, root.cert})
		if (refusal == nil) != c.good || refusal != nil && refusal.Code != evidence.CodeRevocationUnknown {
			t.Errorf("%s, hard: %v", name, refusal)
		}
	}
	// If a revocation list is invalid, the hub tries the next URL in the certificate.
	s.at("/one.crl", content(revoke(t, one, nil, leaf.cert.SerialNumber)))
	two := issue(t, "leaf", false, one, listedAt("ldap://localhost/x", s.at("/none", http.NotFound), s.at("/one.crl", content(revoke(t, one, nil)))))
	if notes, refusal := checker(t, CRLsHard).Revocation(t.Context(), two.cert, []*x509.Certificate{one.cert}); refusal != nil || len(notes) != 0 {
		t.Errorf("%q, %v", notes, refusal)
	}
	// A certificate that names no revocation list is accepted, with a note.
	none := issue(t, "leaf", false, one, nil)
	if notes, refusal := checker(t, CRLsHard).Revocation(t.Context(), none.cert, []*x509.Certificate{one.cert}); refusal != nil || len(notes) != 1 || !strings.Contains(notes[0], "names no revocation list") {
		t.Errorf("%q, %v", notes, refusal)
	}
}

// The hub caches a revocation list until the list's nextUpdate, and then fetches it again.
func TestListIsKeptUntilItsNextUpdate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	f := newFetcher(t, Options{CRLHosts: []string{"localhost"}, CRLs: CRLsHard, AllowAddress: onlyLoopback, Now: now})
	root, one, leaf := family(t, s)
	_ = root
	var revoked atomic.Bool
	s.at("/one.crl", func(w http.ResponseWriter, _ *http.Request) {
		var serials []*big.Int
		if revoked.Load() {
			serials = append(serials, leaf.cert.SerialNumber)
		}
		w.Write(revoke(t, one, func(l *x509.RevocationList) {
			l.ThisUpdate, l.NextUpdate = now().Add(-time.Minute), now().Add(6*time.Hour)
		}, serials...))
	})
	ask := func() string {
		if _, refusal := f.Revocation(t.Context(), leaf.cert, []*x509.Certificate{one.cert}); refusal != nil {
			return refusal.Code
		}
		return ""
	}
	for range 3 {
		if code := ask(); code != "" {
			t.Fatal(code)
		}
	}
	if n := s.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	revoked.Store(true)
	ahead.Store(int64(5 * time.Hour))
	if code := ask(); code != "" || s.asked.Load() != 1 {
		t.Errorf("fetched again before its nextUpdate: %q", code)
	}
	ahead.Store(int64(7 * time.Hour))
	if code := ask(); code != CodeRevoked || s.asked.Load() != 2 {
		t.Errorf("an expired list was used: %q, fetched %d times", code, s.asked.Load())
	}
}

// A serial number that is encoded as a negative number equals the unsigned number with the same
// bytes.
func TestNegativeSerialIsFoundInItsList(t *testing.T) {
	t.Parallel()
	for encoded, want := range map[int64]int64{-1: 255, -128: 128, -129: 65407, -256: 65280, 0: 0, 127: 127, 128: 128} {
		if got := unsigned(big.NewInt(encoded)); got.Int64() != want {
			t.Errorf("%d is %s", encoded, got)
		}
	}
	if !slices.Equal(unsigned(big.NewInt(-1)).Bytes(), []byte{0xFF}) {
		t.Error("no bytes")
	}
}

func FuzzRevocationList(f *testing.F) {
	one := issue(f, "one", true, nil, nil)
	f.Add(revoke(f, one, nil, big.NewInt(5)))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := &answer{body: b}
		l, err := a.list()
		if (err == nil) != (l != nil) {
			t.Fatal("neither a list nor an error, or both")
		}
		if l != nil {
			_ = fmt.Sprint(l.check(one.cert, one.cert, time.Now()), l.has(big.NewInt(5)))
		}
	})
}
