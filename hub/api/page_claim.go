package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/wire"
)

// A machine with a claim code asks the hub every three seconds whether somebody has claimed it. For
// a minute after such a request, the hub finds the machine if a person types the short form of the
// code. From this, the person learns only the machine's IP address, because the person can read the
// code itself on the machine's screen.
const (
	claimPath = "/ui/onboard/claim"
	// claimRefresh is the time after which a browser without JavaScript loads the page about a
	// claimed machine again, in seconds.
	claimRefresh = 5
	// claimEvents is the number of an owner's newest enrolment events among which the hub looks for
	// the refusal of a machine.
	claimEvents = 100
)

// showClaimForm serves the page on which a person types the code on a machine's screen.
func (s *Server) showClaimForm(w http.ResponseWriter, r *http.Request) error {
	typed := strings.TrimSpace(r.URL.Query().Get("code"))
	form := ui.ClaimForm{Tabs: onboardTabs(claimPath), Typed: clipRunes(typed, 256)}
	if !r.URL.Query().Has("code") {
		return s.renderClaimForm(w, r, http.StatusOK, form)
	}
	now := s.cfg.Now()
	if !s.limiters[claimRate].allow(network(remoteAddr(r)), now) {
		form.Problem = "Too many codes were typed from this address. Wait a minute and try again."
		return s.renderClaimForm(w, r, http.StatusTooManyRequests, form)
	}
	code, problem := s.typedCode(r.Context(), typed)
	if problem != "" {
		form.Problem = problem
		return s.renderClaimForm(w, r, http.StatusBadRequest, form)
	}
	return s.redirect(w, r, "/claim/"+code, ui.Notice{})
}

// claimDeviceOnPage claims a device without a TPM, by the id and the challenge that the device
// displays.
func (s *Server) claimDeviceOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	id, challenge := strings.ToLower(strings.TrimSpace(r.PostForm.Get("device"))), r.PostForm.Get("challenge")
	d, err := s.claimByChallenge(r, id, challenge)
	if err != nil {
		text, status, ok := s.formProblem(r, err)
		if !ok {
			return err
		}
		return s.renderClaimForm(w, r, status, ui.ClaimForm{Tabs: onboardTabs(claimPath), Device: clipRunes(id, 64), Challenge: clipRunes(challenge, 64), DeviceProblem: text})
	}
	return s.redirect(w, r, devicePath(d.ID), ui.Notice{Tone: "ok", Text: "The device is yours. It has no TPM, so the hub has no evidence of its identity."})
}

func (s *Server) renderClaimForm(w http.ResponseWriter, r *http.Request, status int, form ui.ClaimForm) error {
	return s.renderPage(w, r, status, "claimform", ui.Page{Title: "Claim a machine", Section: ui.SectionOnboard, Data: form})
}

// typedCode returns the claim code from the text that a person typed: the code, the address of its
// page, or its short form. For other texts it returns a problem in words.
func (s *Server) typedCode(ctx context.Context, typed string) (code, problem string) {
	if u, err := url.Parse(typed); err == nil && u.Host != "" {
		code, ok := strings.CutPrefix(u.Path, "/claim/")
		if _, _, err := wire.ParseClaimCode(code); !ok || err != nil {
			return "", "This is not the address of a claim code. Type the address as the machine displays it: https://HUB/claim/CODE."
		}
		return code, ""
	}
	if _, _, err := wire.ParseClaimCode(typed); err == nil {
		return typed, ""
	}
	words := strings.ToUpper(strings.NewReplacer("-", "", " ", "", "0", "O", "1", "I", "8", "B").Replace(typed))
	if len(words) != 12 || strings.Trim(words, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
		return "", "This is not a machine's code. A code has twelve letters and digits, such as ABCD-EFGH-2345."
	}
	words = words[:4] + "-" + words[4:8] + "-" + words[8:]
	one, ok := s.findClaimant(ctx, words)
	if !ok {
		return "", fmt.Sprintf("No machine with the code %s has asked this hub within the last minute. Check the code, and check that the machine can reach the hub.", words)
	}
	return one.code, ""
}

// showArrival shows the onboarding of a claimed machine, step by step.
func (s *Server) showArrival(w http.ResponseWriter, r *http.Request) error {
	a, err := s.arrivalOf(r)
	if err != nil {
		return err
	}
	p := ui.Page{Title: "Onboarding of a machine", Section: ui.SectionOnboard, Data: a}
	if a.Device == "" && !a.Failed {
		p.NoScriptRefresh = claimRefresh
	}
	return s.renderPage(w, r, http.StatusOK, "arrival", p)
}

// showArrivalSteps answers with the part of the page of showArrival that the browser updates.
func (s *Server) showArrivalSteps(w http.ResponseWriter, r *http.Request) error {
	a, err := s.arrivalOf(r)
	if err != nil {
		return err
	}
	return s.renderPart(w, r, "arrival", "steps", ui.Page{Data: a})
}

// arrivalOf reads the onboarding steps of the machine that joins with the join token in the path.
// The join token must belong to the account.
func (s *Server) arrivalOf(r *http.Request) (*ui.Arrival, error) {
	id, owner := r.PathValue("id"), accountOf(r).ID
	if !wire.IsID(id) {
		return nil, store.ErrNotFound
	}
	token, err := s.cfg.Store.JoinToken(r.Context(), id)
	if err != nil {
		return nil, err
	}
	if token.Owner != owner {
		return nil, store.ErrNotFound
	}
	code, err := wire.ClaimCode(token.ID, token.PublicKey)
	if err != nil {
		return nil, err
	}
	a := &ui.Arrival{Tabs: onboardTabs(claimPath), Path: claimPath + "/" + id, Words: wire.ClaimWords(code)}
	a.Steps = append(a.Steps, ui.ArrivalStep{State: ui.StepDone, Title: "Claimed", Text: "The machine can now onboard to your account.", Time: token.Created})
	page, err := s.cfg.Store.SearchDevices(r.Context(), store.DeviceSearch{Owner: owner, Terms: []store.SearchTerm{{Field: store.FieldToken, Value: id}}, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(page.Rows) > 0 {
		return a, s.fillAboard(r.Context(), a, page.Rows[0].Device)
	}
	return a, s.fillUnderway(r.Context(), a, token)
}

// fillAboard adds the steps of a machine that has onboarded.
func (s *Server) fillAboard(ctx context.Context, a *ui.Arrival, d store.Device) error {
	m, err := s.arrived(ctx, d)
	if err != nil {
		return err
	}
	a.Device, a.Nick = d.ID, m.Name
	took := ""
	if m.Took != "" {
		took = ", " + m.Took + " after its request"
	}
	a.Steps = append(a.Steps,
		ui.ArrivalStep{State: ui.StepDone, Title: "Evidence accepted", Text: upperFirst(m.State.Text) + ". " + machineWords(d.ProdModel, d.ProdSerial)},
		ui.ArrivalStep{State: ui.StepDone, Title: "Onboarded as " + m.Name, Text: "The TPM decrypted the certificates" + took + ".", Time: d.Created})
	return nil
}

func machineWords(model, serial string) string {
	text := ui.Visible(model)
	if serial != "" {
		text = strings.TrimSpace(text + ", serial " + ui.Visible(serial))
	}
	return text
}

// fillUnderway adds the steps of a machine that has not onboarded yet.
func (s *Server) fillUnderway(ctx context.Context, a *ui.Arrival, t store.JoinToken) error {
	evidence := ui.ArrivalStep{State: ui.StepNow, Title: "Evidence of its TPM", Text: "The hub waits for the machine. The machine asks the hub every few seconds whether it was claimed, and then sends its evidence."}
	aboard := ui.ArrivalStep{State: ui.StepLater, Title: "Onboarded", Text: "The TPM decrypts the certificates, and the machine becomes your device."}
	now := s.cfg.Now()
	pending, err := s.cfg.Store.PendingEnrolments(ctx, t.Owner, now, 0)
	if err != nil {
		return err
	}
	for _, e := range pending {
		if e.TokenID == t.ID {
			evidence.State, evidence.Text, evidence.Time = ui.StepDone, "Accepted. "+machineWords(e.ProdModel, e.ProdSerial), e.Created
			aboard.State, aboard.Text = ui.StepNow, "The hub has sent the certificates. Only this TPM can decrypt them."
			a.Steps = append(a.Steps, evidence, aboard)
			return nil
		}
	}
	waiting, err := s.cfg.Store.WaitingPage(ctx, store.WaitingFilter{Owner: t.Owner, State: store.Undecided, Now: now, Limit: 1000})
	if err != nil {
		return err
	}
	for _, w := range waiting.Rows {
		if w.TokenID == t.ID {
			evidence.Title, evidence.Time = "A question about its evidence", w.Since
			evidence.Text = machineWords(w.ProdModel, w.ProdSerial) + ". The machine waits until you decide."
			evidence.State, evidence.Path, evidence.Act = ui.StepAsks, waitingPath+"/"+w.DeviceID, "Look at the machine and decide"
			a.Steps = append(a.Steps, evidence, aboard)
			return nil
		}
	}
	refusal, err := s.refusalOf(ctx, t)
	if err != nil {
		return err
	}
	switch {
	case refusal != nil:
		evidence.State, evidence.Text, evidence.Time = ui.StepFailed, ui.Visible(refusal.Message)+" The machine retries by itself.", refusal.Time
	case t.Disabled || !now.Before(t.Expires):
		a.Failed = true
		evidence.State, evidence.Text = ui.StepFailed, "The machine did not send its evidence in time, so the claim has expired. Restart the machine, and claim it with the new code on its screen."
	}
	a.Steps = append(a.Steps, evidence, aboard)
	return nil
}

// refusalOf returns the newest event in which the hub refused a machine with the join token t. If
// there is no such event, it returns nil.
func (s *Server) refusalOf(ctx context.Context, t store.JoinToken) (*store.Event, error) {
	events, err := s.cfg.Store.Events(ctx, store.EventFilter{Owner: t.Owner, Kind: "enrolment.", Since: t.Created, Limit: claimEvents})
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if e.Token == t.ID && e.Code != "" {
			return &e, nil
		}
	}
	return nil, nil
}
