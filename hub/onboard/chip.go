package onboard

import (
	"context"
	"crypto/sha256"

	"gangway/hub/evidence"
	"gangway/hub/store"
	"gangway/tcg"
)

// marks are what an enrolment's EK certificate says of its chip, where a maker
// that the hub knows says it.
func marks(e store.Enrolment) (out []store.ChipMark) {
	if !e.EKKnown {
		return nil
	}
	cert, err := tcg.ParseEKCertificate(e.EKCertificate)
	if err != nil {
		return nil // it was parsed when it came
	}
	for _, m := range evidence.TPMMarks(cert) {
		out = append(out, store.ChipMark{Hash: sha256.Sum256([]byte(m.Value)), What: m.What})
	}
	return out
}

// tellOwner writes into the trail of the owner whose TPM somebody else's token
// was tried on, under its EK or another one: once for each owner who tries.
// Here the peer has proven to be that TPM, or to have its attestation key.
func (s *Service) tellOwner(ctx context.Context, e store.Enrolment, code, addr string) {
	ek := e.EK
	message := "Another owner's join token was tried on this device's TPM. It was refused; the device stays yours until you delete it."
	if code == CodeOtherEK {
		aik, err := s.Store.AIK(ctx, e.IAKName)
		if err != nil {
			return
		}
		ek = aik.EK
		message = "Another owner's join token was tried with this device's attestation key, under another endorsement key of its TPM. It was refused; the device stays yours until you delete it."
	}
	tpm, err := s.Store.TPM(ctx, ek)
	if err != nil || tpm.DeviceID == "" || tpm.Owner == e.Owner {
		return
	}
	event := store.Event{Time: s.Now(), Kind: "device.other-owner-tried", Code: code, Owner: tpm.Owner, Device: tpm.DeviceID, Addr: addr, Message: message}
	if err := s.Store.AppendEventOnce(ctx, event, sha256.Sum256([]byte(code+"\x00"+e.Owner))); err != nil {
		s.Log.Error("audit trail", "kind", event.Kind, "code", code, "err", err)
	}
}
