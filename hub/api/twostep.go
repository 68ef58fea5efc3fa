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

// enrollKeys answers the first step of Pantacor's two-step enrolment, in which the device sends its
// EK and AK. Only a TPM that has both keys can decrypt the answer.
func (s *Server) enrollKeys(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return readError(err)
	}
	answer, err := s.cfg.Onboard.FirstStep(r.Context(), body, remoteAddr(r))
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

// registerTPM answers the second step of Pantacor's two-step enrolment, which makes the enrolment
// active. The secret in the answer is empty, because a device with a TPM needs no secret. For its
// programs, the device can get a secret with POST /device/secret.
func (s *Server) registerTPM(w http.ResponseWriter, r *http.Request) error {
	return answerRequest(s, w, r, s.cfg.Onboard.SecondStep, func(registered onboard.SecondStepAnswer) error {
		d := registered.Device
		writeJSON(w, http.StatusOK, TPMRegistered{
			Certificate: base64.StdEncoding.EncodeToString(registered.Certificate),
			Device: Registered{ID: d.ID, PRN: wire.DevicePRN + d.ID, Owner: accountPRN(d.Owner), Nick: d.Nick,
				TimeCreated: d.Created, TimeModified: d.Activated, Public: d.Public, UserMeta: orEmpty(d.UserMeta), DeviceMeta: orEmpty(d.DeviceMeta)},
		})
		return nil
	})
}

// SignatureQuestion is a request to check an ownership proof.
type SignatureQuestion struct {
	Service    string `json:"service"` // not used
	TokenID    string `json:"token-id"`
	Owner      string `json:"owner"` // Pantacor resource name (prn)
	IDevIDName string `json:"idevid-name"`
	Signature  []byte `json:"signature"`
}

// verifySignature checks an ownership proof in Pantacor's form, for services that register devices
// on other servers. The answer is the same for every invalid proof.
func (s *Server) verifySignature(w http.ResponseWriter, r *http.Request) error {
	var q SignatureQuestion
	if err := readJSON(r, &q); err != nil {
		return err
	}
	err := s.cfg.Onboard.VerifyOwnership(r.Context(), q.TokenID, q.Owner, q.IDevIDName, q.Signature)
	var refusal *evidence.Refusal
	if errors.As(err, &refusal) {
		return problem(http.StatusBadRequest, "signature", "Use a valid join token, made with 'gangway token create --for-pantacor'. A disabled or expired join token is not valid.", "The signature does not match this owner, join token and name.")
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, err = fmt.Fprint(w, "ok")
	return err
}
