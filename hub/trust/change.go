package trust

import (
	"fmt"
	"time"

	"gangway/hub/store"
	"gangway/tcg"
)

// The kinds of the events for changes of the trust store.
const (
	EventImported = "trust.imported"
	EventRemoved  = "trust.removed"
	EventRestored = "trust.restored"
)

// maxSource is the maximum length, in characters, of the field Source that is stored with a
// certificate.
const maxSource = 200

// Import returns a change of the trust store that makes the hub trust all of `certs`. `added` are
// the certificates that this change adds: all of `certs` except those that the operator has already
// imported. If `asRoot` is true, each certificate becomes a root, even if another CA issued it. The
// caller sets the change's event.
func (s *Set) Import(certs []Certificate, asRoot bool, now time.Time) (change store.TrustChange, added []Entry) {
	for _, e := range NewSet(certs...).Entries() {
		e.Root = e.Root || asRoot
		had, there := s.entries[e.Fingerprint]
		// Store a certificate even if it is built in, because the hub may be restarted with
		// --no-builtin-roots, and must trust it then.
		if there && had.Stored && !had.Distrusted && (had.Root || !e.Root) {
			continue
		}
		e.BuiltIn, e.Stored, e.Added = had.BuiltIn, true, now
		e.Source = ImportSource(Shortened(e.Source))
		change.Put = append(change.Put, e.row(e.kind(), now))
		added = append(added, e)
	}
	return change, added
}

// Remove returns the change that removes an imported certificate from the trust store. The caller
// sets the change's event.
func (e *Entry) Remove() store.TrustChange {
	return store.TrustChange{Remove: []store.Hash{e.Fingerprint}}
}

// Distrust returns the change that marks a certificate as distrusted. The caller sets the change's
// event.
func (e *Entry) Distrust(now time.Time) store.TrustChange {
	return store.TrustChange{Put: []store.TrustedCertificate{e.row(store.Distrusted, now)}}
}

// Restore returns the change that ends the distrust of a certificate. The certificate becomes a
// root or a link again, as it was before. The caller sets the change's event.
func (e *Entry) Restore(now time.Time) store.TrustChange {
	if e.BuiltIn {
		return e.Remove()
	}
	return store.TrustChange{Put: []store.TrustedCertificate{e.row(e.kind(), now)}}
}

// Described returns a certificate's name, maker and SHA-256 in the words of the audit trail.
func (c *Certificate) Described() string {
	return fmt.Sprintf("%q of %s (SHA-256 %x…)", c.Name(), c.Maker, c.Fingerprint[:8])
}

// NewEvent returns an event about a change of the trust store, which does not name who made the
// change yet. The format must not end with a full stop.
func NewEvent(kind string, now time.Time, format string, args ...any) store.Event {
	return store.Event{Time: now, Kind: kind, Message: tcg.Printable(fmt.Sprintf(format, args...)) + "."}
}

// Shortened returns a certificate's source without control characters. If it is too long, only the
// last maxSource characters remain.
func Shortened(source string) string {
	source = tcg.Printable(source)
	if r := []rune(source); len(r) > maxSource {
		return "…" + string(r[len(r)-maxSource:])
	}
	return source
}

// kind returns the decision that makes the hub trust the certificate.
func (c *Certificate) kind() store.TrustKind {
	if c.Root {
		return store.TrustedRoot
	}
	return store.TrustedLink
}

func (e *Entry) row(kind store.TrustKind, now time.Time) store.TrustedCertificate {
	return store.TrustedCertificate{Fingerprint: e.Fingerprint, DER: e.Cert.Raw, Kind: kind, Source: e.Source, Added: now}
}
