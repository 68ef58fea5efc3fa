package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"gangway/hub/boot"
	"gangway/hub/store"
	"gangway/hub/ui"
)

// These bounds keep the tab "Boots" small. pcrEvents is the largest number of events that the tab
// shows for a PCR. bootChanges is the largest number of changes that it shows for the latest
// measurement, and pastWords the largest number that it shows for each earlier measurement.
const (
	pcrEvents   = 40
	bootChanges = 100
	pastWords   = 5
)

// fillBoots fills the tab "Boots".
func (s *Server) fillBoots(r *http.Request, v *deviceView) error {
	ctx, id := r.Context(), v.Device.ID
	if err := s.judgeIfStale(ctx, v.Device); err != nil {
		return err
	}
	status, err := s.stableBootStatus(ctx, id)
	if err != nil {
		return err
	}
	b := &ui.DeviceBoots{State: status.state}
	v.Boots = b
	if b.Requested, err = s.cfg.Store.BootRequested(ctx, id); err != nil {
		return err
	}
	refusal, refused, err := orMissing(s.cfg.Store.BootRefusal(ctx, id))
	if err != nil {
		return err
	}
	if refused {
		b.Refusal = &refusal
	}
	if status.reference.Text != nil {
		if err := json.Unmarshal(status.reference.Text, &b.Reference); err != nil {
			return err
		}
	}
	if status.latest == nil {
		return nil
	}
	b.Measured, b.Number = status.latest.Time, status.latest.Number
	if err := errors.Join(json.Unmarshal(status.latest.Measurement, &b.Latest), json.Unmarshal(status.latest.Changes, &b.Changes)); err != nil {
		return err
	}
	if len(status.latest.Verdict) > 0 {
		var verdict boot.Verdict
		if err := json.Unmarshal(status.latest.Verdict, &verdict); err != nil {
			return err
		}
		b.Parts, b.System = verdict.Parts, verdict.System
	}
	b.Changes = b.Changes[:min(len(b.Changes), bootChanges)]
	b.Lasting = !b.Latest.NothingMeasured() && status.state != store.BootRefused
	b.PCRs = pcrRows(b.Latest, b.Reference)
	return s.fillHistory(r, v)
}

// pcrRows returns a row for each PCR of a measurement. Each row also has the value of the reference
// and whether the two values are equal. If `ref` is nil, the rows have no reference values.
func pcrRows(m *boot.Measurement, ref *boot.Reference) (rows []ui.PCR) {
	for n, value := range m.PCRs[:min(len(m.PCRs), boot.PCRs)] {
		row := ui.PCR{Number: n, Words: boot.PCRWords(n), Value: value, Explained: !slices.Contains(m.Unexplained, n)}
		if ref != nil && ref.Bank == m.Bank {
			row.Reference, row.Compared = ref.PCRs[n], ref.PCRs[n] != ""
			row.Equal = row.Reference == value
		}
		for _, e := range m.Events {
			switch {
			case e.PCR != n:
			case len(row.Events) == pcrEvents:
				row.MoreEvents++
			default:
				row.Events = append(row.Events, e)
			}
		}
		row.InUse = !emptyPCR(value)
		rows = append(rows, row)
	}
	return rows
}

// emptyPCR reports whether a PCR's value is all zeros, as after a reset.
func emptyPCR(value string) bool {
	for _, c := range value {
		if c != '0' {
			return false
		}
	}
	return true
}

func (s *Server) fillHistory(r *http.Request, v *deviceView) error {
	history, err := s.cfg.Store.BootHistory(r.Context(), v.Device.ID)
	if err != nil {
		return err
	}
	for _, past := range history {
		p := ui.PastBoot{Time: past.Time, State: past.State}
		var changes []boot.Change
		if err := json.Unmarshal(past.Changes, &changes); err != nil {
			return err
		}
		for _, c := range changes[:min(len(changes), pastWords)] {
			p.Words = append(p.Words, c.Words)
		}
		if more := len(changes) - pastWords; more > 0 {
			p.Words = append(p.Words, fmt.Sprintf("%d more differences.", more))
		}
		v.Boots.History = append(v.Boots.History, p)
	}
	return nil
}

// acceptBootOnPage sets the device's reference to the measurement that the page showed. It can also
// lock or unlock the reference.
func (s *Server) acceptBootOnPage(w http.ResponseWriter, r *http.Request) error {
	d, err := s.deviceOfForm(r)
	if err != nil {
		return err
	}
	number, err := strconv.ParseInt(r.PostFormValue("measurement"), 10, 64)
	decision := bootDecision{Measurement: number}
	lock := r.PostFormValue("act") == "lock"
	switch r.PostFormValue("act") {
	case "accept":
		if err != nil || number < 1 {
			return problem(http.StatusBadRequest, "boot-reference", "Reload the page.", "The form does not say which measurement to accept.")
		}
		decision.From = "latest"
	case "lock", "unlock":
		decision.Measurement, decision.Lock = 0, &lock
	default:
		return problem(http.StatusBadRequest, "boot-reference", "Reload the page.", "The form does not say what to do.")
	}
	if err := s.decideReference(r, d, decision); err != nil {
		text, status, ok := s.formProblem(r, err)
		if !ok {
			return err
		}
		return s.renderDevice(w, r, status, d, tabBoots, func(p *ui.DevicePage) { p.Boots.Problem = text })
	}
	said := map[string]string{
		"accept": "The measured boot is the reference now. Later boots are compared with it.",
		"lock":   "The reference is locked. It does not change until you unlock it.", "unlock": "The reference is unlocked.",
	}[r.PostFormValue("act")]
	return s.redirect(w, r, tabPath(d.ID, tabBoots), ui.Notice{Tone: "ok", Text: said})
}

// requestBootOnPage requests a boot measurement from the device.
func (s *Server) requestBootOnPage(w http.ResponseWriter, r *http.Request) error {
	d, err := s.deviceOfForm(r)
	if err != nil {
		return err
	}
	if err := s.askForBoot(r, d); err != nil {
		return err
	}
	return s.redirect(w, r, tabPath(d.ID, tabBoots), ui.Notice{Tone: "ok", Text: "The measurement is requested. The device gets the request with its next report."})
}
