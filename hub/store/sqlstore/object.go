package sqlstore

import (
	"cmp"
	"context"
	"time"

	"gangway/hub/store"
)

// recordCost is the number of bytes that each record of an object counts against the owner's quota,
// in addition to the object's size.
const recordCost = 512

const objectColumns = `SELECT o.owner, o.sum, o.size, o.stored, o.name, o.mime, o.created, o.modified,
	(SELECT c.place FROM contents c WHERE c.sum = o.sum) FROM `

// expired is the condition under which ExpireObjects may remove a record. ?1 and ?2 are the
// parameters `pending` and `unused` of ExpireObjects.
const expired = `o.modified < max(CAST(?1 AS bigint), CAST(?2 AS bigint))
	AND o.modified < CASE WHEN o.stored = 1 THEN CAST(?2 AS bigint) ELSE CAST(?1 AS bigint) END
	AND NOT EXISTS (SELECT 1 FROM step_objects s WHERE s.owner = o.owner AND s.sum = o.sum)`

var (
	selectObject  = prepared(objectColumns + `objects o WHERE o.owner = ? AND o.sum = ?`)
	selectObjects = prepared(objectColumns + `objects o WHERE o.owner = ? AND o.sum > ? AND o.stored = 1 ORDER BY o.sum LIMIT ?`)
	// CROSS JOIN makes SQLite read the revision's rows of step_objects first.
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

	insertUpload   = prepared(`INSERT INTO uploads (place, owner, sum, begun) VALUES (?, ?, ?, ?)`)
	insertPartial  = prepared(`INSERT INTO uploads (place, owner, sum, begun, partial, size, token) VALUES (?, ?, ?, ?, 1, ?, ?)`)
	countPartials  = prepared(`SELECT count(*) FROM uploads WHERE owner = ? AND partial = 1`)
	selectPartial  = prepared(`SELECT place, size, received, token FROM uploads WHERE owner = ? AND sum = ? AND partial = 1`)
	advancePartial = prepared(`UPDATE uploads SET received = ?, begun = ? WHERE place = ? AND received = ? AND partial = 1`)
	selectUpload   = prepared(`SELECT owner, sum, size FROM uploads WHERE place = ?`)
	deleteUpload   = prepared(`DELETE FROM uploads WHERE place = ?`)
	isUploading    = prepared(`SELECT 1 FROM uploads WHERE place = ?`)
	expiredUploads = prepared(`SELECT owner, sum, place, size, received, token FROM uploads WHERE begun < ? ORDER BY begun LIMIT ?`)

	selectPlace = prepared(`SELECT place FROM contents WHERE sum = ?`)
	putPlace    = prepared(`INSERT INTO contents (sum, place) VALUES (?, ?) ON CONFLICT (sum) DO UPDATE SET place = excluded.place`)
	deletePlace = prepared(`DELETE FROM contents WHERE sum = ?`)

	selectUsage = prepared(`SELECT bytes FROM usage WHERE owner = ?`)
	addUsage    = prepared(`INSERT INTO usage (owner, bytes) VALUES (?, ?)
		ON CONFLICT (owner) DO UPDATE SET bytes = usage.bytes + excluded.bytes`)
)

func readObject(r *Row) store.Object {
	return store.Object{
		Owner: r.text(), Sum: r.hash(), Size: r.int64(), Stored: r.bool(),
		Name: r.text(), MimeType: r.text(), Created: r.time(), Modified: r.time(), Place: r.text(),
	}
}

func oneObject(c Conn, owner string, sum store.Hash) (store.Object, error) {
	r, err := one(c, selectObject, owner, sum[:])
	if err != nil {
		return store.Object{}, err
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

// The function `fits` returns ErrQuota if `more` additional bytes would exceed the owner's quota.
// It changes nothing. `more` is at most slightly larger than store.MaxObjectSize, so the sums
// cannot overflow.
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
		// If there is an unfinished resumable upload of the object, the usage already includes its
		// size.
		r, partial, err := c.One(selectPartial, o.Owner, o.Sum[:])
		if err != nil {
			return err
		}
		more := o.Size + cost
		if partial {
			more -= readPartial(&r).Size
		}
		if err := fits(c, o.Owner, more, quota); err != nil {
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
func (s *Store) BeginUpload(ctx context.Context, u store.Upload, now time.Time) (o store.Object, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		if o, err = oneObject(c, u.Owner, u.Sum); err != nil {
			return err
		}
		if err := c.Do(insertUpload, u.Place, u.Owner, u.Sum[:], micro(now)); err != nil {
			return err
		}
		return c.Do(touchObject, micro(now), u.Owner, u.Sum[:])
	})
	if err != nil {
		return store.Object{}, err
	}
	return o, nil
}

// placeOf returns the place where an object's bytes are stored. It is empty if the bytes are not
// stored, or if an old version of the hub stored them, which did not record places.
func placeOf(c Conn, sum store.Hash) (string, error) {
	r, ok, err := c.One(selectPlace, sum[:])
	if err != nil || !ok {
		return "", err
	}
	return r.text(), nil
}

// FinishUpload implements store.Objects.
func (s *Store) FinishUpload(ctx context.Context, u store.Upload, lost string, size, quota int64, now time.Time) (used bool, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		o, err := oneObject(c, u.Owner, u.Sum)
		if err != nil {
			return err
		}
		if used = o.Stored && o.Place == u.Place; used {
			return nil // the upload was finished before, but the answer to that call was lost
		}
		is, err := endUpload(c, u.Place)
		switch {
		case err != nil:
			return err
		case is != u:
			return store.ErrNotFound
		case o.Size != size:
			return store.ErrStatus
		}
		// If the object is already Stored for this owner, the usage includes its size.
		if !o.Stored && size > 0 {
			if err := fits(c, u.Owner, size, quota); err != nil {
				return err
			}
			if err := c.Do(addUsage, u.Owner, size); err != nil {
				return err
			}
		}
		if used = o.Place == "" || o.Place == lost; used {
			if err := c.Do(putPlace, u.Sum[:], u.Place); err != nil {
				return err
			}
		}
		return c.Do(storeObject, micro(now), u.Owner, u.Sum[:])
	})
	return used, err
}

// endUpload removes the record of an upload, and subtracts the upload's size from its owner's
// usage. If there is no such upload, the result is empty.
func endUpload(c Conn, place string) (u store.Upload, err error) {
	r, ok, err := c.One(selectUpload, place)
	if err != nil || !ok {
		return u, err
	}
	u = store.Upload{Owner: r.text(), Sum: r.hash(), Place: place}
	if size := r.int64(); size > 0 {
		if err := c.Do(addUsage, u.Owner, -size); err != nil {
			return u, err
		}
	}
	return u, c.Do(deleteUpload, place)
}

// EndUpload implements store.Objects.
func (s *Store) EndUpload(ctx context.Context, place string) error {
	return s.db.Write(ctx, func(c Conn) error {
		_, err := endUpload(c, place)
		return err
	})
}

// BeginPartial implements store.Objects.
func (s *Store) BeginPartial(ctx context.Context, u store.PartialUpload, quota int64, most int, now time.Time) error {
	return s.db.Write(ctx, func(c Conn) error {
		o, err := oneObject(c, u.Owner, u.Sum)
		if err != nil {
			return err
		}
		if o.Size != u.Size {
			return store.ErrStatus
		}
		if _, exists, err := c.One(selectPartial, u.Owner, u.Sum[:]); err != nil || exists {
			return cmp.Or(err, store.ErrExists)
		}
		r, _, err := c.One(countPartials, u.Owner)
		if err != nil {
			return err
		}
		if r.int64() >= int64(most) {
			return store.ErrTooManyUploads
		}
		if err := fits(c, u.Owner, u.Size, quota); err != nil {
			return err
		}
		if err := c.Do(addUsage, u.Owner, u.Size); err != nil {
			return err
		}
		if err := c.Do(insertPartial, u.Place, u.Owner, u.Sum[:], micro(now), u.Size, u.Token); err != nil {
			return err
		}
		return c.Do(touchObject, micro(now), u.Owner, u.Sum[:])
	})
}

func readPartial(r *Row) (u store.PartialUpload) {
	u.Place, u.Size, u.Received, u.Token = r.text(), r.int64(), r.int64(), r.text()
	return u
}

// Partial implements store.Objects.
func (s *Store) Partial(ctx context.Context, owner string, sum store.Hash) (u store.PartialUpload, o store.Object, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		u = store.PartialUpload{}
		if o, err = oneObject(c, owner, sum); err != nil {
			return err
		}
		r, ok, err := c.One(selectPartial, owner, sum[:])
		if err == nil && ok {
			u = readPartial(&r)
		}
		return err
	})
	u.Owner, u.Sum = owner, sum
	return u, o, err
}

// AdvancePartial implements store.Objects.
func (s *Store) AdvancePartial(ctx context.Context, place string, from, to int64, now time.Time) error {
	return s.db.Write(ctx, func(c Conn) error {
		n, err := c.Exec(advancePartial, to, micro(now), place, from)
		if err == nil && n == 0 {
			err = store.ErrStatus
		}
		return err
	})
}

// ExpiredUploads implements store.Objects.
func (s *Store) ExpiredUploads(ctx context.Context, before time.Time, limit int) (list []store.PartialUpload, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(expiredUploads, func(r Row) (bool, error) {
			u := store.Upload{Owner: r.text(), Sum: r.hash()}
			partial := readPartial(&r)
			partial.Owner, partial.Sum = u.Owner, u.Sum
			list = append(list, partial)
			return true, nil
		}, micro(before), int64(max(limit, 0)))
	})
	return list, err
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
func (s *Store) MarkContentLost(ctx context.Context, sum store.Hash, place string) error {
	return s.db.Write(ctx, func(c Conn) error {
		if is, err := placeOf(c, sum); err != nil || is != place {
			return err
		}
		if err := c.Do(giveBack, sum[:]); err != nil {
			return err
		}
		if _, err := c.Exec(deletePlace, sum[:]); err != nil {
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
	// Find the candidates on a read connection, because this query may read many rows. The writer
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

// RemoveContent implements store.Objects.
func (s *Store) RemoveContent(ctx context.Context, sum store.Hash, place string) (unneeded bool, err error) {
	current := false
	ask := func(c Conn) error {
		is, err := placeOf(c, sum)
		if err != nil {
			return err
		}
		var needed bool
		if current = is == place; current {
			_, needed, err = c.One(recordOf, sum[:])
		} else {
			_, needed, err = c.One(isUploading, place)
		}
		unneeded = !needed
		return err
	}
	// Most contents are still needed. Ask on a read connection first, so that these cost the writer
	// nothing.
	if err := s.db.Read(ctx, ask); err != nil || !unneeded {
		return false, err
	}
	err = s.db.Write(ctx, func(c Conn) error {
		if err := ask(c); err != nil || !unneeded || !current {
			return err
		}
		_, err := c.Exec(deletePlace, sum[:])
		return err
	})
	return unneeded && err == nil, err
}
