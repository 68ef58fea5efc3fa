package api

import (
	"errors"
	"net/http"
	"net/mail"
	"regexp"
	"time"

	"gangway/hub/bearer"
	"gangway/hub/store"
	"gangway/wire"
)

// AccountView is an account as the API shows it.
type AccountView struct {
	Type         string    `json:"type"` // "USER"
	ID           string    `json:"id"`
	PRN          string    `json:"prn"`
	Nick         string    `json:"nick"`
	Email        string    `json:"email"`
	TimeCreated  time.Time `json:"time-created"`
	TimeModified time.Time `json:"time-modified"`
	// RedirectURI is where Pantacor's client sends a person after they have
	// registered.
	RedirectURI string `json:"redirect-uri,omitempty"`
}

func viewAccount(a store.Account) AccountView {
	return AccountView{Type: bearer.User, ID: a.ID, PRN: wire.AccountPRN + a.ID, Nick: a.Nick, Email: a.Email, TimeCreated: a.Created.UTC(), TimeModified: a.Created.UTC()}
}

var accountNickForm = regexp.MustCompile(`^[a-zA-Z0-9_\-+]{3,23}$`)

// NewAccount checks what an account is to be made of and hashes its password.
// Its errors are for a person.
func NewAccount(nick, email, password string, now time.Time) (store.Account, error) {
	if !accountNickForm.MatchString(nick) {
		return store.Account{}, errors.New("a nick has 3 to 23 letters, digits and the signs _ - +")
	}
	if email != "" {
		if a, err := mail.ParseAddress(email); err != nil || a.Address != email || len(email) > 254 {
			return store.Account{}, errors.New("the e-mail address is none")
		}
	}
	hash, err := HashPassword(password)
	if err != nil {
		return store.Account{}, err
	}
	return store.Account{ID: wire.NewID(), Nick: nick, Email: email, PasswordHash: hash, Created: now}, nil
}

// register makes an account for whoever asks, where the operator lets it.
func (s *Server) register(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Nick     string `json:"nick"`
		Email    string `json:"email"`
		Password string `json:"password"`
	}
	if err := readJSON(r, &body); err != nil {
		return err
	}
	if !s.cfg.OpenRegistration {
		// No 401 or 403: Pantacor's client would ask for a password in vain.
		return problem(http.StatusPreconditionFailed, "registration-closed", "Ask its operator for an account ('gangway account create').", "This hub does not let people make accounts by themselves.")
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
		return problem(http.StatusPreconditionFailed, "account-form", "Mend it and send it again.", "The account cannot be made: %v.", err)
	}
	if err := s.cfg.Store.CreateAccount(r.Context(), a); errors.Is(err, store.ErrExists) {
		return problem(http.StatusPreconditionFailed, "exists", "Choose others, or sign in if it is yours.", "There is an account with this nick or e-mail address.")
	} else if err != nil {
		return err
	}
	s.record(r.Context(), store.Event{Time: a.Created, Kind: "account.created", Owner: a.ID, Actor: wire.AccountPRN + a.ID, ActorName: a.Nick, Means: store.ByAPI, Message: "The account was made."})
	view := viewAccount(a)
	view.RedirectURI = s.cfg.PublicURL + "/"
	writeJSON(w, http.StatusOK, view)
	return nil
}

// listAccounts shows the caller's own account, the only one it may see.
func (s *Server) listAccounts(w http.ResponseWriter, r *http.Request) error {
	writeJSON(w, http.StatusOK, []AccountView{viewAccount(accountOf(r))})
	return nil
}

func (s *Server) ownAccount(w http.ResponseWriter, r *http.Request) error {
	writeJSON(w, http.StatusOK, viewAccount(accountOf(r)))
	return nil
}
