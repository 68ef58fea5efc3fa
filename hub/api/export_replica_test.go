package api

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"testing"

	"gangway/hub/store"
	"gangway/wire"
)

// OnDuty returns the context for periodic work, if this replica does the periodic work.
func (s *Server) OnDuty(ctx context.Context) (context.Context, bool) { return s.lease.duty(ctx) }

// TryLease tries at once to take the lease for the periodic work.
func (s *Server) TryLease(ctx context.Context) error { return s.lease.try(ctx) }

// LeaseName is the name of the lease for the periodic work.
const LeaseName = leaseName

// ShareClaimants immediately tells the other replicas which machines with a claim code this replica
// knows.
func (s *Server) ShareClaimants(ctx context.Context) { s.shareClaimants(ctx) }

// NoteClaimants makes this replica remember n machines with a claim code.
func (s *Server) NoteClaimants(t testing.TB, n int) {
	for range n {
		key := make([]byte, ed25519.PublicKeySize)
		rand.Read(key)
		code, err := wire.ClaimCode(wire.NewID(), key)
		if err != nil {
			t.Fatal(err)
		}
		s.claimants.note(code, "192.0.2.1", s.cfg.Now())
	}
}

// Limits of a message to other replicas.
const (
	NewsChanges = newsChanges
	NewsOwners  = newsOwners
)

// Outbox collects news for other replicas.
type Outbox struct{ o outbox }

// Add adds a change.
func (o *Outbox) Add(e store.Event) { o.o.add(e.Owner, liveChange{Device: e.Device, Kind: e.Kind}) }

// Take returns what a message to the other replicas would contain. `all` reports whether every open
// page must load its parts again. `owners` is the number of accounts in the message, `many` is the
// number of these accounts that have too many changes to list, so that all parts of their pages
// must be loaded again, and `changes` is the number of listed changes.
func (o *Outbox) Take() (all bool, owners, many, changes int) {
	n, _ := o.o.take()
	for _, list := range n.Owners {
		if len(list) == 0 {
			many++
		}
		changes += len(list)
	}
	return n.All, len(n.Owners), many, changes
}

// Mailbox reads the messages of other replicas.
type Mailbox = mailbox

// NewMailbox returns the mailbox of a replica.
func NewMailbox(s store.Replicas, replica string) *Mailbox {
	return &mailbox{store: s, replica: replica}
}

// News is the body of a message.
type News = news

// MaxPartials is how many unfinished resumable uploads an owner may have.
const MaxPartials = maxPartials
