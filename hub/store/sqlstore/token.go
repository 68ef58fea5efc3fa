package sqlstore

import (
	"context"
	"time"

	"gangway/hub/store"
)

// tokenDisabled is true if the token or its account is disabled.
const tokenDisabled = `disabled = 1 OR EXISTS (SELECT 1 FROM accounts a WHERE a.id = owner AND a.disabled = 1)`

// The columns of a join token.
const tokenColumns = `SELECT id, owner, nick, public_key, expires, max_uses, uses, ` + tokenDisabled + `,
	default_user_meta, created, auto_hash, pantacor_key, paused`

var (
	insertToken = prepared(`INSERT INTO join_tokens (id, owner, nick, public_key, expires, max_uses,
		uses, disabled, default_user_meta, created, auto_hash, pantacor_key)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, x''), nullif(?, x''))`)
	selectToken       = prepared(tokenColumns + ` FROM join_tokens WHERE id = ?`)
	selectTokens      = prepared(tokenColumns + ` FROM join_tokens WHERE owner = ? ORDER BY created DESC, id DESC`)
	selectTokenByAuto = prepared(tokenColumns + ` FROM join_tokens WHERE auto_hash = ?`)
	selectTokenForEK  = prepared(`SELECT id, owner, public_key, expires, ` + tokenDisabled + `, (SELECT generation FROM tpms WHERE ek = ?1), (SELECT version FROM config_version),
		EXISTS (SELECT 1 FROM waiting w WHERE w.owner = join_tokens.owner AND w.ek = ?1 AND ` + waitsAt(`?2`) + `)
		FROM join_tokens WHERE id = ?3`)
	anyTokenAt       = prepared(`SELECT 1 FROM join_tokens WHERE owner = ? LIMIT 1 OFFSET ?`)
	selectTokensPage = prepared(tokenColumns + ` FROM join_tokens WHERE owner = ?1
		AND (?2 = '' OR (created, id) < (SELECT created, id FROM join_tokens WHERE id = ?2 AND owner = ?1))
		ORDER BY created DESC, id DESC LIMIT ?3`)
	selectTokensByNick = both(tokenColumns+` FROM join_tokens INDEXED BY join_tokens_nick
		WHERE owner = ? AND nick = ? COLLATE NOCASE ORDER BY created DESC, id DESC LIMIT ?`,
		tokenColumns+` FROM join_tokens WHERE owner = ? AND lower(nick) = lower(? COLLATE "C") ORDER BY created DESC, id DESC LIMIT ?`)
	selectTokensExpiring = prepared(tokenColumns + ` FROM join_tokens INDEXED BY join_tokens_expires
		WHERE owner = ? AND expires > ? AND expires < ? AND disabled = 0 ORDER BY expires LIMIT ?`)
	tokenOfOwner    = prepared(`SELECT disabled FROM join_tokens WHERE id = ? AND owner = ?`)
	disableToken    = prepared(`UPDATE join_tokens SET disabled = 1 WHERE id = ? AND owner = ?`)
	deleteToken     = prepared(`DELETE FROM join_tokens WHERE id = ?`)
	deleteTokenUses = prepared(`DELETE FROM token_uses WHERE token = ?`)
)

// CreateJoinToken implements store.JoinTokens. It does not check that the owner exists, because
// Activate refuses the tokens of a deleted account.
func (s *Store) CreateJoinToken(ctx context.Context, t store.JoinToken) error {
	meta, err := store.EncodeMeta(t.DefaultUserMeta)
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(c Conn) error {
		if _, ok, err := c.One(selectToken, t.ID); err != nil {
			return err
		} else if ok {
			return store.ErrExists
		}
		if _, full, err := c.One(anyTokenAt, t.Owner, int64(store.MaxJoinTokens-1)); err != nil {
			return err
		} else if full {
			return store.ErrFull
		}
		_, err := c.Exec(insertToken, t.ID, t.Owner, t.Nick, t.PublicKey, micro(t.Expires),
			int64(t.MaxUses), int64(t.Uses), flag(t.Disabled), meta, micro(t.Created), secretHash(t), pantacorKey(t))
		return existsOr(err)
	})
}

// secretHash returns the value for the column auto_hash. If it is empty, the insert statement
// stores NULL.
func secretHash(t store.JoinToken) []byte {
	if !t.WithoutTPM {
		return []byte{}
	}
	return t.SecretHash[:]
}

// pantacorKey returns the value for the column pantacor_key. If it is empty, the insert statement
// stores NULL.
func pantacorKey(t store.JoinToken) []byte {
	if !t.ForPantacor {
		return []byte{}
	}
	return t.PantacorKey
}

// JoinToken implements store.JoinTokens.
func (s *Store) JoinToken(ctx context.Context, id string) (store.JoinToken, error) {
	return s.oneToken(ctx, selectToken, id)
}

// JoinTokenBySecretHash implements store.JoinTokens.
func (s *Store) JoinTokenBySecretHash(ctx context.Context, hash store.Hash) (store.JoinToken, error) {
	return s.oneToken(ctx, selectTokenByAuto, hash[:])
}

func (s *Store) oneToken(ctx context.Context, query *Statement, key any) (t store.JoinToken, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, err := one(c, query, key)
		if err != nil {
			return err
		}
		t = readToken(&r)
		return nil
	})
	return t, err
}

// JoinTokenForEK implements store.JoinTokens.
func (s *Store) JoinTokenForEK(ctx context.Context, id string, ek store.Hash, now time.Time) (t store.TokenForEK, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		t, err = tokenForEK(c, id, ek, now)
		return err
	})
	return t, err
}

func tokenForEK(c Conn, id string, ek store.Hash, now time.Time) (store.TokenForEK, error) {
	r, err := one(c, selectTokenForEK, ek[:], micro(now), id)
	if err != nil {
		return store.TokenForEK{}, err
	}
	return store.TokenForEK{ID: r.text(), Owner: r.text(), PublicKey: r.blob(), Expires: r.time(), Disabled: r.bool(),
		Generation: r.int(), ConfigVersion: r.int64(), Waits: r.bool()}, nil
}

// JoinTokens implements store.JoinTokens.
func (s *Store) JoinTokens(ctx context.Context, owner string) ([]store.JoinToken, error) {
	return s.manyTokens(ctx, selectTokens, owner)
}

// JoinTokensByNick implements store.JoinTokens.
func (s *Store) JoinTokensByNick(ctx context.Context, owner, nick string, limit int) ([]store.JoinToken, error) {
	return s.manyTokens(ctx, selectTokensByNick, owner, nick, pageLimit(limit))
}

// JoinTokensExpiring implements store.JoinTokens.
func (s *Store) JoinTokensExpiring(ctx context.Context, owner string, after, before time.Time, limit int) ([]store.JoinToken, error) {
	return s.manyTokens(ctx, selectTokensExpiring, owner, micro(after), micro(before), pageLimit(limit))
}

func (s *Store) manyTokens(ctx context.Context, query *Statement, args ...any) (tokens []store.JoinToken, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		tokens = nil
		return c.Each(query, func(r Row) (bool, error) {
			tokens = append(tokens, readToken(&r))
			return true, nil
		}, args...)
	})
	if err != nil {
		return nil, err
	}
	return tokens, nil
}

func readToken(r *Row) store.JoinToken {
	t := store.JoinToken{
		ID:        r.text(),
		Owner:     r.text(),
		Nick:      r.text(),
		PublicKey: r.blob(),
		Expires:   r.time(),
		MaxUses:   r.int(),
		Uses:      r.int(),
		Disabled:  r.bool(),
	}
	t.DefaultUserMeta, t.Unreadable = decodeMeta(r.text(), "/default-user-meta")
	t.Created = r.time()
	t.WithoutTPM = !r.null()
	t.SecretHash = r.hash()
	t.ForPantacor = !r.null()
	t.PantacorKey = r.blob()
	t.Paused = r.bool()
	return t
}

// DisableJoinToken implements store.JoinTokens.
func (s *Store) DisableJoinToken(ctx context.Context, owner, id string) error {
	return s.db.Write(ctx, func(c Conn) error {
		n, err := c.Exec(disableToken, id, owner)
		if err == nil && n == 0 {
			return store.ErrNotFound
		}
		return err
	})
}

// JoinTokensPage implements store.JoinTokens.
func (s *Store) JoinTokensPage(ctx context.Context, owner, after string, limit int) (tokens []store.JoinToken, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		tokens = nil
		if after != "" {
			if _, ok, err := c.One(tokenOfOwner, after, owner); err != nil {
				return err
			} else if !ok {
				return store.ErrNotFound
			}
		}
		return c.Each(selectTokensPage, func(r Row) (bool, error) {
			tokens = append(tokens, readToken(&r))
			return true, nil
		}, owner, after, pageLimit(limit))
	})
	if err != nil {
		return nil, err
	}
	return tokens, nil
}

// DeleteJoinToken implements store.JoinTokens.
func (s *Store) DeleteJoinToken(ctx context.Context, owner, id string, e store.Event) error {
	return s.db.Write(ctx, func(c Conn) error {
		r, err := one(c, tokenOfOwner, id, owner)
		if err != nil {
			return err
		}
		if !r.bool() {
			return store.ErrStatus
		}
		if err := c.Do(deleteTokenUses, id); err != nil {
			return err
		}
		if err := c.Do(deleteToken, id); err != nil {
			return err
		}
		return appendEvent(c, e)
	})
}
