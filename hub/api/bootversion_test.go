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

// updated returns the event log of a boot after an update of the firmware. The update changed the
// firmware's version to `version`, and the Secure Boot keys to `keys`.
func updated(version, keys string) eventlog.Log {
	l := system("linux 1")
	l[0].Data = eventlog.UTF16(version)
	l[2].Data = eventlog.Variable("db", []byte(keys))
	return l
}

// An owner accepts a measured value for one version of the firmware. The decision does not cover a
// device with another version of the firmware, even if the device measured the same value.
func TestDecisionForAFirmwareVersionCoversNoOtherVersion(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, _, id := s.connected(t)
	booted(t, c, s.victim, system("linux 1"), 1)
	booted(t, c, s.victim, updated("fw 1.3", "new keys"), 2)
	if got := partsOf(ada, id); got != "changed changed known known known" {
		t.Fatalf("%s", got)
	}
	var keys api.CohortView
	for _, one := range want[api.CohortList](ada, "GET", "/boots/cohorts", nil, 200).Items {
		if one.Part == boot.PartKeys {
			keys = one
		}
	}
	path := "/boots/cohorts/keys/" + keys.Value
	preview := want[api.CohortDetail](ada, "GET", path, nil, 200)
	if len(preview.Versions) != 1 || preview.Versions[0] != (api.FirmwareVersion{Firmware: "fw 1.3", Devices: 1, Bad: 1}) {
		t.Errorf("%s", brief.Of(preview))
	}
	want[api.Problem](ada, "GET", path+"?firmware=fw+1.2", nil, 404)
	want[api.Problem](ada, "POST", "/boots/decisions", api.NewBootDecision{Part: boot.PartKeys, Value: keys.Value, Firmware: "fw 1.2"}, 404)
	if one := want[api.CohortDetail](ada, "GET", path+"?firmware=fw+1.3", nil, 200); one.Devices != 1 || one.Bad != 1 || len(one.Members) != 1 || one.Firmware != "fw 1.3" {
		t.Errorf("%s", brief.Of(one))
	}
	// The decision is made on the page.
	b := s.browser(t)
	b.signIn()
	says(t, b.page("/ui/boots/keys/"+keys.Value), "all versions", "fw 1.3 : 1 device, changed on 1")
	says(t, b.page("/ui/boots/keys/"+keys.Value+"?firmware=fw+1.3"), "fw 1.3")
	accept := url.Values{"part": {"keys"}, "value": {keys.Value}, "firmware": {"fw 1.3"}, "devices": {"1"}}
	if status, page, _ := b.send("POST", "/ui/boots/accept", accept.Encode()); status != 303 {
		t.Fatalf("%d %s", status, text(page))
	}
	if got := partsOf(ada, id); got != "changed known known known known" {
		t.Errorf("%s", got)
	}
	booted(t, c, s.victim, updated("fw 1.4", "new keys"), 3)
	if got := partsOf(ada, id); got != "changed changed known known known" {
		t.Errorf("a decision for fw 1.3 covers fw 1.4: %s", got)
	}
	// A decision for all versions does not replace the decision for one version.
	want[api.BootDecisionView](ada, "POST", "/boots/decisions", api.NewBootDecision{Part: boot.PartKeys, Value: keys.Value}, 200)
	if got := partsOf(ada, id); got != "changed known known known known" {
		t.Errorf("%s", got)
	}
	list := want[api.BootList[api.BootDecisionView]](ada, "GET", "/boots/decisions", nil, 200).Items
	if len(list) != 2 || list[1].Firmware != "fw 1.3" || !strings.Contains(list[1].Words, `with the firmware version "fw 1.3"`) {
		t.Errorf("%s", brief.Of(list))
	}
}

// A device can send a firmware version of any length. The hub stores only the beginning of it,
// because the version is part of database indexes.
func TestLongFirmwareVersionIsCut(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, _, id := s.connected(t)
	booted(t, c, s.victim, system("linux 1"), 1)
	booted(t, c, s.victim, updated(strings.Repeat("long ", 200), "new keys"), 2)
	j := must(s.Store.JudgedBoot(t.Context(), id))(t)
	if n := len(j.Firmware); n == 0 || n > 120 {
		t.Fatalf("%d bytes", n)
	}
	m := must(s.Store.BootMembers(t.Context(), s.Owner.ID, store.BootMembers{Part: boot.PartKeys, Value: must(latestValues(s, t, id))(t)[boot.PartKeys], Firmware: j.Firmware}))(t)
	if len(m) != 1 {
		t.Errorf("%d devices", len(m))
	}
	want[api.BootDecisionView](ada, "POST", "/boots/decisions", api.NewBootDecision{Part: boot.PartKeys, Value: must(latestValues(s, t, id))(t)[boot.PartKeys], Firmware: j.Firmware}, 200)
	if got := partsOf(ada, id); got != "changed known known known known" {
		t.Errorf("%s", got)
	}
}

func latestValues(s *scene, t *testing.T, id string) (map[string]string, error) {
	v := want[api.BootView](s.person(t, "ada"), "GET", "/devices/"+id+"/boot", nil, 200)
	if v.Latest == nil {
		return nil, fmt.Errorf("no measurement")
	}
	return v.Latest.Values(), nil
}
