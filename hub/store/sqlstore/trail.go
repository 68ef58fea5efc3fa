package sqlstore

import (
	"context"
	"math"
	"slices"
	"time"

	"gangway/hub/store"
	"gangway/wire/trail"
)

// revisionCost is the number of bytes that each revision counts against the owner's quota, in
// addition to the size of its state. It accounts for the revision's progress and metadata, whose
// sizes the hub limits, and for the revision's rows.
const revisionCost = 128 << 10

const (
	stepHead = `s.device, s.owner, s.rev, s.status, s.step_time, s.progress_time, s.modified, s.state_sum,
		s.committer, s.commit_msg, s.progress`
	stepColumns  = `SELECT ` + stepHead + `, s.meta, s.state `
	stepsOpen    = `AND s.status IN ('NEW', 'QUEUED', 'DOWNLOADING', 'SYNCING', 'INPROGRESS', 'TESTING') `
	trailColumns = `t.device, t.owner, t.rev, t.reported, t.created, t.touched`
	summary      = `SELECT ` + trailColumns + `, ` + stepHead + `
		FROM trails t CROSS JOIN steps s ON s.device = t.device AND s.rev = t.reported `
)

var (
	selectTrail     = prepared(`SELECT ` + trailColumns + ` FROM trails t WHERE t.device = ?`)
	selectSummary   = prepared(summary + `WHERE t.device = ?`)
	selectSummaries = prepared(summary + `WHERE t.owner = ? AND t.device > ? ORDER BY t.device LIMIT ?`)
	selectStep      = prepared(stepColumns + `FROM steps s WHERE s.device = ? AND s.rev = ?`)
	// These two select steps of the trail ?1 after the revision ?2. If the trail has no such step,
	// the result is one row of NULLs; if there is no trail, it has no row. In PostgreSQL, only the
	// inner query can read the rows in the order of an index.
	selectSteps     = stepsOfTrail(``, ``)
	selectOpenSteps = stepsOfTrail(`INDEXED BY steps_open `, stepsOpen)
	selectHeads     = prepared(`SELECT ` + stepHead + ` FROM steps s WHERE s.device = ? AND s.rev < ? ORDER BY s.rev DESC LIMIT ?`)
	selectPosted    = prepared(`SELECT s.id, coalesce(d.nick, ''), ` + stepHead + ` FROM steps s INDEXED BY steps_posted
		LEFT JOIN devices d ON d.id = s.device AND d.owner = s.owner AND d.deleted = 0
		WHERE s.owner = ? AND s.rev > 0 AND (s.step_time, s.id) < (?, ?) ORDER BY s.step_time DESC, s.id DESC LIMIT ?`)

	insertTrail = prepared(`INSERT INTO trails (device, owner, rev, reported, created, touched) VALUES (?, ?, 0, 0, ?, ?)`)
	touchTrail  = prepared(`UPDATE trails SET rev = ?, reported = ?, touched = ? WHERE device = ?`)
	insertStep  = prepared(`INSERT INTO steps (device, owner, rev, status, step_time, progress_time, modified, state_sum,
		committer, commit_msg, progress, meta, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	insertStepObject  = prepared(`INSERT INTO step_objects (owner, sum, device, rev) VALUES (?, ?, ?, ?)`)
	deleteStepObjects = prepared(`DELETE FROM step_objects WHERE device = ? AND rev = ?`)
	storedObject      = prepared(`SELECT 1 FROM objects WHERE owner = ? AND sum = ? AND stored = 1`)
	updateState       = prepared(`UPDATE steps SET state = ?, state_sum = ?, modified = ? WHERE device = ? AND rev = ?`)
	updateStepMeta    = prepared(`UPDATE steps SET meta = ?, modified = ? WHERE device = ? AND rev = ?`)
	selectStatus      = prepared(`SELECT status, owner, length(state) FROM steps WHERE device = ? AND rev = ?`)
	updateProgress    = prepared(`UPDATE steps SET status = ?, progress = ?, progress_time = ?, modified = ? WHERE device = ? AND rev = ?`)
	updateMoved       = prepared(`UPDATE steps SET status = ?, progress = ?, modified = ? WHERE device = ? AND rev = ?`)

	abandonedTrails = prepared(`SELECT d.id FROM devices d WHERE d.deleted = 1 AND (
		EXISTS (SELECT 1 FROM trails t WHERE t.device = d.id) OR
		EXISTS (SELECT 1 FROM log_usage l WHERE l.device = d.id)) LIMIT ?`)
	trailCost       = prepared(`SELECT owner, CAST(sum(length(state)) AS bigint), count(*) FROM steps WHERE device = ? GROUP BY owner`)
	dropStepObjects = prepared(`DELETE FROM step_objects WHERE device = ?`)
	dropSteps       = prepared(`DELETE FROM steps WHERE device = ?`)
	dropTrail       = prepared(`DELETE FROM trails WHERE device = ?`)
)

func stepsOfTrail(hint, more string) *Statement {
	return both(stepColumns+`FROM trails t LEFT JOIN steps s `+hint+`ON s.device = t.device AND s.rev > ?2 `+more+`AND s.status IN (SELECT value FROM json_each(?3))
		WHERE t.device = ?1 ORDER BY s.rev LIMIT ?4`,
		`SELECT s.* FROM trails t LEFT JOIN (`+stepColumns+`FROM steps s WHERE s.device = ?1 AND s.rev > ?2 `+more+`AND s.status = ANY(?3)
		ORDER BY s.rev LIMIT ?4) s ON s.device = t.device WHERE t.device = ?1 ORDER BY s.rev`)
}

func readTrail(r *Row) store.Trail {
	return store.Trail{Device: r.text(), Owner: r.text(), Rev: r.int(), Reported: r.int(), Created: r.time(), Touched: r.time()}
}

// readRevisionHead reads the columns that the SQL text stepHead selects.
func readRevisionHead(r *Row) store.Revision {
	s := store.Revision{Device: r.text(), Owner: r.text(), Rev: r.int(), Status: trail.Status(r.text()), Posted: r.time()}
	if at := r.int64(); at != 0 {
		s.ProgressTime = fromMicro(at)
	}
	s.Modified = r.time()
	s.StateSum = r.hash()
	s.Committer = r.text()
	s.CommitMsg = r.text()
	s.Progress = r.blob()
	return s
}

func readStep(r *Row) store.Revision {
	s := readRevisionHead(r)
	s.Meta = r.blob()
	s.State = r.blob()
	return s
}

func oneTrail(c Conn, device string) (store.Trail, error) {
	r, err := one(c, selectTrail, device)
	if err != nil {
		return store.Trail{}, err
	}
	return readTrail(&r), nil
}

// haveObjects checks that the owner has uploaded all objects in `sums`. If some are missing, it
// returns a *store.MissingObjects.
func haveObjects(c Conn, owner string, sums []store.Hash) error {
	var missing store.MissingObjects
	for _, sum := range sums {
		_, there, err := c.One(storedObject, owner, sum[:])
		if err != nil {
			return err
		}
		switch {
		case there:
		case len(missing.Sums) < 10:
			missing.Sums = append(missing.Sums, sum)
		default:
			missing.More++
		}
	}
	if len(missing.Sums) > 0 {
		return &missing
	}
	return nil
}

// putRevision stores a revision and adds its cost to the owner's usage. The caller must have
// checked the revision's number, the quota and the objects.
func putRevision(c Conn, s store.Revision) error {
	var progressed int64
	if !s.ProgressTime.IsZero() {
		progressed = micro(s.ProgressTime)
	}
	if err := c.Do(insertStep, s.Device, s.Owner, int64(s.Rev), string(s.Status), micro(s.Posted), progressed, micro(s.Modified),
		s.StateSum[:], s.Committer, s.CommitMsg, s.Progress, s.Meta, s.State); err != nil {
		return err
	}
	if err := putStepObjects(c, s); err != nil {
		return err
	}
	return c.Do(addUsage, s.Owner, int64(len(s.State)+revisionCost))
}

func putStepObjects(c Conn, s store.Revision) error {
	for _, sum := range s.Objects {
		if err := c.Do(insertStepObject, s.Owner, sum[:], s.Device, int64(s.Rev)); err != nil {
			return err
		}
	}
	return nil
}

func cutStep(s store.Revision) store.Revision {
	s.Posted, s.Modified = fromMicro(micro(s.Posted)), fromMicro(micro(s.Modified))
	if !s.ProgressTime.IsZero() {
		s.ProgressTime = fromMicro(micro(s.ProgressTime))
	}
	return s
}

// CreateTrail implements store.Trails.
func (s *Store) CreateTrail(ctx context.Context, first store.Revision, quota int64) (t store.Trail, made bool, err error) {
	first.Rev = 0
	err = s.db.Write(ctx, func(c Conn) error {
		made = false
		if t, err = oneTrail(c, first.Device); err != store.ErrNotFound {
			return err
		}
		if err := fits(c, first.Owner, int64(len(first.State)+revisionCost), quota); err != nil {
			return err
		}
		if err := haveObjects(c, first.Owner, first.Objects); err != nil {
			return err
		}
		now := fromMicro(micro(first.Posted))
		t, made = store.Trail{Device: first.Device, Owner: first.Owner, Created: now, Touched: now}, true
		if err := c.Do(insertTrail, first.Device, first.Owner, micro(now), micro(now)); err != nil {
			return err
		}
		return putRevision(c, first)
	})
	if err != nil {
		return store.Trail{}, false, err
	}
	return t, made, nil
}

// Trail implements store.Trails.
func (s *Store) Trail(ctx context.Context, device string) (t store.Trail, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		t, err = oneTrail(c, device)
		return err
	})
	return t, err
}

// TrailSummary implements store.Trails.
func (s *Store) TrailSummary(ctx context.Context, device string) (store.TrailSummary, error) {
	list, err := s.summaries(ctx, selectSummary, device)
	if err == nil && len(list) == 0 {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.TrailSummary{}, err
	}
	return list[0], nil
}

// TrailSummaries implements store.Trails.
func (s *Store) TrailSummaries(ctx context.Context, owner, after string, limit int) ([]store.TrailSummary, error) {
	return s.summaries(ctx, selectSummaries, owner, after, pageLimit(limit))
}

func (s *Store) summaries(ctx context.Context, query *Statement, args ...any) (list []store.TrailSummary, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(query, func(r Row) (bool, error) {
			list = append(list, store.TrailSummary{Trail: readTrail(&r), Revision: readRevisionHead(&r)})
			return true, nil
		}, args...)
	})
	return list, err
}

// AddRevision implements store.Trails.
func (s *Store) AddRevision(ctx context.Context, step store.Revision, quota int64) (result store.Revision, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		t, err := oneTrail(c, step.Device)
		if err != nil {
			return err
		}
		result = cutStep(step)
		switch {
		case step.Rev < 0:
			result.Rev = t.Rev + 1
		case step.Rev <= t.Rev:
			return store.ErrExists
		case step.Rev > t.Rev+1:
			return store.ErrGap
		}
		if err := fits(c, step.Owner, int64(len(step.State)+revisionCost), quota); err != nil {
			return err
		}
		if err := haveObjects(c, step.Owner, step.Objects); err != nil {
			return err
		}
		if err := putRevision(c, result); err != nil {
			return err
		}
		return c.Do(touchTrail, int64(result.Rev), int64(t.Reported), micro(result.Posted), step.Device)
	})
	if err != nil {
		return store.Revision{}, err
	}
	return result, nil
}

// Revision implements store.Trails.
func (s *Store) Revision(ctx context.Context, device string, rev int) (step store.Revision, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		if rev < 0 {
			t, err := oneTrail(c, device)
			if err != nil {
				return err
			}
			rev = t.Rev
		}
		r, err := one(c, selectStep, device, int64(rev))
		if err != nil {
			return err
		}
		step = readStep(&r)
		return nil
	})
	return step, err
}

// Revisions implements store.Trails.
func (s *Store) Revisions(ctx context.Context, f store.RevisionFilter) (list []store.Revision, err error) {
	statuses := make([]string, len(f.Statuses))
	for i, status := range f.Statuses {
		statuses[i] = string(status)
	}
	query := selectOpenSteps
	if slices.ContainsFunc(f.Statuses, trail.Status.Final) {
		query = selectSteps
	}
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		size, found := 0, false
		err := c.Each(query, func(r Row) (bool, error) {
			found = true
			if r.null() {
				return false, nil
			}
			step := readStep(&r)
			list = append(list, step)
			size += len(step.State) + len(step.Meta) + len(step.Progress) + len(step.CommitMsg)
			return f.Bytes == 0 || size < f.Bytes, nil
		}, f.Device, int64(f.After), statuses, pageLimit(f.Limit))
		if err == nil && !found {
			err = store.ErrNotFound
		}
		return err
	})
	return list, err
}

// RevisionHeads implements store.Trails.
func (s *Store) RevisionHeads(ctx context.Context, device string, before, limit int) (list []store.Revision, err error) {
	end := int64(before)
	if before < 0 {
		end = math.MaxInt64
	}
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(selectHeads, func(r Row) (bool, error) {
			list = append(list, readRevisionHead(&r))
			return true, nil
		}, device, end, pageLimit(limit))
	})
	return list, err
}

// PostedRevisions implements store.Trails.
func (s *Store) PostedRevisions(ctx context.Context, owner, after string, limit int) (page store.PostedPage, err error) {
	at, id, err := readPlace(after)
	if err != nil {
		return page, err
	}
	most := pageLimit(limit)
	err = s.db.Read(ctx, func(c Conn) error {
		page = store.PostedPage{}
		last := id
		return c.Each(selectPosted, func(r Row) (bool, error) {
			if int64(len(page.Rows)) == most {
				page.Next = writePlace(micro(page.Rows[most-1].Posted), last)
				return false, nil
			}
			last = r.int64()
			page.Rows = append(page.Rows, store.PostedRevision{Nick: r.text(), Revision: readRevisionHead(&r)})
			return true, nil
		}, owner, at, id, most+1)
	})
	return page, err
}

// statusOf returns a revision's status, the revision's owner, and the size of the revision's state
// in bytes.
func statusOf(c Conn, device string, rev int) (status trail.Status, owner string, size int64, err error) {
	r, ok, err := c.One(selectStatus, device, int64(rev))
	if err == nil && !ok {
		err = store.ErrNotFound
	}
	if err != nil {
		return "", "", 0, err
	}
	return trail.Status(r.text()), r.text(), r.int64(), nil
}

// SetRevisionState implements store.Trails.
func (s *Store) SetRevisionState(ctx context.Context, step store.Revision, quota int64) error {
	return s.db.Write(ctx, func(c Conn) error {
		status, owner, size, err := statusOf(c, step.Device, step.Rev)
		if err != nil {
			return err
		}
		if status != trail.StatusNew {
			return store.ErrStatus
		}
		step.Owner = owner
		more := int64(len(step.State)) - size
		if err := fits(c, owner, more, quota); err != nil {
			return err
		}
		if err := haveObjects(c, owner, step.Objects); err != nil {
			return err
		}
		if err := c.Do(deleteStepObjects, step.Device, int64(step.Rev)); err != nil {
			return err
		}
		if err := putStepObjects(c, step); err != nil {
			return err
		}
		if err := c.Do(addUsage, owner, more); err != nil {
			return err
		}
		return c.Do(updateState, step.State, step.StateSum[:], micro(step.Modified), step.Device, int64(step.Rev))
	})
}

// SetRevisionMeta implements store.Trails.
func (s *Store) SetRevisionMeta(ctx context.Context, device string, rev int, meta []byte, now time.Time) error {
	return s.db.Write(ctx, func(c Conn) error {
		n, err := c.Exec(updateStepMeta, meta, micro(now), device, int64(rev))
		if err == nil && n == 0 {
			err = store.ErrNotFound
		}
		return err
	})
}

// SetRevisionProgress implements store.Trails.
func (s *Store) SetRevisionProgress(ctx context.Context, device string, rev int, status trail.Status, progress []byte, now time.Time) error {
	return s.db.Write(ctx, func(c Conn) error {
		was, _, _, err := statusOf(c, device, rev)
		if err != nil {
			return err
		}
		if was.Final() {
			if was != status {
				return store.ErrStatus
			}
			return nil
		}
		t, err := oneTrail(c, device)
		if err != nil {
			return err
		}
		if err := c.Do(updateProgress, string(status), progress, micro(now), micro(now), device, int64(rev)); err != nil {
			return err
		}
		return c.Do(touchTrail, int64(t.Rev), int64(rev), micro(now), device)
	})
}

// ChangeRevisionStatus implements store.Trails.
func (s *Store) ChangeRevisionStatus(ctx context.Context, device string, rev int, from, to trail.Status, progress []byte, now time.Time) error {
	return s.db.Write(ctx, func(c Conn) error {
		was, _, _, err := statusOf(c, device, rev)
		if err != nil {
			return err
		}
		if was != from {
			return store.ErrStatus
		}
		return c.Do(updateMoved, string(to), progress, micro(now), device, int64(rev))
	})
}

// RemoveDeletedTrails implements store.Trails.
func (s *Store) RemoveDeletedTrails(ctx context.Context, limit int) (dropped int, err error) {
	var devices []string
	err = s.db.Read(ctx, func(c Conn) error {
		devices = nil
		return c.Each(abandonedTrails, func(r Row) (bool, error) {
			devices = append(devices, r.text())
			return true, nil
		}, int64(max(limit, 0)))
	})
	if err != nil {
		return 0, err
	}
	for _, device := range devices {
		// A deleted device stays deleted, so the writer need not check again that the device is
		// deleted.
		if err := s.db.Write(ctx, func(c Conn) error { return drop(c, device) }); err != nil {
			return dropped, err
		}
		dropped++
	}
	return dropped, nil
}

func drop(c Conn, device string) error {
	r, ok, err := c.One(trailCost, device)
	if err != nil {
		return err
	}
	if ok {
		owner, states, steps := r.text(), r.int64(), r.int64()
		if err := c.Do(addUsage, owner, -(states + steps*revisionCost)); err != nil {
			return err
		}
	}
	for _, statement := range []*Statement{dropStepObjects, dropSteps, dropTrail, dropLogs, dropLogUsage} {
		if err := c.Do(statement, device); err != nil {
			return err
		}
	}
	return nil
}
