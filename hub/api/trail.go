package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"gangway/hub/store"
	"gangway/wire"
	"gangway/wire/trail"
)

// TrailView is a device's trail.
type TrailView struct {
	ID          string          `json:"id"` // the device's id
	Owner       string          `json:"owner"`
	Device      string          `json:"device"`
	Rev         int             `json:"revision"` // number of the newest revision
	ProgressRev int             `json:"progress-revision"`
	TimeCreated time.Time       `json:"time-created"`
	LastTouched time.Time       `json:"last-touched"`
	Factory     json.RawMessage `json:"factory-state,omitempty"` // not in lists
}

func viewTrail(t store.Trail) TrailView {
	return TrailView{ID: t.Device, Owner: wire.AccountPRN + t.Owner, Device: wire.DevicePRN + t.Device,
		Rev: t.Rev, ProgressRev: t.Reported, TimeCreated: t.Created.UTC(), LastTouched: t.Touched.UTC()}
}

func badState(err error) error {
	return problem(http.StatusBadRequest, "state-malformed", "Send a JSON object with a \"#spec\". The value of a name that ends in .json must be a JSON document; the value of any other name must be the SHA-256 of an object.", "The state is not valid: %v.", err)
}

// trailProblem converts the store's errors about trails and objects to problems for the client.
func trailProblem(err error) error {
	var missing *store.MissingObjects
	switch {
	case errors.As(err, &missing):
		list := ""
		for _, sum := range missing.Sums {
			list += fmt.Sprintf(" %x", sum)
		}
		if missing.More > 0 {
			list += fmt.Sprintf(" and %d more", missing.More)
		}
		return problem(http.StatusBadRequest, "objects-missing", "Upload the objects first: POST /objects/, then PUT to the URL in the answer.", "The state names objects that you have not uploaded:%s.", list)
	case errors.Is(err, store.ErrQuota):
		return problem(http.StatusRequestEntityTooLarge, "quota", "Delete devices that are not needed, or ask the hub's operator for a larger quota.", "Your objects and states would exceed your storage quota.")
	case errors.Is(err, store.ErrGap):
		return problem(http.StatusConflict, "rev-gap", "Leave \"rev\" out, or use -1, for the next revision.", "The revision number is higher than the next number of the trail.")
	case errors.Is(err, store.ErrExists):
		return problem(http.StatusConflict, "rev-taken", "Leave \"rev\" out, or use -1, for the next revision.", "The trail already has a revision with this number.")
	case errors.Is(err, store.ErrStatus):
		return problem(http.StatusConflict, "step-status", "Read the revision to see its status.", "The revision's status does not allow this change.")
	}
	return err
}

// createTrail creates a device's trail with its first state. If the device repeats the request, the
// trail does not change.
func (s *Server) createTrail(w http.ResponseWriter, r *http.Request) error {
	d := deviceOf(r)
	s.markSeen(r, d.ID)
	if err := requireOwner(d); err != nil {
		return err
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	state, err := trail.ParseState(body)
	if err != nil {
		return badState(err)
	}
	now := s.cfg.Now()
	t, created, err := s.cfg.Store.CreateTrail(r.Context(), store.Revision{
		Device: d.ID, Owner: d.Owner, Committer: wire.DevicePRN + d.ID, CommitMsg: "Factory State (rev 0)", Status: trail.StatusDone,
		StateSum: state.Sum(), Objects: hashes(state.Objects), State: state.JSON, Meta: []byte("{}"),
		Progress: trail.NewProgress(trail.StatusDone, 100, ""), Posted: now, ProgressTime: now, Modified: now,
	}, s.cfg.ObjectQuota)
	if err != nil {
		return trailProblem(err)
	}
	if created {
		s.record(r.Context(), store.Event{Time: now, Kind: "trail.created", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q reported its first state.", d.Nick)})
	}
	return s.writeTrail(w, r, t)
}

func (s *Server) showTrail(w http.ResponseWriter, r *http.Request) error {
	d, err := s.readableTrailDevice(r)
	if err != nil {
		return err
	}
	t, err := s.cfg.Store.Trail(r.Context(), d.ID)
	if err != nil {
		return err
	}
	return s.writeTrail(w, r, t)
}

func (s *Server) writeTrail(w http.ResponseWriter, r *http.Request, t store.Trail) error {
	first, err := s.cfg.Store.Revision(r.Context(), t.Device, 0)
	if err != nil {
		return err
	}
	view := viewTrail(t)
	view.Factory = first.State
	writeJSON(w, http.StatusOK, view)
	return nil
}

// listTrails answers an account with a page of its trails, which ?after= chooses. It answers a
// device with a list that has only the device's own trail, or is empty if the device has no trail.
func (s *Server) listTrails(w http.ResponseWriter, r *http.Request) error {
	views := []TrailView{}
	c := callerOf(r)
	if c.Device != nil {
		s.markSeen(r, c.Device.ID)
		t, err := s.cfg.Store.Trail(r.Context(), c.Device.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err == nil {
			views = append(views, viewTrail(t))
		}
		writeJSON(w, http.StatusOK, views)
		return nil
	}
	limit, err := pageSize(r, 1000)
	if err != nil {
		return err
	}
	list, err := s.cfg.Store.TrailSummaries(r.Context(), c.Owner, r.URL.Query().Get("after"), limit)
	if err != nil {
		return err
	}
	for _, t := range list {
		views = append(views, viewTrail(t.Trail))
	}
	writeJSON(w, http.StatusOK, views)
	return nil
}

// RemoteView has the URLs that pvr uses for a revision's state and objects.
type RemoteView struct {
	Spec          string   `json:"pvr-spec"`
	JSONGetURL    string   `json:"json-get-url"`
	JSONKey       string   `json:"json-key"`
	Objects       string   `json:"objects-endpoint"`
	PostURL       string   `json:"post-url"`
	PostFields    []string `json:"post-fields"`
	PostFieldsOpt []string `json:"post-fields-opt"`
	StepGetURL    string   `json:"step-get-url"`
}

// showRemote answers with the URLs for the revision in the path or, if the path has none, for the
// newest revision.
func (s *Server) showRemote(w http.ResponseWriter, r *http.Request) error {
	revision, err := s.readableRevision(r)
	if err != nil {
		return err
	}
	base := s.urlFor(r) + "/trails/" + revision.Device + "/steps"
	this := base + "/" + strconv.Itoa(revision.Rev)
	writeJSON(w, http.StatusOK, RemoteView{
		Spec: "pvr-pantahub-1", JSONGetURL: this + "/state", JSONKey: "state", Objects: this + "/objects", PostURL: base,
		PostFields: []string{"commit-msg"}, PostFieldsOpt: []string{"rev"}, StepGetURL: this,
	})
	return nil
}

// hashes converts the object hashes of a state to the store's type.
func hashes(sums []trail.Sum) []store.Hash {
	var list []store.Hash
	for _, sum := range sums {
		list = append(list, sum)
	}
	return list
}
