package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/wire"
	"gangway/wire/trail"
)

// Bounds of the tab "Revisions".
const (
	revisionsOnPage = 25
	diffRows        = 200
	diffText        = 300      // characters of a name or value, as the page shows them
	stateText       = 10 << 10 // largest text of a state, in bytes on the page
	diffBytes       = 20 << 10 // largest comparison of two states, in bytes on the page
	diffBytesOfTwo  = 8 << 10  // like diffBytes, for each comparison if the page has two comparisons
	messageInForm   = 8 << 10
	stateInForm     = 20 << 10 // largest new state that the HTML form of its preview contains
	diffAround      = 450      // bytes of HTML that the page adds to the texts of one change
)

// fillRevisions fills the tab "Revisions". ?rev=N shows the revision N. ?from=M compares that
// revision with the revision M. ?post=N shows what would change if the state of the revision N were
// posted again.
func (s *Server) fillRevisions(r *http.Request, v *deviceView) error {
	t := &ui.DeviceRevisions{Trail: v.newest != nil}
	v.Revisions = t
	if v.newest == nil {
		return nil
	}
	t.Newest = v.newest.Rev
	whole, err := s.cfg.Store.Trail(r.Context(), v.Device.ID)
	if err != nil {
		return err
	}
	t.Reported = whole.Reported
	before, ok := revInQuery(r, "before")
	if !ok {
		before = -1
	}
	heads, err := s.cfg.Store.RevisionHeads(r.Context(), v.Device.ID, before, revisionsOnPage+1)
	if err != nil {
		return err
	}
	if len(heads) > revisionsOnPage {
		heads = heads[:revisionsOnPage]
		t.Next = tabPath(v.Device.ID, tabRevisions, "before", strconv.Itoa(heads[len(heads)-1].Rev))
	}
	shown, isShown := revInQuery(r, "rev")
	for _, one := range heads {
		row := s.revisionRow(r, one)
		row.Current, row.Running = isShown && one.Rev == shown, one.Rev == t.Reported
		t.Rows = append(t.Rows, row)
	}
	rev, isPreview := revInQuery(r, "post")
	room := diffBytes
	if isShown && isPreview {
		room = diffBytesOfTwo
	}
	if isShown {
		if err := s.fillShown(r, v, shown, room); err != nil {
			return err
		}
	}
	if isPreview {
		t.Preview, err = s.previewOf(r, v.Device, rev, room)
	}
	return err
}

// revInQuery reads a revision's number from a parameter of the query.
func revInQuery(r *http.Request, name string) (int, bool) {
	return revNumber(r.URL.Query().Get(name))
}

func revNumber(text string) (int, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 0 && n <= 1<<31
}

func (s *Server) revisionRow(r *http.Request, rev store.Revision) ui.RevisionRow {
	row := ui.RevisionRow{Revision: rev, Report: trail.ReadReport(rev.Progress), Badge: revisionBadge(rev.Status)}
	switch rev.Committer {
	case wire.DevicePRN + rev.Device:
		row.By = "the device"
	case wire.AccountPRN + accountOf(r).ID:
		row.By = accountOf(r).Nick
	default:
		row.By = rev.Committer
	}
	return row
}

func revisionBadge(status trail.Status) ui.Badge {
	b := ui.Badge{Tone: "busy", Text: statusWords(status)}
	switch status {
	case trail.StatusDone, trail.StatusUpdated:
		b.Tone = "ok"
	case trail.StatusError, trail.StatusWontGo:
		b.Tone = "bad"
	case trail.StatusCancelled:
		b.Tone = "gone"
	case trail.StatusNew:
		b.Tone = "off"
	}
	return b
}

// fillShown reads a revision, and compares it with the revision ?from= (default: the revision
// before it). The comparison needs at most `room` bytes on the page.
func (s *Server) fillShown(r *http.Request, v *deviceView, rev, room int) error {
	one, err := s.cfg.Store.Revision(r.Context(), v.Device.ID, rev)
	if err != nil {
		return err
	}
	shown := &ui.RevisionShown{RevisionRow: s.revisionRow(r, one), From: rev - 1}
	v.Revisions.Shown = shown
	shown.CanCancel, shown.CanStop = one.Status == trail.StatusNew, one.Status == trail.StatusInProgress
	shown.CanRepost = rev != v.newest.Rev
	if from, ok := revInQuery(r, "from"); ok {
		shown.From = from
	}
	state, err := trail.ParseState(one.State)
	if err != nil {
		return nil // an older hub accepted a state that this hub cannot read: show no difference
	}
	shown.Files, shown.Text = state.Len(), readableState(state)
	if shown.From < 0 {
		return nil
	}
	other, err := s.cfg.Store.Revision(r.Context(), v.Device.ID, shown.From)
	if err != nil {
		return err
	}
	shown.Changes, shown.More = difference(other.State, state, room)
	return nil
}

// readableState returns a state as indented text, or "" if the text is too long for a page.
func readableState(state *trail.State) string {
	var b bytes.Buffer
	if len(state.JSON) > stateText || json.Indent(&b, state.JSON, "", "  ") != nil || ui.Weight(b.String()) > stateText {
		return ""
	}
	return ui.VisibleLines(b.String()) // in a JSON text, the escapes of VisibleLines mean the same as the characters
}

// difference returns the first changes between a stored state and another state, and the number of
// further changes. The returned changes need at most `room` bytes on the page.
func difference(before []byte, after *trail.State, room int) ([]trail.Change, int) {
	old, err := trail.ParseState(before)
	if err != nil {
		return nil, 0
	}
	all := trail.Diff(old, after)
	n := 0
	for n < min(len(all), diffRows) {
		c := &all[n]
		if room -= diffAround + ui.Weight(clipRunes(c.Name, diffText)) + ui.Weight(clipRunes(c.Before, diffText)) + ui.Weight(clipRunes(c.After, diffText)); room < 0 {
			break
		}
		n++
	}
	return all[:n], len(all) - n
}

// previewOf returns the changes to the device's newest state if the state of the revision `rev`
// were posted again.
func (s *Server) previewOf(r *http.Request, d store.Device, rev, room int) (*ui.RevisionPreview, error) {
	one, err := s.cfg.Store.Revision(r.Context(), d.ID, rev)
	if err != nil {
		return nil, err
	}
	state, err := trail.ParseState(one.State)
	if err != nil {
		return nil, badState(err)
	}
	p := &ui.RevisionPreview{From: rev, Message: fmt.Sprintf("Roll back to revision %d", rev)}
	return p, s.compareWithNewest(r, d, p, state, room)
}

// compareWithNewest sets in `p` the difference between the newest revision's state and another
// state.
func (s *Server) compareWithNewest(r *http.Request, d store.Device, p *ui.RevisionPreview, state *trail.State, room int) error {
	newest, err := s.cfg.Store.Revision(r.Context(), d.ID, -1)
	if err != nil {
		return err
	}
	p.Newest, p.Files, p.RollBack = newest.Rev, state.Len(), p.From >= 0
	p.Changes, p.More = difference(newest.State, state, room)
	return nil
}

// postRevisionOnPage appends a revision: with the state of an earlier revision (field "from"), or
// with a new state from a file or a text. Without the field "confirm" it only shows what the
// revision would change.
func (s *Server) postRevisionOnPage(w http.ResponseWriter, r *http.Request) error {
	d, err := s.deviceOfForm(r)
	if err != nil {
		return err
	}
	p, state, err := s.typedRevision(r, d)
	if err == nil {
		err = s.compareWithNewest(r, d, p, state, diffBytes)
	}
	if errors.Is(err, store.ErrNotFound) {
		return err
	}
	confirmed := r.PostFormValue("confirm") != ""
	if err == nil && confirmed {
		var rev int
		if rev, err = s.postTyped(r, d, p, state); err == nil {
			return s.redirect(w, r, tabPath(d.ID, tabRevisions, "rev", strconv.Itoa(rev)),
				ui.Notice{Tone: "ok", Text: fmt.Sprintf("Revision %d is posted. The device installs it when it next asks the hub.", rev)})
		}
	}
	text, status := "", http.StatusOK
	if err != nil {
		var ok bool
		if text, status, ok = s.formProblem(r, err); !ok {
			return err
		}
	}
	return s.renderDevice(w, r, status, d, tabRevisions, func(page *ui.DevicePage) {
		if p == nil || state == nil {
			page.Revisions.Problem = text
			return
		}
		p.Problem, page.Revisions.Preview = text, p
	})
}

// typedRevision reads the form of a new revision.
func (s *Server) typedRevision(r *http.Request, d store.Device) (*ui.RevisionPreview, *trail.State, error) {
	p := &ui.RevisionPreview{From: -1, Message: r.PostFormValue("message")}
	if ui.Weight(p.Message) > messageInForm {
		return nil, nil, problem(http.StatusBadRequest, "commit-msg", "Write a shorter message.", "The message is too long for this page.")
	}
	if from, ok := revNumber(r.PostFormValue("from")); ok {
		one, err := s.cfg.Store.Revision(r.Context(), d.ID, from)
		if err != nil {
			return nil, nil, err
		}
		p.From = from
		state, err := trail.ParseState(one.State)
		if err != nil {
			return p, nil, badState(err)
		}
		return p, state, nil
	}
	text := []byte(r.PostFormValue("state"))
	if file, _, err := r.FormFile("file"); err == nil {
		defer file.Close()
		if text, err = io.ReadAll(file); err != nil {
			return p, nil, badBody(err)
		}
	}
	state, err := trail.ParseState(text)
	if err != nil {
		return p, nil, badState(err)
	}
	p.State, p.Sum = string(state.JSON), hashOf(string(state.JSON))
	if p.Long = ui.Weight(p.State) > stateInForm; p.Long {
		p.State = "" // the person chooses the file again
	}
	return p, state, nil
}

// postTyped posts the revision that a preview showed. If another revision was posted after the
// preview, postTyped returns an error, because the preview compared the new revision with an older
// one.
func (s *Server) postTyped(r *http.Request, d store.Device, p *ui.RevisionPreview, state *trail.State) (int, error) {
	seen, ok := revNumber(r.PostFormValue("newest"))
	if !ok || seen != p.Newest {
		return 0, problem(http.StatusConflict, "rev-taken", "Look at the new preview, and post the revision again.", "After you looked, another revision was posted.")
	}
	if p.Long && r.PostFormValue("sum") != p.Sum {
		return 0, problem(http.StatusConflict, "state-changed", "Look at the new preview, and post the state again.", "The file differs from the file of the preview.")
	}
	if len(p.Message) > maxCommitMsg {
		return 0, problem(http.StatusBadRequest, "commit-msg", "Write a shorter message.", "The commit message has more than %d bytes.", maxCommitMsg)
	}
	added, err := s.addRevision(r, d, state, seen+1, p.Message, []byte("{}"))
	return added.Rev, err
}

// cancelRevisionOnPage cancels a revision that the device has not started to install, or stops a
// revision that the device has started to install.
func (s *Server) cancelRevisionOnPage(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.deviceOfForm(r); err != nil {
		return err
	}
	revision, err := s.ownRevision(r)
	if err != nil {
		return err
	}
	to := tabPath(revision.Device, tabRevisions, "rev", strconv.Itoa(revision.Rev))
	said := "The revision is cancelled."
	if r.PostFormValue("act") == "stop" {
		said = "You have stopped the revision. The device stays as it is until you post the next revision."
		_, err = s.changeStatus(r, revision, trail.StatusInProgress, trail.StatusWontGo, "Given up by its owner.")
	} else {
		_, err = s.changeStatus(r, revision, trail.StatusNew, trail.StatusCancelled, "Cancelled by its owner.")
	}
	if err != nil {
		text, _, ok := s.formProblem(r, err)
		if !ok {
			return err
		}
		return s.redirect(w, r, to, ui.Notice{Tone: "bad", Text: text})
	}
	return s.redirect(w, r, to, ui.Notice{Tone: "ok", Text: said})
}
