package onboard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/policy"
	"gangway/hub/store"
)

// settings caches the policies of one value of Store.ConfigVersion. The first request that needs a
// policy reads it. When ConfigVersion increases, the hub drops all cached policies, so every
// replica applies a change of a policy to its next request.
type settings struct {
	version int64

	mu     sync.Mutex
	hub    *scope
	owners map[string]*inForce
	tokens map[string]*store.TokenForEK // see knownToken
}

// maxTokens is how many join tokens the hub keeps in memory.
const maxTokens = 1024

// knownToken returns a join token that the hub has read for an earlier request, or nil if it has
// not read the token since the last change of ConfigVersion, or the token has expired. The fields
// that depend on an EK are those of an EK that the hub has never seen. The token may have been
// disabled since it was read, and another replica may have changed ConfigVersion.
func (s *Service) knownToken(id string) *store.TokenForEK {
	now := s.settings.Load()
	if now == nil {
		return nil
	}
	now.mu.Lock()
	defer now.mu.Unlock()
	t := now.tokens[id]
	if t == nil || !t.Expires.After(s.Now()) {
		return nil
	}
	return t
}

// keepToken keeps a join token for knownToken, after a request has proven that it has the token.
func (s *Service) keepToken(t store.TokenForEK) {
	now := s.settings.Load()
	if now == nil || now.version != t.ConfigVersion {
		return
	}
	t.Generation, t.Waits = 0, false
	now.mu.Lock()
	defer now.mu.Unlock()
	if len(now.tokens) >= maxTokens {
		clear(now.tokens)
	}
	if now.tokens == nil {
		now.tokens = make(map[string]*store.TokenForEK)
	}
	now.tokens[t.ID] = &t
}

// scope has the settings of the hub, or those of one owner.
type scope struct {
	policy *policy.Document // nil: none
	listed bool             // the scope has an EK list
}

// inForce has the rules by which the hub judges an owner's devices.
type inForce struct {
	policy.Effective
	lists []string // store.HubWide if the hub has an EK list; the owner's id if the owner has an EK list
}

// inForce returns the rules for an owner at a config version: see trust.
func (s *Service) inForce(ctx context.Context, version int64, owner string) (_ *inForce, err error) {
	now := s.settings.Load()
	if now == nil || now.version != version {
		now = &settings{version: version, owners: make(map[string]*inForce)}
		s.settings.Store(now)
	}
	now.mu.Lock()
	defer now.mu.Unlock()
	if f := now.owners[owner]; f != nil {
		return f, nil
	}
	if now.hub == nil {
		if now.hub, err = s.scope(ctx, store.HubWide); err != nil {
			return nil, err
		}
	}
	own, err := s.scope(ctx, owner)
	if err != nil {
		return nil, err
	}
	f := &inForce{Effective: policy.Merge(now.hub.policy, own.policy)}
	if now.hub.listed {
		f.lists = append(f.lists, store.HubWide)
	}
	if own.listed {
		f.lists = append(f.lists, owner)
	}
	now.owners[owner] = f
	return f, nil
}

func (s *Service) scope(ctx context.Context, owner string) (*scope, error) {
	listed, err := s.Store.HasEKList(ctx, owner)
	if err != nil {
		return nil, err
	}
	c := &scope{listed: listed}
	p, err := s.Store.Policy(ctx, owner)
	if errors.Is(err, store.ErrNotFound) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	if c.policy, err = policy.Parse([]byte(p.Text)); err != nil {
		return nil, fmt.Errorf("onboard: read the stored policy of %q: %w", owner, err)
	}
	return c, nil
}

// Policy returns the policy in force for an owner.
func (s *Service) Policy(ctx context.Context, owner string) (policy.Effective, error) {
	version, err := s.Store.ConfigVersion(ctx)
	if err != nil {
		return policy.Effective{}, err
	}
	return s.PolicyAt(ctx, version, owner)
}

// PolicyAt is like Policy, for a caller that has read the config version for the same request.
func (s *Service) PolicyAt(ctx context.Context, version int64, owner string) (policy.Effective, error) {
	f, err := s.inForce(ctx, version, owner)
	if err != nil {
		return policy.Effective{}, err
	}
	return f.Effective, nil
}

// input returns the rules and lists for an owner's requests. All of them belong to `version`, a
// result of Store.ConfigVersion: see trust.
func (s *Service) input(ctx context.Context, version int64, owner string, now time.Time) (*evidence.Input, *inForce, error) {
	rules, err := s.inForce(ctx, version, owner)
	if err != nil {
		return nil, nil, err
	}
	makers, err := s.trust(ctx, version)
	if err != nil {
		return nil, nil, err
	}
	return &evidence.Input{Trust: makers, Policy: rules.Evidence, Now: now}, rules, nil
}

// listing looks up a request's TPM on the EK lists of the hub and of the owner. The TPM must be on
// every list that exists. Any list can require an EK certificate. Only the owner's list can approve
// an EK that has no certificate.
func (s *Service) listing(ctx context.Context, f *inForce, r *evidence.Request) (evidence.Listing, error) {
	all := evidence.Listing{Kept: len(f.lists) > 0}
	var serial []byte
	if r.EKCertificate != nil {
		serial = r.EKCertificate.Certificate.SerialNumber.Bytes()
	}
	missing := false
	for _, owner := range f.lists {
		ofHub := owner == store.HubWide
		l, err := s.Store.FindEK(ctx, owner, r.EKHash, serial)
		switch {
		case errors.Is(err, store.ErrNotFound):
			missing, all.OffHub = true, all.OffHub || ofHub
			continue
		case err != nil:
			return all, err
		case l.Key == nil:
			all.BySerial, all.HubBySerial = true, all.HubBySerial || ofHub
		case ofHub:
			all.ByHub = true
		default:
			all.ByKey = true
		}
		if l.Note != "" {
			all.Note = l.Note
		}
		all.CertificateRequired = all.CertificateRequired || l.CertificateRequired
	}
	if missing {
		return evidence.Listing{Kept: true, OffHub: all.OffHub, HubBySerial: all.HubBySerial, CertificateRequired: all.CertificateRequired}, nil
	}
	return all, nil
}
