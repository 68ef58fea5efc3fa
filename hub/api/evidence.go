package api

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/store"
)

// EvidenceView has the certificate chain from the TPM's maker to the device's current certificate,
// with which an auditor can verify the device's identity again. Certificates are PEM.
type EvidenceView struct {
	Device            string           `json:"device"`
	State             string           `json:"state"`
	Accepted          time.Time        `json:"accepted"`
	Verdict           evidence.Verdict `json:"verdict"`
	EKCertificate     string           `json:"ek-certificate"`
	AIKCertificate    string           `json:"aik-certificate"`
	IDevIDCertificate string           `json:"idevid-certificate"`
	ACA               string           `json:"aca"`
	DeviceCA          string           `json:"device-ca"`
	Root              string           `json:"root"`
	RequestSHA256     string           `json:"request-sha256"`
	Request           []byte           `json:"request"` // the TCG-CSR-IDEVID, base64
}

func (s *Server) showEvidence(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	e, err := s.cfg.Store.Enrolment(r.Context(), d.Enrolment)
	if errors.Is(err, store.ErrNotFound) {
		return problem(http.StatusNotFound, "no-evidence", "Onboard the device with its TPM to get evidence.", "The device was registered without evidence of a TPM.")
	}
	if err != nil {
		return err
	}
	text := func(der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	view := EvidenceView{
		Device: d.ID, State: string(e.State), Accepted: e.Created.UTC(),
		EKCertificate: text(e.EKCertificate), AIKCertificate: text(e.IAKCert), IDevIDCertificate: text(e.IDevIDCert),
		ACA: text(s.cfg.CA.IssuerOf(e.IAKCert, s.cfg.CA.ACA()).Raw), DeviceCA: text(s.cfg.CA.IssuerOf(e.IDevIDCert, s.cfg.CA.DeviceCA()).Raw), Root: string(s.cfg.CA.RootPEM()),
		RequestSHA256: fmt.Sprintf("%x", e.RequestHash), Request: e.Request,
	}
	if err := json.Unmarshal(e.Verdict, &view.Verdict); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, view)
	return nil
}
