package sqlstore

import (
	"context"
	"time"

	"gangway/hub/store"
)

const apiTokenColumns = `SELECT id, hash, account, name, scopes, created, expires, used, used_addr FROM api_tokens `

var (
	insertAPIToken = prepared(`INSERT INTO api_tokens (hash, id, account, name, scopes, created, expires)
		VALUES (?, ?, ?, ?, ?, ?, ?)`)
	selectAPIToken   = prepared(apiTokenColumns + `WHERE hash = ? AND expires > ?`)
	selectAPITokens  = prepared(apiTokenColumns + `WHERE account = ? ORDER BY created DESC, id DESC`)
	countAPITokens   = prepared(`SELECT count(*) FROM api_tokens WHERE account = ?`)
	touchAPIToken    = prepared(`UPDATE api_tokens SET used = ?, used_addr = ? WHERE hash = ?`)
	deleteAPIToken   = prepared(`DELETE FROM api_tokens WHERE account = ? AND id = ?`)
	deleteAPITokens  = prepared(`DELETE FROM api_tokens WHERE account = ?`)
	expireAPITokens  = prepared(`DELETE FROM api_tokens WHERE account = ? AND expires <= ?`)
	sessionOfAccount = prepared(`SELECT 1 FROM sessions s JOIN accounts a ON a.id = s.account
		WHERE s.token_hash = ? AND s.account = ? AND a.disabled = 0`)
)

func readAPIToken(r *Row) store.APIToken {
	t := store.APIToken{
		ID:      r.text(),
		Hash:    r.hash(),
		Account: r.text(),
		Name:    r.text(),
		Scopes:  r.text(),
		Created: r.time(),
		Expires: r.time(),
	}
	if used := r.int64(); used != 0 {
		t.Used = fromMicro(used)
	}
	t.UsedAddr = r.text()
	return t
}

// CreateAPIToken implements store.APITokens.
func (s *Store) CreateAPIToken(ctx context.Context, t store.APIToken, session store.Hash, max int, e store.Event) error {
	return s.db.Write(ctx, func(c Conn) error {
		if _, ok, err := c.One(sessionOfAccount, session[:], t.Account); err != nil {
			return err
		} else if !ok {
			return store.ErrNotFound
		}
		if err := c.Do(expireAPITokens, t.Account, micro(t.Created)); err != nil {
			return err
		}
		r, _, err := c.One(countAPITokens, t.Account)
		if err != nil {
			return err
		}
		if r.int() >= max {
			return store.ErrTooMany
		}
		if _, err := c.Exec(insertAPIToken, t.Hash[:], t.ID, t.Account, t.Name, t.Scopes, micro(t.Created), micro(t.Expires)); err != nil {
			return existsOr(err)
		}
		return appendEvent(c, e)
	})
}

// APIToken implements store.APITokens.
func (s *Store) APIToken(ctx context.Context, hash store.Hash, now time.Time) (t store.APIToken, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, err := one(c, selectAPIToken, hash[:], micro(now))
		if err != nil {
			return err
		}
		t = readAPIToken(&r)
		return nil
	})
	return t, err
}

// APITokens implements store.APITokens.
func (s *Store) APITokens(ctx context.Context, account string) (tokens []store.APIToken, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		tokens = nil
		return c.Each(selectAPITokens, func(r Row) (bool, error) {
			tokens = append(tokens, readAPIToken(&r))
			return true, nil
		}, account)
	})
	return tokens, err
}

// MarkAPITokenUsed implements store.APITokens.
func (s *Store) MarkAPITokenUsed(ctx context.Context, hash store.Hash, addr string, now time.Time) error {
	return s.db.Write(ctx, func(c Conn) error {
		return c.Do(touchAPIToken, micro(now), addr, hash[:])
	})
}

// DeleteAPIToken implements store.APITokens.
func (s *Store) DeleteAPIToken(ctx context.Context, account, id string, e store.Event) error {
	return s.db.Write(ctx, func(c Conn) error {
		n, err := c.Exec(deleteAPIToken, account, id)
		if err != nil {
			return err
		}
		if n == 0 {
			return store.ErrNotFound
		}
		return appendEvent(c, e)
	})
}
