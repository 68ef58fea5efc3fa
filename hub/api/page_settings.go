package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"gangway/hub/bearer"
	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/wire"
)

// The tabs of the settings, by their addresses.
const (
	settingsPath  = "/ui/settings"
	sessionsPath  = settingsPath + "/sessions"
	apiTokensPath = settingsPath + "/api-tokens"
)

// apiTokenRights are the resources that an API token may use, with their titles and descriptions.
var apiTokenRights = []struct{ name, title, words string }{
	{"devices", "Devices", "with their metadata, logs and evidence"},
	{"trails", "Trails", "states and revisions"},
	{"objects", "Objects", "the files of states"},
	{"profile", "Profiles", "nicks of accounts with public devices"},
	{"user", "Account", "nick and e-mail"},
}

// apiTokenLives are the lifetimes that the form offers for an API token, in days.
var apiTokenLives = []int{7, 30, 90, 180, 365}

// renderSettings answers with a tab of the settings. The function `change`, if not nil, alters the
// tab before it is sent: it puts back what a person typed, with an error message beside it.
func (s *Server) renderSettings(w http.ResponseWriter, r *http.Request, status int, tab string, change func(*ui.SettingsPage)) error {
	p := &ui.SettingsPage{}
	for _, t := range []ui.Tab{{Name: "Account", Path: settingsPath}, {Name: "Sessions", Path: sessionsPath}, {Name: "API tokens", Path: apiTokensPath}} {
		t.Current = t.Path == tab
		p.Tabs = append(p.Tabs, t)
	}
	fill := map[string]func(*http.Request, *ui.SettingsPage) error{settingsPath: s.fillAccount, sessionsPath: s.fillSessions, apiTokensPath: s.fillAPITokens}[tab]
	if err := fill(r, p); err != nil {
		return err
	}
	if change != nil {
		change(p)
	}
	return s.renderPage(w, r, status, "settings", ui.Page{Title: "Settings", Section: ui.SectionSettings, Data: p})
}

func (s *Server) showSettings(w http.ResponseWriter, r *http.Request) error {
	return s.renderSettings(w, r, http.StatusOK, r.URL.Path, nil)
}

func (s *Server) fillAccount(r *http.Request, p *ui.SettingsPage) error {
	a := accountOf(r)
	devices, err := s.cfg.Store.CountDevices(r.Context(), a.ID)
	if err != nil {
		return err
	}
	tokens, err := s.cfg.Store.APITokens(r.Context(), a.ID)
	p.Account = &ui.SettingsAccount{ID: a.ID, PRN: wire.AccountPRN + a.ID, Nick: a.Nick, Email: a.Email, Created: a.Created, Devices: devices, APITokens: len(tokens), Operator: a.Operator}
	if err != nil {
		return err
	}
	return s.fillLogRetention(r, p.Account)
}

// changePasswordOnPage replaces the account's password.
func (s *Server) changePasswordOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	form := r.PostForm
	again := func(status int, change func(*ui.SettingsAccount)) error {
		return s.renderSettings(w, r, status, settingsPath, func(p *ui.SettingsPage) {
			p.Account.EndAPITokens = form.Get("end-api-tokens") != ""
			change(p.Account)
		})
	}
	if form.Get("password") != form.Get("again") {
		return again(http.StatusBadRequest, func(a *ui.SettingsAccount) {
			a.AgainProblem = "The two new passwords differ. Type the same password twice."
		})
	}
	left, err := s.replacePassword(r, form.Get("current"), form.Get("password"), form.Get("end-api-tokens") != "")
	if err != nil {
		text, status, ok := s.formProblem(r, err)
		if !ok {
			return err
		}
		return again(status, func(a *ui.SettingsAccount) {
			if isCode(err, "password-form") {
				a.PasswordProblem = text
				return
			}
			a.CurrentProblem = text
		})
	}
	said := "The password is changed, and all other sessions are ended."
	if left > 0 {
		said += fmt.Sprintf(" %s still valid.", upperFirst(counted(left, "API token")+map[bool]string{true: " is", false: " are"}[left == 1]))
	}
	return s.redirect(w, r, settingsPath, ui.Notice{Tone: "ok", Text: said})
}

// isCode reports whether an error is a problem with this code.
func isCode(err error, code string) bool {
	var p *Problem
	return errors.As(err, &p) && p.Code == code
}

// disableOnPage disables the account.
func (s *Server) disableOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	err := s.verifyPasswordAgain(r, r.PostForm.Get("disable-password"))
	if err == nil {
		err = s.disableSelf(r)
	}
	if err != nil {
		return s.endProblem(w, r, err, func(a *ui.SettingsAccount, text string) { a.DisableProblem = text })
	}
	return s.leave(w, r, "The account is disabled, and all its sessions are ended.")
}

// deleteAccountOnPage deletes the account if the person typed the account's nick and password.
func (s *Server) deleteAccountOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	a, form := accountOf(r), r.PostForm
	if form.Get("confirm") != a.Nick {
		return s.renderSettings(w, r, http.StatusBadRequest, settingsPath, func(p *ui.SettingsPage) {
			p.Account.WithDevices, p.Account.ConfirmProblem = form.Get("with-devices") != "", "This is not the nick of the account. The account was not deleted."
		})
	}
	err := s.verifyPasswordAgain(r, form.Get("delete-password"))
	if err == nil {
		_, err = DeleteAccount(r.Context(), s.cfg.Store, a, form.Get("with-devices") != "", *store.ActorIn(r.Context()), s.cfg.Now())
	}
	if err != nil {
		return s.endProblem(w, r, err, func(p *ui.SettingsAccount, text string) {
			p.WithDevices, p.DeletePasswordProblem = form.Get("with-devices") != "", text
			if isCode(err, "account-has-devices") {
				p.DeletePasswordProblem, p.Problem = "", "The account has devices. Tick the box to delete them too, or delete them first. Nothing was deleted."
			}
		})
	}
	return s.leave(w, r, "The account is deleted.")
}

// endProblem shows the tab "Account" again, with a message about the error.
func (s *Server) endProblem(w http.ResponseWriter, r *http.Request, err error, show func(a *ui.SettingsAccount, text string)) error {
	text, status, ok := s.formProblem(r, err)
	if !ok {
		return err
	}
	return s.renderSettings(w, r, status, settingsPath, func(p *ui.SettingsPage) { show(p.Account, text) })
}

// leave removes the browser's cookie, and redirects to the sign-in form with a notice.
func (s *Server) leave(w http.ResponseWriter, r *http.Request, said string) error {
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	return s.redirect(w, r, signInPath, ui.Notice{Tone: "ok", Text: said})
}

func (s *Server) fillSessions(r *http.Request, p *ui.SettingsPage) error {
	sessions, err := s.cfg.Store.Sessions(r.Context(), accountOf(r).ID, s.cfg.Now())
	t := &ui.SettingsSessions{}
	for _, v := range ViewSessions(sessions, signInOf(r).session.TokenHash) {
		row := ui.SessionRow{ID: v.ID, Addr: v.Addr, Means: "a program", Current: v.Current, Created: v.Created, Expires: v.Expires}
		if v.Means == store.ByPage {
			row.Means = "a browser"
		}
		t.Rows = append(t.Rows, row)
	}
	p.Sessions = t
	return err
}

// endSessionOnPage ends one session, or all sessions except the caller's session.
func (s *Server) endSessionOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	id, said := r.PostForm.Get("end"), "The session is ended."
	if id == "others" {
		n, err := s.endAllSessions(r, signInOf(r).session.TokenHash)
		if err != nil {
			return err
		}
		said = fmt.Sprintf("%s ended. Only this session is left.", upperFirst(counted(n, "other session")))
	} else if err := s.endSessionNamed(r, id); err != nil {
		return err
	}
	return s.redirect(w, r, sessionsPath, ui.Notice{Tone: "ok", Text: said})
}

func (s *Server) fillAPITokens(r *http.Request, p *ui.SettingsPage) error {
	tokens, err := s.cfg.Store.APITokens(r.Context(), accountOf(r).ID)
	t := &ui.SettingsAPITokens{Max: maxAPITokens}
	now := s.cfg.Now()
	for _, one := range tokens {
		row := ui.APITokenRow{ID: one.ID, Name: one.Name, Addr: one.UsedAddr, Created: one.Created, Expires: one.Expires, Used: one.Used}
		for _, scope := range strings.Fields(one.Scopes) {
			row.Rights = append(row.Rights, scopeWords(scope))
		}
		switch left := one.Expires.Sub(now); {
		case left <= 0:
			row.Badge = ui.StateBadge("expired")
		case left < expiresSoon:
			row.Badge = ui.StateBadge("expires soon")
		}
		t.Rows = append(t.Rows, row)
	}
	fillRights(t, r)
	p.APITokens = t
	return err
}

// fillRights fills in the form for a new API token. After an error, the form keeps the person's
// choices.
func fillRights(t *ui.SettingsAPITokens, r *http.Request) {
	form := r.PostForm
	t.Name, t.All = form.Get("name"), form.Get("all") != ""
	for _, one := range apiTokenRights {
		right := ui.Right{Name: one.name, Title: one.title, Words: one.words}
		for _, c := range []ui.Choice{{Name: "no access"}, {Value: one.name + ".readonly", Name: "read"}, {Value: one.name, Name: "read and change"}} {
			c.Chosen = form.Get("scope-"+one.name) == c.Value
			right.Choices = append(right.Choices, c)
		}
		t.Rights = append(t.Rights, right)
	}
	for _, days := range apiTokenLives {
		value := lifeValue(days)
		t.Life = append(t.Life, ui.Choice{Value: value, Name: counted(days, "day"), Chosen: form.Get("life") == value || form.Get("life") == "" && days == 90})
	}
}

func lifeValue(days int) string { return fmt.Sprintf("%dh", days*24) }

// scopeWords returns what a scope allows, in words.
func scopeWords(scope string) string {
	name := bearer.ShortScope(scope)
	if name == "all" {
		return "everything"
	}
	resource, right, _ := strings.Cut(name, ".")
	words := map[string]string{"": "read and change", "readonly": "read", "write": "write", "change": "change"}[right]
	return resource + " (" + words + ")"
}

// createAPITokenOnPage makes an API token. It answers the form with the page that shows the secret,
// and not with a redirect, because no address, cookie or log may contain the secret.
func (s *Server) createAPITokenOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	form := r.PostForm
	body := NewAPIToken{Name: form.Get("name"), ExpiresIn: form.Get("life")}
	if !slices.ContainsFunc(apiTokenLives, func(days int) bool { return lifeValue(days) == body.ExpiresIn }) {
		return problem(http.StatusBadRequest, "expires", "Choose one of the times in the form.", "The form does not offer this lifetime.")
	}
	if form.Get("all") != "" {
		body.Scopes = []string{"all"}
	} else {
		for _, one := range apiTokenRights {
			if scope := form.Get("scope-" + one.name); scope != "" {
				body.Scopes = append(body.Scopes, scope)
			}
		}
	}
	made, err := s.makeAPIToken(r, body)
	if err != nil {
		text, status, ok := s.formProblem(r, err)
		if !ok || status == http.StatusUnauthorized {
			return err
		}
		return s.renderSettings(w, r, status, apiTokensPath, func(p *ui.SettingsPage) {
			switch t := p.APITokens; {
			case isCode(err, "name-form"), isCode(err, "exists"):
				t.NameProblem = text
			case len(body.Scopes) == 0:
				t.ScopeProblem = "Choose at least one resource."
			case isCode(err, "scope"):
				t.ScopeProblem = text
			default:
				t.Problem = text
			}
		})
	}
	r.PostForm = nil // show an empty form again
	return s.renderSettings(w, r, http.StatusOK, apiTokensPath, func(p *ui.SettingsPage) {
		p.APITokens.Made = &ui.MadeAPIToken{Name: made.Name, Secret: made.Secret, Expires: made.ExpireAt,
			Try: "gangway login " + s.cfg.PublicURL + " --hub-name " + s.cfg.CA.HubName() + " --api-token-stdin < " + made.Name + ".token"}
	})
}

// revokeAPITokenOnPage revokes an API token.
func (s *Server) revokeAPITokenOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	t, err := s.revokeAPITokenNamed(r, r.PostForm.Get("id"))
	if err != nil {
		return err
	}
	return s.redirect(w, r, apiTokensPath, ui.Notice{Tone: "ok", Text: fmt.Sprintf("The API token %q is revoked. The hub refuses programs that use it.", t.Name)})
}
