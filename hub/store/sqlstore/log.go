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

// logCost is the number of bytes that each log entry uses of LogBounds.Bytes, in addition to the
// bytes of its texts.
const logCost = 64

// A query consists of logColumns, a condition, a place (logForth: oldest first, or logBack: newest
// first), the filter and the order. If a list of values (?4 to ?7) is empty, all values match.
const (
	logColumns = `SELECT seq, device, owner, created, sec, nano, level, source, plat, rev, message FROM logs `
	logFilter  = ` AND (?4 = '[]' OR level IN (SELECT value FROM json_each(?4)))
		AND (?5 = '[]' OR source IN (SELECT value FROM json_each(?5)))
		AND (?6 = '[]' OR plat IN (SELECT value FROM json_each(?6)))
		AND (?7 = '[]' OR rev IN (SELECT value FROM json_each(?7)))
		AND created > ?8 AND created < ?9 AND owner = ?10
		AND (?13 = '' OR instr(lower(message), lower(?13)) > 0) `
	logFilterPostgres = ` AND (cardinality(?4::text[]) = 0 OR level = ANY(?4)) AND (cardinality(?5::text[]) = 0 OR source = ANY(?5))
		AND (cardinality(?6::text[]) = 0 OR plat = ANY(?6)) AND (cardinality(?7::text[]) = 0 OR rev = ANY(?7))
		AND created > ?8 AND created < ?9 AND owner = ?10
		AND (?13 = '' OR strpos(lower(message), lower(?13 COLLATE "C")) > 0) `
	logForth, logForthOrder = ` AND (created, seq) > (?2, ?3)`, `ORDER BY created, seq LIMIT ?11 OFFSET ?12`
	logBack, logBackOrder   = ` AND (created, seq) < (?2, ?3)`, `ORDER BY created DESC, seq DESC LIMIT ?11 OFFSET ?12`
)

var (
	selectLogsOfOwner      = logs(`WHERE owner = ?1`+logForth, logForthOrder)
	selectLogsOfDevice     = logs(`WHERE device = ?1`+logForth, logForthOrder)
	selectLogsOfOwnerBack  = logs(`WHERE owner = ?1`+logBack, logBackOrder)
	selectLogsOfDeviceBack = logs(`WHERE device = ?1`+logBack, logBackOrder)

	insertLog = prepared(`INSERT INTO logs (device, owner, created, sec, nano, level, source, plat, rev, message)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	lastLog        = prepared(`SELECT max(created) FROM logs WHERE owner = ?`)
	selectLogUsage = prepared(`SELECT rows, bytes FROM log_usage WHERE device = ?`)
	putLogUsage    = prepared(`INSERT INTO log_usage (device, rows, bytes) VALUES (?, ?, ?)
		ON CONFLICT (device) DO UPDATE SET rows = excluded.rows, bytes = excluded.bytes`)
	takeLogUsage = prepared(`UPDATE log_usage SET rows = rows - 1, bytes = bytes - ? WHERE device = ?`)
	// Selects the oldest entries of a device, with the size of each entry's texts in bytes.
	oldestLogs = both(`SELECT seq, length(CAST(level || source || plat || rev || message AS BLOB)) FROM logs
		WHERE device = ? ORDER BY created, seq LIMIT ?`,
		`SELECT seq, text_size(level || source || plat || rev || message) FROM logs
		WHERE device = ? ORDER BY created, seq LIMIT ?`)
	deleteLog   = prepared(`DELETE FROM logs WHERE seq = ?`)
	expiredLogs = both(`SELECT seq, length(CAST(level || source || plat || rev || message AS BLOB)), device FROM logs
		WHERE created < ? ORDER BY created LIMIT ?`,
		`SELECT seq, text_size(level || source || plat || rev || message), device FROM logs
		WHERE created < ? ORDER BY created LIMIT ?`)
	dropLogs     = prepared(`DELETE FROM logs WHERE device = ?`)
	dropLogUsage = prepared(`DELETE FROM log_usage WHERE device = ?`)
)

func logSize(e store.LogEntry) int64 {
	return int64(len(e.Level) + len(e.Source) + len(e.Platform) + len(e.Rev) + len(e.Message) + logCost)
}

// oldestAtOnce is the largest number of entries that AppendLogs reads with one query, to remove
// these entries.
const oldestAtOnce = 256

// logs returns the query for the log entries at a place.
func logs(where, order string) *Statement {
	return both(logColumns+where+logFilter+order, logColumns+where+logFilterPostgres+order)
}

// maxLogSkew is the longest time by which AppendLogs sets the times of new entries forward. It does
// this if the earlier entries have later times, because the hub's clock was ahead.
const maxLogSkew = time.Minute

// AppendLogs implements store.Logs.
func (s *Store) AppendLogs(ctx context.Context, device, owner string, entries []store.LogEntry, bounds store.LogBounds, now time.Time) error {
	if len(entries) == 0 {
		return nil
	}
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
		var rows, bytes int64
		if r, ok, err := c.One(selectLogUsage, device); err != nil {
			return err
		} else if ok {
			rows, bytes = r.int64(), r.int64()
		}
		for _, e := range entries {
			if err := c.Do(insertLog, device, owner, created, e.Sec, e.Nano, e.Level, e.Source, e.Platform, e.Rev, e.Message); err != nil {
				return err
			}
			rows, bytes = rows+1, bytes+logSize(e)
		}
		for rows > 0 && (rows > int64(bounds.Rows) || bytes > bounds.Bytes) {
			var gone []int64
			err := c.Each(oldestLogs, func(r Row) (bool, error) {
				gone = append(gone, r.int64())
				rows, bytes = rows-1, bytes-r.int64()-logCost
				return rows > int64(bounds.Rows) || bytes > bounds.Bytes, nil
			}, device, int64(oldestAtOnce))
			if err != nil {
				return err
			}
			if len(gone) == 0 {
				break
			}
			for _, seq := range gone {
				if err := c.Do(deleteLog, seq); err != nil {
					return err
				}
			}
		}
		return c.Do(putLogUsage, device, rows, bytes)
	})
}

// Logs implements store.Logs. If the filter has several devices, Logs reads the entries of one
// device after the other, so that each read uses an index. Then it merges the entries.
func (s *Store) Logs(ctx context.Context, f store.LogFilter) (list []store.LogEntry, err error) {
	after, before := int64(math.MinInt64), int64(math.MaxInt64)
	if !f.After.IsZero() {
		after = micro(f.After)
	}
	if !f.Before.IsZero() {
		before = micro(f.Before)
	}
	if f.Skip > 0 && len(f.Devices) > 1 {
		return nil, errors.New("store: the field Skip is allowed only in a query for one device, or for all devices of the owner")
	}
	if f.Text != "" && len(f.Devices) != 1 {
		return nil, errors.New("store: the field Text is allowed only in a query for exactly one device")
	}
	byOwner, byDevice, at, seq := selectLogsOfOwner, selectLogsOfDevice, int64(math.MinInt64), int64(0)
	if f.NewestFirst {
		if f.Skip > 0 && len(f.Devices) > 1 {
			return nil, errors.New("store: the field Skip is allowed only in a query for one device, or for all devices of the owner")
		}
		byOwner, byDevice, at = selectLogsOfOwnerBack, selectLogsOfDeviceBack, math.MaxInt64
	}
	if f.Previous != nil {
		at, seq = micro(f.Previous.Created), f.Previous.Seq
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, 5000)
	read := func(c Conn, query *Statement, key string) error {
		size := 0
		return c.Each(query, func(r Row) (bool, error) {
			e := store.LogEntry{Seq: r.int64(), Device: r.text(), Owner: r.text(), Created: r.time(), Sec: r.int64(), Nano: r.int64(),
				Level: r.text(), Source: r.text(), Platform: r.text(), Rev: r.text(), Message: r.text()}
			list = append(list, e)
			size += int(logSize(e))
			return f.Bytes == 0 || size < f.Bytes, nil
		}, key, at, seq, f.Levels, f.Sources, f.Platforms, f.Revs, after, before, f.Owner, int64(limit), int64(max(f.Skip, 0)), f.Text)
	}
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		if len(f.Devices) == 0 {
			return read(c, byOwner, f.Owner)
		}
		for _, device := range f.Devices {
			if err := read(c, byDevice, device); err != nil {
				return err
			}
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
		if i == limit || (f.Bytes != 0 && i > 0 && size > f.Bytes) {
			return list[:i], nil
		}
	}
	return list, nil
}

// ExpireLogs implements store.Logs.
func (s *Store) ExpireLogs(ctx context.Context, before time.Time, limit int) (removed int, err error) {
	if limit <= 0 {
		return 0, nil
	}
	err = s.db.Write(ctx, func(c Conn) error {
		type old struct {
			seq, size int64
			device    string
		}
		var gone []old
		err := c.Each(expiredLogs, func(r Row) (bool, error) {
			gone = append(gone, old{r.int64(), r.int64() + logCost, r.text()})
			return true, nil
		}, micro(before), int64(limit))
		if err != nil {
			return err
		}
		for _, e := range gone {
			if err := c.Do(deleteLog, e.seq); err != nil {
				return err
			}
			if err := c.Do(takeLogUsage, e.size, e.device); err != nil {
				return err
			}
		}
		removed = len(gone)
		return nil
	})
	return removed, err
}
