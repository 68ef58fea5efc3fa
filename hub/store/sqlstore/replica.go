package sqlstore

import (
	"context"
	"strings"
	"time"

	"gangway/hub/store"
)

// timed registers a statement in which NOW is the database's time, in microseconds since 1970. For
// PostgreSQL, NOW is the time at which the statement began. With clock_timestamp(), which changes
// while the statement runs, the planner would use no index.
func timed(sql string) *Statement {
	return both(strings.ReplaceAll(sql, "NOW", `CAST(unixepoch('subsec') * 1000000 AS INTEGER)`),
		strings.ReplaceAll(sql, "NOW", `(extract(epoch FROM statement_timestamp()) * 1000000)::bigint`))
}

var (
	takeLease = timed(`INSERT INTO leases (name, holder, fence, expires) VALUES (?1, ?2, 1, NOW + ?3)
		ON CONFLICT (name) DO UPDATE SET fence = CASE WHEN leases.holder = excluded.holder THEN leases.fence ELSE leases.fence + 1 END,
		holder = excluded.holder, expires = excluded.expires
		WHERE leases.holder = excluded.holder OR leases.expires <= NOW`)
	selectLease = prepared(`SELECT holder, fence FROM leases WHERE name = ?`)
	selectFence = prepared(`SELECT 1 FROM leases WHERE name = ? AND fence = ?`)
	endLease    = prepared(`UPDATE leases SET expires = 0, holder = '' WHERE name = ? AND fence = ?`)

	insertMessage     = timed(`INSERT INTO replica_messages (origin, at, body) VALUES (?1, NOW, ?2)`)
	forgetMessages    = timed(`DELETE FROM replica_messages WHERE at < NOW - ?1`)
	selectMessages    = prepared(`SELECT seq, origin, body FROM replica_messages WHERE seq > ? ORDER BY seq LIMIT ?`)
	selectLastMessage = prepared(`SELECT seq FROM replica_messages WHERE seq > 0 ORDER BY seq DESC LIMIT 1`)

	putTemporary = timed(`INSERT INTO temporary_values (kind, key, value, expires) VALUES (?1, ?2, ?3, NOW + ?4)
		ON CONFLICT (kind, key) DO UPDATE SET value = excluded.value, expires = excluded.expires`)
	expireTemporary = timed(`DELETE FROM temporary_values WHERE kind = ?1 AND expires <= NOW`)
	boundTemporary  = prepared(`DELETE FROM temporary_values WHERE kind = ?1 AND key IN
		(SELECT key FROM temporary_values WHERE kind = ?1 ORDER BY expires DESC LIMIT 2000 OFFSET ?2)`)
	selectTemporary = timed(`SELECT value FROM temporary_values WHERE kind = ?1 AND key = ?2 AND expires > NOW`)
	deleteTemporary = prepared(`DELETE FROM temporary_values WHERE kind = ? AND key = ?`)
)

// fenced is a database whose writes check the fence of their context.
type fenced struct{ DB }

func (d fenced) Write(ctx context.Context, run func(Conn) error) error {
	f, ok := store.FenceIn(ctx)
	if !ok {
		return d.DB.Write(ctx, run)
	}
	return d.DB.Write(ctx, func(c Conn) error {
		_, holds, err := c.One(selectFence, f.Lease, f.Number)
		if err != nil {
			return err
		}
		if !holds {
			return store.ErrFenced
		}
		return run(c)
	})
}

// Lease implements store.Replicas.
func (s *Store) Lease(ctx context.Context, name, holder string, life time.Duration) (f store.Fence, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		// Use Exec here, not Do: the PostgreSQL driver counts every statement that is run with Do
		// as a write, even one that changes no row. A refused lease would then be an error after a
		// write, and the writer would roll back the whole transaction.
		if _, err := c.Exec(takeLease, name, holder, life.Microseconds()); err != nil {
			return err
		}
		r, _, err := c.One(selectLease, name)
		if err != nil {
			return err
		}
		if r.text() != holder {
			return store.ErrLeased
		}
		f = store.Fence{Lease: name, Number: r.int64()}
		return nil
	})
	if err != nil {
		return store.Fence{}, err
	}
	return f, nil
}

// EndLease implements store.Replicas.
func (s *Store) EndLease(ctx context.Context, f store.Fence) error {
	return s.db.Write(ctx, func(c Conn) error {
		return c.Do(endLease, f.Lease, f.Number)
	})
}

// Tell implements store.Replicas.
func (s *Store) Tell(ctx context.Context, origin string, body []byte) error {
	return s.db.Write(ctx, func(c Conn) error {
		if err := c.Do(forgetMessages, store.MessageLife.Microseconds()); err != nil {
			return err
		}
		return c.Do(insertMessage, origin, body)
	})
}

// Messages implements store.Replicas.
func (s *Store) Messages(ctx context.Context, after int64, limit int) (list []store.Message, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(selectMessages, func(r Row) (bool, error) {
			list = append(list, store.Message{Seq: r.int64(), Origin: r.text(), Body: r.blob()})
			return true, nil
		}, after, int64(limit))
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// LastMessage implements store.Replicas.
func (s *Store) LastMessage(ctx context.Context) (seq int64, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, any, err := c.One(selectLastMessage)
		if seq = 0; err == nil && any {
			seq = r.int64()
		}
		return err
	})
	return seq, err
}

// PutTemporary implements store.Replicas.
func (s *Store) PutTemporary(ctx context.Context, kind string, values []store.Temporary, life time.Duration) error {
	return s.db.Write(ctx, func(c Conn) error {
		if err := c.Do(expireTemporary, kind); err != nil {
			return err
		}
		for _, v := range values {
			if err := c.Do(putTemporary, kind, v.Key, v.Value, life.Microseconds()); err != nil {
				return err
			}
		}
		return c.Do(boundTemporary, kind, int64(store.MaxTemporary))
	})
}

// Temporary implements store.Replicas.
func (s *Store) Temporary(ctx context.Context, kind string, key []byte) (value []byte, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		value, err = temporary(c, kind, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	return value, nil
}

// TakeTemporary implements store.Replicas.
func (s *Store) TakeTemporary(ctx context.Context, kind string, key []byte) (value []byte, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		if value, err = temporary(c, kind, key); err != nil {
			return err
		}
		return c.Do(deleteTemporary, kind, key)
	})
	if err != nil {
		return nil, err
	}
	return value, nil
}

func temporary(c Conn, kind string, key []byte) ([]byte, error) {
	r, err := one(c, selectTemporary, kind, key)
	if err != nil {
		return nil, err
	}
	return r.blob(), nil
}
