package api

import (
	"errors"
	"net/http"
	"time"

	"gangway/hub/store"
	"gangway/hub/ui"
)

// signInForm shows the sign-in form or, if the person is signed in already, redirects to the page
// that the form would lead to.
func (s *Server) signInForm(w http.ResponseWriter, r *http.Request) error {
	next := safeReturn(r.URL.Query().Get("next"))
	if callerOf(r).Account != nil {
		return s.redirect(w, r, orOverview(next), ui.Notice{})
	}
	return s.signInPage(w, r, http.StatusOK, ui.SignIn{Next: next})
}

func (s *Server) signInPage(w http.ResponseWriter, r *http.Request, status int, data ui.SignIn) error {
	return s.renderPage(w, r, status, "signin", ui.Page{Title: "Sign in", Data: data})
}

func orOverview(next string) string {
	if next == "" {
		return overviewPath
	}
	return next
}

func (s *Server) signIn(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	data := ui.SignIn{Nick: r.PostForm.Get("nick"), Next: safeReturn(r.PostForm.Get("next"))}
	token, expires, err := s.signInWithPassword(r, data.Nick, r.PostForm.Get("password"), "", store.ByPage)
	switch {
	case errors.Is(err, error(errWrongPassword)):
		s.setAuthenticate(w, r)
		data.Problem = errWrongPassword.Message
		return s.signInPage(w, r, http.StatusUnauthorized, data)
	case errors.Is(err, error(errDisabled)):
		data.Problem = errDisabled.Message + " " + errDisabled.Hint
		return s.signInPage(w, r, http.StatusForbidden, data)
	case err != nil:
		return err
	}
	s.setCookie(w, token, expires)
	http.Redirect(w, r, orOverview(data.Next), http.StatusSeeOther)
	return nil
}

func (s *Server) setCookie(w http.ResponseWriter, token string, expires time.Time) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: token, Path: "/", Expires: expires,
		Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}

func (s *Server) signOut(w http.ResponseWriter, r *http.Request) error {
	if in := callerOf(r).signIn; in != nil && in.apiToken == nil {
		if err := s.endOwnSession(r, in); err != nil {
			return err
		}
	}
	for _, name := range []string{cookieName, noticeCookie} {
		http.SetCookie(w, &http.Cookie{Name: name, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	}
	http.Redirect(w, r, signInPath, http.StatusSeeOther)
	return nil
}
