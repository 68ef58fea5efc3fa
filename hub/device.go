package hub

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"gangway/evidence"
	"gangway/store"
	"gangway/tcg/join"
)

// DeviceView is a device as the API shows it: Pantacor Hub's fields first,
// scalars before what users and devices write (its own clients take the first
// match of a key anywhere in the document), then Gangway's.
type DeviceView struct {
	ID           string         `json:"id"`
	PRN          string         `json:"prn"`
	Nick         string         `json:"nick"`
	Owner        string         `json:"owner"`
	OwnerNick    string         `json:"owner-nick"`
	TimeCreated  time.Time      `json:"time-created"`
	TimeModified time.Time      `json:"time-modified"`
	Public       bool           `json:"public"`
	Garbage      bool           `json:"garbage"`
	Status       string         `json:"status"`
	LastSeen     time.Time      `json:"last-seen"`
	RealIP       string         `json:"real-ip"`
	TPM          TPMView        `json:"tpm"`
	Machine      MachineView    `json:"machine"`
	Key          string         `json:"key"`      // algorithm of the IDevID key
	TokenID      string         `json:"token-id"` // the join token it first came with
	UserMeta     map[string]any `json:"user-meta"`
	DeviceMeta   map[string]any `json:"device-meta"`
}

// TPMView is the TPM, as its EK certificate and its attestation name it.
type TPMView struct {
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Firmware     string `json:"firmware"`
}

// MachineView is what the device says of the machine around its TPM.
type MachineView struct {
	Model  string `json:"model"`
	Serial string `json:"serial"`
}

func (s *Server) deviceView(ctx context.Context, d store.Device) (DeviceView, error) {
	a, err := s.cfg.Store.Account(ctx, d.Owner)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return DeviceView{}, err
	}
	return viewDevice(d, a.Nick), nil
}

func viewDevice(d store.Device, ownerNick string) DeviceView {
	view := DeviceView{
		ID: d.ID, PRN: join.DevicePRN + d.ID, Nick: d.Nick,
		Owner: join.AccountPRN + d.Owner, OwnerNick: ownerNick,
		TimeCreated: d.Created.UTC(), TimeModified: d.Activated.UTC(), Garbage: d.Deleted,
		Status: "active", LastSeen: d.LastSeen.UTC(), RealIP: d.LastSeenAddr,
		TPM:     TPMView{d.TPMMaker, d.TPMModel, d.TPMFirmware},
		Machine: MachineView{d.ProdModel, d.ProdSerial},
		Key:     d.KeyAlgorithm, TokenID: d.TokenID,
		UserMeta: d.UserMeta, DeviceMeta: d.DeviceMeta,
	}
	if d.Deleted {
		view.Status = "deleted"
	}
	if view.UserMeta == nil {
		view.UserMeta = map[string]any{}
	}
	if view.DeviceMeta == nil {
		view.DeviceMeta = map[string]any{}
	}
	return view
}

// ownDevice finds a device of the caller's; anybody else's is not found.
func (s *Server) ownDevice(r *http.Request) (store.Device, error) {
	d, err := s.cfg.Store.Device(r.Context(), r.PathValue("id"))
	if err != nil {
		return store.Device{}, err
	}
	if d.Owner != owner(r).ID {
		return store.Device{}, store.ErrNotFound
	}
	return d, nil
}

func (s *Server) listDevices(w http.ResponseWriter, r *http.Request) error {
	limit := 0
	if v := r.URL.Query().Get("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 1000 {
			return problem(http.StatusBadRequest, "limit", "Ask for 1 to 1000.", "The limit is no number from 1 to 1000.")
		}
		limit = n
	}
	a := owner(r)
	devices, err := s.cfg.Store.Devices(r.Context(), a.ID, r.URL.Query().Get("after"), limit)
	if err != nil {
		return err
	}
	views := make([]DeviceView, len(devices))
	for i, d := range devices {
		views[i] = viewDevice(d, a.Nick)
	}
	writeJSON(w, http.StatusOK, views)
	return nil
}

func (s *Server) showDevice(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, viewDevice(d, owner(r).Nick))
	return nil
}

var nickForm = regexp.MustCompile(`^[a-zA-Z0-9_\-+%]{1,64}$`)

func (s *Server) renameDevice(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Nick string `json:"nick"`
	}
	if err := readJSON(w, r, &body); err != nil {
		return err
	}
	if !nickForm.MatchString(body.Nick) {
		return problem(http.StatusBadRequest, "nick-form", "Use 1 to 64 letters, digits, and the signs _ - + %.", "The nick has characters that are not allowed, or is too long.")
	}
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	if err := s.cfg.Store.RenameDevice(r.Context(), owner(r).ID, d.ID, body.Nick); err != nil {
		return err
	}
	d.Nick = body.Nick
	writeJSON(w, http.StatusOK, viewDevice(d, owner(r).Nick))
	return nil
}

func (s *Server) deleteDevice(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	now := s.cfg.Now()
	if err := s.cfg.Store.DeleteDevice(r.Context(), owner(r).ID, d.ID, now); err != nil {
		return err
	}
	s.record(r.Context(), store.Event{Time: now, Kind: "device.deleted", Owner: d.Owner, Device: d.ID, Addr: remoteAddr(r),
		Message: fmt.Sprintf("Device %q was deleted: its certificates are revoked and its TPM is let go.", d.Nick)})
	d.Deleted = true
	writeJSON(w, http.StatusOK, viewDevice(d, owner(r).Nick))
	return nil
}

// maxMeta bounds what a device or an owner may keep, in bytes of JSON.
const maxMeta = 256 << 10

func (s *Server) patchUserMeta(w http.ResponseWriter, r *http.Request) error {
	var patch map[string]any
	if err := readJSON(w, r, &patch); err != nil {
		return err
	}
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	if err := metaFits(d.UserMeta, patch); err != nil {
		return err
	}
	if err := s.cfg.Store.PatchUserMeta(r.Context(), owner(r).ID, d.ID, patch); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, patch)
	return nil
}

// metaFits bounds the sum of what is there and what comes: repeated patches
// must not grow a row without end.
func metaFits(have, patch map[string]any) error {
	size := 0
	for _, m := range []map[string]any{have, patch} {
		b, err := json.Marshal(m)
		if err != nil {
			return err
		}
		size += len(b)
	}
	if size > maxMeta {
		return problem(http.StatusRequestEntityTooLarge, "meta-too-large", "Delete keys by setting them to null.", "The metadata would be larger than %d bytes.", maxMeta)
	}
	return nil
}

// EvidenceView is the chain from the TPM's maker to today's certificate, for
// an auditor who wants to check it again. Certificates are PEM.
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
	if err != nil {
		return err
	}
	text := func(der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	view := EvidenceView{
		Device: d.ID, State: string(e.State), Accepted: e.Created.UTC(),
		EKCertificate: text(e.EKCertificate), AIKCertificate: text(e.IAKCert), IDevIDCertificate: text(e.IDevIDCert),
		ACA: text(s.cfg.CA.ACA().Raw), DeviceCA: text(s.cfg.CA.DeviceCA().Raw), Root: string(s.cfg.CA.RootPEM()),
		RequestSHA256: fmt.Sprintf("%x", e.RequestHash), Request: e.Request,
	}
	if err := json.Unmarshal(e.Verdict, &view.Verdict); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, view)
	return nil
}

// ownRecord shows a device to itself.
func (s *Server) ownRecord(w http.ResponseWriter, r *http.Request) error {
	view, err := s.deviceView(r.Context(), peer(r))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, view)
	return nil
}

// reportMeta merges a device's report of itself; each is also a sign of life.
func (s *Server) reportMeta(w http.ResponseWriter, r *http.Request) error {
	var patch map[string]any
	if err := readJSON(w, r, &patch); err != nil {
		return err
	}
	d := peer(r)
	if err := metaFits(d.DeviceMeta, patch); err != nil {
		return err
	}
	if len(patch) > 0 {
		if err := s.cfg.Store.PatchDeviceMeta(r.Context(), d.ID, patch); err != nil {
			return err
		}
	}
	if err := s.cfg.Store.SeenDevice(r.Context(), d.ID, remoteAddr(r), s.cfg.Now()); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}
