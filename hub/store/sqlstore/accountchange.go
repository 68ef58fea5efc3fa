package sqlstore

import (
	"context"
	"encoding/hex"
	"time"

	"gangway/hub/store"
)

const isPublicOwner = ` AND disabled = 0 AND (id = ?2 OR EXISTS (SELECT 1 FROM devices d
	WHERE d.owner = a.id AND d.public = 1 AND d.deleted = 0)) `

var (
	selectAccounts = both(accountColumns+`WHERE nick > ? ORDER BY nick LIMIT ?`,
		accountColumns+`WHERE lower(nick) > lower(? COLLATE "C") ORDER BY lower(nick) LIMIT ?`)
	publicOwners = both(`SELECT nick FROM accounts a WHERE nick LIKE ?1 ESCAPE '\'`+isPublicOwner+`ORDER BY nick LIMIT ?3`,
		`SELECT nick FROM accounts a WHERE lower(nick) LIKE lower(?1 COLLATE "C") ESCAPE '\'`+isPublicOwner+`ORDER BY lower(nick) LIMIT ?3`)
	updatePassword = prepared(`UPDATE accounts SET password_hash = ? WHERE id = ?`)
	updateDisabled = prepared(`UPDATE accounts SET disabled = ?1 WHERE id = ?2 AND disabled <> ?1`)
	hasDevices     = prepared(`SELECT 1 FROM devices WHERE owner = ? AND deleted = 0 LIMIT 1`)
	retireNick     = both(`INSERT OR REPLACE INTO retired_nicks (nick, account, retired) VALUES (?, ?, ?)`,
		`INSERT INTO retired_nicks (nick, account, retired) VALUES (?, ?, ?)
		ON CONFLICT (lower(nick)) DO UPDATE SET nick = excluded.nick, account = excluded.account, retired = excluded.retired`)
	releaseNick = both(`DELETE FROM retired_nicks WHERE nick = ?`,
		`DELETE FROM retired_nicks WHERE lower(nick) = lower(? COLLATE "C")`)

	// Statements that delete an account and its rows in other tables. Foreign keys delete the
	// account's sessions and API tokens.
	dropOfAccount = []*Statement{
		prepared(`DELETE FROM token_uses WHERE token IN (SELECT id FROM join_tokens WHERE owner = ?)`),
		prepared(`DELETE FROM join_tokens WHERE owner = ?`),
		prepared(`DELETE FROM policies WHERE owner = ?`),
		prepared(`DELETE FROM ek_lists WHERE owner = ?`),
		prepared(`DELETE FROM waiting WHERE owner = ?`),
		prepared(`DELETE FROM saved_views WHERE owner = ?`),
		prepared(`DELETE FROM log_rules WHERE owner = ?`),
		prepared(`DELETE FROM manifest_keys WHERE owner = ?`),
		prepared(`DELETE FROM manifests WHERE owner = ?`),
		prepared(`DELETE FROM boot_decisions WHERE owner = ?`),
		prepared(`DELETE FROM boot_rules WHERE owner = ?`),
		prepared(`DELETE FROM accounts WHERE id = ?`),
	}

	selectSessions = prepared(sessionColumns + `WHERE account = ? AND expires > ? ORDER BY created DESC, token_hash`)
	endSession     = prepared(`DELETE FROM sessions WHERE account = ? AND substr(token_hash, 1, 16) = ?`)
	countSessions  = prepared(`SELECT count(*) FROM sessions WHERE account = ? AND token_hash <> ? AND expires > ?`)
	endSessions    = prepared(`DELETE FROM sessions WHERE account = ? AND token_hash <> ?`)
)

// Accounts implements store.Accounts.
func (s *Store) Accounts(ctx context.Context, after string, limit int) (accounts []store.Account, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		accounts = nil
		return c.Each(selectAccounts, func(r Row) (bool, error) {
			accounts = append(accounts, readAccount(&r))
			return true, nil
		}, after, pageLimit(limit))
	})
	return accounts, err
}

// PublicOwners implements store.Accounts.
func (s *Store) PublicOwners(ctx context.Context, prefix, self string, limit int) (nicks []string, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		nicks = nil
		return c.Each(publicOwners, func(r Row) (bool, error) {
			nicks = append(nicks, r.text())
			return true, nil
		}, likePrefix(prefix), self, pageLimit(limit))
	})
	return nicks, err
}

// ChangePassword implements store.Accounts.
func (s *Store) ChangePassword(ctx context.Context, p store.PasswordChange) error {
	return s.db.Write(ctx, func(c Conn) error {
		a, err := oneAccount(c, selectAccount, p.Account)
		if err != nil {
			return err
		}
		if p.VerifiedHash != "" && (a.PasswordHash != p.VerifiedHash || a.Disabled) {
			return store.ErrChanged
		}
		if err := c.Do(updatePassword, p.NewHash, p.Account); err != nil {
			return err
		}
		if err := c.Do(endSessions, p.Account, p.KeepSession[:]); err != nil {
			return err
		}
		if p.EndAPITokens {
			if err := c.Do(deleteAPITokens, p.Account); err != nil {
				return err
			}
		}
		return appendEvent(c, p.Event)
	})
}

// DisableAccount implements store.Accounts.
func (s *Store) DisableAccount(ctx context.Context, id string, e store.Event) error {
	return s.setDisabled(ctx, id, true, e)
}

// EnableAccount implements store.Accounts.
func (s *Store) EnableAccount(ctx context.Context, id string, e store.Event) error {
	return s.setDisabled(ctx, id, false, e)
}

func (s *Store) setDisabled(ctx context.Context, id string, disabled bool, e store.Event) error {
	return s.db.Write(ctx, func(c Conn) error {
		if _, err := oneAccount(c, selectAccount, id); err != nil {
			return err
		}
		n, err := c.Exec(updateDisabled, flag(disabled), id)
		if err != nil || n == 0 {
			return err
		}
		if disabled {
			if err := c.Do(endSessions, id, []byte{}); err != nil {
				return err
			}
			if err := c.Do(deleteAPITokens, id); err != nil {
				return err
			}
		}
		return appendEvent(c, e)
	})
}

// DeleteAccount implements store.Accounts.
func (s *Store) DeleteAccount(ctx context.Context, id string, e store.Event) error {
	return s.db.Write(ctx, func(c Conn) error {
		a, err := oneAccount(c, selectAccount, id)
		if err != nil {
			return err
		}
		if _, some, err := c.One(hasDevices, id); err != nil {
			return err
		} else if some {
			return store.ErrHasDevices
		}
		for _, of := range dropOfAccount {
			if err := c.Do(of, id); err != nil {
				return err
			}
		}
		if err := c.Do(retireNick, a.Nick, id, micro(e.Time)); err != nil {
			return err
		}
		// The account's policy and EK list were deleted, so the config version must increase.
		if err := bumpConfig(c); err != nil {
			return err
		}
		return appendEvent(c, e)
	})
}

// ReleaseNick implements store.Accounts.
func (s *Store) ReleaseNick(ctx context.Context, nick string) error {
	return s.db.Write(ctx, func(c Conn) error {
		return c.Do(releaseNick, nick)
	})
}

// Sessions implements store.Sessions.
func (s *Store) Sessions(ctx context.Context, account string, now time.Time) (sessions []store.Session, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		sessions = nil
		return c.Each(selectSessions, func(r Row) (bool, error) {
			sessions = append(sessions, readSession(&r))
			return true, nil
		}, account, micro(now))
	})
	return sessions, err
}

// EndSession implements store.Sessions.
func (s *Store) EndSession(ctx context.Context, account, id string, e store.Event) error {
	half, err := hex.DecodeString(id)
	if err != nil || len(half) != 16 {
		return store.ErrNotFound
	}
	return s.db.Write(ctx, func(c Conn) error {
		n, err := c.Exec(endSession, account, half)
		if err != nil {
			return err
		}
		if n == 0 {
			return store.ErrNotFound
		}
		return appendEvent(c, e)
	})
}

// EndSessions implements store.Sessions.
func (s *Store) EndSessions(ctx context.Context, account string, keep store.Hash, e store.Event) (ended int, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		r, _, err := c.One(countSessions, account, keep[:], micro(e.Time))
		if err != nil {
			return err
		}
		if ended = r.int(); ended == 0 {
			return nil
		}
		if err := c.Do(endSessions, account, keep[:]); err != nil {
			return err
		}
		return appendEvent(c, e)
	})
	return ended, err
}
