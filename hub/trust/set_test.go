package trust_test

import (
	"crypto/sha256"
	"crypto/x509"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/hub/trust"
)

func word(c *ca, kind store.TrustKind) store.TrustedCertificate {
	return store.TrustedCertificate{Fingerprint: sha256.Sum256(c.cert.Raw), DER: c.cert.Raw, Kind: kind, Source: trust.ImportSource("x.pem"), Added: time.Now()}
}

// WithStored applies the operator's stored decisions to a set. A decision can distrust a
// certificate, add one, or turn a link into a root, but it cannot turn a root into a link.
func TestOperatorsWordWins(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil, nil)
	link := newCA(t, "Link", root, nil)
	given := trust.NewSet(trust.FromX509("built in", []*x509.Certificate{root.cert}, []*x509.Certificate{link.cert})...)
	empty := trust.NewSet()
	for _, c := range []struct {
		name                    string
		base                    *trust.Set
		words                   []store.TrustedCertificate
		roots, links, distrusts int
	}{
		{"nothing said", given, nil, 1, 1, 0},
		{"root distrusted", given, []store.TrustedCertificate{word(root, store.Distrusted)}, 0, 1, 1},
		{"link distrusted", given, []store.TrustedCertificate{word(link, store.Distrusted)}, 1, 0, 1},
		{"link called a root", given, []store.TrustedCertificate{word(link, store.TrustedRoot)}, 2, 0, 0},
		{"root that is there anyway called a link", given, []store.TrustedCertificate{word(root, store.TrustedLink)}, 1, 1, 0},
		{"both added", empty, []store.TrustedCertificate{word(root, store.TrustedRoot), word(link, store.TrustedLink)}, 1, 1, 0},
		{"root added as a link", empty, []store.TrustedCertificate{word(root, store.TrustedLink)}, 0, 1, 0},
		{"unknown one distrusted", empty, []store.TrustedCertificate{word(root, store.Distrusted)}, 0, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			set, err := c.base.WithStored(c.words)
			if err != nil {
				t.Fatal(err)
			}
			a := set.Anchors()
			if len(a.Roots) != c.roots || len(a.Intermediates) != c.links || len(a.Distrusted) != c.distrusts {
				t.Errorf("%d roots, %d links, %d distrusted", len(a.Roots), len(a.Intermediates), len(a.Distrusted))
			}
			if roots, links := set.Count(); roots != c.roots || links != c.links {
				t.Errorf("counted %d roots and %d links", roots, links)
			}
			for _, r := range a.Roots {
				if a.Origins[sha256.Sum256(r.Raw)] == "" {
					t.Errorf("%s has no origin", r.Subject)
				}
			}
		})
	}
	if roots, links := given.Count(); roots != 1 || links != 1 {
		t.Error("the base set was changed")
	}
}

// If a stored decision cannot be read, WithStored must return an error, because the hub must not
// judge devices by only a part of the operator's decisions.
func TestStoredWordsThatCannotBeReadAreAnError(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil, nil)
	leaf := newCA(t, "Leaf", root, func(c *x509.Certificate) { c.IsCA = false })
	for name, change := range map[string]func(*store.TrustedCertificate){
		"another certificate": func(r *store.TrustedCertificate) { r.DER = leaf.cert.Raw },
		"another fingerprint": func(r *store.TrustedCertificate) { r.Fingerprint[0] ^= 1 },
		"an unknown kind":     func(r *store.TrustedCertificate) { r.Kind = "friend" },
		"no CA":               func(r *store.TrustedCertificate) { *r = word(leaf, store.TrustedRoot) },
	} {
		r := word(root, store.TrustedRoot)
		change(&r)
		if _, err := trust.NewSet().WithStored([]store.TrustedCertificate{word(root, store.TrustedRoot), r}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
