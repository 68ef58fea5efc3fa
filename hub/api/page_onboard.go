package api

import (
	"net/http"
	"slices"
	"time"

	"gangway/hub/store"
	"gangway/hub/ui"
)

const (
	// tokenRows is the number of join tokens on a page of the list.
	tokenRows = 50
	// onboardPath is the address of the list of join tokens, which is the first page of the section
	// "Onboard".
	onboardPath = "/ui/onboard"
)

// shownOnboardTabs are the tabs of the section "Onboard" whose pages have a route.
var shownOnboardTabs []ui.Tab

func init() {
	for _, tab := range []ui.Tab{
		{Name: "Tokens", Path: onboardPath}, {Name: "Waiting", Path: waitingPath}, {Name: "Claim", Path: claimPath}, {Name: "Wall", Path: wallPath},
	} {
		if slices.ContainsFunc(routes, func(rt route) bool { return rt.method == http.MethodGet && rt.path == tab.Path }) {
			shownOnboardTabs = append(shownOnboardTabs, tab)
		}
	}
}

// onboardTabs returns the tabs of the section "Onboard" and marks the tab at the address current.
func onboardTabs(current string) []ui.Tab {
	tabs := slices.Clone(shownOnboardTabs)
	for i := range tabs {
		tabs[i].Current = tabs[i].Path == current
	}
	return tabs
}

// showTokens answers with the list of join tokens, newest first. With ?soon=1, the list has only
// the tokens that expire soon, in the order of their expiry.
func (s *Server) showTokens(w http.ResponseWriter, r *http.Request) error {
	ctx, account, now, q := r.Context(), accountOf(r), s.cfg.Now(), r.URL.Query()
	soon, err := s.cfg.Store.JoinTokensExpiring(ctx, account.ID, now, now.Add(expiresSoon), tokensSoon)
	if err != nil {
		return err
	}
	d := &ui.TokensPage{Tabs: onboardTabs(onboardPath), Soon: len(soon), SoonPath: tokensSoonPath, Image: s.imagePath(), OnlySoon: q.Get("soon") != ""}
	tokens := soon
	if !d.OnlySoon {
		if tokens, err = s.cfg.Store.JoinTokensPage(ctx, account.ID, q.Get("after"), tokenRows+1); err != nil {
			return err
		}
		if q.Get("after") != "" {
			d.First = onboardPath
		}
		if len(tokens) > tokenRows {
			tokens = tokens[:tokenRows]
			d.Next = onboardPath + "?after=" + tokens[tokenRows-1].ID
		}
	}
	for _, t := range tokens {
		d.Rows = append(d.Rows, tokenRow(t, now))
	}
	d.More = d.OnlySoon && len(tokens) == tokensSoon
	if d.Empty = len(d.Rows) == 0 && d.First == "" && !d.OnlySoon; d.Empty {
		d.Commands = s.firstCommands(account)
	}
	return s.renderPage(w, r, http.StatusOK, "tokens", ui.Page{Title: "Onboard", Section: ui.SectionOnboard, Data: d, Wide: true})
}

// tokensSoonPath is the address of the list of the join tokens that expire soon.
const tokensSoonPath = onboardPath + "?soon=1"

// tokenPath returns the address of a join token's page.
func tokenPath(id string) string { return onboardPath + "/tokens/" + id }

func tokenRow(t store.JoinToken, now time.Time) ui.TokenRow {
	row := ui.TokenRow{JoinToken: t, State: ui.StateBadge(tokenState(t, now)), Path: tokenPath(t.ID)}
	switch {
	case t.WithoutTPM && t.ForPantacor:
		row.Accepts = "devices without a TPM, and Pantacor's ownership proofs"
	case t.WithoutTPM:
		row.Accepts = "devices without a TPM"
	case t.ForPantacor:
		row.Accepts = "Pantacor's ownership proofs"
	}
	return row
}

// tokenState returns the state of a join token for a person: "valid", "expires soon", or the reason
// why devices cannot use it now, such as "expired".
func tokenState(t store.JoinToken, now time.Time) string {
	switch {
	case t.Disabled:
		return "disabled"
	case !t.Expires.After(now):
		return "expired"
	case t.MaxUses > 0 && t.Uses >= t.MaxUses:
		return "used up"
	case t.Expires.Before(now.Add(expiresSoon)):
		return "expires soon"
	}
	return "valid"
}
