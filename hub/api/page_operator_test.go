package api_test

import (
	"errors"
	"testing"
	"time"

	"gangway/hub/store"
)

// operator returns a signed-in person whose account, olga, has the role operator.
func (s *scene) operator(t *testing.T) *person {
	t.Helper()
	a, err := s.Store.AccountByNickOrEmail(t.Context(), "olga")
	if errors.Is(err, store.ErrNotFound) {
		a = s.Account(t, "olga")
	} else if err != nil {
		t.Fatal(err)
	}
	s.setOperator(t, a.ID, true)
	return s.person(t, "olga")
}

func (s *scene) setOperator(t *testing.T, id string, operator bool) {
	t.Helper()
	e := store.Event{Time: time.Now(), Kind: "account.operator-given", Owner: id, Message: "The account got the role operator."}
	if err := s.Store.SetOperator(t.Context(), id, operator, e); err != nil {
		t.Fatal(err)
	}
}

// Nobody gives a role to an account through the API: neither its own account, nor a new one.
func TestNoRequestGivesARole(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	for _, body := range []string{
		`{"nick":"mallory","email":"m@example.org","password":"correct horse battery","operator":true}`,
		`{"nick":"mallory2","email":"m2@example.org","password":"correct horse battery","Operator":true,"role":"operator","roles":["operator"]}`,
	} {
		ada.do("POST", "/auth/accounts", body)
	}
	want[struct{ Token string }](ada, "POST", "/auth/login", `{"username":"ada","password":"correct horse battery","scope":"","operator":true,"roles":"operator"}`, 200)
	accounts, err := s.Store.Accounts(t.Context(), "", 0)
	if err != nil || len(accounts) == 0 {
		t.Fatal(err)
	}
	for _, a := range accounts {
		if a.Operator {
			t.Errorf("%s has the role", a.Nick)
		}
	}
}
