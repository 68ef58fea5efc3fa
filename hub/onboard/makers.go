package onboard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"gangway/hub/evidence"
	"gangway/hub/trust"
)

// makers are the TPM makers' certificates as of one version of the hub's
// configuration.
type makers struct {
	now atomic.Pointer[madeTrust]

	mu   sync.Mutex // held while a set is made, so that one request makes it for all
	base *trust.Set
}

type madeTrust struct {
	version int64
	trust   *evidence.Trust
}

// SetTrust says which makers' certificates there are before the operator's
// word in the store is heard. It may be called at any time.
func (s *Service) SetTrust(base *trust.Set) {
	s.makers.mu.Lock()
	defer s.makers.mu.Unlock()
	s.makers.base = base
	s.makers.now.Store(nil)
}

// trust is what requests are judged by at a version of the configuration,
// which the caller has just read: what the operator removes lets no device in
// any more, whichever replica it was told to. When the store cannot say, nobody
// is judged.
func (s *Service) trust(ctx context.Context, version int64) (*evidence.Trust, error) {
	m := &s.makers
	if now := m.now.Load(); now != nil && now.version == version {
		return now.trust, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// Before the rows: rows that are newer than their version are read again
	// by the next request, older ones would stay.
	version, err := s.Store.ConfigVersion(ctx)
	if err != nil {
		return nil, fmt.Errorf("onboard: makers' certificates: %w", err)
	}
	if now := m.now.Load(); now != nil && now.version == version {
		return now.trust, nil
	}
	if m.base == nil {
		return nil, errors.New("onboard: no makers' certificates were set")
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
	m.now.Store(&madeTrust{version, made})
	return made, nil
}
