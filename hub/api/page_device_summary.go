package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/wire/trail"
)

// Bounds of the timeline.
const (
	lifeEvents    = 40
	lifeRevisions = 5
	lifeMoments   = 24
)

// fillSummary fills the tab "Summary".
func (s *Server) fillSummary(r *http.Request, v *deviceView) error {
	ctx, d := r.Context(), v.Device
	e, err := s.readEvidence(ctx, d, v.boot)
	if err != nil {
		return err
	}
	sum := &ui.DeviceSummary{Chain: e.picture, Well: s.wellWords(v), Where: whereFacts(d), Facts: consoleFacts(d.DeviceMeta)}
	reported, has, err := orMissing(s.cfg.Store.TrailSummary(ctx, d.ID))
	if err != nil {
		return err
	}
	if has {
		sum.Runs = revisionFacts(&reported)
	}
	sum.Runs = append(sum.Runs, softwareFacts(d.DeviceMeta)...)
	if sum.Life, err = s.lifeOf(r, e); err != nil {
		return err
	}
	v.Summary, v.Evidence = sum, s.paper(e)
	return nil
}

// wellWords returns a sentence that says whether the device needs its owner's attention.
func (s *Server) wellWords(v *deviceView) string {
	quiet := s.cfg.Now().Sub(v.Device.LastSeen) > store.QuietAfter
	switch {
	case len(v.Needs) == 1:
		return "One problem needs your attention."
	case len(v.Needs) > 1:
		return fmt.Sprintf("%d problems need your attention.", len(v.Needs))
	case quiet:
		return "The device is quiet: the hub has not heard from it for longer than usual."
	case v.newest != nil && !v.newest.Status.Final():
		return fmt.Sprintf("No problem is known. The device is installing revision %d.", v.newest.Rev)
	}
	return "No problem is known."
}

// whereFacts returns facts about where a device is: the device's IP address, values of its
// user-meta, and the device's description of its machine.
func whereFacts(d store.Device) []ui.Fact {
	facts := []ui.Fact{{Name: "Address", Value: d.LastSeenAddr, Mono: true, Note: "of its last contact"}}
	for _, key := range []string{"site", "location", "fleet-location", "fleet-group"} {
		if text, ok := d.UserMeta[key].(string); ok && text != "" {
			facts = append(facts, ui.Fact{Name: upperFirst(strings.ReplaceAll(key, "-", " ")), Value: ui.Visible(clipRunes(text, 120)), Note: "as you noted"})
		}
	}
	machine := ui.Visible(d.ProdModel)
	if d.ProdSerial != "" {
		machine += ", serial " + ui.Visible(d.ProdSerial)
	}
	return append(facts, ui.Fact{Name: "Machine", Value: machine, Note: "as the device states"})
}

// revisionFacts returns facts about the revision that a device named in its last report.
func revisionFacts(t *store.TrailSummary) []ui.Fact {
	report := trail.ReadReport(t.Revision.Progress)
	facts := []ui.Fact{{Name: "Revision", Value: fmt.Sprintf("%d, %s", t.Reported, statusWords(t.Revision.Status)), Note: ui.Visible(clipRunes(report.Message, 120))}}
	if t.Rev != t.Reported {
		facts = append(facts, ui.Fact{Name: "Newest revision", Value: fmt.Sprint(t.Rev)})
	}
	if t.Revision.CommitMsg != "" {
		facts = append(facts, ui.Fact{Name: "Message", Value: ui.Visible(clipRunes(t.Revision.CommitMsg, 120))})
	}
	return facts
}

// softwareFacts returns the versions of the programs on a device, from its device-meta.
func softwareFacts(meta map[string]any) []ui.Fact {
	var facts []ui.Fact
	for _, f := range []struct{ key, name string }{
		{"gangway.version", "Agent"}, {"pantavisor.version", "Pantavisor"}, {"gangway.kernel", "Kernel"}, {"gangway.arch", "Architecture"},
	} {
		if text, ok := meta[f.key].(string); ok && text != "" {
			facts = append(facts, ui.Fact{Name: f.name, Value: ui.Visible(clipRunes(text, 120))})
		}
	}
	return facts
}

// maxNetworkFacts bounds the network interfaces that the page shows.
const maxNetworkFacts = 8

// consoleFacts returns the facts about a machine in its device-meta, as Gangway's agent and
// Pantavisor send them. It ignores a key whose value has an unexpected type, or is out of range.
func consoleFacts(meta map[string]any) []ui.Fact {
	var facts []ui.Fact
	text := func(key, name string) {
		if t, ok := meta[key].(string); ok && t != "" {
			facts = append(facts, ui.Fact{Name: name, Value: ui.Visible(clipRunes(t, 120))})
		}
	}
	text("gangway.hostname", "Host name")
	facts = append(facts, networkFacts(meta)...)
	if total, free := amount(meta, "storage", "total"), amount(meta, "storage", "free"); total > 0 && free <= total {
		facts = append(facts, ui.Fact{Name: "Disk", Value: ui.Bytes(free) + " free of " + ui.Bytes(total)})
	}
	unit := max(amount(meta, "sysinfo", "mem_unit"), 1)
	if total, free := amount(meta, "sysinfo", "totalram"), amount(meta, "sysinfo", "freeram"); total > 0 && free <= total && total < 1<<50/unit {
		facts = append(facts, ui.Fact{Name: "Memory", Value: ui.Bytes(free*unit) + " free of " + ui.Bytes(total*unit)})
	}
	if up := amount(meta, "sysinfo", "uptime"); up > 0 && up < 1<<33 {
		facts = append(facts, ui.Fact{Name: "Up for", Value: upWords(time.Duration(up) * time.Second)})
	}
	text("pantavisor.cpumodel", "Processor")
	text("pantavisor.dtmodel", "Board")
	return facts
}

// networkFacts returns the addresses of each network interface, IPv4 first.
func networkFacts(meta map[string]any) (facts []ui.Fact) {
	cards, _ := meta["interfaces"].(map[string]any)
	at := map[string]int{} // the index of a network interface in facts
	for _, key := range slices.Sorted(maps.Keys(cards)) {
		card, kind, ok := cutLast(key, ".")
		list, isList := cards[key].([]any)
		if !ok || !isList || card == "lo" || kind == "mac" {
			continue
		}
		var addresses []string
		for _, one := range list[:min(len(list), 8)] {
			if a, ok := one.(string); ok {
				addresses = append(addresses, ui.Visible(clipRunes(a, 64)))
			}
		}
		place, seen := at[card]
		switch {
		case len(addresses) == 0:
		case seen:
			facts[place].Value += ", " + strings.Join(addresses, ", ")
		case len(facts) < maxNetworkFacts:
			at[card] = len(facts)
			facts = append(facts, ui.Fact{Name: "Network " + ui.Visible(clipRunes(card, 32)), Value: strings.Join(addresses, ", "), Mono: true})
		}
	}
	return facts
}

// amount reads a whole number from an object in the device-meta. It returns 0 for anything but a
// number from 0 to the largest int64.
func amount(meta map[string]any, object, key string) uint64 {
	members, _ := meta[object].(map[string]any)
	n, ok := members[key].(json.Number)
	if !ok {
		return 0
	}
	v, err := n.Int64()
	if err != nil || v < 0 {
		return 0
	}
	return uint64(v)
}

func upWords(d time.Duration) string {
	days, hours, minutes := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60
	switch {
	case days > 0:
		return fmt.Sprintf("%d days, %d h", days, hours)
	case hours > 0:
		return fmt.Sprintf("%d h, %d min", hours, minutes)
	}
	return fmt.Sprintf("%d min, %d s", minutes, int(d.Seconds())%60)
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// clipRunes shortens a text that a device or a person wrote to `n` characters.
func clipRunes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	runes := []rune(s[:min(len(s), 4*n)])
	if len(runes) <= n {
		return string(runes)
	}
	return string(runes[:n]) + "…"
}

// lifeOf returns a device's timeline, the newest moment first: the steps of its onboarding, and the
// events and revisions that the hub recorded after the onboarding.
func (s *Server) lifeOf(r *http.Request, e *deviceEvidence) ([]ui.Moment, error) {
	ctx, d := r.Context(), e.facts.Device
	life, err := s.onboardingSteps(r, e)
	if err != nil {
		return nil, err
	}
	events, err := s.cfg.Store.Events(ctx, store.EventFilter{Owner: d.Owner, Device: d.ID, Limit: lifeEvents})
	if err != nil {
		return nil, err
	}
	for _, one := range events {
		if m, ok := momentOf(one); ok {
			life = append(life, m)
		}
	}
	heads, err := s.cfg.Store.RevisionHeads(ctx, d.ID, -1, lifeRevisions)
	if err != nil {
		return nil, err
	}
	for _, rev := range heads {
		if rev.ProgressTime.IsZero() || rev.Rev == 0 {
			continue
		}
		life = append(life, ui.Moment{Time: rev.ProgressTime, Icon: "git-branch", Title: fmt.Sprintf("Revision %d: %s", rev.Rev, statusWords(rev.Status)),
			Detail: ui.Visible(clipRunes(trail.ReadReport(rev.Progress).Message, 160)), Took: ui.Exactly(rev.ProgressTime.Sub(rev.Posted)), Bad: failed(rev.Status)})
	}
	slices.SortStableFunc(life, func(a, b ui.Moment) int { return b.Time.Compare(a.Time) })
	return life[:min(len(life), lifeMoments)], nil
}

// onboardingSteps returns the recorded steps of a device's latest onboarding.
func (s *Server) onboardingSteps(r *http.Request, e *deviceEvidence) (life []ui.Moment, err error) {
	row, d := e.facts.Enrolment, e.facts.Device
	if row == nil {
		return []ui.Moment{{Time: d.Created, Icon: "plus", Title: "Registered, without evidence of a TPM"}}, nil
	}
	waited, has, err := orMissing(s.cfg.Store.WaitingByEK(r.Context(), d.Owner, row.EK, s.cfg.Now()))
	if err != nil {
		return nil, err
	}
	if has && waited.State == store.Approved && !waited.Decided.After(row.Created) {
		life = append(life, ui.Moment{Time: waited.Since, Icon: "clock", Title: "First request; the machine waited for a decision"},
			ui.Moment{Time: waited.Decided, Icon: "user", Title: "Approved by " + ui.Visible(waited.By), Took: ui.Exactly(waited.Decided.Sub(waited.Since))})
	}
	passed := 0
	for _, c := range e.facts.Verdict.Checks {
		if c.OK {
			passed++
		}
	}
	life = append(life, ui.Moment{Time: row.Created, Icon: "shield-check", Title: "Evidence accepted, certificates issued", Detail: fmt.Sprintf("%d checks passed.", passed)})
	if row.State == store.Active && !d.Activated.IsZero() {
		life = append(life, ui.Moment{Time: d.Activated, Icon: "key", Title: "Activated: the TPM opened the certificates", Took: ui.Exactly(d.Activated.Sub(row.Created))})
	}
	if !d.Created.Equal(d.Activated) {
		life = append(life, ui.Moment{Time: d.Created, Icon: "plus", Title: "Onboarded for the first time"})
	}
	return life, nil
}

// momentIcons are the icons of events, by the beginning of the event's kind.
var momentIcons = []struct{ kind, icon string }{
	{"device.boot", "cpu"}, {"device.meta", "activity"}, {"step.", "git-branch"}, {"trail.", "git-branch"},
	{"device.approved", "user"}, {"device.denied", "user"}, {"device.renamed", "pencil"}, {"device.user-meta", "pencil"},
}

// momentOf converts an event to an entry of the timeline. The result `ok` is false for the
// activation, because onboardingSteps already returns it.
func momentOf(e store.Event) (ui.Moment, bool) {
	if e.Kind == "device.activated" {
		return ui.Moment{}, false
	}
	m := ui.Moment{Time: e.Time, Icon: "info", Title: ui.Visible(e.Message), Bad: e.Code != ""}
	for _, one := range momentIcons {
		if strings.HasPrefix(e.Kind, one.kind) {
			m.Icon = one.icon
		}
	}
	if !e.Last.IsZero() {
		m.Time = e.Last
	}
	if e.Count > 1 {
		m.Detail = fmt.Sprintf("%s times on %s.", ui.Number(e.Count), e.Time.UTC().Format("2 January"))
	}
	return m, true
}

// statusWords returns a revision's status in words.
func statusWords(s trail.Status) string {
	switch s {
	case trail.StatusNew:
		return "waiting for the device"
	case trail.StatusQueued:
		return "queued"
	case trail.StatusDownloading:
		return "downloading"
	case trail.StatusSyncing:
		return "writing"
	case trail.StatusInProgress:
		return "installing"
	case trail.StatusTesting:
		return "testing"
	case trail.StatusDone, trail.StatusUpdated:
		return "done"
	case trail.StatusError:
		return "failed"
	case trail.StatusWontGo:
		return "not installed"
	case trail.StatusCancelled:
		return "cancelled"
	}
	return strings.ToLower(string(s))
}

func failed(s trail.Status) bool { return s == trail.StatusError || s == trail.StatusWontGo }
