package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/wire"
)

// names has the texts by which a person may name a device, token, account or session.
type names struct {
	id     string
	nick   string // a nick or another name; it need not be unique
	serial string // a machine's serial number; empty for other things
}

// maxCandidates is the maximum number of candidates that an error lists.
const maxCandidates = 8

// pick returns the element of `all` that a person named in `which`. pick first compares `which`
// with the exact ids and nicks. If none matches, it compares `which` with the nicks and serial
// numbers, ignoring case. If none matches, it compares `which` with the first digits of the ids.
// More than one matching element is an error. For the error's text, `kind` is the word for an
// element, such as "device", and `lister` is the command that lists all elements.
func pick[T any](kind, lister, which string, all []T, of func(T) names) (T, error) {
	which = strings.TrimSpace(which)
	lower := strings.ToLower(strings.TrimSuffix(which, "…"))
	ways := []func(n names) bool{
		func(n names) bool { return n.id == lower || n.nick == which },
		func(n names) bool {
			return which != "" && (strings.EqualFold(n.nick, which) || strings.EqualFold(n.serial, which))
		},
		func(n names) bool { return len(lower) >= 4 && strings.HasPrefix(n.id, lower) },
	}
	var none T
	for _, fits := range ways {
		var found []T
		for _, one := range all {
			if fits(of(one)) {
				found = append(found, one)
			}
		}
		switch len(found) {
		case 0:
			continue
		case 1:
			return found[0], nil
		}
		return none, fmt.Errorf("%.100q matches %d %ss: %s; give one whole id", which, len(found), kind, candidates(found, of))
	}
	var near []T
	for _, one := range all {
		if n := of(one).nick; n != "" && which != "" && strings.HasPrefix(strings.ToLower(n), lower) {
			near = append(near, one)
		}
	}
	if len(near) > 0 {
		return none, fmt.Errorf("there is no %s %.100q; did you mean %s? '%s' shows the list", kind, which, candidates(near, of), lister)
	}
	return none, fmt.Errorf("there is no %s %.100q; '%s' shows the list", kind, which, lister)
}

// candidates returns the nicks and ids of the elements of `list`, at most maxCandidates.
func candidates[T any](list []T, of func(T) names) string {
	var words []string
	for _, one := range list[:min(len(list), maxCandidates)] {
		n := of(one)
		switch {
		case n.nick == "" && n.serial != "":
			words = append(words, fmt.Sprintf("%s (serial %s)", n.id, visible(n.serial)))
		case n.nick == "":
			words = append(words, n.id)
		default:
			words = append(words, fmt.Sprintf("%s (%s)", visible(n.nick), n.id))
		}
	}
	if more := len(list) - maxCandidates; more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, ", ")
}

// isHex reports whether a text could be the beginning of an id.
func isHex(s string) bool {
	return len(s) >= 4 && len(s) <= 24 && strings.Trim(s, "0123456789abcdef") == ""
}

func deviceNames(d api.FleetDevice) names { return names{d.ID, d.Nick, d.Machine.Serial} }

// findDevice returns the device that a person named; see the function `pick`.
func findDevice(ctx context.Context, which string) (api.DeviceView, error) {
	id := strings.ToLower(strings.TrimSpace(which))
	if wire.IsID(id) {
		d, err := call[api.DeviceView](ctx, http.MethodGet, "/devices/"+id, nil)
		var refused *hubError
		if err == nil || !errors.As(err, &refused) || refused.Code != "not-found" {
			return d, err
		}
		// No device has this id. But a serial number may look like an id, so search for the serial
		// number too.
		if id, other := pickDevice(ctx, which); other == nil {
			return call[api.DeviceView](ctx, http.MethodGet, "/devices/"+id, nil)
		}
		return d, err
	}
	id, err := pickDevice(ctx, which)
	if err != nil {
		return api.DeviceView{}, err
	}
	return call[api.DeviceView](ctx, http.MethodGet, "/devices/"+id, nil)
}

func pickDevice(ctx context.Context, which string) (id string, err error) {
	found, err := similarDevices(ctx, which)
	if err != nil {
		return "", err
	}
	d, err := pick("device", "gangway device ls", which, found, deviceNames)
	return d.ID, err
}

// similarDevices returns the devices that a person may have named. It requests a small number of
// devices, however large the fleet is.
func similarDevices(ctx context.Context, which string) ([]api.FleetDevice, error) {
	var queries []string
	if digits := strings.ToLower(strings.TrimSuffix(which, "…")); isHex(digits) {
		queries = append(queries, "id:"+digits)
	}
	queries = append(queries, `"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(which)+`"`)
	var all []api.FleetDevice
	for _, q := range queries {
		page, err := fleetPage(ctx, url.Values{"q": {q}, "limit": {"100"}})
		var refused *hubError
		if errors.As(err, &refused) && strings.HasPrefix(refused.Code, "search-") {
			continue // no nick has these characters
		}
		if err != nil {
			return nil, err
		}
		for _, d := range page.Devices {
			if !slices.ContainsFunc(all, func(o api.FleetDevice) bool { return o.ID == d.ID }) {
				all = append(all, d)
			}
		}
	}
	return all, nil
}

// fleetResult is one page of the devices that a search found.
type fleetResult struct {
	Devices []api.FleetDevice `json:"devices"`
	Next    string            `json:"next"`
}

func fleetPage(ctx context.Context, query url.Values) (fleetResult, error) {
	return call[fleetResult](ctx, http.MethodGet, "/fleet/devices?"+query.Encode(), nil)
}

// findWaiting returns the waiting machine that a person named; see the function `pick`.
func findWaiting(ctx context.Context, which string) (api.WaitingView, error) {
	list, err := allWaiting(ctx)
	if err != nil {
		return api.WaitingView{}, err
	}
	w, err := pick("waiting machine", "gangway device waiting", which, list, func(w api.WaitingView) names { return names{w.ID, "", w.Machine.Serial} })
	if err == nil {
		return w, nil
	}
	if found, similar := similarDevices(ctx, which); similar == nil {
		if d, picked := pick("device", "gangway device ls", which, found, deviceNames); picked == nil {
			return w, fmt.Errorf("%s (%s) has onboarded already, so nothing about it waits for your decision; 'gangway device show %s' shows it", visible(d.Nick), d.ID, d.ID)
		}
	}
	return w, err
}

// findToken returns the join token that a person named; see the function `pick`.
func findToken(ctx context.Context, which string) (api.JoinTokenView, error) {
	tokens, err := allTokens(ctx, call[[]api.JoinTokenView])
	if err != nil {
		return api.JoinTokenView{}, err
	}
	return pick("join token", "gangway token ls", which, tokens, tokenNames)
}

func tokenNames(t api.JoinTokenView) names { return names{t.ID, t.Nick, ""} }

// findAPIToken returns the API token that a person named; see the function `pick`.
func findAPIToken(ctx context.Context, which string) (api.APITokenView, error) {
	list, err := call[api.APITokens](ctx, http.MethodGet, "/tokens", nil)
	if err != nil {
		return api.APITokenView{}, err
	}
	return pick("API token", "gangway api-token ls", which, list.Items, func(t api.APITokenView) names { return names{t.ID, t.Name, ""} })
}

// findSession returns the session that a person named by its id or the first digits of the id.
func findSession(ctx context.Context, which string) (api.SessionView, error) {
	list, err := call[[]api.SessionView](ctx, http.MethodGet, "/auth/sessions", nil)
	if err != nil {
		return api.SessionView{}, err
	}
	return pickSession(which, list)
}

func pickSession(which string, list []api.SessionView) (api.SessionView, error) {
	return pick("session", "gangway account sessions", which, list, func(s api.SessionView) names { return names{s.ID, "", ""} })
}

// findAccount returns the account that a person named by its nick, e-mail address or id, or by the
// first digits of the id. It searches the hub's database.
func findAccount(ctx context.Context, i *instance, which string) (store.Account, error) {
	account, err := i.store.AccountByNickOrEmail(ctx, which)
	if !errors.Is(err, store.ErrNotFound) {
		return account, err
	}
	var all []store.Account
	for after := ""; ; {
		page, err := i.store.Accounts(ctx, after, 1000)
		if err != nil {
			return account, err
		}
		if len(page) == 0 {
			break
		}
		all = append(all, page...)
		after = page[len(page)-1].Nick
	}
	return pick("account", "gangway account ls --data "+i.dir, which, all, func(a store.Account) names { return names{a.ID, a.Nick, ""} })
}

// sessionAtHub returns the id of the session that a person named. It searches the hub's database
// for the sessions of one account.
func sessionAtHub(ctx context.Context, i *instance, account, which string, now time.Time) (string, error) {
	sessions, err := i.store.Sessions(ctx, account, now)
	if err != nil {
		return "", err
	}
	s, err := pickSession(which, api.ViewSessions(sessions, store.Hash{}))
	return s.ID, err
}
