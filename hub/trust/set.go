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

// Entry is a certificate and what is said of it.
type Entry struct {
	Certificate
	Distrusted bool      // in no chain, wherever it comes from
	BuiltIn    bool      // it came with Gangway, whatever was said since
	Stored     bool      // the operator said something of it, in the store
	Added      time.Time // when, if Stored
}

// Set is a set of makers' certificates. It never changes.
type Set struct{ entries map[store.Hash]Entry }

// NewSet makes a set. Of a certificate that comes twice the first counts, and
// it is a root if one of the two is.
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

// FromX509 turns certificates that a program has at hand into ones for a set:
// roots are roots by its word.
func FromX509(source string, roots, links []*x509.Certificate) []Certificate {
	var out []Certificate
	for i, list := range [][]*x509.Certificate{roots, links} {
		for _, c := range list {
			out = append(out, Certificate{Cert: c, Fingerprint: sha256.Sum256(c.Raw), Root: i == 0, Maker: maker(c, ""), Source: source})
		}
	}
	return out
}

// WithStored returns the set as the operator's word in the store makes it. That word
// wins over everything: what it distrusts is out, and what it calls a root or a
// link is one. A row that cannot be read is an error: nobody should be let in,
// nor refused, by half of what the operator said.
func (s *Set) WithStored(rows []store.TrustedCertificate) (*Set, error) {
	out := &Set{entries: maps.Clone(s.entries)}
	for _, r := range rows {
		if sha256.Sum256(r.DER) != r.Fingerprint {
			return nil, fmt.Errorf("trust: the stored certificate %x is not what its fingerprint says", r.Fingerprint)
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
			e.Root = e.Root && there // a link by the operator, unless it is a root anyway
		default:
			return nil, fmt.Errorf("trust: the stored certificate %x is of the unknown kind %q", r.Fingerprint, r.Kind)
		}
		out.entries[r.Fingerprint] = e
	}
	return out, nil
}

// Entry finds a certificate.
func (s *Set) Entry(f store.Hash) (Entry, bool) {
	e, ok := s.entries[f]
	return e, ok
}

// Entries lists all, by maker, name and fingerprint.
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

// Count says how many roots and links there are, without the distrusted.
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

// Anchors is what evidence is judged by.
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

// importOf begins the Source of what was imported.
const importOf = "import of "

// ImportSource is the Source of what is imported from a file.
func ImportSource(file string) string { return importOf + file }
