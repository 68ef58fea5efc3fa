package sqlstore

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"gangway/hub/store"
)

// logCost is the number of bytes that each log entry counts against LogBounds.Bytes in addition to
// its texts.
const logCost = 64

// A query for batches consists of four texts: logColumns, a condition on the owner or device, a
// condition on the position, and the order.
//
// The condition on the position is logForth if the oldest entries come first, and logBack if the
// newest entries come first. Both select batches whose times are from ?2 to ?3. The previous page
// ended at the entry with the time ?4 and the number ?5. Of the batches with the time ?4, logForth
// selects those with an entry whose number is larger than ?5, and logBack those with an entry whose
// number is smaller.
const (
	logColumns              = `SELECT first, device, owner, created, data FROM log_batches `
	logForth, logForthOrder = ` AND created BETWEEN ?2 AND ?3 AND (created <> ?4 OR first + n > ?5 + 1) AND owner = ?6 `, `ORDER BY created, first LIMIT ?7`
	logBack, logBackOrder   = ` AND created BETWEEN ?2 AND ?3 AND (created <> ?4 OR first < ?5) AND owner = ?6 `, `ORDER BY created DESC, first DESC LIMIT ?7`
)

var (
	selectLogsOfOwner      = prepared(logColumns + `WHERE owner = ?1` + logForth + logForthOrder)
	selectLogsOfDevice     = prepared(logColumns + `WHERE device = ?1` + logForth + logForthOrder)
	selectLogsOfOwnerBack  = prepared(logColumns + `WHERE owner = ?1` + logBack + logBackOrder)
	selectLogsOfDeviceBack = prepared(logColumns + `WHERE device = ?1` + logBack + logBackOrder)

	countLogs      = prepared(`INSERT INTO log_counter (id, last) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET last = log_counter.last + excluded.last`)
	lastLogNumber  = prepared(`SELECT last FROM log_counter WHERE id = 1`)
	insertLogs     = prepared(`INSERT INTO log_batches (first, n, device, owner, created, bytes, data) VALUES (?, ?, ?, ?, ?, ?, ?)`)
	lastLog        = prepared(`SELECT max(created) FROM log_batches WHERE owner = ?`)
	selectLogUsage = prepared(`SELECT rows, bytes FROM log_usage WHERE device = ?`)
	putLogUsage    = prepared(`INSERT INTO log_usage (device, rows, bytes) VALUES (?, ?, ?)
		ON CONFLICT (device) DO UPDATE SET rows = excluded.rows, bytes = excluded.bytes`)
	takeLogUsage       = prepared(`UPDATE log_usage SET rows = rows - ?, bytes = bytes - ? WHERE device = ?`)
	oldestLogs         = prepared(`SELECT first, n, bytes FROM log_batches WHERE device = ? ORDER BY created, first LIMIT 1`)
	selectLogs         = prepared(logColumns + `WHERE first = ?`)
	deleteLogs         = prepared(`DELETE FROM log_batches WHERE first = ?`)
	expiredLogs        = prepared(`SELECT first, n, bytes, device FROM log_batches WHERE created < ? ORDER BY created LIMIT ?`)
	expiredLogsOfOwner = prepared(`SELECT first, n, bytes, device FROM log_batches WHERE owner = ? AND created < ? ORDER BY created, first LIMIT ?`)
	dropLogs           = prepared(`DELETE FROM log_batches WHERE device = ?`)
	dropLogUsage       = prepared(`DELETE FROM log_usage WHERE device = ?`)
)

func logSize(e store.LogEntry) int64 {
	return int64(len(e.Level) + len(e.Source) + len(e.Platform) + len(e.Rev) + len(e.Message) + logCost)
}

func logSizes(list []store.LogEntry) (bytes int64) {
	for _, e := range list {
		bytes += logSize(e)
	}
	return bytes
}

// maxLogSkew is the most by which AppendLogs sets the time of new entries forward. It does so if
// earlier entries have a later time, because the hub's clock was ahead.
const maxLogSkew = time.Minute

// AppendLogs implements store.Logs.
func (s *Store) AppendLogs(ctx context.Context, device, owner string, entries []store.LogEntry, bounds store.LogBounds, now time.Time) error {
	if len(entries) == 0 {
		return nil
	}
	data, size := encodeLogs(entries), logSizes(entries) // before the transaction, because other writes wait for the transaction
	n := int64(len(entries))
	return s.db.Write(ctx, func(c Conn) error {
		// A reader that continues after an entry must find all later entries. So the times of an
		// owner's entries must increase in the order of the commits, even if `now` is earlier than
		// in the previous call.
		created := micro(now)
		r, _, err := c.One(lastLog, owner)
		if err != nil {
			return err
		}
		if last := r.int64(); last > created && last < created+maxLogSkew.Microseconds() {
			created = last
		}
		rule, err := logRule(c, owner)
		if err != nil {
			return err
		}
		_, bounds := rule.Within(0, bounds)
		var rows, bytes int64
		if r, ok, err := c.One(selectLogUsage, device); err != nil {
			return err
		} else if ok {
			rows, bytes = r.int64(), r.int64()
		}
		if err := c.Do(countLogs, n); err != nil {
			return err
		}
		if r, _, err = c.One(lastLogNumber); err != nil {
			return err
		}
		if err := c.Do(insertLogs, r.int64()-n+1, n, device, owner, created, size, data); err != nil {
			return err
		}
		rows, bytes, _, err = trimDevice(c, device, rows+n, bytes+size, bounds, math.MaxInt)
		if err != nil {
			return err
		}
		return c.Do(putLogUsage, device, rows, bytes)
	})
}

// trimDevice removes the oldest entries of a device until the log is within the bounds, or until it
// has changed `limit` batches. `rows` and `bytes` are the numbers of the log's entries and bytes.
// It returns the numbers of remaining entries and bytes, and the number of changed batches.
func trimDevice(c Conn, device string, rows, bytes int64, bounds store.LogBounds, limit int) (int64, int64, int, error) {
	changed := 0
	for changed < limit && rows > 0 && (rows > int64(bounds.Rows) || bytes > bounds.Bytes) {
		gone, less, err := removeOldestLogs(c, device, rows-int64(bounds.Rows), bytes-bounds.Bytes)
		if err != nil {
			return 0, 0, 0, err
		}
		if gone == 0 {
			break
		}
		rows, bytes, changed = rows-gone, bytes-less, changed+1
	}
	return rows, bytes, changed, nil
}

// removeOldestLogs removes the oldest entries from the oldest batch of a device, until at least
// `rows` entries and `bytes` bytes are removed, or the batch is empty. It returns the numbers of
// removed entries and bytes.
func removeOldestLogs(c Conn, device string, rows, bytes int64) (gone, less int64, err error) {
	r, ok, err := c.One(oldestLogs, device)
	if err != nil || !ok {
		return 0, 0, err
	}
	first, n, size := r.int64(), r.int64(), r.int64()
	if n <= rows || size <= bytes {
		return n, size, c.Do(deleteLogs, first)
	}
	if r, _, err = c.One(selectLogs, first); err != nil {
		return 0, 0, err
	}
	batch := readLogBatch(&r)
	list, err := batch.entries()
	if err != nil {
		return 0, 0, err
	}
	for gone < int64(len(list)) && (gone < rows || less < bytes) {
		less += logSize(list[gone])
		gone++
	}
	if err := c.Do(deleteLogs, first); err != nil {
		return 0, 0, err
	}
	if left := list[gone:]; len(left) > 0 {
		err = c.Do(insertLogs, first+gone, int64(len(left)), device, batch.owner, batch.created, logSizes(left), encodeLogs(left))
	}
	return gone, less, err
}

func readLogBatch(r *Row) logBatch {
	return logBatch{first: r.int64(), device: r.text(), owner: r.text(), created: r.int64(), data: r.blob()}
}

// logReader reads the entries that a filter selects.
type logReader struct {
	f        store.LogFilter
	from, to int64 // times of the first and last batch
	at, seq  int64 // time and number of the filter's Previous; if it has none, `at` is before all times
	text     string
	limit    int
}

// batchesAtOnce is the number of batches that one statement reads.
const batchesAtOnce = 16

func newLogReader(f store.LogFilter) (*logReader, error) {
	if f.Skip > 0 && len(f.Devices) > 1 {
		return nil, errors.New("store: the field Skip is allowed only in a query for one device, or for all devices of the owner")
	}
	if f.Text != "" && len(f.Devices) != 1 {
		return nil, errors.New("store: the field Text is allowed only in a query for exactly one device")
	}
	l := &logReader{f: f, from: math.MinInt64 + 1, to: math.MaxInt64, at: math.MinInt64, text: asciiLower(f.Text), limit: f.Limit}
	if l.limit <= 0 {
		l.limit = 100
	}
	l.limit = min(l.limit, 5000)
	if !f.After.IsZero() {
		l.from = micro(f.After) + 1
	}
	if !f.Before.IsZero() {
		l.to = micro(f.Before) - 1
	}
	if f.Previous != nil {
		l.at, l.seq = micro(f.Previous.Created), f.Previous.Seq
		if f.NewestFirst {
			l.to = min(l.to, l.at)
		} else {
			l.from = max(l.from, l.at)
		}
	}
	return l, nil
}

// The method `matches` reports whether the filter selects an entry. It does not check the entry's
// time and owner.
func (l *logReader) matches(e *store.LogEntry) bool {
	among := func(list []string, text string) bool { return len(list) == 0 || slices.Contains(list, text) }
	return among(l.f.Levels, e.Level) && among(l.f.Sources, e.Source) && among(l.f.Platforms, e.Platform) && among(l.f.Revs, e.Rev) && containsFold(e.Message, l.text)
}

// The method `read` returns the selected entries of the owner, or of the device `key`.
func (l *logReader) read(c Conn, query *Statement, key string) (list []store.LogEntry, err error) {
	from, to, at, seq := l.from, l.to, l.at, l.seq
	size, skip := 0, l.f.Skip
	for {
		n, full := 0, false
		err := c.Each(query, func(r Row) (bool, error) {
			n++
			batch := readLogBatch(&r)
			entries, err := batch.entries()
			if err != nil {
				return false, err
			}
			if l.f.NewestFirst {
				slices.Reverse(entries)
			}
			for i := range entries {
				e := &entries[i]
				seen := e.Seq <= seq
				if l.f.NewestFirst {
					seen = e.Seq >= seq
				}
				if batch.created == at && seen || !l.matches(e) {
					continue
				}
				if skip > 0 {
					skip--
					continue
				}
				list = append(list, *e)
				size += int(logSize(*e))
				if full = len(list) >= l.limit || l.f.Bytes != 0 && size >= l.f.Bytes; full {
					return false, nil
				}
			}
			// The next statement continues after this batch.
			last := entries[len(entries)-1].Seq
			at, seq = batch.created, last
			if l.f.NewestFirst {
				to = at
			} else {
				from = at
			}
			return true, nil
		}, key, from, to, at, seq, l.f.Owner, int64(batchesAtOnce))
		if err != nil || full || n < batchesAtOnce {
			return list, err
		}
	}
}

// Logs implements store.Logs. If the filter has several devices, Logs reads one device after
// another, so that each read uses an index, and then merges the entries.
func (s *Store) Logs(ctx context.Context, f store.LogFilter) (list []store.LogEntry, err error) {
	l, err := newLogReader(f)
	if err != nil {
		return nil, err
	}
	byOwner, byDevice := selectLogsOfOwner, selectLogsOfDevice
	if f.NewestFirst {
		byOwner, byDevice = selectLogsOfOwnerBack, selectLogsOfDeviceBack
	}
	err = s.db.Read(ctx, func(c Conn) (err error) {
		if len(f.Devices) == 0 {
			list, err = l.read(c, byOwner, f.Owner)
			return err
		}
		list = nil
		for _, device := range f.Devices {
			part, err := l.read(c, byDevice, device)
			if err != nil {
				return err
			}
			list = append(list, part...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b store.LogEntry) int {
		order := cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Seq, b.Seq))
		if f.NewestFirst {
			return -order
		}
		return order
	})
	size := 0
	for i, e := range list {
		size += int(logSize(e))
		if i == l.limit || (f.Bytes != 0 && i > 0 && size > f.Bytes) {
			return list[:i], nil
		}
	}
	return list, nil
}

// ExpireLogs implements store.Logs.
func (s *Store) ExpireLogs(ctx context.Context, before time.Time, limit int) (removed int, err error) {
	return s.expireLogs(ctx, expiredLogs, limit, micro(before))
}

// ExpireOwnerLogs implements store.Logs.
func (s *Store) ExpireOwnerLogs(ctx context.Context, owner string, before time.Time, limit int) (removed int, err error) {
	return s.expireLogs(ctx, expiredLogsOfOwner, limit, owner, micro(before))
}

// expireLogs removes at most `limit` batches that a query finds.
func (s *Store) expireLogs(ctx context.Context, query *Statement, limit int, args ...any) (removed int, err error) {
	if limit <= 0 {
		return 0, nil
	}
	args = append(args, int64(limit))
	err = s.db.Write(ctx, func(c Conn) error {
		type old struct {
			first, n, size int64
			device         string
		}
		var gone []old
		err := c.Each(query, func(r Row) (bool, error) {
			gone = append(gone, old{r.int64(), r.int64(), r.int64(), r.text()})
			return true, nil
		}, args...)
		if err != nil {
			return err
		}
		removed = 0
		for _, e := range gone {
			if err := c.Do(deleteLogs, e.first); err != nil {
				return err
			}
			if err := c.Do(takeLogUsage, e.n, e.size, e.device); err != nil {
				return err
			}
			removed += int(e.n)
		}
		return nil
	})
	return removed, err
}
