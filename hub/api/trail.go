package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"gangway/hub/store"
	"gangway/wire"
	"gangway/wire/trail"
)

// TrailView is a device's trail.
type TrailView struct {
	ID          string          `json:"id"` // the device's
	Owner       string          `json:"owner"`
	Device      string          `json:"device"`
	Rev         int             `json:"revision"` // of the newest step
	ProgressRev int             `json:"progress-revision"`
	TimeCreated time.Time       `json:"time-created"`
	LastTouched time.Time       `json:"last-touched"`
	Factory     json.RawMessage `json:"factory-state,omitempty"` // not in lists
}

func viewTrail(t store.Trail) TrailView {
	return TrailView{ID: t.Device, Owner: wire.AccountPRN + t.Owner, Device: wire.DevicePRN + t.Device,
		Rev: t.Rev, ProgressRev: t.Reported, TimeCreated: t.Created.UTC(), LastTouched: t.Touched.UTC()}
}

// readBody reads at most limit bytes of whatever type.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return nil, badBody(err)
	}
	return b, nil
}

// stateLimit is the bound of a body that has a state in it, in bytes; what is
// too large by less is said to be.
const stateLimit = trail.MaxState + trail.MaxMeta + 64<<10

func badState(err error) error {
	return problem(http.StatusBadRequest, "state-malformed", "It is a JSON object with a \"#spec\"; names that end in .json have documents, all others the SHA-256 of an object.", "The state cannot be taken: %v.", err)
}

// hashes are the objects of a state as the store names them.
func hashes(sums []trail.Sum) []store.Hash {
	var list []store.Hash
	for _, sum := range sums {
		list = append(list, sum)
	}
	return list
}

// trailProblem gives the refusals of trails and objects their answers.
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
		return problem(http.StatusBadRequest, "objects-missing", "Upload them first: POST /objects/ and PUT to the address in the answer.", "The state names objects that you have not uploaded:%s.", list)
	case errors.Is(err, store.ErrQuota):
		return problem(http.StatusRequestEntityTooLarge, "quota", "Delete devices that are not needed, or ask the hub's operator for more.", "Your objects and states would be more than the hub keeps for you.")
	case errors.Is(err, store.ErrGap):
		return problem(http.StatusConflict, "rev-gap", "Leave rev out, or use -1, for the next one.", "There is no step before this one.")
	case errors.Is(err, store.ErrExists):
		return problem(http.StatusConflict, "rev-taken", "Leave rev out, or use -1, for the next one.", "There is a step of this number already.")
	case errors.Is(err, store.ErrStatus):
		return problem(http.StatusConflict, "step-status", "Read the step to see its status.", "The step's status does not allow this.")
	}
	return err
}

// createTrail takes a device's first state. A device that does not know
// whether it did this before does it again, and nothing changes.
func (s *Server) createTrail(w http.ResponseWriter, r *http.Request) error {
	d := peer(r)
	s.sawDevice(r, d.ID)
	if err := claimed(d); err != nil {
		return err
	}
	body, err := readBody(w, r, stateLimit)
	if err != nil {
		return err
	}
	state, err := trail.ParseState(body)
	if err != nil {
		return badState(err)
	}
	now := s.cfg.Now()
	t, made, err := s.cfg.Store.CreateTrail(r.Context(), store.Step{
		Device: d.ID, Owner: d.Owner, Committer: wire.DevicePRN + d.ID, CommitMsg: "Factory State (rev 0)", Status: trail.StatusDone,
		StateSum: state.Sum(), Objects: hashes(state.Objects), State: state.JSON, Meta: []byte("{}"),
		Progress: trail.NewProgress(trail.StatusDone, 100, ""), StepTime: now, ProgressTime: now, Modified: now,
	}, s.cfg.ObjectQuota)
	if err != nil {
		return trailProblem(err)
	}
	if made {
		s.record(r.Context(), store.Event{Time: now, Kind: "trail.created", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q told its first state.", d.Nick)})
	}
	return s.answerTrail(w, r, t)
}

func (s *Server) showTrail(w http.ResponseWriter, r *http.Request) error {
	d, err := s.readableTrail(r)
	if err != nil {
		return err
	}
	t, err := s.cfg.Store.Trail(r.Context(), d.ID)
	if err != nil {
		return err
	}
	return s.answerTrail(w, r, t)
}

func (s *Server) answerTrail(w http.ResponseWriter, r *http.Request, t store.Trail) error {
	first, err := s.cfg.Store.Step(r.Context(), t.Device, 0)
	if err != nil {
		return err
	}
	view := viewTrail(t)
	view.Factory = first.State
	writeJSON(w, http.StatusOK, view)
	return nil
}

// listTrails lists a device's own, which is none or one, or an owner's, in
// pages by `after`.
func (s *Server) listTrails(w http.ResponseWriter, r *http.Request) error {
	views := []TrailView{}
	c := who(r)
	if c.Device != nil {
		s.sawDevice(r, c.Device.ID)
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
	limit, err := limitOf(r, 1000)
	if err != nil {
		return err
	}
	list, err := s.cfg.Store.Summaries(r.Context(), c.Owner, r.URL.Query().Get("after"), limit)
	if err != nil {
		return err
	}
	for _, t := range list {
		views = append(views, viewTrail(t.Trail))
	}
	writeJSON(w, http.StatusOK, views)
	return nil
}

// limitOf reads ?limit=, from 1 to 1000.
func limitOf(r *http.Request, otherwise int) (int, error) {
	v := r.URL.Query().Get("limit")
	if v == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > 1000 {
		return 0, problem(http.StatusBadRequest, "limit", "Ask for 1 to 1000.", "The limit is no number from 1 to 1000.")
	}
	return n, nil
}

// RemoteView tells pvr where things are.
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

// showRemote is for the step in the path, or the newest.
func (s *Server) showRemote(w http.ResponseWriter, r *http.Request) error {
	step, err := s.readableStep(r)
	if err != nil {
		return err
	}
	base := s.cfg.PublicURL + "/trails/" + step.Device + "/steps"
	this := base + "/" + strconv.Itoa(step.Rev)
	writeJSON(w, http.StatusOK, RemoteView{
		Spec: "pvr-pantahub-1", JSONGetURL: this + "/state", JSONKey: "state", Objects: this + "/objects", PostURL: base,
		PostFields: []string{"commit-msg"}, PostFieldsOpt: []string{"rev"}, StepGetURL: this,
	})
	return nil
}
