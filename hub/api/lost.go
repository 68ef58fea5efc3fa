package api

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"gangway/hub/onboard"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/wire"
)

// clockSkew is the largest possible difference between the hub's clock before a restore and its
// clock after the restore.
const clockSkew = 10 * time.Minute

// lostIdentity returns the identity in a verified client certificate, if the hub issued the
// certificate after the backup and before the backup was restored. For any other certificate it
// returns nil. If the hub has no record of a certificate that it issued before the backup, the
// restore is not the cause: the certificate was never activated, so its enrolment expired.
func (s *Server) lostIdentity(leaf *x509.Certificate) *pki.Identity {
	restore := s.cfg.Restore
	if restore == nil {
		return nil
	}
	id, err := pki.ReadIdentity(leaf)
	if err != nil || id.Issued.Before(restore.Backup.Add(-onboard.PendingFor-clockSkew)) || id.Issued.After(restore.Time.Add(clockSkew)) {
		return nil
	}
	return &id
}

// noteLost records that a device has connected whose rows were lost in a restore, and tells its
// owner.
func (s *Server) noteLost(r *http.Request, id *pki.Identity, certificate store.Hash) error {
	now, owner := s.cfg.Now(), strings.TrimPrefix(id.OwnerPRN, wire.AccountPRN)
	d := store.LostDevice{ID: id.DeviceID, Owner: owner, TokenID: id.TokenID, Certificate: certificate, Issued: id.Issued, FirstSeen: now, LastSeen: now, Addr: remoteAddr(r)}
	e := store.Event{Time: now, Kind: store.EventLostDevice, Code: "device-lost", Owner: owner, Device: d.ID, Token: d.TokenID, Addr: d.Addr, Means: store.ByCertificate,
		Message: fmt.Sprintf("The restored hub lost its record of this device, which got its certificate at %s. The device comes back when it onboards again. If you deleted the device after the backup, disable its join token.", d.Issued.UTC().Format(time.RFC3339))}
	if _, err := s.cfg.Store.Account(r.Context(), owner); errors.Is(err, store.ErrNotFound) {
		e.Owner = "" // the account is lost too, so the event is for the operator
	} else if err != nil {
		return err
	}
	return s.cfg.Store.RecordLostDevice(r.Context(), d, e)
}
