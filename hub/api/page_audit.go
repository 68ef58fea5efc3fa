package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/wire"
)

const (
	// auditRows is the number of events on a page of the audit trail.
	auditRows = 32
	// auditExamined bounds the events that the store reads for one page. If few of these events
	// match the filter, the page has few rows or none.
	auditExamined = 5000
	// auditFresh is the largest number of newer events that the page announces.
	auditFresh = 100
	// auditField bounds the text of a field of the filter, in bytes.
	auditField = 128
)

// auditGroups are the tabs of the page. Each tab shows the events with a kind that begins with
// `kind`.
var auditGroups = []struct{ kind, name string }{
	{"", "All"}, {"device.", "Devices"}, {"enrolment.", "Enrolments"}, {"step.", "Revisions"}, {"token.", "Join tokens"},
	{"account.", "Account"}, {"api-token.", "API tokens"}, {"policy.", "Policy"}, {"ek-list.", "EK list"},
}

// auditKinds are suggestions for the field "Kind". A person can type other kinds too.
var auditKinds = []string{
	"account.", "account.signed-in", "account.sign-in-refused", "account.password-changed", "activation.refused", "api-token.", "device.", "device.activated", "device.boot-changed",
	"device.clone-suspected", "device.deleted", "device.waiting", "ek-list.", "enrolment.refused", "policy.", "step.", "token.", "trail.",
}

// auditQuery is the query of the page's address: as typed, and as a filter for the store.
type auditQuery struct {
	typed  ui.AuditFilter
	filter store.EventFilter
	// The field `nothing` is true if no event can match, because a value in the query is wrong.
	nothing bool
}

// readAuditQuery reads the query of the page's address. The result's field `typed` also says, for
// each wrong value, what the problem is.
func (s *Server) readAuditQuery(r *http.Request) (q auditQuery, err error) {
	v, owner := r.URL.Query(), accountOf(r).ID
	field := func(name string) string {
		text := strings.TrimSpace(v.Get(name))
		if len(text) > auditField {
			text = strings.ToValidUTF8(text[:auditField], "")
		}
		return text
	}
	q.typed = ui.AuditFilter{Kind: field("kind"), Account: field("account"), Device: field("device"), Token: field("token"), Since: field("since"), Until: field("until"), Routine: v.Get("routine") != ""}
	q.filter = store.EventFilter{Owner: owner, Kind: q.typed.Kind, Actor: q.typed.Account, NoRoutine: !q.typed.Routine}
	if before, err := strconv.ParseInt(v.Get("before"), 10, 64); err == nil && before > 0 {
		q.filter.Before = before
	}
	t := &q.typed
	if q.filter.Device, t.DeviceProblem, err = s.deviceOfFilter(r.Context(), owner, t.Device); err != nil {
		return q, err
	}
	if q.filter.Token, t.TokenProblem, err = s.tokenOfFilter(r.Context(), owner, t.Token); err != nil {
		return q, err
	}
	q.filter.Since, t.SinceProblem = dayOfFilter(t.Since)
	q.filter.Until, t.UntilProblem = dayOfFilter(t.Until)
	if len(t.Until) == len(time.DateOnly) && !q.filter.Until.IsZero() {
		q.filter.Until = q.filter.Until.AddDate(0, 0, 1) // include the events of that day
	}
	q.nothing = t.DeviceProblem+t.TokenProblem+t.SinceProblem+t.UntilProblem != ""
	return q, nil
}

// deviceOfFilter finds a device's id by its nick or id. The events of a deleted device can be found
// only by its id.
func (s *Server) deviceOfFilter(ctx context.Context, owner, name string) (id, problem string, err error) {
	if name == "" || wire.IsID(name) {
		return name, "", nil
	}
	d, err := s.cfg.Store.DeviceByNick(ctx, owner, name)
	if errors.Is(err, store.ErrNotFound) {
		return "", "You have no device with this nick. To find the events of a deleted device, type its id.", nil
	}
	return d.ID, "", err
}

// tokenOfFilter finds a join token's id by its nick or id.
func (s *Server) tokenOfFilter(ctx context.Context, owner, name string) (id, problem string, err error) {
	if name == "" || wire.IsID(name) {
		return name, "", nil
	}
	tokens, err := s.cfg.Store.JoinTokensByNick(ctx, owner, name, 2)
	switch {
	case err != nil:
		return "", "", err
	case len(tokens) == 0:
		return "", "You have no join token with this nick.", nil
	case len(tokens) > 1:
		return "", "Several join tokens have this nick. Type the id of one of them.", nil
	}
	return tokens[0].ID, "", nil
}

// dayOfFilter reads a day or a time. A day means its beginning in UTC. A time has the form of RFC
// 3339.
func dayOfFilter(text string) (t time.Time, problem string) {
	if text == "" {
		return t, ""
	}
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		t, err = time.Parse(time.RFC3339, text)
	}
	if err != nil || t.Year() < 1970 || t.Year() > 9998 {
		return time.Time{}, "Write a day like 2026-11-28."
	}
	return t, ""
}

// auditPath returns the address of the page with a filter. `more` are further names and values for
// the query.
func auditPath(path string, f ui.AuditFilter, more ...string) string {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("kind", f.Kind)
	set("account", f.Account)
	set("device", f.Device)
	set("token", f.Token)
	set("since", f.Since)
	set("until", f.Until)
	if f.Routine {
		set("routine", "1")
	}
	for i := 0; i+1 < len(more); i += 2 {
		set(more[i], more[i+1])
	}
	if len(v) == 0 {
		return path
	}
	return path + "?" + v.Encode()
}

// showAudit serves the page of the audit trail.
func (s *Server) showAudit(w http.ResponseWriter, r *http.Request) error {
	q, err := s.readAuditQuery(r)
	if err != nil {
		return err
	}
	p := &ui.AuditPage{Filter: q.typed, Kinds: auditKinds, Here: auditPath("/ui/audit", q.typed), CSV: auditPath("/ui/audit.csv", q.typed), JSON: auditPath("/ui/audit.json", q.typed)}
	for _, g := range auditGroups {
		other := q.typed
		other.Kind = g.kind
		p.Tabs = append(p.Tabs, ui.Tab{Name: g.name, Path: auditPath("/ui/audit", other), Current: q.typed.Kind == g.kind})
	}
	if !q.nothing {
		if err := s.fillAudit(r, p, q); err != nil {
			return err
		}
	}
	return s.renderPage(w, r, http.StatusOK, "audit", ui.Page{Title: "Audit", Section: ui.SectionAudit, Data: p, Wide: true})
}

// fillAudit fills in the events of a page.
func (s *Server) fillAudit(r *http.Request, p *ui.AuditPage, q auditQuery) error {
	// Read the newest event first, so that the page announces events that are recorded while the
	// page is made.
	newest, err := s.cfg.Store.Events(r.Context(), store.EventFilter{Owner: q.filter.Owner, Limit: 1})
	if err != nil {
		return err
	}
	q.filter.Limit = auditRows
	events, next, err := s.cfg.Store.FindEvents(r.Context(), q.filter, auditExamined)
	if err != nil {
		return err
	}
	if p.Rows, err = s.auditRows(r, events, q.typed); err != nil {
		return err
	}
	if len(newest) == 0 {
		p.None = true
		return nil
	}
	p.News = auditPath("/ui/audit/news", q.typed, "after", strconv.FormatInt(newest[0].Seq, 10))
	if q.filter.Before > 0 {
		p.First = p.Here
	}
	if next > 0 {
		p.Next = auditPath("/ui/audit", q.typed, "before", strconv.FormatInt(next, 10))
		p.Partial = len(events) < auditRows
	}
	return nil
}

// showAuditNews answers with the line that announces newer events: the number of events after
// ?after= that match the filter.
func (s *Server) showAuditNews(w http.ResponseWriter, r *http.Request) error {
	q, err := s.readAuditQuery(r)
	if err != nil {
		return err
	}
	after, err := strconv.ParseInt(r.URL.Query().Get("after"), 10, 64)
	if err != nil || after < 1 {
		return problem(http.StatusBadRequest, "after", "Reload the page.", "\"after\" is not the number of an event.")
	}
	p := &ui.AuditPage{Here: auditPath("/ui/audit", q.typed)}
	if !q.nothing {
		q.filter.Before, q.filter.After, q.filter.Limit = 0, after, auditFresh
		events, next, err := s.cfg.Store.FindEvents(r.Context(), q.filter, auditExamined)
		if err != nil {
			return err
		}
		p.Fresh, p.More = len(events), next > after && len(events) == auditFresh
	}
	return s.renderPart(w, r, "audit", "news", ui.Page{Data: p})
}

// auditNames finds the names of the devices, join tokens and actors of events. It looks up each
// name once.
type auditNames struct {
	s      *Server
	ctx    context.Context
	owner  store.Account
	filter ui.AuditFilter
	links  map[string]ui.AuditLink // by kind and id, such as "device ID"
}

// auditRows adds to events the names and page addresses of their devices, join tokens and actors.
func (s *Server) auditRows(r *http.Request, events []store.Event, filter ui.AuditFilter) ([]ui.AuditRow, error) {
	n := &auditNames{s: s, ctx: r.Context(), owner: accountOf(r), filter: filter, links: map[string]ui.AuditLink{}}
	rows := make([]ui.AuditRow, len(events))
	for i, e := range events {
		row := ui.AuditRow{Event: e, Subject: subjectOf(e.Kind)}
		other := filter
		other.Kind = e.Kind
		row.KindPath = auditPath("/ui/audit", other)
		var err error
		if row.AboutDevice, err = n.device(e.Device); err != nil {
			return nil, err
		}
		if row.Subject.Path == waitingPath {
			row.AboutDevice.Gone = false // the id belongs to a waiting machine, not to a deleted device
		}
		if row.AboutToken, err = n.token(e.Token); err != nil {
			return nil, err
		}
		if row.By, err = n.actor(e); err != nil {
			return nil, err
		}
		rows[i] = row
	}
	return rows, nil
}

func (n *auditNames) once(key string, find func() (ui.AuditLink, error)) (ui.AuditLink, error) {
	if l, known := n.links[key]; known {
		return l, nil
	}
	l, err := find()
	if err == nil {
		n.links[key] = l
	}
	return l, err
}

func (n *auditNames) device(id string) (ui.AuditLink, error) {
	if id == "" {
		return ui.AuditLink{}, nil
	}
	return n.once("device "+id, func() (ui.AuditLink, error) {
		other := n.filter
		other.Device = id
		l := ui.AuditLink{Name: id, Only: auditPath("/ui/audit", other), Gone: true}
		// Do not show the nick of another owner's device, although the owner of this audit trail
		// may have owned the device before.
		d, err := n.s.deviceOfAccount(n.ctx, n.owner.ID, id)
		if errors.Is(err, store.ErrNotFound) {
			return l, nil
		}
		if err == nil {
			l.Name, l.Path, l.Gone = d.Nick, devicePath(d.ID), false
		}
		return l, err
	})
}

func (n *auditNames) token(id string) (ui.AuditLink, error) {
	if id == "" {
		return ui.AuditLink{}, nil
	}
	return n.once("token "+id, func() (ui.AuditLink, error) {
		other := n.filter
		other.Token = id
		l := ui.AuditLink{Name: "join token " + id, Only: auditPath("/ui/audit", other), Gone: true}
		t, err := n.s.cfg.Store.JoinToken(n.ctx, id)
		if errors.Is(err, store.ErrNotFound) || err == nil && t.Owner != n.owner.ID {
			return l, nil
		}
		if err == nil {
			if t.Nick != "" {
				l.Name = "join token " + t.Nick
			}
			l.Path, l.Gone = "/ui/onboard/tokens/"+id, false
		}
		return l, err
	})
}

// actor returns the name and the page of an event's actor: the account, one of its devices, or
// somebody else.
func (n *auditNames) actor(e store.Event) (ui.AuditLink, error) {
	if e.Actor == "" && e.ActorName == "" {
		return ui.AuditLink{}, nil
	}
	other := n.filter
	other.Account = e.Actor
	if e.Actor == "" {
		other.Account = e.ActorName
	}
	l := ui.AuditLink{Name: e.ActorName, Only: auditPath("/ui/audit", other)}
	if l.Name == "" {
		l.Name = e.Actor
	}
	if e.Actor == wire.AccountPRN+n.owner.ID {
		l.Path = ui.SectionSettings.Path
		return l, nil
	}
	id, isDevice := strings.CutPrefix(e.Actor, wire.DevicePRN)
	if !isDevice {
		return l, nil
	}
	d, err := n.device(id)
	l.Path = d.Path
	return l, err
}

// subjectOf returns a link to the page of the thing that an event of this kind changed, such as the
// page of the EK list.
func subjectOf(kind string) ui.AuditLink {
	for _, one := range []struct{ prefix, name, path string }{
		{"policy.", "policy", policyPath},
		{"device.waiting", "waiting machines", waitingPath},
		{"device.approved", "waiting machines", waitingPath},
		{"device.denied", "waiting machines", waitingPath},
		{"ek-list.", "EK list", ekListPath},
		{"api-token.", "API tokens", apiTokensPath},
		{"account.session", "sessions", sessionsPath},
		{"account.signed", "sessions", sessionsPath},
		{"account.", "account", settingsPath},
	} {
		if strings.HasPrefix(kind, one.prefix) {
			return ui.AuditLink{Name: one.name, Path: one.path}
		}
	}
	return ui.AuditLink{}
}

// exportAuditCSV writes the events that match the filter as CSV.
func (s *Server) exportAuditCSV(w http.ResponseWriter, r *http.Request) error {
	head := []string{"seq", "time", "last", "count", "kind", "code", "message", "device", "token", "actor", "actor-name", "means", "credential", "address"}
	return s.exportAudit(w, r, csvExporter("audit.csv", head, func(e *EventView) []string {
		last := ""
		if e.Last != nil {
			last = e.Last.Format(time.RFC3339)
		}
		return []string{strconv.FormatInt(e.Seq, 10), e.Time.Format(time.RFC3339Nano), last, strconv.Itoa(max(e.Count, 1)), e.Kind, e.Code, e.Message, e.Device, e.Token, e.Actor, e.ActorName, e.Means, e.Credential, e.Addr}
	}))
}

// exportAuditJSON writes the events that match the filter as a JSON array.
func (s *Server) exportAuditJSON(w http.ResponseWriter, r *http.Request) error {
	return s.exportAudit(w, r, jsonExporter("audit.json", func(e *EventView) any { return e }))
}

func (s *Server) exportAudit(w http.ResponseWriter, r *http.Request, e exporter[EventView]) error {
	q, err := s.readAuditQuery(r)
	if err != nil {
		return err
	}
	if q.nothing {
		return problem(http.StatusBadRequest, "filter", "Open the audit page with the same filter, and correct the marked field.", "A field of the filter cannot be read.")
	}
	q.filter.Before, q.filter.Limit = 0, exportRows
	return exportAll(s, w, r, e, func() ([]EventView, bool, error) {
		events, next, err := s.cfg.Store.FindEvents(r.Context(), q.filter, auditExamined)
		q.filter.Before = next
		return ViewEvents(events), next > 0, err
	})
}
