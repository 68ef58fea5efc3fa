package sqlstore

import (
	"context"
	"time"

	"gangway/hub/store"
)

const accountColumns = `SELECT id, nick, email, password_hash, created, disabled, operator FROM accounts `

const sessionColumns = `SELECT token_hash, account, created, expires, addr, means FROM sessions `

var (
	insertAccount = prepared(`INSERT INTO accounts (id, nick, email, password_hash, created, operator)
		VALUES (?, ?, ?, ?, ?, ?)`)
	selectAccount = prepared(accountColumns + `WHERE id = ?`)
	// Both comparisons ignore ASCII case. In SQLite, this is due to the collation of the columns;
	// in PostgreSQL, it is due to the function lower with the collation "C".
	selectAccountByNick = both(accountColumns+`WHERE nick = ?`,
		accountColumns+`WHERE lower(nick) = lower(? COLLATE "C")`)
	selectAccountByEmail = both(accountColumns+`WHERE email = ? AND email <> ''`,
		accountColumns+`WHERE lower(email) = lower(? COLLATE "C") AND email <> ''`)
	countAccounts = prepared(`SELECT count(*) FROM accounts`)

	nickRetired = both(`SELECT 1 FROM retired_nicks WHERE nick = ?`,
		`SELECT 1 FROM retired_nicks WHERE lower(nick) = lower(? COLLATE "C")`)

	insertSession = prepared(`INSERT INTO sessions (token_hash, account, created, expires, addr, means)
		VALUES (?, ?, ?, ?, ?, ?)`)
	selectSession         = prepared(sessionColumns + `WHERE token_hash = ? AND expires > ?`)
	updateSignedIn        = prepared(`UPDATE accounts SET signed_in = ?1 WHERE id = ?2 AND signed_in < ?1`)
	deleteSession         = prepared(`DELETE FROM sessions WHERE token_hash = ?`)
	deleteExpiredSessions = prepared(`DELETE FROM sessions WHERE account = ? AND expires <= ?`)
	deleteOldestSessions  = prepared(`DELETE FROM sessions WHERE token_hash IN (SELECT token_hash FROM sessions
		WHERE account = ? ORDER BY created DESC, token_hash LIMIT 9223372036854775807 OFFSET ?)`)
)

// CreateAccount implements store.Accounts.
func (s *Store) CreateAccount(ctx context.Context, a store.Account) error {
	return s.db.Write(ctx, func(c Conn) error {
		if _, retired, err := c.One(nickRetired, a.Nick); err != nil {
			return err
		} else if retired {
			return store.ErrExists
		}
		_, err := c.Exec(insertAccount, a.ID, a.Nick, a.Email, a.PasswordHash, micro(a.Created), flag(a.Operator))
		return existsOr(err)
	})
}

// Account implements store.Accounts.
func (s *Store) Account(ctx context.Context, id string) (a store.Account, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		a, err = oneAccount(c, selectAccount, id)
		return err
	})
	return a, err
}

// AccountByNickOrEmail implements store.Accounts. If `login` is the nick of one account and the
// e-mail address of another, it returns the account with the nick.
func (s *Store) AccountByNickOrEmail(ctx context.Context, login string) (a store.Account, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		if a, err = oneAccount(c, selectAccountByNick, login); err != store.ErrNotFound {
			return err
		}
		a, err = oneAccount(c, selectAccountByEmail, login)
		return err
	})
	return a, err
}

func oneAccount(c Conn, query *Statement, key string) (store.Account, error) {
	r, err := one(c, query, key)
	if err != nil {
		return store.Account{}, err
	}
	return readAccount(&r), nil
}

func readAccount(r *Row) store.Account {
	return store.Account{
		ID:           r.text(),
		Nick:         r.text(),
		Email:        r.text(),
		PasswordHash: r.text(),
		Created:      r.time(),
		Disabled:     r.bool(),
		Operator:     r.bool(),
	}
}

func readSession(r *Row) store.Session {
	return store.Session{
		TokenHash: r.hash(),
		AccountID: r.text(),
		Created:   r.time(),
		Expires:   r.time(),
		Addr:      r.text(),
		Means:     r.text(),
	}
}

// CountAccounts implements store.Accounts.
func (s *Store) CountAccounts(ctx context.Context) (n int, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, _, err := c.One(countAccounts)
		if err == nil {
			n = r.int()
		}
		return err
	})
	return n, err
}

// CreateSession implements store.Sessions. It also removes the account's expired sessions, so that
// the table does not grow.
func (s *Store) CreateSession(ctx context.Context, ses store.Session, verified string) error {
	return s.db.Write(ctx, func(c Conn) error {
		a, err := oneAccount(c, selectAccount, ses.AccountID)
		if err != nil {
			return err
		}
		if a.Disabled || a.PasswordHash != verified {
			return store.ErrChanged
		}
		if err := c.Do(deleteExpiredSessions, ses.AccountID, micro(ses.Created)); err != nil {
			return err
		}
		_, err = c.Exec(insertSession, ses.TokenHash[:], ses.AccountID, micro(ses.Created), micro(ses.Expires), ses.Addr, ses.Means)
		if err != nil {
			return existsOr(err)
		}
		if err := c.Do(updateSignedIn, micro(ses.Created), ses.AccountID); err != nil {
			return err
		}
		return c.Do(deleteOldestSessions, ses.AccountID, int64(store.MaxSessions))
	})
}

// Session implements store.Sessions.
func (s *Store) Session(ctx context.Context, token store.Hash, now time.Time) (ses store.Session, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, err := one(c, selectSession, token[:], micro(now))
		if err != nil {
			return err
		}
		ses = readSession(&r)
		return nil
	})
	return ses, err
}

// DeleteSession implements store.Sessions. It succeeds even if the session does not exist.
func (s *Store) DeleteSession(ctx context.Context, token store.Hash) error {
	return s.db.Write(ctx, func(c Conn) error {
		return c.Do(deleteSession, token[:])
	})
}
