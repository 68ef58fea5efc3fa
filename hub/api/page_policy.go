package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/policy"
	"gangway/hub/store"
	"gangway/hub/ui"
)

const (
	policyPath = "/ui/trust/policy"
	// policyFormBody bounds the body of the policy's form, in bytes. The form encoding can make a
	// text three times as long.
	policyFormBody = 3*policy.MaxSize + 16<<10
	// A preview judges at most previewDevices devices and previewWaiting waiting machines, because
	// one judgement takes about a millisecond. It shows at most previewRows changes.
	previewDevices, previewWaiting, previewRows = 200, 50, 50
)

var (
	errPolicyChanged = problem(http.StatusConflict, "policy-changed", "Compare your text with the policy that is in force now, and preview it again.", "Your policy or the hub's policy has changed since the preview.")
	errPreviews      = problem(http.StatusTooManyRequests, "too-many-previews", "Wait until one of them has finished.", "Two previews of your account are running already.")
)

// policyExample is the example that the editor offers to an owner without a policy.
const policyExample = `version: 1
# What happens to a TPM without an EK certificate: ask (it waits for you) or refuse.
no_ek_certificate: ask
# What happens to a TPM whose certificate does not chain to a trusted maker: ask or refuse.
unknown_maker: ask
# What happens to a TPM whose certificate has expired: accept, ask or refuse.
expired_ek_certificate: accept
# If a boot has changed: 'report' only shows this, 'require' also refuses the device.
measured_boot: report
# The first rule that matches decides.
rules:
  - {maker: IFX, firmware_below: "7.85", then: refuse, reason: "known weaknesses"}
`

// policies are the stored policies that apply to an owner: the hub's policy and the owner's policy.
type policies struct {
	hub, own       store.Policy
	hubDoc, ownDoc *policy.Document // nil: none
}

// version returns a hash of both policies. The form of a preview contains this hash, so that
// putPreviewed notices if a policy has changed since the preview.
func (p *policies) version() string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(p.hub.Text+"\x00"+p.own.Text)))
}

func (s *Server) readPolicies(ctx context.Context, owner string) (p policies, err error) {
	for _, one := range []struct {
		owner string
		to    *store.Policy
		doc   **policy.Document
	}{{store.HubWide, &p.hub, &p.hubDoc}, {owner, &p.own, &p.ownDoc}} {
		stored, err := s.cfg.Store.Policy(ctx, one.owner)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return p, err
		}
		if *one.doc, err = policy.Parse([]byte(stored.Text)); err != nil {
			return p, fmt.Errorf("read a stored policy: %w", err)
		}
		*one.to = stored
	}
	return p, nil
}

// showPolicyPage answers with the page of the policy.
func (s *Server) showPolicyPage(w http.ResponseWriter, r *http.Request) error {
	return s.renderPolicy(w, r, http.StatusOK, func(p *ui.PolicyPage, _ *policies) error {
		if r.URL.Query().Get("example") != "" && p.Text == "" {
			p.Text, p.Example = policyExample, true
		}
		return nil
	})
}

// renderPolicy answers with the page of the policy. The function `change`, if not nil, alters the
// page before it is sent.
func (s *Server) renderPolicy(w http.ResponseWriter, r *http.Request, status int, change func(*ui.PolicyPage, *policies) error) error {
	in, err := s.readPolicies(r.Context(), accountOf(r).ID)
	if err != nil {
		return err
	}
	p := &ui.PolicyPage{Tabs: trustTabs(policyPath), Words: policy.Explain(in.hubDoc, in.ownDoc), Hub: in.hub.Text, HubFrom: in.hub.Updated,
		Updated: in.own.Updated, Text: in.own.Text, Version: in.version()}
	if change != nil {
		if err := change(p, &in); err != nil {
			return err
		}
	}
	if p.TooLong = ui.Weight(p.Text) > ui.MaxEditor; p.TooLong {
		p.Text = ""
	}
	return s.renderPage(w, r, status, "policy", ui.Page{Title: "Policy", Section: ui.SectionTrust, Data: p, Wide: true})
}

// trustTabs are the tabs of the section Trust.
func trustTabs(current string) []ui.Tab {
	tabs := []ui.Tab{{Name: "TPM makers", Path: trustPath}, {Name: "Policy", Path: policyPath}, {Name: "Expected TPMs", Path: ekListPath}, {Name: "Boots", Path: bootsPath}, {Name: "Judge again", Path: judgePath}}
	for i := range tabs {
		tabs[i].Current = tabs[i].Path == current
	}
	return tabs
}

// typedPolicy returns the policy text in the form. Browsers send CR LF, which it replaces by line
// feeds. A text that is only white space becomes "".
func typedPolicy(r *http.Request) string {
	text := strings.ReplaceAll(r.PostForm.Get("text"), "\r\n", "\n")
	if strings.TrimSpace(text) == "" {
		return ""
	}
	return text
}

// parsePolicy parses a policy. For an empty text, which removes the policy, it returns nil.
func parsePolicy(text string) (*policy.Document, error) {
	if text == "" {
		return nil, nil
	}
	d, err := policy.Parse([]byte(text))
	if err != nil {
		return nil, problem(http.StatusBadRequest, "policy-malformed", "Correct the policy and send it again. The previous policy is still in force.", "%s.", err)
	}
	return d, nil
}

// checkPolicyText parses a text, and returns the rules that it would put into force and the parsed
// policy. It judges no devices.
func checkPolicyText(text string, in *policies) (*ui.PolicyCheck, *policy.Document) {
	c := &ui.PolicyCheck{Removes: text == ""}
	d, err := parsePolicy(text)
	if err != nil {
		c.Problem = err.(*Problem).Message
		return c, nil
	}
	if d != nil {
		c.Warnings = policy.Warnings(d, in.hubDoc, true)
	}
	now, would := policy.Explain(in.hubDoc, in.ownDoc), policy.Explain(in.hubDoc, d)
	c.Same = slices.Equal(now, would)
	for _, one := range would {
		if !slices.Contains(now, one) {
			c.Words = append(c.Words, one)
		}
	}
	if len(c.Words) == 0 && !c.Same { // the text only removes rules
		c.Words = would
	}
	return c, d
}

// checkPolicyOnPage checks the policy while a person types it. It judges no devices.
func (s *Server) checkPolicyOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	in, err := s.readPolicies(r.Context(), accountOf(r).ID)
	if err != nil {
		return err
	}
	p := &ui.PolicyPage{}
	p.Check, _ = checkPolicyText(typedPolicy(r), &in)
	return s.renderPart(w, r, "policy", "checked", ui.Page{Data: p})
}

// editPolicyOnPage previews a policy, or puts a previewed policy into force. It puts a text into
// force only if exactly this text was previewed.
func (s *Server) editPolicyOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	text := typedPolicy(r)
	act := r.PostForm.Get("act")
	if act == "clear" {
		text = ""
	}
	if ui.Weight(text) > ui.MaxEditor {
		return s.renderPolicy(w, r, http.StatusBadRequest, func(p *ui.PolicyPage, _ *policies) error {
			p.Text, p.Problem = text, "The text is too long for this page. Write it into a file, and use 'gangway policy set'."
			return nil
		})
	}
	if act == "put" && r.PostForm.Get("previewed") == hashOf(text) {
		err := s.putPreviewed(r, text)
		if err == nil {
			said := "The policy is in force. The hub applies it to the next request."
			if text == "" {
				said = "Your policy is removed. Only the hub's policy applies."
			}
			return s.redirect(w, r, policyPath, ui.Notice{Tone: "ok", Text: said})
		}
		problem, status, ok := s.formProblem(r, err)
		if !ok {
			return err
		}
		return s.renderPolicy(w, r, status, func(p *ui.PolicyPage, in *policies) error {
			p.Text, p.Problem = text, problem
			if isCode(err, errPolicyChanged.Code) {
				p.Changed = in.own.Text
			}
			return nil
		})
	}
	if _, err := parsePolicy(text); err != nil {
		message, status, _ := s.formProblem(r, err)
		return s.renderPolicy(w, r, status, func(p *ui.PolicyPage, _ *policies) error {
			p.Text, p.Problem = text, message
			return nil
		})
	}
	return s.renderPolicy(w, r, http.StatusOK, func(p *ui.PolicyPage, in *policies) (err error) {
		var d *policy.Document
		p.Text = text
		p.Check, d = checkPolicyText(text, in)
		p.Preview, err = s.previewPolicy(r, d)
		if err == nil {
			p.Preview.Text, p.Preview.Hash, p.Preview.Removes = text, hashOf(text), text == ""
		}
		return err
	})
}

func hashOf(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// putPreviewed puts a text into force. If the hub's policy or the owner's policy has changed since
// the preview, putPreviewed returns an error.
func (s *Server) putPreviewed(r *http.Request, text string) error {
	a, now := accountOf(r), s.cfg.Now()
	if _, err := parsePolicy(text); err != nil {
		return err
	}
	in, err := s.readPolicies(r.Context(), a.ID)
	if err != nil {
		return err
	}
	if r.PostForm.Get("version") != in.version() {
		return errPolicyChanged
	}
	err = s.cfg.Store.SwapPolicy(r.Context(), store.Policy{Owner: a.ID, Text: text, Updated: now}, in.own.Text)
	if errors.Is(err, store.ErrChanged) {
		return errPolicyChanged
	}
	if err == nil {
		s.recordPolicy(r, a, text == "")
	}
	return err
}

// previewPolicy judges the owner's newest devices and waiting machines with a policy that is not in
// force.
func (s *Server) previewPolicy(r *http.Request, d *policy.Document) (*ui.PolicyPreview, error) {
	ctx, owner := r.Context(), accountOf(r).ID
	if !s.previews.acquire(owner) {
		return nil, errPreviews
	}
	defer s.previews.release(owner)
	trial, err := s.cfg.Onboard.Try(ctx, owner, d)
	if err != nil {
		return nil, err
	}
	p := new(ui.PolicyPreview)
	if err := s.previewAboard(ctx, p, trial, owner); err != nil {
		return nil, err
	}
	if err := s.previewArrivals(ctx, p, trial, owner); err != nil {
		return nil, err
	}
	// The changes that most need the person's attention come first.
	slices.SortStableFunc(p.Changes, func(a, b ui.PolicyChange) int { return rankOf(a.Would) - rankOf(b.Would) })
	p.More = max(0, len(p.Changes)-previewRows)
	p.Changes = p.Changes[:min(len(p.Changes), previewRows)]
	return p, nil
}

// rankOf returns the rank of an outcome's badge in the list of changes. Refusals come first.
func rankOf(b ui.Badge) int {
	return slices.Index([]string{"bad", "gone", "ask", "off", "ok"}, b.Tone)
}

// cutByParts returns a sentence if the new policy would no longer admit a device because of a part
// of its boot, such as the boot loader. Otherwise, or if the present policy already refuses the
// device for this reason, it returns "".
func (s *Server) cutByParts(ctx context.Context, t *onboard.Trial, d *store.DeviceRow) (string, error) {
	now, would := t.BootParts()
	if len(would) == 0 || d.Enrolment == (store.Hash{}) {
		return "", nil
	}
	states, err := s.statesOfDevice(ctx, d.ID)
	if err != nil {
		return "", err
	}
	part, state, cut := unmet(states, would)
	if _, _, before := unmet(states, now); !cut || before {
		return "", nil
	}
	return fmt.Sprintf("The policy would require the part %q of the boot to be %s, but it is %s.", part, state, cmp.Or(states[part], "not judged")), nil
}

// previewAboard judges the newest devices with the present policy and with the new policy, and adds
// the changes to p.
func (s *Server) previewAboard(ctx context.Context, p *ui.PolicyPreview, t *onboard.Trial, owner string) error {
	counts, err := s.cfg.Store.FleetCounts(ctx, owner)
	if err != nil {
		return err
	}
	page, err := s.cfg.Store.SearchDevices(ctx, store.DeviceSearch{Owner: owner, Sort: store.SortCreated, Descending: true, Limit: previewDevices})
	if err != nil {
		return err
	}
	p.Devices, p.AllDevices = len(page.Rows), max(counts.Total, len(page.Rows))
	bootNow, bootThen := t.RequiresBoot()
	for i := range page.Rows {
		d := &page.Rows[i]
		change := ui.PolicyChange{Name: d.Nick, Path: devicePath(d.ID), Detail: strings.TrimSpace(d.ProdModel + " " + d.ProdSerial)}
		now, would, known, err := s.tryDevice(ctx, t, &d.Device)
		if err != nil {
			return err
		}
		if !known {
			p.Unread++
			continue
		}
		cut, err := s.cutByParts(ctx, t, d)
		if err != nil {
			return err
		}
		switch {
		case cut != "":
			p.Cut++
			change.Now, change.Would, change.Why = outcomeBadge(now), ui.Badge{Tone: "bad", Text: "cut off"}, cut
		case bootThen && !bootNow && d.Boot != store.BootMatches && d.Enrolment != (store.Hash{}):
			p.Cut++
			change.Now, change.Would, change.Why = outcomeBadge(now), ui.Badge{Tone: "bad", Text: "cut off"}, "The policy would require a boot that matches. The state of this device's boot is: "+ui.StateBadge(d.Boot).Text+"."
		case now.Action == would.Action && now.Code == would.Code:
			continue
		default:
			change.Now, change.Would, change.Why = outcomeBadge(now), outcomeBadge(would), would.Reason
			switch would.Action {
			case evidence.Refuse:
				p.Refused++
			case evidence.Ask:
				p.Asked++
			default:
				p.Admitted++
			}
		}
		p.Changes = append(p.Changes, change)
	}
	return nil
}

// tryDevice returns the outcomes for a device: `now` with the present policy, and `would` with the
// new policy. The result `known` is false if the device's evidence cannot be read.
func (s *Server) tryDevice(ctx context.Context, t *onboard.Trial, d *store.Device) (now, would onboard.Outcome, known bool, err error) {
	if d.Enrolment == (store.Hash{}) {
		withoutNow, withoutThen := t.WithoutTPM()
		return withoutTPM(withoutNow), withoutTPM(withoutThen), true, nil
	}
	e, err := s.cfg.Store.Enrolment(ctx, d.Enrolment)
	if errors.Is(err, store.ErrNotFound) { // deleted meanwhile
		return now, would, false, nil
	}
	if err != nil {
		return now, would, false, err
	}
	if now, would, err = t.Device(ctx, &e); err != nil {
		if ctx.Err() != nil {
			return now, would, false, err
		}
		s.log.Warn("a device's evidence cannot be judged again", "device", d.ID, "err", err)
		return now, would, false, nil
	}
	return now, would, true, nil
}

func withoutTPM(accepted bool) onboard.Outcome {
	if accepted {
		return onboard.Outcome{Action: evidence.Accept}
	}
	return onboard.Outcome{Action: evidence.Refuse, Code: "without-tpm", Reason: "The policy would refuse devices without a TPM."}
}

// outcomeBadge returns the badge for an outcome.
func outcomeBadge(o onboard.Outcome) ui.Badge {
	switch o.Action {
	case evidence.Accept:
		return ui.Badge{Tone: "ok", Text: "accepted"}
	case evidence.Ask:
		return ui.StateBadge("waiting")
	}
	return ui.Badge{Tone: "bad", Text: "refused"}
}

// previewArrivals judges the newest waiting machines with the present policy and with the new
// policy, and adds the changes to p.
func (s *Server) previewArrivals(ctx context.Context, p *ui.PolicyPreview, t *onboard.Trial, owner string) error {
	list, err := s.cfg.Store.WaitingDevices(ctx, owner, s.cfg.Now(), previewWaiting)
	if err != nil {
		return err
	}
	counts, err := s.cfg.Store.FleetCounts(ctx, owner)
	if err != nil {
		return err
	}
	p.Waiting, p.AllWaiting = len(list), len(list)
	if len(list) == previewWaiting {
		p.AllWaiting = max(len(list), counts.Waiting)
	}
	for _, one := range list {
		w, err := s.cfg.Store.WaitingByID(ctx, owner, one.DeviceID, s.cfg.Now())
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		now, would, err := t.Waiting(ctx, &w)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			p.Unread++
			continue
		}
		if now.Action == would.Action && now.Code == would.Code {
			continue
		}
		p.WaitingTouched++
		p.Changes = append(p.Changes, ui.PolicyChange{Name: orWord(strings.TrimSpace(w.ProdModel+" "+w.ProdSerial), "A machine"), Path: waitingPath, Waiting: true,
			Now: outcomeBadge(now), Would: outcomeBadge(would), Why: would.Reason})
	}
	return nil
}

func orWord(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
