package trust

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/store"
)

// Entry is a certificate of a Set, with its trust state.
type Entry struct {
	Certificate
	Distrusted bool      // refused in every chain
	BuiltIn    bool      // the certificate is built in; true also if the operator changed its state
	Stored     bool      // the database has the operator's decision on the certificate
	Added      time.Time // when the operator's decision was stored; zero if Stored is false
}

// Set is an immutable set of TPM makers' certificates.
type Set struct{ entries map[store.Hash]Entry }

// NewSet makes a set. If a certificate occurs more than once in `certs`, the first occurrence
// counts, except that the certificate is a root if any occurrence is one.
func NewSet(certs ...Certificate) *Set {
	s := &Set{entries: make(map[store.Hash]Entry, len(certs))}
	for _, c := range certs {
		e, there := s.entries[c.Fingerprint]
		if !there {
			e = Entry{Certificate: c, BuiltIn: c.Source == BuiltInSource}
		}
		e.Root = e.Root || c.Root
		s.entries[c.Fingerprint] = e
	}
	return s
}

// FromX509 converts parsed certificates for NewSet. All certificates in `roots` become roots, even
// if they are not self-signed.
func FromX509(source string, roots, links []*x509.Certificate) []Certificate {
	var out []Certificate
	for i, list := range [][]*x509.Certificate{roots, links} {
		for _, c := range list {
			out = append(out, Certificate{Cert: c, Fingerprint: sha256.Sum256(c.Raw), Root: i == 0, Maker: maker(c, ""), Source: source})
		}
	}
	return out
}

// WithStored applies the operator's decisions, `rows`, to a copy of the set, and returns the copy.
// A decision distrusts a certificate, or adds it as a root or as a link. It can turn a link of the
// set into a root, but not a root into a link. An unreadable decision is an error, because the hub
// must not judge devices by only a part of the operator's decisions.
func (s *Set) WithStored(rows []store.TrustedCertificate) (*Set, error) {
	out := &Set{entries: maps.Clone(s.entries)}
	for _, r := range rows {
		if sha256.Sum256(r.DER) != r.Fingerprint {
			return nil, fmt.Errorf("trust: the stored certificate %x does not match its fingerprint", r.Fingerprint)
		}
		e, there := out.entries[r.Fingerprint]
		if !there {
			c, err := Parse(r.DER, strings.TrimPrefix(r.Source, importOf))
			if err != nil {
				return nil, fmt.Errorf("trust: the stored certificate %x: %w", r.Fingerprint, err)
			}
			e.Certificate = c
			e.Source = r.Source
		}
		e.Stored, e.Added = true, r.Added
		switch r.Kind {
		case store.Distrusted:
			e.Distrusted = true
		case store.TrustedRoot:
			e.Root = true
		case store.TrustedLink:
			e.Root = e.Root && there // a root of the set stays a root if the operator added the same certificate as a link
		default:
			return nil, fmt.Errorf("trust: the stored certificate %x has the unknown kind %q", r.Fingerprint, r.Kind)
		}
		out.entries[r.Fingerprint] = e
	}
	return out, nil
}

// Entry returns the certificate with the fingerprint `f`.
func (s *Set) Entry(f store.Hash) (Entry, bool) {
	e, ok := s.entries[f]
	return e, ok
}

// Entries returns all certificates, ordered by maker, name and fingerprint.
func (s *Set) Entries() []Entry {
	return slices.SortedFunc(maps.Values(s.entries), func(a, b Entry) int {
		if c := strings.Compare(strings.ToLower(a.Maker), strings.ToLower(b.Maker)); c != 0 {
			return c
		}
		if c := strings.Compare(a.Name(), b.Name()); c != 0 {
			return c
		}
		return bytes.Compare(a.Fingerprint[:], b.Fingerprint[:])
	})
}

// Count returns the numbers of roots and links, not counting distrusted certificates.
func (s *Set) Count() (roots, links int) {
	for _, e := range s.entries {
		switch {
		case e.Distrusted:
		case e.Root:
			roots++
		default:
			links++
		}
	}
	return roots, links
}

// Anchors returns the set in the form that package evidence uses.
func (s *Set) Anchors() evidence.Anchors {
	a := evidence.Anchors{Origins: make(map[[32]byte]string)}
	for _, e := range s.Entries() {
		switch {
		case e.Distrusted:
			a.Distrusted = append(a.Distrusted, e.Cert)
		case e.Root:
			a.Roots = append(a.Roots, e.Cert)
			a.Origins[e.Fingerprint] = e.Source
		default:
			a.Intermediates = append(a.Intermediates, e.Cert)
		}
	}
	return a
}

// importOf is the beginning of the Source of an imported certificate.
const importOf = "import of "

// ImportSource returns the Source of certificates that are imported from a file.
func ImportSource(file string) string { return importOf + file }
