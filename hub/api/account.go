package api

import (
	"errors"
	"net/http"
	"net/mail"
	"regexp"
	"sync"
	"time"

	"gangway/hub/bearer"
	"gangway/hub/store"
	"gangway/wire"
)

// AccountView is an account in the API.
type AccountView struct {
	Type         string    `json:"type"` // "USER"
	ID           string    `json:"id"`
	PRN          string    `json:"prn"`
	Nick         string    `json:"nick"`
	Email        string    `json:"email"`
	TimeCreated  time.Time `json:"time-created"`
	TimeModified time.Time `json:"time-modified"`
	// RedirectURI is the page that Pantacor's client opens after a registration.
	RedirectURI string `json:"redirect-uri,omitempty"`
}

func viewAccount(a store.Account) AccountView {
	return AccountView{Type: bearer.User, ID: a.ID, PRN: wire.AccountPRN + a.ID, Nick: a.Nick, Email: a.Email, TimeCreated: a.Created.UTC(), TimeModified: a.Created.UTC()}
}

var accountNickForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9_\-+]{3,23}$`) })

// NewAccount checks the fields of a new account and hashes its password. The texts of its errors
// are written for the person who chose the fields.
func NewAccount(nick, email, password string, now time.Time) (store.Account, error) {
	if !accountNickForm().MatchString(nick) {
		return store.Account{}, errors.New("a nick must have 3 to 23 characters: letters, digits, and the signs _ - +")
	}
	if email != "" {
		if a, err := mail.ParseAddress(email); err != nil || a.Address != email || len(email) > 254 {
			return store.Account{}, errors.New("the e-mail address is not valid")
		}
	}
	hash, err := HashPassword(password)
	if err != nil {
		return store.Account{}, err
	}
	return store.Account{ID: wire.NewID(), Nick: nick, Email: email, PasswordHash: hash, Created: now}, nil
}

// createAccount makes an account for any caller, if the operator allows open registration.
func (s *Server) createAccount(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Nick     string `json:"nick"`
		Email    string `json:"email"`
		Password string `json:"password"`
	}
	if err := readJSON(r, &body); err != nil {
		return err
	}
	if !s.cfg.OpenRegistration {
		// The status is neither 401 nor 403, because after these Pantacor's client would ask for a
		// password.
		return problem(http.StatusPreconditionFailed, "registration-closed", "Ask the hub's operator for an account ('gangway account create').", "Registration is closed on this hub.")
	}
	var a store.Account
	var err error
	if busy := s.passwords.queue.do(r.Context(), unknownNetwork, func() error {
		a, err = NewAccount(body.Nick, body.Email, body.Password, s.cfg.Now())
		return nil
	}); busy != nil {
		return busy
	}
	if err != nil {
		return problem(http.StatusPreconditionFailed, "account-form", "Correct the value and send the request again.", "The account was not created: %v.", err)
	}
	if err := s.cfg.Store.CreateAccount(r.Context(), a); errors.Is(err, store.ErrExists) {
		return problem(http.StatusPreconditionFailed, "exists", "Choose another nick and e-mail address, or sign in if the account is yours.", "An account with this nick or e-mail address already exists.")
	} else if err != nil {
		return err
	}
	s.record(r.Context(), store.Event{Time: a.Created, Kind: "account.created", Owner: a.ID, Actor: wire.AccountPRN + a.ID, ActorName: a.Nick, Means: store.ByAPI, Message: "The account was created."})
	view := viewAccount(a)
	view.RedirectURI = s.pageURL() + "/"
	writeJSON(w, http.StatusOK, view)
	return nil
}

// listAccounts lists only the caller's own account, because accounts cannot see one another.
func (s *Server) listAccounts(w http.ResponseWriter, r *http.Request) error {
	writeJSON(w, http.StatusOK, []AccountView{viewAccount(accountOf(r))})
	return nil
}

func (s *Server) ownAccount(w http.ResponseWriter, r *http.Request) error {
	writeJSON(w, http.StatusOK, viewAccount(accountOf(r)))
	return nil
}

func accountPRN(id string) string {
	if id == "" {
		return ""
	}
	return wire.AccountPRN + id
}
