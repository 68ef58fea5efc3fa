package api

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"gangway/hub/ui"
)

// This file has the functions that all pages share: the layout's data, redirects with a notice, the
// redirect to the sign-in form and back, form tokens, and static files. The comment of package ui
// says how the addresses of pages are formed.

const (
	// overviewPath is the page that a person sees after signing in.
	overviewPath = "/ui/overview"
	// signInPath is the sign-in form.
	signInPath = "/sign-in"
	// noticeCookie is the cookie with the notice that the next page shows.
	noticeCookie = "__Host-gangway-notice"
	// A request has the session's form token in the form field formToken or in the header
	// formTokenHeader.
	formToken, formTokenHeader = "csrf", "X-CSRF-Token"
	// pagePolicy is the Content-Security-Policy of pages. Other answers have a stricter policy.
	pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

// renderPage answers with a page in the layout. It fills in the fields of p that are the same for
// all pages.
func (s *Server) renderPage(w http.ResponseWriter, r *http.Request, status int, name string, p ui.Page) error {
	s.fillPage(w, r, &p)
	var page bytes.Buffer // render into a buffer, so that a failure is answered with an error page
	if err := ui.Write(&page, name, p); err != nil {
		return err
	}
	return s.writeHTML(w, status, page.Bytes())
}

// renderPart answers with a part of a page, with which the browser replaces the present part.
// `name` is the file of the page's templates, and `part` is a template in this file.
func (s *Server) renderPart(w http.ResponseWriter, r *http.Request, name, part string, p ui.Page) error {
	s.fillPage(nil, r, &p)
	var page bytes.Buffer
	if err := ui.WritePart(&page, name, part, p); err != nil {
		return err
	}
	return s.writeHTML(w, http.StatusOK, page.Bytes())
}

// fillPage sets the fields that all pages share. If w is not nil, fillPage moves the notice from
// the browser's cookie to the page. If w is nil, the notice stays in the cookie.
func (s *Server) fillPage(w http.ResponseWriter, r *http.Request, p *ui.Page) {
	var c *caller // nil if the request was refused before the hub looked for its caller
	if f := factsIn(r.Context()); f != nil {
		c = f.caller
	}
	if c != nil && c.signIn != nil {
		p.Nick, p.CSRF = c.Account.Nick, s.formTokenOf(c.signIn)
	}
	if w != nil && p.Notice == nil {
		p.Notice = takeNotice(w, r)
	}
	p.Now, p.Hub, p.HubName, p.Version = s.cfg.Now(), s.cfg.PublicURL, s.cfg.CA.HubName(), s.cfg.Version
	p.Path = r.URL.RequestURI()
	if c != nil && isOperator(*c) {
		p.Sections = append(slices.Clip(shownSections), ui.SectionOperator)
	} else {
		p.Sections = shownSections
	}
}

// shownSections are the sections that the navigation shows: those whose address has a route.
var shownSections []ui.Section

func init() {
	for _, one := range ui.Sections {
		if slices.ContainsFunc(routes, func(rt route) bool { return rt.method == http.MethodGet && rt.path == one.Path }) {
			shownSections = append(shownSections, one)
		}
	}
}

func (s *Server) writeHTML(w http.ResponseWriter, status int, page []byte) error {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", pagePolicy)
	setLength(w, len(page))
	w.WriteHeader(status)
	_, err := w.Write(page)
	return err
}

// redirect answers a form with a redirect (303) to one of the hub's pages, which then shows the
// notice. So the browser does not send the form again if the person reloads that page.
func (s *Server) redirect(w http.ResponseWriter, r *http.Request, to string, n ui.Notice) error {
	if n.Text != "" {
		text, err := json.Marshal(n)
		if err != nil {
			return err
		}
		http.SetCookie(w, &http.Cookie{
			Name: noticeCookie, Value: base64.RawURLEncoding.EncodeToString(text), Path: "/", MaxAge: 60,
			Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		})
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

// takeNotice returns the notice that a redirect stored in the cookie, and removes the cookie. Only
// the hub can set the cookie. The page escapes the notice's text like all text.
func takeNotice(w http.ResponseWriter, r *http.Request) *ui.Notice {
	c, err := r.Cookie(noticeCookie)
	if err != nil {
		return nil
	}
	http.SetCookie(w, &http.Cookie{Name: noticeCookie, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	text, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil {
		return nil
	}
	var n ui.Notice
	if json.Unmarshal(text, &n) != nil || n.Text == "" || n.UndoPath != "" && safeReturn(n.UndoPath) == "" {
		return nil
	}
	return &n
}

// isPage reports whether a browser requests a page. If nobody is signed in, such a request gets the
// sign-in form and not an error.
func isPage(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, "/ui/") && strings.Contains(r.Header.Get("Accept"), "text/html")
}

// toSignIn redirects a browser that is not signed in to the sign-in form. After the sign-in, the
// browser opens the requested page.
func (s *Server) toSignIn(w http.ResponseWriter, r *http.Request) error {
	if r.Header.Get("HX-Request") != "" {
		to := signInPath
		if next := pageOf(r); next != "" {
			to += "?next=" + url.QueryEscape(next)
		}
		w.Header().Set("HX-Redirect", to)
		return s.writeHTML(w, http.StatusUnauthorized, nil)
	}
	if r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Header.Get("Sec-Fetch-Mode") == "navigate" {
		// The person followed a link on another site, so the browser did not send its
		// SameSite=Strict cookie. The page "continue" makes the browser request the same address
		// again, this time with the cookie. Only GET and HEAD requests get here.
		return s.renderPage(w, r, http.StatusOK, "continue", ui.Page{Title: "Opening the page", Refresh: -1})
	}
	http.Redirect(w, r, signInPath+"?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
	return nil
}

// pageOf returns the address of the page on which a script sent the request, or "" if the header
// HX-Current-URL does not name a page of this hub.
func pageOf(r *http.Request) string {
	u, err := url.Parse(r.Header.Get("HX-Current-URL"))
	if err != nil {
		return ""
	}
	return safeReturn(u.RequestURI())
}

// safeReturn returns `next`, the address that the browser opens after the sign-in. If `next` is not
// the address of one of the hub's pages, safeReturn returns "". So an attacker cannot send a person
// from this sign-in form to another site that looks like this hub.
func safeReturn(next string) string {
	if len(next) > 2048 || strings.ContainsFunc(next, func(c rune) bool { return c < ' ' || c == '\\' || c == 0x7f }) {
		return ""
	}
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || !strings.HasPrefix(u.EscapedPath(), "/ui/") {
		return ""
	}
	return next
}

// showRoot redirects to the overview or, if nobody is signed in, to the sign-in form.
func (s *Server) showRoot(w http.ResponseWriter, r *http.Request) error {
	to := overviewPath
	if callerOf(r).Account == nil {
		to = signInPath
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

// formTokenKey derives the key of form tokens from the hub's seal key.
func formTokenKey(seal []byte) ([]byte, error) {
	return hkdf.Key(sha256.New, seal, nil, "gangway form token v1", sha256.Size)
}

// formTokenOf returns the form token of a session. Another site does not have the form token,
// because it cannot read the hub's pages.
func (s *Server) formTokenOf(in *signIn) string {
	mac := hmac.New(sha256.New, s.formTokenKey)
	mac.Write([]byte(in.claims.ID + "\x00" + in.claims.Session))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:24])
}

var errFormToken = problem(http.StatusForbidden, "form-token", "Go back, reload the page, and send the form again.", "The form does not belong to a page of your session.")

// checkFormToken refuses a request if three things are true:
//   - The request changes something.
//   - Only the browser's cookie authenticates the request.
//   - The request does not have the session's form token.
//
// The hub calls checkFormToken for every route, so no handler can forget the check. A request with
// an Authorization header needs no form token, because a browser never sends that header by itself.
func (s *Server) checkFormToken(r *http.Request, c caller) error {
	if c.signIn == nil || !c.signIn.byCookie || r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	got := r.Header.Get(formTokenHeader)
	if got == "" {
		var err error
		if got, err = formField(r, formToken); err != nil {
			return err
		}
	}
	if subtle.ConstantTimeCompare([]byte(got), []byte(s.formTokenOf(c.signIn))) != 1 {
		return errFormToken
	}
	return nil
}

// formField reads the form of a page and returns one field. If the body is not a form, formField
// does not read the body and returns "".
func formField(r *http.Request, name string) (string, error) {
	switch kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind {
	case "application/x-www-form-urlencoded":
		if err := readForm(r); err != nil {
			return "", err
		}
		return r.PostForm.Get(name), nil
	case "multipart/form-data":
		// The route's limit bounds the body, so the form stays in memory.
		if err := r.ParseMultipartForm(1 << 30); err != nil {
			return "", badBody(err)
		}
		return r.PostForm.Get(name), nil
	}
	return "", nil
}

// asset answers with a static file. The address contains a hash of the file, so browsers may cache
// the file permanently.
func (s *Server) asset(w http.ResponseWriter, r *http.Request) error {
	a, ok := ui.AssetNamed(r.PathValue("file"))
	if !ok {
		return problem(http.StatusNotFound, "not-found", "Reload the page.", "This version of the hub does not have this file.")
	}
	h, content := w.Header(), a.Content
	h.Set("Content-Type", a.Type)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Vary", "Accept-Encoding")
	if acceptsGzip(r) {
		content = a.Gzip
		h.Set("Content-Encoding", "gzip")
	}
	setLength(w, len(content))
	_, err := w.Write(content)
	return err
}

// hintAssets sends the addresses of the static files that every page needs, in an informational
// answer (103 Early Hints). So a browser with an empty cache loads these files while the hub makes
// the page, and while the browser starts a process for the page. If a person follows a link on a
// page of the hub, the browser gets no hint, because the files are already in its cache. HTTP/1.1
// clients get no hint either, because some of them do not expect an informational answer.
func hintAssets(rt *route, w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor < 2 || r.Method != http.MethodGet || !rt.servesPage() ||
		r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Site") == "same-origin" {
		return
	}
	// The informational answer must have only the header Link. The headers that are already set
	// include a Content-Security-Policy that allows no files. The final answer has another policy.
	h := w.Header()
	kept := maps.Clone(h)
	clear(h)
	h["Link"] = []string{
		"<" + ui.AssetPath("app.css") + ">; rel=preload; as=style",
		"<" + ui.AssetPath("app.js") + ">; rel=modulepreload",
	}
	if slices.Contains(htmxPages, rt.path) {
		h["Link"] = append(h["Link"], "<"+ui.AssetPath("htmx.min.js")+">; rel=preload; as=script")
	}
	w.WriteHeader(http.StatusEarlyHints)
	clear(h)
	maps.Copy(h, kept)
}

// htmxPages are the paths of the pages that always load htmx.
var htmxPages = []string{"/ui/devices", "/ui/trust/policy", "/ui/onboard/waiting"}

// servesPage reports whether the route answers a browser with a page.
func (rt *route) servesPage() bool {
	return strings.HasPrefix(rt.path, "/ui/") || rt.path == signInPath || strings.HasPrefix(rt.path, "/claim/")
}

func acceptsGzip(r *http.Request) bool {
	for _, one := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(one), ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			q = strings.ReplaceAll(q, " ", "")
			return q != "q=0" && q != "q=0.0" && q != "q=0.00" && q != "q=0.000"
		}
	}
	return false
}
