package sqlstore

import (
	"context"
	"time"

	"gangway/hub/store"
)

// recordCost is the number of bytes that each record uses of the quota, in addition to the size of
// the object.
const recordCost = 512

const objectColumns = `SELECT o.owner, o.sum, o.size, o.stored, o.name, o.mime, o.created, o.modified FROM `

// expired is the condition under which ExpireObjects may remove a record. ?1 and ?2 are its
// parameters `pending` and `unused`.
const expired = `o.modified < max(CAST(?1 AS bigint), CAST(?2 AS bigint))
	AND o.modified < CASE WHEN o.stored = 1 THEN CAST(?2 AS bigint) ELSE CAST(?1 AS bigint) END
	AND NOT EXISTS (SELECT 1 FROM step_objects s WHERE s.owner = o.owner AND s.sum = o.sum)`

var (
	selectObject  = prepared(objectColumns + `objects o WHERE o.owner = ? AND o.sum = ?`)
	selectObjects = prepared(objectColumns + `objects o WHERE o.owner = ? AND o.sum > ? AND o.stored = 1 ORDER BY o.sum LIMIT ?`)
	// CROSS JOIN makes SQLite read the rows of the revision in step_objects first.
	selectRevisionObjects = prepared(objectColumns + `step_objects s CROSS JOIN objects o ON o.owner = s.owner AND o.sum = s.sum
		WHERE s.device = ? AND s.rev = ? ORDER BY o.sum`)
	upsertObject = prepared(`INSERT INTO objects (owner, sum, size, stored, created, modified, name, mime)
		VALUES (?, ?, ?, 0, ?, ?, ?, ?)
		ON CONFLICT (owner, sum) DO UPDATE SET size = excluded.size, modified = excluded.modified`)
	touchObject    = prepared(`UPDATE objects SET modified = ? WHERE owner = ? AND sum = ?`)
	storeObject    = prepared(`UPDATE objects SET stored = 1, modified = ? WHERE owner = ? AND sum = ?`)
	loseObjects    = prepared(`UPDATE objects SET stored = 0 WHERE sum = ? AND stored = 1`)
	deleteObject   = prepared(`DELETE FROM objects AS o WHERE o.owner = ?3 AND o.sum = ?4 AND ` + expired)
	anyStored      = prepared(`SELECT 1 FROM objects WHERE stored = 1 LIMIT 1`)
	giveBack       = prepared(`UPDATE usage SET bytes = usage.bytes - o.size FROM objects o WHERE o.sum = ? AND o.stored = 1 AND usage.owner = o.owner`)
	recordOf       = prepared(`SELECT 1 FROM objects WHERE sum = ? LIMIT 1`)
	expiredObjects = prepared(`SELECT o.owner, o.sum FROM objects o WHERE ` + expired + ` LIMIT ?3`)

	beginRemoval   = prepared(`INSERT INTO condemned (sum) VALUES (?) ON CONFLICT DO NOTHING`)
	selectRemovals = prepared(`SELECT sum FROM condemned`)
	isBeingRemoved = prepared(`SELECT 1 FROM condemned WHERE sum = ?`)
	finishRemoval  = prepared(`DELETE FROM condemned WHERE sum = ?`)

	selectUsage = prepared(`SELECT bytes FROM usage WHERE owner = ?`)
	addUsage    = prepared(`INSERT INTO usage (owner, bytes) VALUES (?, ?)
		ON CONFLICT (owner) DO UPDATE SET bytes = usage.bytes + excluded.bytes`)
)

func readObject(r *Row) store.Object {
	return store.Object{
		Owner: r.text(), Sum: r.hash(), Size: r.int64(), Stored: r.bool(),
		Name: r.text(), MimeType: r.text(), Created: r.time(), Modified: r.time(),
	}
}

func oneObject(c Conn, owner string, sum store.Hash) (store.Object, error) {
	r, ok, err := c.One(selectObject, owner, sum[:])
	if err != nil {
		return store.Object{}, err
	}
	if !ok {
		return store.Object{}, store.ErrNotFound
	}
	return readObject(&r), nil
}

func usage(c Conn, owner string) (int64, error) {
	r, ok, err := c.One(selectUsage, owner)
	if err != nil || !ok {
		return 0, err
	}
	return r.int64(), nil
}

// fits returns ErrQuota if `more` additional bytes would exceed the owner's quota. It changes
// nothing. `more` is at most slightly larger than store.MaxObjectSize, so the sums cannot overflow.
func fits(c Conn, owner string, more, quota int64) error {
	if more <= 0 {
		return nil
	}
	used, err := usage(c, owner)
	if err == nil && (used > quota || more > quota-used) {
		err = store.ErrQuota
	}
	return err
}

// AnnounceObject implements store.Objects.
func (s *Store) AnnounceObject(ctx context.Context, o store.Object, quota int64) (result store.Object, err error) {
	if o.Size < 0 || o.Size > store.MaxObjectSize {
		return store.Object{}, store.ErrQuota
	}
	o.Stored, o.Created, o.Modified = false, fromMicro(micro(o.Created)), fromMicro(micro(o.Modified))
	err = s.db.Write(ctx, func(c Conn) error {
		result = o
		cost := int64(recordCost)
		was, err := oneObject(c, o.Owner, o.Sum)
		switch {
		case err == nil && was.Stored:
			was.Modified = o.Modified
			result = was
			return c.Do(touchObject, micro(o.Modified), o.Owner, o.Sum[:])
		case err == nil:
			cost = 0
			result = was
			result.Size, result.Modified = o.Size, o.Modified
		case err != store.ErrNotFound:
			return err
		}
		if err := fits(c, o.Owner, o.Size+cost, quota); err != nil {
			return err
		}
		if err := c.Do(upsertObject, o.Owner, o.Sum[:], o.Size, micro(o.Created), micro(o.Modified), o.Name, o.MimeType); err != nil {
			return err
		}
		return c.Do(addUsage, o.Owner, cost)
	})
	if err != nil {
		return store.Object{}, err
	}
	return result, nil
}

// Object implements store.Objects.
func (s *Store) Object(ctx context.Context, owner string, sum store.Hash) (o store.Object, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		o, err = oneObject(c, owner, sum)
		return err
	})
	return o, err
}

// Objects implements store.Objects.
func (s *Store) Objects(ctx context.Context, owner string, after *store.Hash, limit int) ([]store.Object, error) {
	var from []byte // nil is smaller than any sum
	if after != nil {
		from = after[:]
	}
	return s.objects(ctx, selectObjects, owner, from, pageLimit(limit))
}

// RevisionObjects implements store.Objects.
func (s *Store) RevisionObjects(ctx context.Context, device string, rev int) ([]store.Object, error) {
	return s.objects(ctx, selectRevisionObjects, device, int64(rev))
}

func (s *Store) objects(ctx context.Context, query *Statement, args ...any) (list []store.Object, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(query, func(r Row) (bool, error) {
			list = append(list, readObject(&r))
			return true, nil
		}, args...)
	})
	return list, err
}

// BeginUpload implements store.Objects.
func (s *Store) BeginUpload(ctx context.Context, owner string, sum store.Hash, now time.Time) (store.Object, error) {
	return s.upload(ctx, touchObject, owner, sum, now, func(Conn, store.Object) (int64, error) { return 0, nil })
}

// FinishUpload implements store.Objects.
func (s *Store) FinishUpload(ctx context.Context, owner string, sum store.Hash, size, quota int64, now time.Time) error {
	_, err := s.upload(ctx, storeObject, owner, sum, now, func(c Conn, o store.Object) (int64, error) {
		switch {
		case o.Size != size:
			return 0, store.ErrStatus
		case o.Stored:
			return 0, nil // the owner's usage already includes the size
		}
		return size, fits(c, owner, size, quota)
	})
	return err
}

// upload updates an owner's record with the statement `update`, if the function `check` returns no
// error and the object is not being removed. `check` returns the number of bytes to add to the
// owner's usage.
func (s *Store) upload(ctx context.Context, update *Statement, owner string, sum store.Hash, now time.Time, check func(Conn, store.Object) (int64, error)) (o store.Object, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		if o, err = oneObject(c, owner, sum); err != nil {
			return err
		}
		more, err := check(c, o)
		if err != nil {
			return err
		}
		_, going, err := c.One(isBeingRemoved, sum[:])
		if err != nil {
			return err
		}
		if going {
			return store.ErrBeingRemoved
		}
		if more > 0 {
			if err := c.Do(addUsage, owner, more); err != nil {
				return err
			}
		}
		return c.Do(update, micro(now), owner, sum[:])
	})
	if err != nil {
		return store.Object{}, err
	}
	return o, nil
}

// HasContents implements store.Objects.
func (s *Store) HasContents(ctx context.Context) (has bool, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		_, has, err = c.One(anyStored)
		return err
	})
	return has, err
}

// MarkContentLost implements store.Objects.
func (s *Store) MarkContentLost(ctx context.Context, sum store.Hash) error {
	return s.db.Write(ctx, func(c Conn) error {
		if err := c.Do(giveBack, sum[:]); err != nil {
			return err
		}
		return c.Do(loseObjects, sum[:])
	})
}

// Usage implements store.Objects.
func (s *Store) Usage(ctx context.Context, owner string) (bytes int64, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		bytes, err = usage(c, owner)
		return err
	})
	return bytes, err
}

// ExpireObjects implements store.Objects.
func (s *Store) ExpireObjects(ctx context.Context, pending, unused time.Time, limit int) (removed int, err error) {
	if limit <= 0 {
		return 0, nil
	}
	// A read connection finds the candidates, because this query may read many rows. The writer
	// checks each candidate again in its transaction.
	var found []store.Object
	err = s.db.Read(ctx, func(c Conn) error {
		found = nil
		return c.Each(expiredObjects, func(r Row) (bool, error) {
			found = append(found, store.Object{Owner: r.text(), Sum: r.hash()})
			return true, nil
		}, micro(pending), micro(unused), int64(limit))
	})
	if err != nil || len(found) == 0 {
		return 0, err
	}
	err = s.db.Write(ctx, func(c Conn) error {
		removed = 0
		for _, o := range found {
			was, err := oneObject(c, o.Owner, o.Sum)
			if err == store.ErrNotFound {
				continue
			}
			if err != nil {
				return err
			}
			n, err := c.Exec(deleteObject, micro(pending), micro(unused), o.Owner, o.Sum[:])
			if err != nil {
				return err
			}
			if n == 0 {
				continue
			}
			removed++
			cost := int64(recordCost)
			if was.Stored {
				cost += was.Size
			}
			if err := c.Do(addUsage, o.Owner, -cost); err != nil {
				return err
			}
		}
		return nil
	})
	return removed, err
}

// BeginRemoval implements store.Objects.
func (s *Store) BeginRemoval(ctx context.Context, sum store.Hash) (begun bool, err error) {
	wanted := false
	ask := func(c Conn) error {
		_, wanted, err = c.One(recordOf, sum[:])
		return err
	}
	// Most objects have a record. Ask on a read connection first, so that the writer has no work
	// for these objects.
	if err := s.db.Read(ctx, ask); err != nil || wanted {
		return false, err
	}
	err = s.db.Write(ctx, func(c Conn) error {
		begun = false
		if err := ask(c); err != nil || wanted {
			return err
		}
		_, err := c.Exec(beginRemoval, sum[:])
		begun = err == nil
		return err
	})
	return begun, err
}

// UnfinishedRemovals implements store.Objects.
func (s *Store) UnfinishedRemovals(ctx context.Context) (sums []store.Hash, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		sums = nil
		return c.Each(selectRemovals, func(r Row) (bool, error) {
			sums = append(sums, r.hash())
			return true, nil
		})
	})
	return sums, err
}

// FinishRemoval implements store.Objects.
func (s *Store) FinishRemoval(ctx context.Context, sum store.Hash) error {
	return s.db.Write(ctx, func(c Conn) error {
		return c.Do(finishRemoval, sum[:])
	})
}
