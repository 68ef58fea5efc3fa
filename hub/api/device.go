package api

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/store"
	"gangway/wire"
)

// DeviceView is a device as the API shows it: Pantacor Hub's fields first,
// scalars before what users and devices write (its own clients take the first
// match of a key anywhere in the document), then Gangway's.
type DeviceView struct {
	ID           string         `json:"id"`
	PRN          string         `json:"prn"`
	Nick         string         `json:"nick"`
	Owner        string         `json:"owner"`
	Challenge    string         `json:"challenge,omitempty"` // for the device alone, while it is nobody's
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
	Key          string         `json:"key"`              // algorithm of the IDevID key
	Boot         string         `json:"boot"`             // as store.BootMatches and the others
	Cloned       string         `json:"cloned,omitempty"` // "suspected", "certain" or "refused": whether several machines run with the TPM's state
	TokenID      string         `json:"token-id"`         // the join token it first came with
	UserMeta     map[string]any `json:"user-meta"`
	DeviceMeta   map[string]any `json:"device-meta"`
	Unreadable   []string       `json:"unreadable,omitempty"` // JSON Pointers of metadata that an older hub took and no answer can contain
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
	view := viewDevice(d, a.Nick)
	view.Boot, err = s.cfg.Store.BootState(ctx, d.ID)
	return view, err
}

func viewDevice(d store.Device, ownerNick string) DeviceView {
	view := DeviceView{
		ID: d.ID, PRN: wire.DevicePRN + d.ID, Nick: d.Nick,
		Owner: ownerPRN(d.Owner), OwnerNick: ownerNick, Public: d.Public,
		TimeCreated: d.Created.UTC(), TimeModified: d.Activated.UTC(), Garbage: d.Deleted,
		Status: "active", Boot: store.BootUnmeasured, LastSeen: d.LastSeen.UTC(), RealIP: d.LastSeenAddr,
		TPM:     TPMView{d.TPMMaker, d.TPMModel, d.TPMFirmware},
		Machine: MachineView{d.ProdModel, d.ProdSerial},
		Key:     d.KeyAlgorithm, TokenID: d.TokenID,
		Cloned: d.Clone, UserMeta: orEmpty(d.UserMeta), DeviceMeta: orEmpty(d.DeviceMeta), Unreadable: d.Unreadable,
	}
	switch {
	case d.Deleted:
		view.Status = "deleted"
	case d.Owner == "":
		view.Status = "unclaimed"
	}
	return view
}

// ownDevice finds a device of the caller's by its id or nick; anybody else's is
// not found.
func (s *Server) ownDevice(r *http.Request) (store.Device, error) {
	return s.deviceNamed(r, owner(r).ID)
}

func (s *Server) deviceNamed(r *http.Request, owner string) (store.Device, error) {
	name := r.PathValue("id")
	if !wire.IsID(name) {
		return s.cfg.Store.DeviceByNick(r.Context(), owner, name)
	}
	d, err := s.cfg.Store.Device(r.Context(), name)
	if err == nil && (d.Owner != owner || owner == "") {
		err = store.ErrNotFound
	}
	return d, err
}

// listDevices lists a person's devices, another's public ones, or a device
// itself. Filters: owner (prn or id), owner-nick, nick ("^p": begins with p,
// "!p": is not p), after, limit.
func (s *Server) listDevices(w http.ResponseWriter, r *http.Request) error {
	c := who(r)
	if c.Device != nil {
		view, err := s.deviceView(r.Context(), *c.Device)
		if err != nil {
			return err
		}
		view.Cloned = ""
		writeJSON(w, http.StatusOK, []DeviceView{view})
		return nil
	}
	q := r.URL.Query()
	f := store.DeviceFilter{After: q.Get("after")}
	var err error
	if f.Limit, err = pageSize(q.Get("limit"), 0); err != nil {
		return err
	}
	switch nick := q.Get("nick"); {
	case strings.HasPrefix(nick, "^"):
		f.NickPrefix = nick[1:]
	case strings.HasPrefix(nick, "!"):
		f.NotNick = nick[1:]
	default:
		f.Nick = nick
	}
	of, err := s.ownerNamed(r, *c.Account)
	if errors.Is(err, store.ErrNotFound) {
		writeJSON(w, http.StatusOK, []DeviceView{})
		return nil
	}
	if err != nil {
		return err
	}
	f.Owner, f.PublicOnly = of.ID, of.ID != c.Account.ID
	devices, err := s.cfg.Store.FindDevices(r.Context(), f)
	if err != nil {
		return err
	}
	states, err := s.cfg.Store.BootStates(r.Context(), of.ID)
	if err != nil {
		return err
	}
	views := make([]DeviceView, len(devices))
	for i, d := range devices {
		views[i] = viewDevice(d, of.Nick)
		if state := states[d.ID]; state != "" {
			views[i].Boot = state
		}
		if f.PublicOnly {
			views[i] = views[i].forOthers()
		}
	}
	writeJSON(w, http.StatusOK, views)
	return nil
}

// ownerNamed is whose devices a query is about: the caller's own, unless it
// says others'.
func (s *Server) ownerNamed(r *http.Request, self store.Account) (store.Account, error) {
	q := r.URL.Query()
	if id := strings.TrimPrefix(q.Get("owner"), wire.AccountPRN); id != "" && id != self.ID {
		return shown(s.cfg.Store.Account(r.Context(), id))
	}
	if nick := q.Get("owner-nick"); nick != "" && !strings.EqualFold(nick, self.Nick) {
		return s.accountByNick(r.Context(), nick)
	}
	return self, nil
}

// accountByNick is not for e-mail addresses: those are nobody else's to try.
func (s *Server) accountByNick(ctx context.Context, nick string) (store.Account, error) {
	a, err := s.cfg.Store.AccountByNickOrEmail(ctx, nick)
	if err == nil && !strings.EqualFold(a.Nick, nick) {
		err = store.ErrNotFound
	}
	return shown(a, err)
}

// shown hides a disabled account from others.
func shown(a store.Account, err error) (store.Account, error) {
	if err == nil && a.Disabled {
		return store.Account{}, store.ErrNotFound
	}
	return a, err
}

// forOthers blanks what is the owner's alone.
func (v DeviceView) forOthers() DeviceView {
	v.RealIP, v.TokenID, v.Challenge, v.Boot, v.Cloned = "", "", "", "", ""
	v.Machine, v.TPM = MachineView{}, TPMView{}
	v.UserMeta, v.DeviceMeta, v.Unreadable = map[string]any{}, map[string]any{}, nil
	return v
}

// showDevice shows a device to its owner and to itself, and a public one to
// everybody who is signed in.
func (s *Server) showDevice(w http.ResponseWriter, r *http.Request) error {
	c := who(r)
	if c.Device != nil {
		if !c.isDevice(r.PathValue("id")) {
			return store.ErrNotFound
		}
		return s.writeSelf(w, r, *c.Device)
	}
	of, err := s.ownerNamed(r, *c.Account)
	if err != nil {
		return err
	}
	return s.writeDevice(w, r, of)
}

// showByNicks is showDevice with both nicks in the path.
func (s *Server) showByNicks(w http.ResponseWriter, r *http.Request) error {
	of, err := s.accountByNick(r.Context(), r.PathValue("owner"))
	if err != nil {
		return err
	}
	return s.writeDevice(w, r, of)
}

// writeDevice writes a device of an account, as the caller may see it.
func (s *Server) writeDevice(w http.ResponseWriter, r *http.Request, of store.Account) error {
	self := who(r).Account
	d, err := s.deviceNamed(r, of.ID)
	if errors.Is(err, store.ErrNotFound) && wire.IsID(r.PathValue("id")) {
		// An id names a device without its owner.
		if d, err = s.cfg.Store.Device(r.Context(), r.PathValue("id")); err == nil && d.Public {
			if of, err = shown(s.cfg.Store.Account(r.Context(), d.Owner)); err != nil {
				return err
			}
		} else if err == nil {
			err = store.ErrNotFound
		}
	}
	if err != nil {
		return err
	}
	view, err := s.deviceView(r.Context(), d)
	if err != nil {
		return err
	}
	if self == nil || d.Owner != self.ID {
		if !d.Public {
			return store.ErrNotFound
		}
		view = view.forOthers()
	}
	writeJSON(w, http.StatusOK, view)
	return nil
}

// writeSelf shows a device to itself, with its challenge while it is nobody's;
// asking is a sign of life.
func (s *Server) writeSelf(w http.ResponseWriter, r *http.Request, d store.Device) error {
	if err := s.cfg.Store.MarkDeviceSeen(r.Context(), d.ID, remoteAddr(r), s.cfg.Now()); err != nil {
		return err
	}
	view, err := s.deviceView(r.Context(), d)
	if err != nil {
		return err
	}
	if d.Owner == "" {
		view.Challenge = s.challenge(d.ID)
	}
	view.Cloned = "" // one of the clones may be asking
	writeJSON(w, http.StatusOK, view)
	return nil
}

// putDevice claims, with ?challenge=, or replaces what its owner may: nick,
// user-meta and public.
func (s *Server) putDevice(w http.ResponseWriter, r *http.Request) error {
	if challenge := r.URL.Query().Get("challenge"); challenge != "" {
		return s.claim(w, r, challenge)
	}
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	var body struct {
		ID       *string         `json:"id"`
		PRN      *string         `json:"prn"`
		Owner    *string         `json:"owner"`
		Nick     *string         `json:"nick"`
		Public   *bool           `json:"public"`
		UserMeta *map[string]any `json:"user-meta"`
	}
	if err := readJSON(w, r, &body); err != nil {
		return err
	}
	for _, same := range []struct {
		what string
		is   *string
		must string
	}{{"id", body.ID, d.ID}, {"prn", body.PRN, wire.DevicePRN + d.ID}, {"owner", body.Owner, ownerPRN(d.Owner)}} {
		if same.is != nil && *same.is != "" && *same.is != same.must {
			return problem(http.StatusBadRequest, "fixed-field", "Leave it as it is.", "A device's %s cannot be changed.", same.what)
		}
	}
	if body.UserMeta != nil {
		dropNulls(*body.UserMeta)
		if _, err := store.EncodeMeta(*body.UserMeta); err != nil {
			return err // before anything has changed
		}
	}
	if body.Nick != nil && *body.Nick != "" && *body.Nick != d.Nick {
		if !nickForm.MatchString(*body.Nick) {
			return errNickForm
		}
		if err := s.rename(r, d, *body.Nick); err != nil {
			return err
		}
	}
	if body.UserMeta != nil {
		if err := s.cfg.Store.ReplaceUserMeta(r.Context(), d.Owner, d.ID, *body.UserMeta); err != nil {
			return err
		}
		s.metaChanged(r, d)
	}
	if body.Public != nil {
		if err := s.share(r, d, *body.Public); err != nil {
			return err
		}
	}
	return s.writeOwn(w, r, d.ID)
}

// writeOwn writes the owner's device as it is now.
func (s *Server) writeOwn(w http.ResponseWriter, r *http.Request, id string) error {
	d, err := s.cfg.Store.Device(r.Context(), id)
	if err != nil {
		return err
	}
	view, err := s.deviceView(r.Context(), d)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, view)
	return nil
}

func (s *Server) publish(w http.ResponseWriter, r *http.Request) error {
	return s.setPublic(w, r, true)
}

func (s *Server) unpublish(w http.ResponseWriter, r *http.Request) error {
	return s.setPublic(w, r, false)
}

func (s *Server) setPublic(w http.ResponseWriter, r *http.Request, public bool) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	if err := s.share(r, d, public); err != nil {
		return err
	}
	return s.writeOwn(w, r, d.ID)
}

// share publishes a device or takes it back.
func (s *Server) share(r *http.Request, d store.Device, public bool) error {
	if err := s.cfg.Store.SetPublic(r.Context(), d.Owner, d.ID, public); err != nil || d.Public == public {
		return err
	}
	e := store.Event{Time: s.cfg.Now(), Kind: "device.unpublished", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q is no longer public.", d.Nick)}
	if public {
		e.Kind, e.Message = "device.published", fmt.Sprintf("Device %q was published: everyone who is signed in may read its states and objects.", d.Nick)
	}
	s.record(r.Context(), e)
	return nil
}

func (s *Server) rename(r *http.Request, d store.Device, nick string) error {
	if err := s.cfg.Store.RenameDevice(r.Context(), d.Owner, d.ID, nick); err != nil || d.Nick == nick {
		return err
	}
	s.record(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.renamed", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q was renamed to %q.", d.Nick, nick)})
	return nil
}

// metaChanged and metaReported count changes of metadata by the owner and by
// the device.
func (s *Server) metaChanged(r *http.Request, d store.Device) {
	s.count(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.user-meta-changed", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("The user-meta of %q was changed.", d.Nick)})
}

func (s *Server) metaReported(r *http.Request, d store.Device) {
	s.count(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.meta-reported", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q reported its device-meta.", d.Nick)})
}

// metaOf finds the device of a meta route: the owner's, by id or nick, or the
// caller itself.
func (s *Server) metaOf(r *http.Request) (store.Device, error) {
	c := who(r)
	if c.Device != nil {
		if !c.isDevice(r.PathValue("id")) {
			return store.Device{}, store.ErrNotFound
		}
		return *c.Device, nil
	}
	return s.deviceNamed(r, c.Account.ID)
}

func (s *Server) showUserMeta(w http.ResponseWriter, r *http.Request) error {
	d, err := s.metaOf(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, orEmpty(d.UserMeta))
	return nil
}

func (s *Server) showDeviceMeta(w http.ResponseWriter, r *http.Request) error {
	d, err := s.metaOf(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, orEmpty(d.DeviceMeta))
	return nil
}

// readMeta reads a meta that a request replaces another by, or a patch to it.
func readMeta(w http.ResponseWriter, r *http.Request) (map[string]any, error) {
	var m map[string]any
	return m, readJSONOf(w, r, store.MaxMeta, &m)
}

func dropNulls(m map[string]any) map[string]any {
	maps.DeleteFunc(m, func(_ string, v any) bool { return v == nil })
	return m
}

func (s *Server) putUserMeta(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	m, err := readMeta(w, r)
	if err != nil {
		return err
	}
	m = dropNulls(m)
	if err := s.cfg.Store.ReplaceUserMeta(r.Context(), owner(r).ID, d.ID, m); err != nil {
		return err
	}
	s.metaChanged(r, d)
	writeJSON(w, http.StatusOK, orEmpty(m))
	return nil
}

// putDeviceMeta and patchDeviceMeta are the device's own alone.
func (s *Server) putDeviceMeta(w http.ResponseWriter, r *http.Request) error {
	return s.changeDeviceMeta(w, r, true)
}

func (s *Server) patchDeviceMeta(w http.ResponseWriter, r *http.Request) error {
	return s.changeDeviceMeta(w, r, false)
}

func (s *Server) changeDeviceMeta(w http.ResponseWriter, r *http.Request, whole bool) error {
	d := peer(r)
	if r.PathValue("id") != d.ID {
		return store.ErrNotFound
	}
	if err := claimed(d); err != nil {
		return err
	}
	m, err := readMeta(w, r)
	if err != nil {
		return err
	}
	if whole {
		err = s.cfg.Store.ReplaceDeviceMeta(r.Context(), d.ID, dropNulls(m))
	} else {
		err = s.cfg.Store.PatchDeviceMeta(r.Context(), d.ID, m)
	}
	if err != nil {
		return err
	}
	s.metaReported(r, d)
	if err := s.cfg.Store.MarkDeviceSeen(r.Context(), d.ID, remoteAddr(r), s.cfg.Now()); err != nil {
		return err
	}
	return s.writeTaken(w, r, d)
}

// writeTaken answers a report, and asks for a measurement where the owner does.
func (s *Server) writeTaken(w http.ResponseWriter, r *http.Request, d store.Device) error {
	measure, err := s.cfg.Store.BootRequested(r.Context(), d.ID)
	if err != nil {
		return err
	}
	if !measure {
		if measure, err = s.askAgain(r, d); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, struct {
		Status  string `json:"status"`
		Measure bool   `json:"measure,omitempty"`
	}{"ok", measure})
	return nil
}

var errNickForm = problem(http.StatusBadRequest, "nick-form", "Use 1 to 64 letters, digits, and the signs _ - + %.", "The nick has characters that are not allowed, or is too long.")

var nickForm = regexp.MustCompile(`^[a-zA-Z0-9_\-+%]{1,64}$`)

func (s *Server) renameDevice(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Nick string `json:"nick"`
	}
	if err := readJSON(w, r, &body); err != nil {
		return err
	}
	if !nickForm.MatchString(body.Nick) {
		return errNickForm
	}
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	if err := s.rename(r, d, body.Nick); err != nil {
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
	s.record(r.Context(), deviceDeleted(d, now))
	d.Deleted = true
	writeJSON(w, http.StatusOK, viewDevice(d, owner(r).Nick))
	return nil
}

func (s *Server) patchUserMeta(w http.ResponseWriter, r *http.Request) error {
	patch, err := readMeta(w, r)
	if err != nil {
		return err
	}
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	if err := s.cfg.Store.PatchUserMeta(r.Context(), owner(r).ID, d.ID, patch); err != nil {
		return err
	}
	s.metaChanged(r, d)
	writeJSON(w, http.StatusOK, patch)
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
	if errors.Is(err, store.ErrNotFound) {
		return problem(http.StatusNotFound, "no-evidence", "Onboard it with its TPM to have some.", "The device joined without showing a TPM.")
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
	return s.writeSelf(w, r, peer(r))
}

// reportMeta merges a device's report of itself; each is also a sign of life.
func (s *Server) reportMeta(w http.ResponseWriter, r *http.Request) error {
	var patch map[string]any
	if err := readJSON(w, r, &patch); err != nil {
		return err
	}
	d := peer(r)
	if err := claimed(d); err != nil {
		return err
	}
	if len(patch) > 0 {
		if err := s.cfg.Store.PatchDeviceMeta(r.Context(), d.ID, patch); err != nil {
			return err
		}
		s.metaReported(r, d)
	}
	if err := s.cfg.Store.MarkDeviceSeen(r.Context(), d.ID, remoteAddr(r), s.cfg.Now()); err != nil {
		return err
	}
	return s.writeTaken(w, r, d)
}
