package onboard

import (
	"context"
	"crypto/sha256"

	"gangway/hub/evidence"
	"gangway/hub/store"
	"gangway/tcg"
)

// chipMarks returns the marks of the TPM in an enrolment's EK certificate: values that are probably
// unique to the TPM (see evidence.TPMMarks). It returns nothing if the certificate does not chain
// to a root that the hub knows, because anyone can make such a certificate with any values.
func chipMarks(e store.Enrolment) (out []store.ChipMark) {
	if !e.EKKnown {
		return nil
	}
	cert, err := tcg.ParseEKCertificate(e.EKCertificate)
	if err != nil {
		return nil // cannot happen: the certificate was parsed with its request
	}
	return marksOf(cert)
}

func marksOf(cert *tcg.EKCertificate) (out []store.ChipMark) {
	for _, m := range evidence.TPMMarks(cert) {
		out = append(out, store.ChipMark{Hash: sha256.Sum256([]byte(m.Value)), What: m.What})
	}
	return out
}

// warnOwner warns the owner of a TPM's device by an event: somebody has tried to onboard the same
// TPM with another owner's join token, and the hub has refused the request. `code` says how the hub
// recognized the TPM: by the device's EK (CodeOtherOwner), or by the device's AIK although the
// request had another EK (CodeOtherEK). In both cases, the sender has proven that it has this key
// of the device. The device's owner gets only one event for each other owner.
func (s *Service) warnOwner(ctx context.Context, e store.Enrolment, code, addr string) {
	ek := e.EK
	message := "Another owner's join token was tried on this device's TPM. The hub refused the attempt. The device stays yours until you delete it."
	if code == CodeOtherEK {
		aik, err := s.Store.AIK(ctx, e.IAKName)
		if err != nil {
			return
		}
		ek = aik.EK
		message = "Another owner's join token was tried with this device's attestation key and another endorsement key of its TPM. The hub refused the attempt. The device stays yours until you delete it."
	}
	tpm, err := s.Store.TPM(ctx, ek)
	if err != nil || tpm.DeviceID == "" || tpm.Owner == e.Owner {
		return
	}
	event := store.Event{Time: s.Now(), Kind: "device.other-owner-tried", Code: code, Owner: tpm.Owner, Device: tpm.DeviceID, Addr: addr, Message: message}
	if err := s.Store.AppendEventOnce(ctx, event, sha256.Sum256([]byte(code+"\x00"+e.Owner))); err != nil {
		s.Log.Error("could not append an event to the audit trail", "kind", event.Kind, "code", code, "err", err)
	}
}
