package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"gangway/hub/store"
	"gangway/internal/strictjson"
	"gangway/wire"
	"gangway/wire/trail"
)

// StepView is a step of a trail. The order of its fields is part of the
// protocol: devices take the first match of a key anywhere in the document,
// so what they look for stands before what people and devices write.
type StepView struct {
	ID           string          `json:"id"` // the device's, a hyphen, and rev
	Owner        string          `json:"owner"`
	Device       string          `json:"device"`
	TrailID      string          `json:"trail-id"`
	StateSha     string          `json:"state-sha"`
	Committer    string          `json:"committer"`
	StepTime     time.Time       `json:"step-time"`
	ProgressTime time.Time       `json:"progress-time"` // 1970: no report yet
	TimeCreated  time.Time       `json:"time-created"`
	TimeModified time.Time       `json:"time-modified"`
	MarkPublic   bool            `json:"mark_public_processed"`
	Garbage      bool            `json:"garbage"`
	Rev          int             `json:"rev"`
	Progress     json.RawMessage `json:"progress"`
	State        json.RawMessage `json:"state"`
	CommitMsg    string          `json:"commit-msg"`
	Meta         json.RawMessage `json:"meta"`
	UsedObjects  []string        `json:"used_objects,omitempty"` // not for devices, who read at most 2 MiB
}

func viewStep(s store.Step, c caller) StepView {
	view := StepView{
		ID: s.Device + "-" + strconv.Itoa(s.Rev), Owner: wire.AccountPRN + s.Owner, Device: wire.DevicePRN + s.Device, TrailID: s.Device,
		StateSha: fmt.Sprintf("%x", s.StateSum), Committer: s.Committer, StepTime: s.StepTime.UTC(), ProgressTime: time.Unix(0, 0).UTC(),
		TimeCreated: s.StepTime.UTC(), TimeModified: s.Modified.UTC(), Rev: s.Rev, Progress: s.Progress, State: s.State, CommitMsg: s.CommitMsg, Meta: s.Meta,
	}
	if !s.ProgressTime.IsZero() {
		view.ProgressTime = s.ProgressTime.UTC()
	}
	if c.Owner != s.Owner {
		view.Meta = []byte("{}") // what the owner's programs note for themselves
	}
	if c.Device == nil {
		if state, err := trail.ParseState(s.State); err == nil {
			view.UsedObjects = state.ObjectSums()
		}
	}
	return view
}

// stepOf finds the step that a request is about: {rev}, or the newest. It is
// the caller's, who may change it.
func (s *Server) stepOf(r *http.Request) (store.Step, error) {
	d, err := s.trailOf(r)
	return s.stepIn(r, d, err)
}

// readableStep is stepOf for a caller who only reads.
func (s *Server) readableStep(r *http.Request) (store.Step, error) {
	d, err := s.readableTrail(r)
	return s.stepIn(r, d, err)
}

// stepIn finds the request's step in the trail of a device that was found.
func (s *Server) stepIn(r *http.Request, d store.Device, err error) (store.Step, error) {
	if err != nil {
		return store.Step{}, err
	}
	rev := -1
	if r.PathValue("rev") != "" {
		if rev, err = revOf(r); err != nil {
			return store.Step{}, err
		}
	}
	return s.cfg.Store.Step(r.Context(), d.ID, rev)
}

// revOf reads {rev}, a number as it is written everywhere else.
func revOf(r *http.Request) (int, error) {
	v := r.PathValue("rev")
	rev, err := strconv.Atoi(v)
	if err != nil || rev < 0 || rev > 1<<31 || strconv.Itoa(rev) != v {
		return 0, store.ErrNotFound
	}
	return rev, nil
}

// maxCommitMsg is in bytes.
const maxCommitMsg = 16 << 10

// createStep appends a state to a trail.
func (s *Server) createStep(w http.ResponseWriter, r *http.Request) error {
	d, err := s.trailOf(r)
	if err != nil {
		return err
	}
	text, err := readBody(w, r, stateLimit)
	if err != nil {
		return err
	}
	var body struct {
		State     json.RawMessage `json:"state"`
		Rev       *int            `json:"rev"`
		CommitMsg string          `json:"commit-msg"`
		Meta      json.RawMessage `json:"meta"`
	}
	// Strictly further down: what is wrong with the state has a code of its own.
	if err := json.Unmarshal(text, &body); err != nil {
		return badBody(err)
	}
	rev := -1
	if body.Rev != nil {
		rev = *body.Rev
	}
	if rev < -1 || rev > 1<<31 {
		return problem(http.StatusBadRequest, "rev", "Leave rev out, or use -1, for the next one.", "The rev is no step's number.")
	}
	if len(body.CommitMsg) > maxCommitMsg {
		return problem(http.StatusBadRequest, "commit-msg", "Write less.", "The commit message has more than %d bytes.", maxCommitMsg)
	}
	state, err := trail.ParseState(body.State)
	if err != nil {
		return badState(err)
	}
	meta := []byte("{}")
	if len(body.Meta) > 0 && string(body.Meta) != "null" {
		if meta, err = trail.ParseMeta(body.Meta); err != nil {
			return badMeta(err)
		}
	}
	if err := strictjson.Decode(text, &body); err != nil {
		return badBody(err)
	}
	c, now := who(r), s.cfg.Now()
	step, err := s.cfg.Store.AddStep(r.Context(), store.Step{
		Device: d.ID, Owner: d.Owner, Rev: rev, Committer: c.prn(), CommitMsg: printable(body.CommitMsg), Status: trail.StatusNew,
		StateSum: state.Sum(), Objects: hashes(state.Objects), State: state.JSON, Meta: meta,
		Progress: trail.NewProgress(trail.StatusNew, 0, ""), StepTime: now, Modified: now,
	}, s.cfg.ObjectQuota)
	if err != nil {
		return trailProblem(err)
	}
	s.record(r.Context(), store.Event{Time: now, Kind: "step.created", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Step %d was posted to device %q.", step.Rev, d.Nick)})
	writeJSON(w, http.StatusOK, viewStep(step, c))
	return nil
}

func badMeta(err error) error {
	return problem(http.StatusBadRequest, "meta-malformed", "Send a JSON object.", "The meta cannot be taken: %v.", err)
}

// printable replaces what no database or terminal likes inside a text.
func printable(s string) string { return strings.ReplaceAll(s, "\x00", "\ufffd") }

// stepBytes ends an answer of steps once it has this many bytes; what is left is
// asked for with ?after=. With the largest step on top it is less than the
// 2 MiB that a device reads.
const stepBytes = 512 << 10

// listSteps lists by status. Without a filter a device gets the one new step
// that comes next, and a person all that are not done.
func (s *Server) listSteps(w http.ResponseWriter, r *http.Request) error {
	d, err := s.readableTrail(r)
	if err != nil {
		return err
	}
	c, q := who(r), r.URL.Query()
	f := store.StepFilter{Device: d.ID, After: -1, Bytes: stepBytes}
	if f.Limit, err = limitOf(r, 1000); err != nil {
		return err
	}
	if v := q.Get("after"); v != "" {
		if f.After, err = strconv.Atoi(v); err != nil || f.After < -1 {
			return problem(http.StatusBadRequest, "after", "Use the rev of a step.", "\"after\" is no step's number.")
		}
	}
	filter := `{"$ne":"DONE"}`
	if c.Device != nil {
		filter = string(trail.StatusNew)
	}
	if q.Has("progress.status") {
		filter = q.Get("progress.status")
	} else if c.Device != nil {
		f.Limit = 1
	}
	if f.Statuses, err = trail.ParseStatuses(filter); err != nil {
		return problem(http.StatusBadRequest, "filter", "See /openapi.json for what can be asked.", "progress.status: %v.", err)
	}
	if _, err := s.cfg.Store.Trail(r.Context(), d.ID); err != nil {
		return err
	}
	list, err := s.cfg.Store.Steps(r.Context(), f)
	if err != nil {
		return err
	}
	views := make([]StepView, len(list))
	for i, step := range list {
		views[i] = viewStep(step, c)
	}
	writeJSON(w, http.StatusOK, views)
	return nil
}

func (s *Server) showStep(w http.ResponseWriter, r *http.Request) error {
	step, err := s.readableStep(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, viewStep(step, who(r)))
	return nil
}

func (s *Server) showState(w http.ResponseWriter, r *http.Request) error {
	step, err := s.readableStep(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, json.RawMessage(step.State))
	return nil
}

// putState exchanges the state of a step that no device has taken.
func (s *Server) putState(w http.ResponseWriter, r *http.Request) error {
	step, err := s.stepOf(r)
	if err != nil {
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
	step.State, step.StateSum, step.Objects, step.Modified = state.JSON, state.Sum(), hashes(state.Objects), s.cfg.Now()
	if err := s.cfg.Store.SetState(r.Context(), step, s.cfg.ObjectQuota); err != nil {
		return trailProblem(err)
	}
	s.count(r.Context(), store.Event{Time: step.Modified, Kind: "step.state-changed", Owner: step.Owner, Device: step.Device, Message: fmt.Sprintf("The state of step %d was replaced.", step.Rev)})
	writeJSON(w, http.StatusOK, json.RawMessage(step.State))
	return nil
}

func (s *Server) showStepMeta(w http.ResponseWriter, r *http.Request) error {
	step, err := s.stepOf(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, json.RawMessage(step.Meta))
	return nil
}

func (s *Server) putStepMeta(w http.ResponseWriter, r *http.Request) error {
	step, err := s.ownStep(r)
	if err != nil {
		return err
	}
	body, err := readBody(w, r, trail.MaxMeta)
	if err != nil {
		return err
	}
	meta, err := trail.ParseMeta(body)
	if err != nil {
		return badMeta(err)
	}
	if err := s.cfg.Store.SetMeta(r.Context(), step.Device, step.Rev, meta, s.cfg.Now()); err != nil {
		return err
	}
	s.count(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "step.meta-changed", Owner: step.Owner, Device: step.Device, Message: fmt.Sprintf("The metadata of step %d was replaced.", step.Rev)})
	writeJSON(w, http.StatusOK, json.RawMessage(meta))
	return nil
}

// ownStep is stepOf where people alone may ask.
func (s *Server) ownStep(r *http.Request) (store.Step, error) {
	d, err := s.ownDevice(r)
	if err != nil {
		return store.Step{}, err
	}
	rev, err := revOf(r)
	if err != nil {
		return store.Step{}, err
	}
	return s.cfg.Store.Step(r.Context(), d.ID, rev)
}

// putProgress takes a device's report on a step of its own.
func (s *Server) putProgress(w http.ResponseWriter, r *http.Request) error {
	d := peer(r)
	if d.ID != r.PathValue("id") {
		return store.ErrNotFound
	}
	s.sawDevice(r, d.ID)
	rev, err := revOf(r)
	if err != nil {
		return err
	}
	body, err := readBody(w, r, trail.MaxProgress)
	if err != nil {
		return err
	}
	status, progress, err := trail.ParseProgress(body)
	if err != nil {
		return problem(http.StatusBadRequest, "progress-malformed", "Send a JSON object with the step's status.", "The progress cannot be taken: %v.", err)
	}
	if err := s.cfg.Store.SetProgress(r.Context(), d.ID, rev, status, progress, s.cfg.Now()); err != nil {
		return trailProblem(err)
	}
	writeJSON(w, http.StatusOK, json.RawMessage(progress))
	return nil
}

// cancelStep takes back a step that no device has taken.
func (s *Server) cancelStep(w http.ResponseWriter, r *http.Request) error {
	return s.moveStep(w, r, trail.StatusNew, trail.StatusCancelled, "Cancelled by its owner.")
}

// stopStep gives up a step that a device is at.
func (s *Server) stopStep(w http.ResponseWriter, r *http.Request) error {
	return s.moveStep(w, r, trail.StatusInProgress, trail.StatusWontGo, "Given up by its owner.")
}

func (s *Server) moveStep(w http.ResponseWriter, r *http.Request, from, to trail.Status, message string) error {
	step, err := s.ownStep(r)
	if err != nil {
		return err
	}
	now := s.cfg.Now()
	progress := trail.NewProgress(to, 100, message)
	err = s.cfg.Store.MoveStep(r.Context(), step.Device, step.Rev, from, to, progress, now)
	if err == store.ErrStatus {
		return problem(http.StatusBadRequest, "step-status", "Read the step to see its status.", "The step's status is not %s.", from)
	}
	if err != nil {
		return err
	}
	step.Status, step.Progress, step.Modified = to, progress, now
	s.record(r.Context(), store.Event{Time: now, Kind: "step.moved", Code: string(to), Owner: step.Owner, Device: step.Device, Message: fmt.Sprintf("Step %d: %s", step.Rev, message)})
	writeJSON(w, http.StatusOK, viewStep(step, caller{Owner: step.Owner}))
	return nil
}
