package api

import (
	"bytes"
	"errors"
	"net/http"
	"time"

	"gangway/hub/store"
	"gangway/hub/ui"
)

// devicesOnPage is how many devices the page shows at most.
const devicesOnPage = 200

// waitingOnPage is how many waiting devices the page shows at most. The same number limits the
// cloned devices.
const waitingOnPage = 50

// showHome is the page of a signed-in account, and the sign-in form for anyone else.
func (s *Server) showHome(w http.ResponseWriter, r *http.Request) error {
	account := callerOf(r).Account
	if account == nil {
		return s.signInPage(w, http.StatusOK, ui.SignIn{})
	}
	var err error
	h := ui.Home{Nick: account.Nick, Hub: s.cfg.PublicURL, HubName: s.cfg.CA.HubName(), Now: s.cfg.Now()}
	if h.Devices, err = s.cfg.Store.Devices(r.Context(), account.ID, "", devicesOnPage); err != nil {
		return err
	}
	if h.Total, err = s.cfg.Store.CountDevices(r.Context(), account.ID); err != nil {
		return err
	}
	if h.Boots, err = s.cfg.Store.BootStates(r.Context(), account.ID); err != nil {
		return err
	}
	waiting, err := s.cfg.Store.WaitingDevices(r.Context(), account.ID, h.Now, waitingOnPage)
	if err != nil {
		return err
	}
	for _, one := range waiting {
		shown := ui.Waiting{WaitingDevice: one}
		for _, q := range viewWaiting(one).Verdict.Questions {
			shown.Reasons = append(shown.Reasons, q.Reason)
		}
		h.Waiting = append(h.Waiting, shown)
	}
	for _, d := range h.Devices {
		if d.Clone == "" || len(h.Cloned) == waitingOnPage {
			continue
		}
		view, err := s.clonedView(r.Context(), d.ID)
		if err != nil {
			return err
		}
		shown := ui.Cloned{Device: d, Codes: view.Open()}
		for _, f := range view.Findings {
			shown.Reasons = append(shown.Reasons, f.Words)
		}
		h.Cloned = append(h.Cloned, shown)
	}
	if h.Events, err = s.cfg.Store.Events(r.Context(), store.EventFilter{Owner: account.ID, NoRoutine: true, Limit: 12}); err != nil {
		return err
	}
	var page bytes.Buffer // a buffer, so that a failure can still be answered with an error page
	if err := ui.WriteHome(&page, h); err != nil {
		return err
	}
	return s.writeHTML(w, http.StatusOK, page.Bytes())
}

func (s *Server) signInPage(w http.ResponseWriter, status int, p ui.SignIn) error {
	var page bytes.Buffer
	if err := ui.WriteSignIn(&page, p); err != nil {
		return err
	}
	return s.writeHTML(w, status, page.Bytes())
}

func (s *Server) writeHTML(w http.ResponseWriter, status int, page []byte) error {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, err := w.Write(page)
	return err
}

func (s *Server) signIn(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	nick := r.PostForm.Get("nick")
	token, expires, err := s.signInWithPassword(r, nick, r.PostForm.Get("password"), "", store.ByPage)
	if errors.Is(err, error(errWrongPassword)) {
		s.setAuthenticate(w)
		return s.signInPage(w, http.StatusUnauthorized, ui.SignIn{Nick: nick, Problem: errWrongPassword.Message})
	}
	if errors.Is(err, error(errDisabled)) {
		return s.signInPage(w, http.StatusForbidden, ui.SignIn{Nick: nick, Problem: errDisabled.Message + " " + errDisabled.Hint})
	}
	if err != nil {
		return err
	}
	s.setCookie(w, token, expires)
	http.Redirect(w, r, "/", http.StatusSeeOther)
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
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

func (s *Server) styleSheet(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "max-age=3600")
	_, err := w.Write(ui.StyleSheet)
	return err
}
