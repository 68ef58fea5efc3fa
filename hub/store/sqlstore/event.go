package sqlstore

import (
	"context"
	"crypto/sha256"
	"math"
	"strings"
	"time"

	"gangway/hub/store"
)

const (
	eventColumns = `SELECT seq, time, kind, code, owner, device, token, addr, message,
		actor, actor_name, means, credential, count, last FROM events `
	// Arguments: ?1 and ?8 are the bounds of seq, ?2 is the limit, ?3 a kind, ?4 a LIKE pattern of
	// kinds, ?5 the earliest time, ?6 the time before which the events happened, ?7 is 1 to leave
	// out routine events, ?9 is a token, and ?10 an actor.
	eventFilter = eventFilterStart + `AND (?4 = '' OR kind LIKE ?4 ESCAPE '\')
		AND (?10 = '' OR actor = ?10 OR actor_name = ?10 COLLATE NOCASE) ORDER BY seq DESC LIMIT ?2`
	eventFilterPostgres = eventFilterStart + `AND (?4 = '' OR lower(kind) LIKE lower(?4 COLLATE "C") ESCAPE '\')
		AND (?10 = '' OR actor = ?10 OR lower(actor_name) = lower(?10 COLLATE "C")) ORDER BY seq DESC LIMIT ?2`
	eventFilterStart = `seq < ?1 AND seq > ?8 AND (?3 = '' OR kind = ?3) AND max(time, last) >= ?5 AND time < ?6
		AND (?7 = 0 OR alike IS NULL OR code <> '') AND (?9 = '' OR token = ?9) `
)

var (
	insertEvent = prepared(`INSERT INTO events (time, kind, code, owner, device, token, addr, message,
		actor, actor_name, means, credential, count, last, unproven, alike)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, nullif(?, x''))
		ON CONFLICT (alike) WHERE alike IS NOT NULL DO UPDATE SET count = events.count + excluded.count,
		addr = CASE WHEN excluded.last >= events.last THEN excluded.addr ELSE events.addr END,
		message = CASE WHEN excluded.last >= events.last THEN excluded.message ELSE events.message END,
		last = max(events.last, excluded.last), time = min(events.time, excluded.time)`)
	selectEvents         = events(`WHERE `)
	selectEventsOfOwner  = events(`WHERE owner = ?11 AND `)
	selectEventsOfDevice = events(`WHERE device = ?11 AND device <> '' AND `)
	// Selects the events of a device of one owner. No index contains both the device and the owner,
	// so the query finds the events of the device by an index, and then compares the owner of each.
	// This is fast enough: a device never changes its owner, so few of its events have another
	// owner.
	selectEventsOfBoth = events(`WHERE device = ?11 AND device <> '' AND +owner = ?12 AND `)
	// These statements examine at most ?3 of the newest events of an owner or a device. They return
	// the smallest seq of the examined events, and their number.
	selectExaminedOfOwner  = prepared(`SELECT min(seq), count(*) FROM (SELECT seq FROM events WHERE owner = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3) AS newest`)
	selectExaminedOfDevice = prepared(`SELECT min(seq), count(*) FROM (SELECT seq FROM events WHERE device = ?1 AND device <> '' AND seq < ?2 ORDER BY seq DESC LIMIT ?3) AS newest`)

	forgetUnproven = prepared(`DELETE FROM events WHERE seq IN
		(SELECT seq FROM events WHERE unproven = 1 AND max(time, last) < ? ORDER BY max(time, last) LIMIT ?)`)
	forgetEvents = prepared(`DELETE FROM events WHERE seq IN
		(SELECT seq FROM events WHERE max(time, last) < ? ORDER BY max(time, last) LIMIT ?)`)
)

// events returns the query for the events that match both the condition `where` and eventFilter.
func events(where string) *Statement {
	return both(eventColumns+where+eventFilter, eventColumns+where+eventFilterPostgres)
}

// AppendEvent implements store.Events.
func (s *Store) AppendEvent(ctx context.Context, e store.Event) error {
	return s.db.Write(ctx, func(c Conn) error { return appendEvent(c, e) })
}

func appendEvent(c Conn, e store.Event) error {
	return c.Do(insertEvent, micro(e.Time), e.Kind, e.Code, e.Owner, e.Device, e.Token, e.Addr, e.Message,
		e.Actor, e.ActorName, e.Means, e.Credential, int64(1), int64(0), flag(e.Unproven), []byte{})
}

func countEvent(c Conn, e store.Event) error {
	last := e.Last
	if last.IsZero() {
		last = e.Time
	}
	return c.Do(insertEvent, micro(e.Time), e.Kind, e.Code, e.Owner, e.Device, e.Token, e.Addr, e.Message,
		e.Actor, e.ActorName, e.Means, e.Credential, int64(max(e.Count, 1)), micro(last), flag(e.Unproven), alike(e))
}

// AppendCounted implements store.Events.
func (s *Store) AppendCounted(ctx context.Context, events []store.Event) error {
	return s.db.Write(ctx, func(c Conn) error {
		for _, e := range events {
			if err := countEvent(c, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// alike returns a key that is the same for all events that AppendCounted counts as one event with
// `e`: a hash of the day, and of all fields that must be equal.
func alike(e store.Event) []byte {
	day := e.Time.UTC().Format(time.DateOnly)
	fields := []string{day, e.Kind, e.Code, e.Owner, e.Device, e.Token, e.Actor, e.ActorName, e.Means, e.Credential}
	if e.Group != "" {
		fields = append(fields, e.Group)
	}
	sum := sha256.Sum256([]byte(strings.Join(fields, "\x00")))
	return sum[:16]
}

// RemoveEvents implements store.Events.
func (s *Store) RemoveEvents(ctx context.Context, unproven, all time.Time, limit int) (removed int, err error) {
	if limit <= 0 {
		return 0, nil
	}
	err = s.db.Write(ctx, func(c Conn) error {
		removed = 0
		for _, of := range []struct {
			forget *Statement
			before time.Time
		}{{forgetUnproven, unproven}, {forgetEvents, all}} {
			if of.before.IsZero() {
				continue
			}
			n, err := c.Exec(of.forget, micro(of.before), int64(limit-removed))
			if err != nil {
				return err
			}
			removed += int(n)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return removed, nil
}

// Events implements store.Events.
func (s *Store) Events(ctx context.Context, f store.EventFilter) (events []store.Event, err error) {
	err = s.db.Read(ctx, func(c Conn) (err error) {
		events, err = listEvents(c, f, pageLimit(f.Limit))
		return err
	})
	if err != nil {
		return nil, err
	}
	return events, nil
}

// FindEvents implements store.Events.
func (s *Store) FindEvents(ctx context.Context, f store.EventFilter, examine int) (events []store.Event, next int64, err error) {
	limit := pageLimit(f.Limit)
	err = s.db.Read(ctx, func(c Conn) error {
		floor, examined, err := examinedEvents(c, f, examine)
		if err != nil || examined == 0 {
			return err
		}
		f.After = max(f.After, floor-1)
		if events, err = listEvents(c, f, limit+1); err != nil {
			return err
		}
		switch {
		case len(events) > int(limit):
			events = events[:limit]
			next = events[limit-1].Seq
		case examined == examine:
			next = floor
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return events, next, nil
}

// examinedEvents returns the smallest seq of the events that FindEvents examines, and how many
// events it examines.
func examinedEvents(c Conn, f store.EventFilter, examine int) (floor int64, n int, err error) {
	st, of := selectExaminedOfOwner, f.Owner
	if f.Device != "" {
		st, of = selectExaminedOfDevice, f.Device
	}
	r, _, err := c.One(st, of, before(f), int64(examine))
	if err != nil {
		return 0, 0, err
	}
	return r.int64(), r.int(), nil
}

func before(f store.EventFilter) int64 {
	if f.Before == 0 {
		return math.MaxInt64
	}
	return f.Before
}

func listEvents(c Conn, f store.EventFilter, limit int64) (events []store.Event, err error) {
	kind, kinds := f.Kind, ""
	if strings.HasSuffix(kind, ".") {
		kind, kinds = "", likePrefix(kind)
	}
	since, until := int64(math.MinInt64), int64(math.MaxInt64)
	if !f.Since.IsZero() {
		since = micro(f.Since)
	}
	if !f.Until.IsZero() {
		until = micro(f.Until)
	}
	args := []any{before(f), limit, kind, kinds, since, until, flag(f.NoRoutine), f.After, f.Token, f.Actor}
	read := func(r Row) (bool, error) {
		events = append(events, readEvent(&r))
		return true, nil
	}
	switch {
	case f.Owner != "" && f.Device != "":
		err = c.Each(selectEventsOfBoth, read, append(args, f.Device, f.Owner)...)
	case f.Owner != "":
		err = c.Each(selectEventsOfOwner, read, append(args, f.Owner)...)
	case f.Device != "":
		err = c.Each(selectEventsOfDevice, read, append(args, f.Device)...)
	default:
		err = c.Each(selectEvents, read, args...)
	}
	return events, err
}

func readEvent(r *Row) store.Event {
	e := store.Event{
		Seq:        r.int64(),
		Time:       r.time(),
		Kind:       r.text(),
		Code:       r.text(),
		Owner:      r.text(),
		Device:     r.text(),
		Token:      r.text(),
		Addr:       r.text(),
		Message:    r.text(),
		Actor:      r.text(),
		ActorName:  r.text(),
		Means:      r.text(),
		Credential: r.text(),
	}
	count := r.int()
	if last := r.int64(); last != 0 {
		e.Count, e.Last = count, fromMicro(last)
	}
	return e
}

// pageLimit returns the number of rows to read for `n`, the `limit` that a caller asked for: 100 if
// `n` is 0 or negative, and never more than 1000.
func pageLimit(n int) int64 {
	if n <= 0 {
		return 100
	}
	return int64(min(n, 1000))
}
