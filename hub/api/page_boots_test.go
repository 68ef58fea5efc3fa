package api_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/hub/boot"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/eventlog"
)

// cohortsOf stores the boots of devices of one model. In `common` of these devices, the firmware's
// code changed to the same value, and in one more device, it changed to another value. cohortsOf
// returns the two values.
func (s *scene) cohortsOf(t *testing.T, ada *person, common int) (shared, outlier string) {
	t.Helper()
	shared, outlier = hexSum("shared"), hexSum("outlier")
	for i := range common + 1 {
		d := want[api.Registered](ada, "POST", "/devices", "{}", 200)
		value := shared
		if i == common {
			value = outlier
		}
		b := store.Boot{Device: d.ID, Time: s.Now(), State: store.BootChanged, Measurement: []byte("{}"), Changes: []byte("[]"), Judged: &store.BootJudged{
			Version: 1 << 40, Model: "<b>NUC</b>", Parts: []store.BootPart{{Part: boot.FirmwareCode, Value: value, Bad: true, Words: "It is <i>new</i>.", Cause: boot.CauseFirmware}}}}
		if _, err := s.Store.PutBoot(t.Context(), b, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	return shared, outlier
}

// Many devices measured the same changed firmware, and one device measured different firmware. The
// page lists this one device, the outlier, before the change that the other devices have in common.
func TestOutliersComeFirst(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	s.Policy(t, store.HubWide, "version: 1\nwithout_tpm: accept\n")
	ada := s.person(t, "ada")
	const common = 24
	shared, outlier := s.cohortsOf(t, ada, common)
	list := want[api.CohortList](ada, "GET", "/boots/cohorts", nil, 200)
	if len(list.Items) != 2 || list.Items[0].Value != outlier || !list.Items[0].Outlier || list.Items[1].Value != shared || list.Items[1].Outlier || list.Items[1].Bad != common {
		t.Fatalf("%s", brief.Of(list))
	}
	b := s.browser(t)
	b.signIn()
	_, page, _ := b.send("GET", "/ui/boots", "")
	said := text(page)
	if !strings.Contains(said, "Outliers 1") || strings.Index(said, "Outliers 1") > strings.Index(said, "Changes in common 1") || strings.Contains(page, "<i>new") || strings.Contains(page, "<b>NUC") {
		t.Errorf("%s", said)
	}
	// An outlier is on the list even if its boot never changed.
	known := api.NewBootDecision{Part: boot.FirmwareCode, Value: outlier}
	want[api.BootDecisionView](ada, "POST", "/boots/decisions", known, 200)
	for _, m := range want[api.CohortDetail](ada, "GET", "/boots/cohorts/"+boot.FirmwareCode+"/"+outlier, nil, 200).Members {
		b := store.Boot{Device: m.Device, Time: s.Now(), State: store.BootMatches, Measurement: []byte("{}"), Changes: []byte("[]"),
			Judged: &store.BootJudged{Version: 1 << 40, Model: "<b>NUC</b>", Parts: []store.BootPart{{Part: boot.FirmwareCode, Value: outlier}}}}
		if _, err := s.Store.PutBoot(t.Context(), b, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	if list := want[api.CohortList](ada, "GET", "/boots/cohorts", nil, 200); len(list.Items) != 2 || list.Items[0].Value != outlier || list.Items[0].Bad != 0 {
		t.Errorf("%s", brief.Of(list))
	}
}

// On the page, an owner accepts a changed part of the boot for a cohort of devices, and later
// withdraws this decision.
func TestCohortIsAcceptedAndUndoneOnThePage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	s.Account(t, "bob")
	c, _, id := s.connected(t)
	update := system("linux 1")
	update[0].Data = eventlog.UTF16("fw 1.3")
	booted(t, c, s.victim, system("linux 1"), 1)
	booted(t, c, s.victim, update, 2)
	b := s.browser(t)
	b.signIn()
	_, page, _ := b.send("GET", "/ui/boots", "")
	if !strings.Contains(text(page), "The firmware's version was") {
		t.Fatalf("%s", text(page))
	}
	cohort := want[api.CohortList](ada, "GET", "/boots/cohorts", nil, 200).Items[0]
	path := "/ui/boots/" + cohort.Part + "/" + cohort.Value
	_, page, _ = b.send("GET", path+"?"+url.Values{"model": {cohort.Model}}.Encode(), "")
	if !strings.Contains(text(page), "1 device has this value") || !strings.Contains(text(page), "whatever settings") {
		t.Errorf("%s", text(page))
	}
	accept := func(devices int) string {
		return url.Values{"part": {cohort.Part}, "value": {cohort.Value}, "devices": {fmt.Sprint(devices)}}.Encode()
	}
	if status, page, _ := b.send("POST", "/ui/boots/accept", accept(0)); status != 400 {
		t.Errorf("%d %s", status, text(page))
	}
	// Attack: a page of another site sends the form, without the form token. The hub refuses it.
	token := b.token
	b.token = ""
	if status, _, _ := b.send("POST", "/ui/boots/accept", accept(1)); status != 403 {
		t.Errorf("without the form token: %d", status)
	}
	b.token = token
	if status, page, _ := b.send("POST", "/ui/boots/accept", accept(1)); status != 303 {
		t.Fatalf("%d %s", status, text(page))
	}
	if got := partsOf(ada, id); got != allKnown {
		t.Errorf("%s", got)
	}
	if status, page, _ := b.send("POST", "/ui/boots/accept", accept(1)); status != 409 || !strings.Contains(text(page), "You made this decision already") {
		t.Errorf("%d %s", status, text(page))
	}
	decisions := want[api.BootList[api.BootDecisionView]](ada, "GET", "/boots/decisions", nil, 200)
	if len(decisions.Items) != 1 {
		t.Fatalf("%s", brief.Of(decisions))
	}
	if status, _, _ := b.send("POST", "/ui/boots/undo", fmt.Sprint("id=", decisions.Items[0].ID)); status != 303 {
		t.Errorf("%d", status)
	}
	if got := partsOf(ada, id); got != "changed known known known known" {
		t.Errorf("%s", got)
	}
	_, page, _ = b.send("GET", "/ui/devices/"+id+"?tab=boots", "")
	if !strings.Contains(text(page), "Parts of the boot") {
		t.Errorf("the device's page has no parts: %s", text(page))
	}
}
