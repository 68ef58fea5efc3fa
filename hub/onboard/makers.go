package onboard

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"gangway/hub/evidence"
	"gangway/hub/store"
	"gangway/hub/trust"
	"gangway/tcg"
)

// makers caches the TPM makers' certificates of one config version.
type makers struct {
	cached atomic.Pointer[cachedTrust]

	mu   sync.Mutex // locked while the cache is filled, so that one request fills the cache for all requests
	base *trust.Set
}

type cachedTrust struct {
	version int64
	trust   *evidence.Trust
	set     *trust.Set // the certificates from which the field `trust` was made
}

// Makers are the TPM makers' certificates in force.
type Makers struct {
	Set   *trust.Set
	Trust *evidence.Trust
}

// Makers returns the makers' certificates in force.
func (s *Service) Makers(ctx context.Context) (*Makers, error) {
	version, err := s.Store.ConfigVersion(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := s.trust(ctx, version); err != nil {
		return nil, err
	}
	c := s.makers.cached.Load() // the method `trust` has filled the cache; a cache of a later version is also correct
	if c == nil {
		return nil, errors.New("onboard: the makers' certificates are being changed; try again")
	}
	return &Makers{c.set, c.trust}, nil
}

// TryMakers returns the makers' certificates in force, and those that would be in force after a
// change of the trust store. It changes nothing.
func (s *Service) TryMakers(ctx context.Context, change store.TrustChange) (now, would *Makers, err error) {
	if now, err = s.Makers(ctx); err != nil {
		return nil, nil, err
	}
	rows, err := s.Store.TrustedCertificates(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("onboard: makers' certificates: %w", err)
	}
	rows = slices.DeleteFunc(rows, func(row store.TrustedCertificate) bool {
		return slices.Contains(change.Remove, row.Fingerprint) ||
			slices.ContainsFunc(change.Put, func(put store.TrustedCertificate) bool { return put.Fingerprint == row.Fingerprint })
	})
	s.makers.mu.Lock()
	base := s.makers.base
	s.makers.mu.Unlock()
	set, err := base.WithStored(append(rows, change.Put...))
	if err != nil {
		return nil, nil, err
	}
	made, err := evidence.NewTrustOf(set.Anchors())
	if err != nil {
		return nil, nil, err
	}
	return now, &Makers{set, made}, nil
}

// SetTrust sets the base of the trust store: the makers' certificates before the operator's
// decisions. The Service applies the decisions in the store to this base. SetTrust may be called at
// any time.
func (s *Service) SetTrust(base *trust.Set) {
	s.makers.mu.Lock()
	defer s.makers.mu.Unlock()
	s.makers.base = base
	s.makers.cached.Store(nil)
}

// trust returns the trusted makers. `version` is the result of Store.ConfigVersion. The caller has
// just read it, or will store nothing if it has changed, so once the operator has removed a CA
// certificate, no replica accepts a device because of it. If the store cannot be read, trust
// returns an error, and the hub judges no request.
func (s *Service) trust(ctx context.Context, version int64) (*evidence.Trust, error) {
	m := &s.makers
	if c := m.cached.Load(); c != nil && c.version == version {
		return c.trust, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// Read the config version first, and then the stored certificates. If the certificates change
	// in between, they are newer than the cached version, and the next request reads them again. In
	// the opposite order, outdated certificates would stay cached.
	version, err := s.Store.ConfigVersion(ctx)
	if err != nil {
		return nil, fmt.Errorf("onboard: makers' certificates: %w", err)
	}
	if c := m.cached.Load(); c != nil && c.version == version {
		return c.trust, nil
	}
	if m.base == nil {
		return nil, errors.New("onboard: no makers' certificates were set; call SetTrust first")
	}
	rows, err := s.Store.TrustedCertificates(ctx)
	if err != nil {
		return nil, fmt.Errorf("onboard: makers' certificates: %w", err)
	}
	set, err := m.base.WithStored(rows)
	if err != nil {
		return nil, err
	}
	made, err := evidence.NewTrustOf(set.Anchors())
	if err != nil {
		return nil, err
	}
	m.cached.Store(&cachedTrust{version, made, set})
	return made, nil
}

// MakerChain returns the CA certificates above an enrolment's EK certificate, with the issuer first
// and the root last, or nil if the EK certificate does not chain to a root that the hub trusts now.
// A certificate that has expired since the enrolment counts as valid.
func (s *Service) MakerChain(ctx context.Context, e store.Enrolment) ([]*x509.Certificate, error) {
	if len(e.EKCertificate) == 0 {
		return nil, nil
	}
	cert, err := tcg.ParseEKCertificate(e.EKCertificate)
	if err != nil {
		return nil, nil // the stored verdict says what is wrong with the EK certificate
	}
	version, err := s.Store.ConfigVersion(ctx)
	if err != nil {
		return nil, err
	}
	makers, err := s.trust(ctx, version)
	if err != nil {
		return nil, err
	}
	links, _ := tcg.SplitCertificates(e.EKLinks)
	return makers.Chain(&evidence.Request{EKCertificate: cert, Chain: links}, e.Created), nil
}
