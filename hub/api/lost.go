package api

import (
	"crypto/sha256"
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

// clockSkew is how far the clock of the hub before a restore may have differed from that of the hub
// after it.
const clockSkew = 10 * time.Minute

// noteLost records a device whose rows were lost by a restore. The hub has no record of the request's
// certificate, whose key the peer has proved. lost is nil if no restore explains this.
func (s *Server) noteLost(r *http.Request, hash store.Hash) (lost *store.Restore, err error) {
	restore, err := s.cfg.Store.LatestRestore(r.Context())
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	leaf := leafOf(r)
	if leaf == nil || sha256.Sum256(leaf.Raw) != hash {
		return nil, nil
	}
	id, err := pki.ReadIdentity(leaf)
	if err != nil {
		return nil, nil // it is not the certificate of a device of this version of the hub
	}
	// Consider only certificates that the hub issued before the restore and whose activation was still
	// possible after the backup. Without the lower bound, each certificate that expired before its
	// activation would count as lost.
	if id.Issued.Before(restore.Backup.Add(-onboard.PendingFor-clockSkew)) || id.Issued.After(restore.Time.Add(clockSkew)) {
		return nil, nil
	}
	now, owner := s.cfg.Now(), strings.TrimPrefix(id.OwnerPRN, wire.AccountPRN)
	d := store.LostDevice{ID: id.DeviceID, Owner: owner, TokenID: id.TokenID, Certificate: hash, Issued: id.Issued, FirstSeen: now, LastSeen: now, Addr: remoteAddr(r)}
	e := store.Event{Time: now, Kind: store.EventLostDevice, Code: "device-lost", Owner: owner, Device: d.ID, Token: d.TokenID, Addr: d.Addr, Means: store.ByCertificate,
		Message: fmt.Sprintf("The restored hub lost its record of this device, which got its certificate at %s. The device comes back when it onboards again. If you deleted it since the backup, disable its join token.", d.Issued.UTC().Format(time.RFC3339))}
	if _, err := s.cfg.Store.Account(r.Context(), owner); errors.Is(err, store.ErrNotFound) {
		e.Owner = "" // the account is lost too, so the event is for the operator
	} else if err != nil {
		return nil, err
	}
	return &restore, s.cfg.Store.RecordLostDevice(r.Context(), d, e)
}

// leafOf returns the client certificate of the request: of its connection, or the one that the proxy
// forwarded.
func leafOf(r *http.Request) *x509.Certificate {
	if o := originOf(r); o.proxied {
		return o.forwarded
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	return r.TLS.PeerCertificates[0]
}
