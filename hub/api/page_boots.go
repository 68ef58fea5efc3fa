package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"gangway/hub/boot"
	"gangway/hub/store"
	"gangway/hub/ui"
)

const bootsPath = "/ui/boots"

// shownDecisions, shownManifests and shownMembers bound the lists on the pages about boots.
const shownDecisions, shownManifests, shownMembers = 50, 50, 100

// showBoots serves the page on which an owner decides about boots of many devices.
func (s *Server) showBoots(w http.ResponseWriter, r *http.Request) error {
	return s.renderBoots(w, r, http.StatusOK, &ui.BootsPage{})
}

// renderBoots shows the page with the forms as they are in `p`.
func (s *Server) renderBoots(w http.ResponseWriter, r *http.Request, status int, p *ui.BootsPage) error {
	ctx, owner := r.Context(), accountOf(r).ID
	p.Tabs = trustTabs(bootsPath)
	list, err := s.cohorts(ctx, owner, "", "")
	if err != nil {
		return err
	}
	p.More = list.More
	for _, c := range list.Items {
		row := ui.BootCohort{Path: cohortPath(c), Model: c.Model, Part: partWords(c.Part), Words: c.Words, Devices: c.Devices, Bad: c.Bad, Of: c.Of, First: c.First, Nicks: c.Nicks}
		if c.Outlier {
			p.Outliers = append(p.Outliers, row)
		} else {
			p.Changes = append(p.Changes, row)
		}
	}
	decisions, err := s.cfg.Store.BootDecisions(ctx, owner)
	if err != nil {
		return err
	}
	for _, d := range decisions[:min(len(decisions), shownDecisions)] {
		p.Decisions = append(p.Decisions, ui.BootDecision{ID: d.ID, Words: d.Words, By: d.MadeBy, Made: d.Made})
	}
	manifests, err := s.manifestViews(ctx, owner)
	if err != nil {
		return err
	}
	p.HiddenManifests = max(0, len(manifests)-shownManifests)
	for _, m := range manifests[:min(len(manifests), shownManifests)] {
		p.Manifests = append(p.Manifests, ui.BootManifest{Path: bootManifestPath + "/" + m.ID, ID: m.ID, Name: m.Name, Sequence: m.Sequence, Counts: m.Counts, Added: m.Added})
	}
	keys, err := s.cfg.Store.ManifestKeys(ctx, owner)
	if err != nil {
		return err
	}
	for _, k := range keys {
		id := fmt.Sprintf("%x", k.ID)
		p.Keys = append(p.Keys, ui.BootKey{Path: bootKeyPath + "/" + id, ID: id, Name: k.Name, Added: k.Added})
	}
	return s.renderPage(w, r, status, "boots", ui.Page{Title: "Boots", Section: ui.SectionTrust, Data: p, Wide: true})
}

// cohortPath returns the address of the preview of a decision about a cohort.
func cohortPath(c CohortView) string {
	path := bootsPath + "/" + url.PathEscape(c.Part) + "/" + url.PathEscape(c.Value)
	if c.Model != "" {
		path += "?" + url.Values{"model": {c.Model}}.Encode()
	}
	return path
}

// showBootCohort previews a decision about a cohort.
func (s *Server) showBootCohort(w http.ResponseWriter, r *http.Request) error {
	q := cohortIn(r)
	q.Token = "" // the page has no field for a token
	c, err := s.cohort(r.Context(), accountOf(r).ID, q)
	if err != nil {
		return err
	}
	p := &ui.BootCohortPage{Part: partWords(c.Part), PartName: c.Part, Value: c.Value, Model: c.Model, Firmware: c.Firmware, Devices: c.Devices, Bad: c.Bad, Code: c.Part == boot.FirmwareCode}
	p.AllVersions = versionPath(c, "")
	for _, v := range c.Versions {
		if v.Firmware != "" && v.Firmware != c.Firmware {
			p.Versions = append(p.Versions, ui.BootVersion{Path: versionPath(c, v.Firmware), Firmware: v.Firmware, Devices: v.Devices, Bad: v.Bad})
		}
	}
	members := c.Members[:min(len(c.Members), shownMembers)]
	p.Hidden = c.Devices - len(members)
	for _, m := range members {
		p.Members = append(p.Members, ui.BootMember{Path: tabPath(m.Device, tabBoots), Nick: m.Nick, Bad: m.Bad})
	}
	return s.renderPage(w, r, http.StatusOK, "bootcohort", ui.Page{Title: "Accept a boot", Section: ui.SectionTrust, Data: p})
}

// versionPath returns the address of the preview for one version of the firmware. If `firmware` is
// empty, the preview is for all versions.
func versionPath(c CohortDetail, firmware string) string {
	q := url.Values{}
	for name, value := range map[string]string{"model": c.Model, "firmware": firmware} {
		if value != "" {
			q.Set(name, value)
		}
	}
	path := cohortPath(CohortView{Part: c.Part, Value: c.Value})
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return path
}

// acceptCohortOnPage accepts a measured value for one part of the boot, such as the boot loader.
// The decision is for the cohort of devices that the preview showed.
func (s *Server) acceptCohortOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	devices, err := strconv.Atoi(r.PostFormValue("devices"))
	if err != nil || devices < 1 {
		return problem(http.StatusBadRequest, "boot-part", "Reload the page.", "The form does not say how many devices the preview showed.")
	}
	body := NewBootDecision{Part: r.PostFormValue("part"), Value: r.PostFormValue("value"), Model: r.PostFormValue("model"), Firmware: r.PostFormValue("firmware"), Devices: devices}
	d, err := s.putBootDecision(r, body)
	if err != nil {
		return s.bootsProblem(w, r, err)
	}
	return s.redirect(w, r, bootsPath, ui.Notice{Tone: "ok", Text: d.Words + " The hub judges their boots again, which can take some minutes."})
}

// undoCohortOnPage undoes a decision.
func (s *Server) undoCohortOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	if err := s.dropBootDecision(r, r.PostFormValue("id")); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return s.redirect(w, r, bootsPath, ui.Notice{Tone: "ok", Text: "The decision is undone. The hub judges the boots again, which can take some minutes."})
}

// bootsProblem shows the page with an error that the person can correct.
func (s *Server) bootsProblem(w http.ResponseWriter, r *http.Request, err error) error {
	text, status, ok := s.formProblem(r, err)
	if !ok {
		return err
	}
	return s.renderBoots(w, r, status, &ui.BootsPage{Problem: text})
}
