package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"gangway/hub/store"
	"gangway/wire"
)

// DeviceView is a device in the API: Pantacor Hub's fields first, then Gangway's. Pantacor's
// clients search the whole JSON text for a key, and use the first match. So the hub's own fields
// come before the metadata that users and devices write.
type DeviceView struct {
	ID           string         `json:"id"`
	PRN          string         `json:"prn"`
	Nick         string         `json:"nick"`
	Owner        string         `json:"owner"`
	Challenge    string         `json:"challenge,omitempty"` // only for the device itself, until it has an owner
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
	Boot         string         `json:"boot"`             // store.BootMatches or another of its states
	Cloned       string         `json:"cloned,omitempty"` // "suspected", "certain" or "refused", if several machines may run with the TPM's state
	TokenID      string         `json:"token-id"`         // the join token of the first onboarding
	UserMeta     map[string]any `json:"user-meta"`
	DeviceMeta   map[string]any `json:"device-meta"`
	Unreadable   []string       `json:"unreadable,omitempty"` // JSON Pointers of metadata that an older hub accepted and that no answer can contain
}

// TPMView describes a TPM: the facts in the TPM's EK certificate and in its attestation.
type TPMView struct {
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Firmware     string `json:"firmware"`
}

// MachineView describes a machine by facts that the device states without a proof.
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

// ownView returns the view of the calling device, with its metadata.
func (s *Server) ownView(ctx context.Context, id string) (DeviceView, error) {
	d, err := s.cfg.Store.Device(ctx, id)
	if err != nil {
		return DeviceView{}, err
	}
	return s.deviceView(ctx, d)
}

func viewDevice(d store.Device, ownerNick string) DeviceView {
	view := DeviceView{
		ID: d.ID, PRN: wire.DevicePRN + d.ID, Nick: d.Nick,
		Owner: accountPRN(d.Owner), OwnerNick: ownerNick, Public: d.Public,
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

// listDevices lists the calling account's devices, another account's public devices, or the calling
// device. Filters: owner (Pantacor resource name or id), owner-nick, nick ("^p": begins with p,
// "!p": is not p), after, limit.
func (s *Server) listDevices(w http.ResponseWriter, r *http.Request) error {
	c := callerOf(r)
	if c.Device != nil {
		view, err := s.ownView(r.Context(), c.Device.ID)
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
	if f.Limit, err = pageSize(r, 0); err != nil {
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
	of, err := s.accountInQuery(r)
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
	views := make([]DeviceView, len(devices))
	for i, d := range devices {
		views[i] = viewDevice(d, of.Nick)
		if f.PublicOnly {
			views[i] = views[i].forOthers()
			continue
		}
		if views[i].Boot, err = s.cfg.Store.BootState(r.Context(), d.ID); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, views)
	return nil
}

// forOthers clears the fields that only the owner may see.
func (v DeviceView) forOthers() DeviceView {
	v.RealIP, v.TokenID, v.Challenge, v.Boot, v.Cloned = "", "", "", "", ""
	v.Machine, v.TPM = MachineView{}, TPMView{}
	v.UserMeta, v.DeviceMeta, v.Unreadable = map[string]any{}, map[string]any{}, nil
	return v
}

// showDevice answers with a device's record, a DeviceView. The device itself and its owner may read
// the record. Every signed-in account may read the record of a public device.
func (s *Server) showDevice(w http.ResponseWriter, r *http.Request) error {
	c := callerOf(r)
	if c.Device != nil {
		if !c.isDevice(r.PathValue("id")) {
			return store.ErrNotFound
		}
		return s.writeOwnRecord(w, r, *c.Device)
	}
	of, err := s.accountInQuery(r)
	if err != nil {
		return err
	}
	return s.writeDevice(w, r, of)
}

// showByNicks is like showDevice, but for a path that has the nicks of owner and device.
func (s *Server) showByNicks(w http.ResponseWriter, r *http.Request) error {
	of, err := s.accountByNick(r.Context(), r.PathValue("owner"))
	if err != nil {
		return err
	}
	return s.writeDevice(w, r, of)
}

// writeDevice answers with a device of the account `of`, with only the fields that the caller may
// see.
func (s *Server) writeDevice(w http.ResponseWriter, r *http.Request, of store.Account) error {
	d, own, err := s.visibleDevice(r, of)
	if err != nil {
		return err
	}
	view, err := s.deviceView(r.Context(), d)
	if err != nil {
		return err
	}
	if !own {
		view = view.forOthers()
	}
	writeJSON(w, http.StatusOK, view)
	return nil
}

// writeOwnRecord answers a device with the device's own record. The record contains the claim
// challenge until the device has an owner. writeOwnRecord also records that the device was seen.
func (s *Server) writeOwnRecord(w http.ResponseWriter, r *http.Request, d store.Device) error {
	if err := s.cfg.Store.MarkDeviceSeen(r.Context(), d.ID, remoteAddr(r), s.cfg.Now()); err != nil {
		return err
	}
	view, err := s.ownView(r.Context(), d.ID)
	if err != nil {
		return err
	}
	if d.Owner == "" {
		view.Challenge = s.challenge(d.ID)
	}
	view.Cloned = "" // the caller may be one of the clones
	writeJSON(w, http.StatusOK, view)
	return nil
}

// putDevice claims the device if the query has ?challenge=. Without ?challenge=, it replaces the
// fields that the device's owner may change: nick, user-meta and public.
func (s *Server) putDevice(w http.ResponseWriter, r *http.Request) error {
	if challenge := r.URL.Query().Get("challenge"); challenge != "" {
		return s.claimDevice(w, r, challenge)
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
	if err := readJSON(r, &body); err != nil {
		return err
	}
	for _, same := range []struct {
		what string
		is   *string
		must string
	}{{"id", body.ID, d.ID}, {"prn", body.PRN, wire.DevicePRN + d.ID}, {"owner", body.Owner, accountPRN(d.Owner)}} {
		if same.is != nil && *same.is != "" && *same.is != same.must {
			return problem(http.StatusBadRequest, "fixed-field", "Leave the field out.", "A device's %s cannot be changed.", same.what)
		}
	}
	if body.UserMeta != nil {
		dropNulls(*body.UserMeta)
		if _, err := store.EncodeMeta(*body.UserMeta); err != nil {
			return err // the request has changed nothing
		}
	}
	if body.Nick != nil && *body.Nick != "" && *body.Nick != d.Nick {
		if !nickForm().MatchString(*body.Nick) {
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
		s.countUserMetaChange(r, d)
	}
	if body.Public != nil {
		if err := s.changePublic(r, d, *body.Public); err != nil {
			return err
		}
	}
	return s.writeDeviceByID(w, r, d.ID)
}

// writeDeviceByID answers the owner with the current fields of their device.
func (s *Server) writeDeviceByID(w http.ResponseWriter, r *http.Request, id string) error {
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
	if err := s.changePublic(r, d, public); err != nil {
		return err
	}
	return s.writeDeviceByID(w, r, d.ID)
}

// changePublic sets whether a device is public.
func (s *Server) changePublic(r *http.Request, d store.Device, public bool) error {
	if err := s.cfg.Store.SetPublic(r.Context(), d.Owner, d.ID, public); err != nil || d.Public == public {
		return err
	}
	e := store.Event{Time: s.cfg.Now(), Kind: "device.unpublished", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q is no longer public.", d.Nick)}
	if public {
		e.Kind, e.Message = "device.published", fmt.Sprintf("Device %q was published: every signed-in account may read its states and objects.", d.Nick)
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

var errNickForm = problem(http.StatusBadRequest, "nick-form", "Use 1 to 64 letters and digits, and the signs _ - + and %.", "The nick is empty or too long, or has characters that are not allowed.")

var nickForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9_\-+%]{1,64}$`) })

func (s *Server) renameDevice(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Nick string `json:"nick"`
	}
	if err := readJSON(r, &body); err != nil {
		return err
	}
	if !nickForm().MatchString(body.Nick) {
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
	writeJSON(w, http.StatusOK, viewDevice(d, accountOf(r).Nick))
	return nil
}

func (s *Server) deleteDevice(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	now := s.cfg.Now()
	if err := s.cfg.Store.DeleteDevice(r.Context(), accountOf(r).ID, d.ID, now); err != nil {
		return err
	}
	s.record(r.Context(), deviceDeleted(d, now))
	d.Deleted = true
	writeJSON(w, http.StatusOK, viewDevice(d, accountOf(r).Nick))
	return nil
}

// showSelf answers a device with its own record.
func (s *Server) showSelf(w http.ResponseWriter, r *http.Request) error {
	return s.writeOwnRecord(w, r, deviceOf(r))
}
