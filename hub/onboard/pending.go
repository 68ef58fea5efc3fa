package onboard

import (
	"context"
	"errors"
	"sync"

	"gangway/hub/evidence"
	"gangway/hub/store"
)

// pendingEnrolment is an enrolment that a device may activate. Only those fields of store.Enrolment
// are set that Store.EnrolmentToActivate sets, except EKCertificate.
type pendingEnrolment struct {
	store.Enrolment
	marks []store.ChipMark // see chipMarks
	// before is the request of the device's active enrolment, as Store.EnrolmentToActivate returns
	// it. If `first` is true, it is not known: the hub assumes that the device has never onboarded.
	before store.Hash
	first  bool
}

// toActivate reads an enrolment from the store, by the SHA-256 of its IDevID certificate.
func (s *Service) toActivate(ctx context.Context, idevid store.Hash) (*pendingEnrolment, error) {
	e, before, err := s.Store.EnrolmentToActivate(ctx, idevid)
	if errors.Is(err, store.ErrNotFound) {
		return nil, &evidence.Refusal{Code: CodeUnknownCert, Reason: "The hub has no record of this certificate.", Hint: "Onboard again."}
	}
	if err != nil {
		return nil, err
	}
	return &pendingEnrolment{Enrolment: e, marks: chipMarks(e), before: before}, nil
}

// pending has enrolments that this process has stored and not activated yet. Most devices activate
// an enrolment right after they receive it, so the hub need not read it again. The zero value is
// ready to use.
//
// These copies never become wrong: what they say about an enrolment does not change as long as its
// IDevID certificate is stored. Store.Activate checks in one transaction whether the enrolment may
// become active.
type pending struct {
	mu sync.Mutex
	of map[store.Hash]*pendingEnrolment // by the SHA-256 of the IDevID certificate
}

// maxPending is how many pending enrolments the hub keeps in memory. Each needs about 1 KiB.
const maxPending = 4096

// put keeps an enrolment that belongs to the request `r`. When there are too many, it forgets all
// others; the hub then reads them from the store.
func (p *pending) put(e store.Enrolment, r *evidence.Request) {
	kept := &pendingEnrolment{Enrolment: e, first: true}
	if e.EKKnown {
		kept.marks = marksOf(r.EKCertificate)
	}
	kept.EKCertificate, kept.EKLinks, kept.IAKPublic, kept.IAKCert, kept.IDevIDCert, kept.Request, kept.Verdict = nil, nil, nil, nil, nil, nil, nil
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.of) >= maxPending {
		clear(p.of)
	}
	if p.of == nil {
		p.of = make(map[store.Hash]*pendingEnrolment)
	}
	p.of[e.IDevIDHash] = kept
}

// take returns the pending enrolment with an IDevID certificate and forgets it. It returns nil if
// there is none in memory.
func (p *pending) take(idevid store.Hash) *pendingEnrolment {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.of[idevid]
	delete(p.of, idevid)
	return e
}
