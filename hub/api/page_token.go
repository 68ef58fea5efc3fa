package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/internal/span"
	"gangway/wire"
)

const (
	// tokenFileName is the name under which the browser saves a token file.
	tokenFileName = "device_autojointoken.json"
	// maxMetaLines is the largest number of lines of default metadata that the form accepts.
	maxMetaLines = 100
)

// newTokenForm answers with the form for a new join token.
func (s *Server) newTokenForm(w http.ResponseWriter, r *http.Request) error {
	return s.renderTokenForm(w, r, http.StatusOK, ui.TokenForm{Expires: span.Format(defaultTokenLife)})
}

func (s *Server) renderTokenForm(w http.ResponseWriter, r *http.Request, status int, f ui.TokenForm) error {
	rules, err := s.cfg.Onboard.Policy(r.Context(), accountOf(r).ID)
	if err != nil {
		return err
	}
	f.Tabs, f.PolicyRefuses = onboardTabs(onboardPath), !rules.WithoutTPM
	return s.renderPage(w, r, status, "newtoken", ui.Page{Title: "New join token", Section: ui.SectionOnboard, Data: f})
}

// createTokenOnPage creates a join token and answers with its secret.
//
// The answer to the form is the page itself and not a redirect, because with a redirect, the hub
// would have to keep the secret until the second request. Browsers do not store the page
// (Cache-Control: no-store).
//
// For the download of the token file, the page has a form that sends the secret back in its body,
// and downloadTokenFile answers with the file. A link to a data: URL would make this request
// unnecessary, but browsers write the URLs of downloads, and so the secret, into their history.
// They do not write the body of a form there, and the hub does not log it.
func (s *Server) createTokenOnPage(w http.ResponseWriter, r *http.Request) error {
	f, n, life, err := readTokenForm(r)
	if err != nil {
		return err
	}
	if f.Wrong() {
		return s.renderTokenForm(w, r, http.StatusBadRequest, f.TokenForm)
	}
	t, file, err := s.newJoinToken(r.Context(), accountOf(r), n, life)
	if err != nil {
		text, status, ok := s.formProblem(r, err)
		if !ok {
			return err
		}
		f.blame(err, text)
		return s.renderTokenForm(w, r, status, f.TokenForm)
	}
	text, err := tokenFileText(file)
	if err != nil {
		return err
	}
	d := ui.TokenMade{
		Tabs: onboardTabs(onboardPath), Token: tokenRow(t, s.cfg.Now()), Secret: file.Token, File: string(text), Image: s.imagePath(),
		Onboard: "gangway-agent onboard --token-file " + tokenFileName,
		Build:   "gangway image build x64-uefi-installer --token-file " + tokenFileName + " -o installer.img",
	}
	return s.renderPage(w, r, http.StatusOK, "tokenmade", ui.Page{Title: "Join token created", Section: ui.SectionOnboard, Data: d})
}

// tokenForm is the form for a new join token, with the typed values and any errors in them.
type tokenForm struct{ ui.TokenForm }

// blame puts an error's text beside the field that caused the error.
func (f *tokenForm) blame(err error, text string) {
	var p *Problem
	var meta *store.MetaError
	switch {
	case errors.As(err, &meta), errors.Is(err, store.ErrTooLarge):
		f.MetaProblem = text
	case errors.As(err, &p) && p.Code == "max-uses":
		f.UsesProblem = text
	case errors.As(err, &p) && p.Code == "nick-form":
		f.NickProblem = text
	default:
		f.Problem = text
	}
}

// readTokenForm reads the form for a new join token, and checks the values that newJoinToken does
// not check.
func readTokenForm(r *http.Request) (f tokenForm, n NewJoinToken, life time.Duration, err error) {
	if err := readForm(r); err != nil {
		return f, n, 0, err
	}
	typed := r.PostForm
	f.Nick, f.MaxUses, f.Expires, f.Meta = strings.TrimSpace(typed.Get("nick")), strings.TrimSpace(typed.Get("max-uses")), strings.TrimSpace(typed.Get("expires-in")), typed.Get("meta")
	f.WithoutTPM, f.ForPantacor = typed.Get("without-tpm") != "", typed.Get("for-pantacor") != ""
	n = NewJoinToken{Nick: f.Nick, WithoutTPM: f.WithoutTPM, ForPantacor: f.ForPantacor}
	switch {
	case ui.Visible(f.Nick) != f.Nick:
		f.NickProblem = "The nick has an invisible character. Type the nick again."
	case len(f.Nick) > maxTokenNick:
		f.NickProblem = fmt.Sprintf("The nick has %d bytes. Use at most %d.", len(f.Nick), maxTokenNick)
	}
	if f.MaxUses != "" {
		if n.MaxUses, err = strconv.Atoi(f.MaxUses); err != nil || n.MaxUses < 0 || n.MaxUses > maxTokenUses {
			f.UsesProblem = fmt.Sprintf("Type a number from 1 to %s, or leave the field empty for any number of devices.", ui.Number(maxTokenUses))
		}
	}
	life, f.ExpiresProblem = tokenLife(f.Expires)
	n.DefaultUserMeta, f.MetaProblem = readMetaLines(f.Meta)
	return f, n, life, nil
}

// tokenLife parses the lifetime of a join token. The second result describes what is wrong, or is
// "".
func tokenLife(text string) (time.Duration, string) {
	if text == "" {
		return defaultTokenLife, ""
	}
	life, err := span.Parse(text)
	switch {
	case err != nil:
		return 0, fmt.Sprintf("This %v.", err)
	case life < time.Second || life > maxTokenLife:
		return 0, "Type a time from 1s to ten years, such as 12h, 30d or 8w."
	}
	return life, ""
}

// readMetaLines reads metadata from lines of the form KEY=VALUE. The result `wrong` describes what
// is wrong, or is "".
func readMetaLines(text string) (m map[string]any, wrong string) {
	lines := strings.FieldsFunc(text, func(c rune) bool { return c == '\n' || c == '\r' })
	if len(lines) > maxMetaLines {
		return nil, fmt.Sprintf("The metadata has %d lines. Type at most %d lines.", len(lines), maxMetaLines)
	}
	for i, line := range lines {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		_, twice := m[key]
		switch {
		case !ok || key == "":
			return nil, fmt.Sprintf("Line %d is not KEY=VALUE, such as site=oslo.", i+1)
		case ui.Visible(line) != line:
			return nil, fmt.Sprintf("Line %d has an invisible character. Type the line again.", i+1)
		case twice:
			return nil, fmt.Sprintf("Line %d repeats the key %q. Remove one of the two lines.", i+1, key)
		}
		if m == nil {
			m = map[string]any{}
		}
		m[key] = value
	}
	return m, ""
}

func tokenFileText(file *wire.TokenFile) ([]byte, error) {
	text, err := json.MarshalIndent(file, "", "  ")
	return append(text, '\n'), err
}

// ownToken returns the join token in the path, if it belongs to the account.
func (s *Server) ownToken(r *http.Request) (store.JoinToken, error) {
	id := r.PathValue("id")
	if !wire.IsID(id) {
		return store.JoinToken{}, store.ErrNotFound
	}
	t, err := s.cfg.Store.JoinToken(r.Context(), id)
	if err == nil && t.Owner != accountOf(r).ID {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.JoinToken{}, err
	}
	return t, nil
}

// errTokenSecret is the answer if the secret in the form is not the join token's secret.
var errTokenSecret = problem(http.StatusBadRequest, "token-secret", "Create a new join token, and download its file from the page that then appears.", "The form does not contain the secret of the join token.")

// downloadTokenFile answers with the file of a join token if the form has the token's secret, which
// it checks first. Only the secret comes from the request; the hub makes the rest of the file from
// its own data.
func (s *Server) downloadTokenFile(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	t, err := s.ownToken(r)
	if err != nil {
		return err
	}
	secret, err := base64.StdEncoding.Strict().DecodeString(r.PostForm.Get("secret"))
	if err != nil || len(secret) != wire.SecretSize || !onboard.IsTokenSecret(t, secret) {
		return errTokenSecret
	}
	text, err := tokenFileText(onboard.TokenFile(s.cfg.CA, s.cfg.PublicURL, t, secret))
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Disposition", `attachment; filename="`+tokenFileName+`"`)
	h.Set("Cache-Control", "no-store")
	setLength(w, len(text))
	_, err = w.Write(text)
	return err
}

// showToken answers with the page of a join token. The page cannot show the secret, because the hub
// does not store it.
func (s *Server) showToken(w http.ResponseWriter, r *http.Request) error {
	t, err := s.ownToken(r)
	if err != nil {
		return err
	}
	return s.renderToken(w, r, http.StatusOK, t, "")
}

func (s *Server) renderToken(w http.ResponseWriter, r *http.Request, status int, t store.JoinToken, wrong string) error {
	n, err := s.cfg.Store.CountSearch(r.Context(), store.DeviceSearch{Owner: t.Owner, Terms: []store.SearchTerm{{Field: store.FieldToken, Value: t.ID}}})
	if err != nil {
		return err
	}
	d := &ui.TokenPage{
		Tabs: onboardTabs(onboardPath), Token: tokenRow(t, s.cfg.Now()), Devices: countWords(n), DevicesPath: listOf(store.FieldToken, t.ID),
		Confirm: confirmToken(t), ConfirmProblem: wrong,
	}
	d.Meta, d.MoreMeta, _ = tableOf(t.DefaultUserMeta, 150)
	return s.renderPage(w, r, status, "token", ui.Page{Title: "Join token " + d.Token.Name(), Section: ui.SectionOnboard, Data: d})
}

// confirmToken returns the word that a person must type before the hub disables a join token.
func confirmToken(t store.JoinToken) string {
	if t.Nick == "" {
		return "disable"
	}
	return ui.Visible(t.Nick)
}

// disableTokenOnPage disables a join token, if the person typed the word that confirmToken returns.
// A disabled join token cannot be enabled again.
func (s *Server) disableTokenOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	t, err := s.ownToken(r)
	if err != nil {
		return err
	}
	if r.PostForm.Get("confirm") != confirmToken(t) {
		return s.renderToken(w, r, http.StatusBadRequest, t, fmt.Sprintf("Type exactly “%s”. The join token was not disabled.", confirmToken(t)))
	}
	if err := s.disableJoinToken(r.Context(), accountOf(r), t.ID); err != nil {
		return err
	}
	return s.redirect(w, r, tokenPath(t.ID), ui.Notice{Tone: "ok", Text: "The join token is disabled. The devices that joined with it keep working."})
}

// deleteTokenOnPage deletes a disabled join token.
func (s *Server) deleteTokenOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	t, err := s.ownToken(r)
	if err != nil {
		return err
	}
	if err := s.deleteJoinToken(r.Context(), accountOf(r), t.ID); err != nil {
		return err
	}
	return s.redirect(w, r, onboardPath, ui.Notice{Tone: "ok", Text: fmt.Sprintf("The join token %s is deleted. The devices that joined with it keep working.", tokenRow(t, s.cfg.Now()).Name())})
}
