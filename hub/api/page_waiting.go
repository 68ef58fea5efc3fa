package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"gangway/hub/chain"
	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/wire"
)

// This file has the pages of the waiting devices: machines that cannot onboard until a person has
// decided about their evidence, because it raises questions, such as an EK certificate from an
// unknown maker.
//
// A decision must apply only to the evidence and the questions that the page showed. So each form
// has a digest of the evidence and the questions of each machine, and the transaction that stores
// the decision compares this digest with the machine's present evidence and questions. If they have
// changed, the decision about that machine is not stored, and the page says so. A machine that
// arrived after the page was shown is not in the form, so the decision does not cover it.
const (
	waitingPath = "/ui/onboard/waiting"
	// waitingRows is the number of machines that a page shows with all their facts.
	waitingRows = 15
	// decideAtOnce bounds the machines of one decision, so that their ids and digests fit into a
	// form.
	decideAtOnce = 100
	// clonedRows is the number of suspected clones that the page shows.
	clonedRows = 20
)

// A person must decide the questions about a machine's evidence, such as a missing EK certificate.
// For the code of a question, `means` has a sentence that says what an approval would mean.
var means = map[string]string{
	evidence.CodeNoCertificate: "You confirm that this EK belongs to a real TPM in one of your machines. No certificate of a TPM maker proves that.",
	evidence.CodeUntrusted:     "You trust this TPM although the hub does not trust the CA of its certificate. For other TPMs, the hub does not trust that CA.",
	evidence.CodeKind:          "You accept this kind of EK for this TPM. If the same TPM is a device already, there will be two devices.",
	"ek-certificate-expired":   "You accept this EK although its certificate has expired.",
	"ek-unlisted":              "You accept this EK although it is not on the EK list. The EK list does not change.",
	"policy":                   "You make an exception to this rule for this EK. The rule does not change.",
}

// A person decides about a group of machines whose questions have the same codes. For some codes,
// the machines of a group must have more in common: for a code in ofMaker, the makers and models of
// their TPMs must be equal, and for a code in ofReason, the reasons in their questions.
var (
	ofMaker  = []string{evidence.CodeUntrusted, evidence.CodeKind, "ek-certificate-expired", "policy"}
	ofReason = []string{evidence.CodeUntrusted, evidence.CodeKind, "policy", "verdict-unreadable"}
)

func questionsOf(v evidence.Verdict) []ui.Question {
	list := make([]ui.Question, len(v.Questions))
	for i, q := range v.Questions {
		list[i] = ui.Question{Code: q.Code, Reason: ui.Visible(q.Reason), Hint: ui.Visible(q.Hint), Means: means[q.Code]}
		if list[i].Means == "" {
			list[i].Means = "Your decision is for this EK only."
		}
	}
	return list
}

// likeness returns a key that is equal for waiting machines with the same questions. A person can
// make one decision about all machines with the same key.
func likeness(w store.WaitingDevice, questions []ui.Question) string {
	var parts []string
	maker := false
	for _, q := range questions {
		part := q.Code
		if slices.Contains(ofReason, q.Code) {
			part += "\x00" + q.Reason
		}
		parts = append(parts, part)
		maker = maker || slices.Contains(ofMaker, q.Code)
	}
	slices.Sort(parts)
	if maker {
		parts = append(parts, w.Manufacturer, w.Model)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	return hex.EncodeToString(sum[:8])
}

// showWaiting answers with the page of the waiting and the denied devices.
func (s *Server) showWaiting(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	room := &ui.WaitingRoom{Tabs: onboardTabs(waitingPath), Denied: query.Get("show") == "denied", Here: waitingPath}
	account, state := accountOf(r), store.Undecided
	if room.Denied {
		state, room.Here = store.Denied, waitingPath+"?show=denied"
	}
	page, err := s.cfg.Store.WaitingPage(r.Context(), store.WaitingFilter{Owner: account.ID, State: state, Now: s.cfg.Now(), After: query.Get("after"), Limit: waitingRows})
	if err != nil {
		return err
	}
	if room.Machines, err = s.waitingMachines(r.Context(), page.Rows); err != nil {
		return err
	}
	if query.Get("after") != "" {
		room.First = room.Here
	}
	if page.Next != "" {
		room.Next = waitingPath + "?" + url.Values{"show": query["show"], "after": {page.Next}}.Encode()
	}
	if err := s.fillGroups(r.Context(), account.ID, room); err != nil {
		return err
	}
	if !room.Denied && room.First == "" {
		if err := s.fillCloned(r.Context(), account.ID, room); err != nil {
			return err
		}
	}
	return s.renderPage(w, r, http.StatusOK, "waiting", ui.Page{Title: "Waiting devices", Section: ui.SectionOnboard, Data: room})
}

// showWaitingMachine shows all facts about one waiting machine, either as a page of its own or, if
// htmx requests it, as the part of the list's page that opens below the machine's row.
func (s *Server) showWaitingMachine(w http.ResponseWriter, r *http.Request) error {
	row, err := s.cfg.Store.WaitingByID(r.Context(), accountOf(r).ID, r.PathValue("id"), s.cfg.Now())
	if err != nil {
		return err
	}
	if row.State == store.Approved {
		return s.redirect(w, r, waitingPath, ui.Notice{Tone: "warn", Text: "The machine is already approved. It needs no decision."})
	}
	room := &ui.WaitingRoom{Tabs: onboardTabs(waitingPath), Denied: row.State == store.Denied, Here: waitingPath, Open: true}
	if room.Machines, err = s.waitingMachines(r.Context(), []store.WaitingDevice{row}); err != nil {
		return err
	}
	if r.Header.Get("HX-Request") != "" {
		return s.renderPart(w, r, "waiting", "everything-of-one", ui.Page{Data: room})
	}
	return s.renderPage(w, r, http.StatusOK, "waiting", ui.Page{Title: "A waiting machine", Section: ui.SectionOnboard, Data: room})
}

// alike is a group of machines about which one decision can be made.
type alike struct {
	key       string
	questions []ui.Question
	rows      []store.WaitingDevice
}

// groups puts all waiting machines of an owner into groups with the same likeness key, and returns
// the largest group first. The store bounds the number of waiting machines.
func (s *Server) groups(ctx context.Context, owner string) (list []*alike, total int, err error) {
	page, err := s.cfg.Store.WaitingPage(ctx, store.WaitingFilter{Owner: owner, State: store.Undecided, Now: s.cfg.Now(), Limit: onboard.MaxWaiting})
	if err != nil {
		return nil, 0, err
	}
	by := map[string]*alike{}
	for _, row := range page.Rows {
		questions := questionsOf(viewWaiting(row).Verdict)
		key := likeness(row, questions)
		if by[key] == nil {
			by[key] = &alike{key: key, questions: questions}
			list = append(list, by[key])
		}
		by[key].rows = append(by[key].rows, row)
	}
	slices.SortStableFunc(list, func(a, b *alike) int { return len(b.rows) - len(a.rows) })
	return list, len(page.Rows), nil
}

// groupsOnPage is the number of groups that the page of waiting devices shows.
const groupsOnPage = 10

func (s *Server) fillGroups(ctx context.Context, owner string, room *ui.WaitingRoom) error {
	groups, total, err := s.groups(ctx, owner)
	if err != nil {
		return err
	}
	room.Total = total
	room.Shows = []ui.Tab{{Name: "To decide", Path: waitingPath, Current: !room.Denied, Count: total}, {Name: "Denied", Path: waitingPath + "?show=denied", Current: room.Denied}}
	if room.Denied || room.First != "" {
		return nil
	}
	for _, g := range groups {
		if len(g.rows) < 2 || len(room.Groups) == groupsOnPage {
			break
		}
		shown := ui.WaitingGroup{Path: waitingPath + "/group?alike=" + g.key, N: len(g.rows), Questions: g.questions}
		if slices.ContainsFunc(g.questions, func(q ui.Question) bool { return slices.Contains(ofMaker, q.Code) }) {
			shown.TPM = ui.Visible(ui.Maker(g.rows[0].Manufacturer, g.rows[0].Model))
		}
		room.Groups = append(room.Groups, shown)
	}
	return nil
}

// fillCloned fills in the devices that may be clones: several machines may have the device's TPM
// state, that is, its keys and its clock.
func (s *Server) fillCloned(ctx context.Context, owner string, room *ui.WaitingRoom) error {
	page, err := s.cfg.Store.SearchDevices(ctx, store.DeviceSearch{Owner: owner, Terms: []store.SearchTerm{{Field: store.FieldState, Value: store.StateCloned}}, Limit: clonedRows})
	if err != nil {
		return err
	}
	for _, d := range page.Rows {
		view, err := s.clonedView(ctx, d.ID)
		if err != nil {
			return err
		}
		shown := ui.Cloned{Device: d.Device, Codes: view.Open()}
		for _, f := range view.Findings {
			shown.Reasons = append(shown.Reasons, ui.Visible(f.Words))
		}
		room.Cloned = append(room.Cloned, shown)
	}
	if page.Next != "" {
		room.MoreCloned = listOf(store.FieldState, store.StateCloned)
	}
	return nil
}

// waitingMachines returns the waiting devices with all facts that the hub has about each device.
func (s *Server) waitingMachines(ctx context.Context, rows []store.WaitingDevice) ([]ui.WaitingMachine, error) {
	list := make([]ui.WaitingMachine, len(rows))
	nicks := map[string]string{}
	for i, row := range rows {
		verdict := viewWaiting(row).Verdict
		m := ui.WaitingMachine{WaitingDevice: row, Seen: seenForm(row), Questions: questionsOf(verdict), Checks: chain.Checks(verdict), Notes: verdict.Notes}
		if row.Request != nil {
			facts := onboard.ReadRequest(row.Request)
			if facts.EKCertificate != nil {
				c := chain.NewCertificate("ek", "EK certificate, as the machine sent it", facts.EKCertificate)
				m.Certificate = &c
			}
			m.Facts = requestFacts(row, facts)
		}
		nick, known := nicks[row.TokenID]
		if !known {
			t, has, err := orMissing(s.cfg.Store.JoinToken(ctx, row.TokenID))
			if err != nil {
				return nil, err
			}
			if has && t.Owner == row.Owner {
				nick = t.Nick
			}
			nicks[row.TokenID] = nick
		}
		m.Token = nick
		list[i] = m
	}
	return list, nil
}

// requestFacts returns the facts that a machine's request states, apart from the EK certificate.
func requestFacts(w store.WaitingDevice, f onboard.RequestFacts) []ui.Fact {
	facts := []ui.Fact{{Name: "EK, TPM name", Value: fmt.Sprintf("%x", f.EKName), Mono: true}, {Name: "Device key", Value: w.KeyAlgorithm}}
	way := "one request (TCG-CSR-IDEVID)"
	if f.TwoSteps {
		way = "two steps, in Pantacor's form"
	}
	facts = append(facts, ui.Fact{Name: "Asked in", Value: way, Note: fmt.Sprintf("SHA-256 %x", w.RequestHash[:8])})
	if !f.Attested {
		return facts
	}
	c := f.Counters
	since := time.Duration(min(c.Clock, 1<<43)) * time.Millisecond // a larger number of milliseconds would overflow a Duration
	note := "the machine's AK attested these counts; the activation later proves the AK"
	return append(facts,
		ui.Fact{Name: "Boots", Value: fmt.Sprintf("%s since the TPM was last cleared; %s since the last start", counted(int(c.ResetCount), "start"), counted(int(c.RestartCount), "restart")), Note: note},
		ui.Fact{Name: "Under power", Value: ui.Roughly(since), Note: "since the TPM was last cleared"})
}

// seenForm returns the value of a form's field "machine": the machine's waiting id, a dot, and the
// digest of the evidence and questions that the page showed.
func seenForm(w store.WaitingDevice) string {
	digest := w.Digest()
	return w.DeviceID + "." + hex.EncodeToString(digest[:])
}

// readSeen reads the fields "machine" of a form. It returns each machine only once, even if several
// fields name it.
func readSeen(fields []string) (list []seenMachine, err error) {
	wrong := problem(http.StatusBadRequest, "decision", "Use the page's buttons.", "The form does not say which machines the page showed.")
	for _, field := range fields {
		id, text, _ := strings.Cut(field, ".")
		digest, err := hex.DecodeString(text)
		one := seenMachine{id: id}
		if err != nil || copy(one.digest[:], digest) != len(one.digest) || len(digest) != len(one.digest) || !wire.IsID(id) {
			return nil, wrong
		}
		if !slices.ContainsFunc(list, func(had seenMachine) bool { return had.id == id }) {
			list = append(list, one)
		}
	}
	if len(list) > decideAtOnce {
		return nil, problem(http.StatusBadRequest, "decision", fmt.Sprintf("Decide about at most %d machines in one form.", decideAtOnce), "The decision is about too many machines.")
	}
	return list, nil
}

type seenMachine struct {
	id     string
	digest store.Hash
}

// showGroup shows the machines and the questions that one decision covers. It changes nothing.
func (s *Server) showGroup(w http.ResponseWriter, r *http.Request) error {
	groups, _, err := s.groups(r.Context(), accountOf(r).ID)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(groups, func(g *alike) bool { return g.key == r.URL.Query().Get("alike") })
	if i < 0 {
		return s.redirect(w, r, waitingPath, ui.Notice{Tone: "warn", Text: "These machines are no longer waiting, or their questions have changed."})
	}
	g := groups[i]
	p := &ui.WaitingPreview{Tabs: onboardTabs(waitingPath), Questions: g.questions, More: max(0, len(g.rows)-decideAtOnce)}
	if p.Machines, err = s.waitingMachines(r.Context(), g.rows[:min(len(g.rows), decideAtOnce)]); err != nil {
		return err
	}
	for _, m := range p.Machines {
		p.Reasons = p.Reasons || !slices.Equal(m.Questions, g.questions)
	}
	return s.renderPage(w, r, http.StatusOK, "alike", ui.Page{Title: fmt.Sprintf("One decision about %s", counted(len(g.rows), "machine")), Section: ui.SectionOnboard, Data: p})
}

// decideOnPage applies a decision to each machine in a form. If the hub cannot store the decision
// about some machines, it answers with a page that lists these machines and the reasons.
func (s *Server) decideOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	decision := r.PostForm.Get("decision")
	if decision != "approve" && decision != "deny" {
		return problem(http.StatusBadRequest, "decision", "Use the page's buttons.", "The decision is neither approve nor deny.")
	}
	list, err := readSeen(r.PostForm["machine"])
	if err != nil {
		return err
	}
	back := waitingPath
	if next := safeReturn(r.PostForm.Get("next")); next != "" {
		back = next
	}
	if len(list) == 0 {
		return s.redirect(w, r, back, ui.Notice{Tone: "warn", Text: "No machine is selected. Nothing was decided."})
	}
	d := &ui.Decided{Tabs: onboardTabs(waitingPath), Approve: decision == "approve", Back: back}
	for _, one := range list {
		result := s.decideOne(r, one, d.Approve)
		if result.Done {
			d.Done++
		}
		d.Results = append(d.Results, result)
	}
	if d.Done == len(list) {
		return s.redirect(w, r, back, ui.Notice{Tone: "ok", Text: decidedWords(d)})
	}
	return s.renderPage(w, r, http.StatusConflict, "decided", ui.Page{Title: "Not all were decided", Section: ui.SectionOnboard, Data: d})
}

// decideOne applies the decision to one machine, and returns the result in words.
func (s *Server) decideOne(r *http.Request, one seenMachine, approve bool) ui.DecidedMachine {
	result := ui.DecidedMachine{ID: one.id}
	row, err := s.cfg.Onboard.DecideSeen(r.Context(), accountOf(r), one.id, approve, one.digest, remoteAddr(r))
	switch {
	case err == nil:
		result.Done, result.Text = true, "Denied."
		if approve {
			result.Text = "Approved."
		}
		s.tellDecision(row, approve)
	case errors.Is(err, store.ErrChanged):
		result.Text = "The machine's evidence or questions have changed since the page was shown, or somebody else has decided. Look at the machine again."
		row, _, _ = orMissing(s.cfg.Store.WaitingByID(r.Context(), accountOf(r).ID, one.id, s.cfg.Now()))
	case errors.Is(err, store.ErrNotFound):
		result.Text = "It no longer waits."
	default:
		s.log.Error("a decision about a waiting device failed", "waiting", one.id, "err", err)
		result.Text = "The hub could not store the decision. Try again."
	}
	result.Name = ui.Visible(strings.TrimSpace(row.ProdModel + " " + row.ProdSerial))
	return result
}

func decidedWords(d *ui.Decided) string {
	switch {
	case d.Approve && d.Done == 1:
		return "The machine is approved. It onboards with its next request."
	case d.Approve:
		return fmt.Sprintf("%s are approved. Each onboards with its next request.", counted(d.Done, "machine"))
	case d.Done == 1:
		return "The machine is denied. The hub refuses it from now on."
	}
	return fmt.Sprintf("%s are denied. The hub refuses them from now on.", counted(d.Done, "machine"))
}
