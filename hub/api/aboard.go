package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/store"
)

// The hub accepted each device because it trusted the certificates of the TPM's maker. So, after a
// change of the trust store, the hub scans all devices and counts those whose certificates it no
// longer trusts. These devices keep their access. After a restart, the scan continues where it
// stopped.

const (
	// scanInSweep is the number of devices that each of the hub's periodic sweeps examines. An
	// examination verifies a chain of certificates, which takes about a millisecond.
	scanInSweep = 2000
	scanPage    = 200
	// scanAgain is the time after which the hub repeats a scan that found devices with certificates
	// that are no longer trusted, because the owners may have deleted these devices.
	scanAgain = time.Hour
)

// trustScan is the state of the scan.
type trustScan struct {
	Trust string    `json:"trust"` // trustVersion of the trust store that the scan uses
	Done  bool      `json:"done"`
	Ended time.Time `json:"ended"`
	// Owner and After name the last device that was examined: Owner is the nick of the device's
	// owner, and After is the device's own nick.
	Owner    string `json:"owner"`
	After    string `json:"after"`
	Examined int    `json:"examined"`
	Counted  int    `json:"counted"` // devices that the present scan has found
	Found    int    `json:"found"`   // devices that the last complete scan found, or Counted if that is more
}

func (s *Server) trustScan(ctx context.Context) (t trustScan, err error) {
	text, err := s.cfg.Store.TrustScan(ctx)
	if err != nil || text == nil {
		return t, err
	}
	if err := json.Unmarshal(text, &t); err != nil {
		return trustScan{}, fmt.Errorf("hub: the stored state of the scan after a change of trust cannot be read: %w", err)
	}
	return t, nil
}

// scanTrust continues the scan, or begins a new scan if the trust store has changed. It stops soon
// after it has examined `most` devices.
func (s *Server) scanTrust(ctx context.Context, most int) error {
	makers, err := s.cfg.Onboard.Makers(ctx)
	if err != nil {
		return err
	}
	t, err := s.trustScan(ctx)
	if err != nil {
		return err
	}
	switch version := trustVersion(makers.Set); {
	case t.Trust != version:
		t = trustScan{Trust: version, Found: t.Found}
	case t.Done && t.Found > 0 && s.cfg.Now().Sub(t.Ended) >= scanAgain:
		t = trustScan{Trust: version, Found: t.Found}
	case t.Done:
		return nil
	}
	if err := s.scanDevices(ctx, &t, most); err != nil {
		return err
	}
	t.Found = max(t.Found, t.Counted)
	if t.Done {
		t.Found, t.Ended = t.Counted, s.cfg.Now()
	}
	text, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return s.cfg.Store.SetTrustScan(ctx, text)
}

// scanDevices examines devices, in pages of scanPage, until it has examined at least `most` of
// them. If it has examined the last device, it sets t.Done.
func (s *Server) scanDevices(ctx context.Context, t *trustScan, most int) error {
	for begun := t.Examined; t.Examined-begun < most; {
		owner, found, err := s.ownerAtOrAfter(ctx, t)
		if err != nil {
			return err
		}
		if !found {
			t.Done = true
			return nil
		}
		list, err := s.cfg.Store.Devices(ctx, owner.ID, t.After, scanPage)
		if err != nil {
			return err
		}
		for i := range list {
			lost, err := s.lostTrust(ctx, &list[i])
			if err != nil {
				return err
			}
			if lost {
				t.Counted++
			}
			t.Examined++
			t.After = list[i].Nick
		}
		if len(list) < scanPage { // the owner has no more devices
			t.After = ""
		}
	}
	return nil
}

// ownerAtOrAfter returns the owner whose devices are examined now. If the previous owner has no
// more devices (t.After is empty), it goes on to the next owner with devices.
func (s *Server) ownerAtOrAfter(ctx context.Context, t *trustScan) (o store.OwnerRow, found bool, err error) {
	if t.After != "" {
		a, err := s.cfg.Store.AccountByNickOrEmail(ctx, t.Owner)
		if err == nil {
			return store.OwnerRow{ID: a.ID, Nick: a.Nick}, true, nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return o, false, err
		}
		t.After = "" // the account was deleted meanwhile
	}
	for {
		owners, err := s.cfg.Store.Owners(ctx, t.Owner, ownersOnPage)
		if err != nil {
			return o, false, err
		}
		for _, o := range owners {
			t.Owner = o.Nick
			if o.Devices > 0 {
				return o, true, nil
			}
		}
		if len(owners) < ownersOnPage {
			return o, false, nil
		}
	}
}

// lostTrust reports whether the hub no longer trusts the device's certificates from the TPM's
// maker. The hub trusted these certificates when it accepted the device.
func (s *Server) lostTrust(ctx context.Context, d *store.Device) (bool, error) {
	if d.Enrolment == (store.Hash{}) { // without a TPM
		return false, nil
	}
	e, err := s.cfg.Store.Enrolment(ctx, d.Enrolment)
	if errors.Is(err, store.ErrNotFound) || err == nil && len(e.EKCertificate) == 0 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var v evidence.Verdict
	if err := json.Unmarshal(e.Verdict, &v); err != nil || !v.Passed("ek-chain") {
		return false, nil // the owner approved the TPM without a trusted certificate
	}
	chain, err := s.cfg.Onboard.MakerChain(ctx, e)
	return err == nil && chain == nil, err
}
