package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"gangway/hub/store"
	"gangway/internal/strictjson"
	"gangway/wire"
	"gangway/wire/trail"
)

// RevisionView is a revision of a trail, which Pantacor calls a step. The order of its fields is
// part of the protocol: devices use the first occurrence of a key anywhere in the document, so the
// fields that devices read come before the fields that people and devices write.
type RevisionView struct {
	ID           string          `json:"id"` // the device's id, a hyphen and Rev
	Owner        string          `json:"owner"`
	Device       string          `json:"device"`
	TrailID      string          `json:"trail-id"`
	StateSha     string          `json:"state-sha"`
	Committer    string          `json:"committer"`
	StepTime     time.Time       `json:"step-time"`
	ProgressTime time.Time       `json:"progress-time"` // 1970: the device has not reported
	TimeCreated  time.Time       `json:"time-created"`
	TimeModified time.Time       `json:"time-modified"`
	MarkPublic   bool            `json:"mark_public_processed"`
	Garbage      bool            `json:"garbage"`
	Rev          int             `json:"rev"`
	Progress     json.RawMessage `json:"progress"`
	State        json.RawMessage `json:"state"`
	CommitMsg    string          `json:"commit-msg"`
	Meta         json.RawMessage `json:"meta"`
	UsedObjects  []string        `json:"used_objects,omitempty"` // answers to devices leave out this field, because devices read at most 2 MiB
}

func viewRevision(s store.Revision, c caller) RevisionView {
	view := RevisionView{
		ID: s.Device + "-" + strconv.Itoa(s.Rev), Owner: wire.AccountPRN + s.Owner, Device: wire.DevicePRN + s.Device, TrailID: s.Device,
		StateSha: fmt.Sprintf("%x", s.StateSum), Committer: s.Committer, StepTime: s.Posted.UTC(), ProgressTime: time.Unix(0, 0).UTC(),
		TimeCreated: s.Posted.UTC(), TimeModified: s.Modified.UTC(), Rev: s.Rev, Progress: s.Progress, State: s.State, CommitMsg: s.CommitMsg, Meta: s.Meta,
	}
	if !s.ProgressTime.IsZero() {
		view.ProgressTime = s.ProgressTime.UTC()
	}
	if c.Owner != s.Owner {
		view.Meta = []byte("{}") // only the owner may see the meta, which has notes of the owner's programs
	}
	if c.Device == nil {
		if state, err := trail.ParseState(s.State); err == nil {
			view.UsedObjects = state.ObjectSums()
		}
	}
	return view
}

// trailRevision finds the revision in the path, or the newest revision if the path has none, in a
// trail that the caller may change.
func (s *Server) trailRevision(r *http.Request) (store.Revision, error) {
	d, err := s.trailDevice(r)
	return s.revisionIn(r, d, err)
}

// readableRevision is like trailRevision, but for requests that only read, which every account may
// send about a public device.
func (s *Server) readableRevision(r *http.Request) (store.Revision, error) {
	d, err := s.readableTrailDevice(r)
	return s.revisionIn(r, d, err)
}

// revisionIn finds the revision in the path, or the newest revision if the path has none, in the
// trail of the device `d`. `d` and `err` are the result of the caller's search for the device. If
// `err` is not nil, revisionIn returns it.
func (s *Server) revisionIn(r *http.Request, d store.Device, err error) (store.Revision, error) {
	if err != nil {
		return store.Revision{}, err
	}
	rev := -1
	if r.PathValue("rev") != "" {
		if rev, err = revInPath(r); err != nil {
			return store.Revision{}, err
		}
	}
	return s.cfg.Store.Revision(r.Context(), d.ID, rev)
}

// maxCommitMsg bounds a commit message, in bytes.
const maxCommitMsg = 16 << 10

// createRevision appends a revision to a trail.
func (s *Server) createRevision(w http.ResponseWriter, r *http.Request) error {
	d, err := s.trailDevice(r)
	if err != nil {
		return err
	}
	text, err := readBody(r)
	if err != nil {
		return err
	}
	var body struct {
		State     json.RawMessage `json:"state"`
		Rev       *int            `json:"rev"`
		CommitMsg string          `json:"commit-msg"`
		Meta      json.RawMessage `json:"meta"`
	}
	// This decoding is lenient. The state is decoded strictly below, because errors in the state
	// have codes of their own.
	if err := json.Unmarshal(text, &body); err != nil {
		return badBody(err)
	}
	rev := -1
	if body.Rev != nil {
		rev = *body.Rev
	}
	if rev < -1 || rev > 1<<31 {
		return problem(http.StatusBadRequest, "rev", "Leave \"rev\" out, or use -1, for the next revision.", "\"rev\" is not a valid revision number.")
	}
	if len(body.CommitMsg) > maxCommitMsg {
		return problem(http.StatusBadRequest, "commit-msg", "Write a shorter message.", "The commit message has more than %d bytes.", maxCommitMsg)
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
	added, err := s.addRevision(r, d, state, rev, body.CommitMsg, meta)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, viewRevision(added, callerOf(r)))
	return nil
}

// addRevision appends a revision to a device's trail. The caller becomes the revision's committer.
func (s *Server) addRevision(r *http.Request, d store.Device, state *trail.State, rev int, message string, meta []byte) (store.Revision, error) {
	now := s.cfg.Now()
	added, err := s.cfg.Store.AddRevision(r.Context(), store.Revision{
		Device: d.ID, Owner: d.Owner, Rev: rev, Committer: callerOf(r).prn(), CommitMsg: printable(message), Status: trail.StatusNew,
		StateSum: state.Sum(), Objects: hashes(state.Objects), State: state.JSON, Meta: meta,
		Progress: trail.NewProgress(trail.StatusNew, 0, ""), Posted: now, Modified: now,
	}, s.cfg.ObjectQuota)
	if err != nil {
		return added, trailProblem(err)
	}
	s.record(r.Context(), store.Event{Time: now, Kind: "step.created", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Revision %d was posted to device %q.", added.Rev, d.Nick)})
	return added, nil
}

func badMeta(err error) error {
	return problem(http.StatusBadRequest, "meta-malformed", "Send a JSON object.", "The revision's meta is not valid: %v.", err)
}

// revisionPageBytes is the size at which a page of revisions ends; the client continues with
// ?after=. The last revision may make a page larger than that, but even with the largest revision,
// a page is smaller than the 2 MiB that a device reads.
const revisionPageBytes = 512 << 10

// listRevisions lists the revisions of a device with the statuses in ?progress.status=. Without
// this filter, a device gets only its next new revision, and an account gets all revisions that are
// not done.
func (s *Server) listRevisions(w http.ResponseWriter, r *http.Request) error {
	d, err := s.readableTrailDevice(r)
	if err != nil {
		return err
	}
	c, q := callerOf(r), r.URL.Query()
	f := store.RevisionFilter{Device: d.ID, After: -1, Bytes: revisionPageBytes}
	if f.Limit, err = pageSize(r, 1000); err != nil {
		return err
	}
	if v := q.Get("after"); v != "" {
		if f.After, err = strconv.Atoi(v); err != nil || f.After < -1 {
			return problem(http.StatusBadRequest, "after", "Use the number of a revision.", "\"after\" is not a valid revision number.")
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
		return problem(http.StatusBadRequest, "filter", "See /openapi.json for the filters.", "\"progress.status\" is not valid: %v.", err)
	}
	var list []store.Revision
	if !d.Idle || slices.ContainsFunc(f.Statuses, trail.Status.Final) {
		if list, err = s.cfg.Store.Revisions(r.Context(), f); err != nil {
			return err
		}
	}
	views := make([]RevisionView, len(list))
	for i, revision := range list {
		views[i] = viewRevision(revision, c)
	}
	holdAnswer(r)
	writeJSON(w, http.StatusOK, views)
	return nil
}

func (s *Server) showRevision(w http.ResponseWriter, r *http.Request) error {
	revision, err := s.readableRevision(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, viewRevision(revision, callerOf(r)))
	return nil
}

func (s *Server) showState(w http.ResponseWriter, r *http.Request) error {
	revision, err := s.readableRevision(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, json.RawMessage(revision.State))
	return nil
}

// putState replaces the state of a revision that the device has not started.
func (s *Server) putState(w http.ResponseWriter, r *http.Request) error {
	revision, err := s.trailRevision(r)
	if err != nil {
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
	revision.State, revision.StateSum, revision.Objects, revision.Modified = state.JSON, state.Sum(), hashes(state.Objects), s.cfg.Now()
	if err := s.cfg.Store.SetRevisionState(r.Context(), revision, s.cfg.ObjectQuota); err != nil {
		return trailProblem(err)
	}
	s.count(r.Context(), store.Event{Time: revision.Modified, Kind: "step.state-changed", Owner: revision.Owner, Device: revision.Device, Message: fmt.Sprintf("The state of revision %d was replaced.", revision.Rev)})
	writeJSON(w, http.StatusOK, json.RawMessage(revision.State))
	return nil
}

func (s *Server) showRevisionMeta(w http.ResponseWriter, r *http.Request) error {
	revision, err := s.trailRevision(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, json.RawMessage(revision.Meta))
	return nil
}

func (s *Server) putRevisionMeta(w http.ResponseWriter, r *http.Request) error {
	revision, err := s.ownRevision(r)
	if err != nil {
		return err
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	meta, err := trail.ParseMeta(body)
	if err != nil {
		return badMeta(err)
	}
	if err := s.cfg.Store.SetRevisionMeta(r.Context(), revision.Device, revision.Rev, meta, s.cfg.Now()); err != nil {
		return err
	}
	s.count(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "step.meta-changed", Owner: revision.Owner, Device: revision.Device, Message: fmt.Sprintf("The metadata of revision %d was replaced.", revision.Rev)})
	writeJSON(w, http.StatusOK, json.RawMessage(meta))
	return nil
}

// ownRevision is like trailRevision, but for routes that only accounts may call.
func (s *Server) ownRevision(r *http.Request) (store.Revision, error) {
	d, err := s.ownDevice(r)
	if err != nil {
		return store.Revision{}, err
	}
	rev, err := revInPath(r)
	if err != nil {
		return store.Revision{}, err
	}
	return s.cfg.Store.Revision(r.Context(), d.ID, rev)
}

// putProgress stores a device's report about one of its revisions.
func (s *Server) putProgress(w http.ResponseWriter, r *http.Request) error {
	d := deviceOf(r)
	if d.ID != r.PathValue("id") {
		return store.ErrNotFound
	}
	s.markSeen(r, d.ID)
	rev, err := revInPath(r)
	if err != nil {
		return err
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	status, progress, err := trail.ParseProgress(body)
	if err != nil {
		return problem(http.StatusBadRequest, "progress-malformed", "Send a JSON object with the revision's status.", "The progress is not valid: %v.", err)
	}
	if err := s.cfg.Store.SetRevisionProgress(r.Context(), d.ID, rev, status, progress, s.cfg.Now()); err != nil {
		return trailProblem(err)
	}
	// Progress reports are frequent, so do not record them in the audit trail; only notify open
	// pages.
	s.live.tell(store.Event{Kind: "step.progress", Owner: d.Owner, Device: d.ID})
	writeJSON(w, http.StatusOK, json.RawMessage(progress))
	return nil
}

// cancelRevision withdraws a revision that the device has not started.
func (s *Server) cancelRevision(w http.ResponseWriter, r *http.Request) error {
	return s.moveRevision(w, r, trail.StatusNew, trail.StatusCancelled, "Cancelled by its owner.")
}

// stopRevision stops a revision that the device has started to install.
func (s *Server) stopRevision(w http.ResponseWriter, r *http.Request) error {
	return s.moveRevision(w, r, trail.StatusInProgress, trail.StatusWontGo, "Given up by its owner.")
}

func (s *Server) moveRevision(w http.ResponseWriter, r *http.Request, from, to trail.Status, message string) error {
	revision, err := s.ownRevision(r)
	if err != nil {
		return err
	}
	if revision, err = s.changeStatus(r, revision, from, to, message); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, viewRevision(revision, caller{Owner: revision.Owner}))
	return nil
}

// changeStatus changes a revision's status from `from` to `to`, on behalf of its owner. It returns
// an error if the revision's status is not `from`.
func (s *Server) changeStatus(r *http.Request, revision store.Revision, from, to trail.Status, message string) (store.Revision, error) {
	now := s.cfg.Now()
	progress := trail.NewProgress(to, 100, message)
	err := s.cfg.Store.ChangeRevisionStatus(r.Context(), revision.Device, revision.Rev, from, to, progress, now)
	if err == store.ErrStatus {
		return revision, problem(http.StatusBadRequest, "step-status", "Read the revision to see its status.", "The revision's status is not %s.", from)
	}
	if err != nil {
		return revision, err
	}
	revision.Status, revision.Progress, revision.Modified = to, progress, now
	s.record(r.Context(), store.Event{Time: now, Kind: "step.moved", Code: string(to), Owner: revision.Owner, Device: revision.Device, Message: fmt.Sprintf("Revision %d: %s", revision.Rev, message)})
	return revision, nil
}
