package api

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"

	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/wire"
)

// enrollKeys is the first of Pantacor's two steps: EK and AK are shown, and
// what only their TPM can open is answered.
func (s *Server) enrollKeys(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxStepBody))
	if err != nil {
		return readError(err)
	}
	answer, err := s.cfg.Onboard.Enroll(r.Context(), body, remoteAddr(r))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// TPMRegistered is the answer to the second step.
type TPMRegistered struct {
	Certificate string     `json:"crt"` // IDevID: standard base64 of the DER
	Device      Registered `json:"device"`
}

// registerTPM is the second of Pantacor's two steps, which binds the device.
// Its secret stays empty: a TPM needs none, and what it wants for its programs
// it gets over a connection under its certificate.
func (s *Server) registerTPM(w http.ResponseWriter, r *http.Request) error {
	return taken(s, w, r, wire.MaxStepBody, s.cfg.Onboard.Register, func(registered onboard.Registered) error {
		d := registered.Device
		writeJSON(w, http.StatusOK, TPMRegistered{
			Certificate: base64.StdEncoding.EncodeToString(registered.Certificate),
			Device: Registered{ID: d.ID, PRN: wire.DevicePRN + d.ID, Owner: ownerPRN(d.Owner), Nick: d.Nick,
				TimeCreated: d.Created, TimeModified: d.Activated, Public: d.Public, UserMeta: orEmpty(d.UserMeta), DeviceMeta: orEmpty(d.DeviceMeta)},
		})
		return nil
	})
}

// SignatureQuestion asks whether an ownership proof is good.
type SignatureQuestion struct {
	Service    string `json:"service"` // not used
	TokenID    string `json:"token-id"`
	Owner      string `json:"owner"` // prn
	IDevIDName string `json:"idevid-name"`
	Signature  []byte `json:"signature"`
}

// verifySignature tells who registers devices elsewhere whether an ownership
// proof of Pantacor's form is good; whatever is wrong with it is one answer.
func (s *Server) verifySignature(w http.ResponseWriter, r *http.Request) error {
	var q SignatureQuestion
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	err := s.cfg.Onboard.VerifyOwnership(r.Context(), q.TokenID, q.Owner, q.IDevIDName, q.Signature)
	var refusal *evidence.Refusal
	if errors.As(err, &refusal) {
		return problem(http.StatusBadRequest, "signature", "Use a join token made with 'gangway token create --for-pantacor' that is neither disabled nor expired.", "The signature is not by this join token of this owner over this name.")
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, err = fmt.Fprint(w, "ok")
	return err
}
