package sqlite

import (
	"context"
	"math"

	"gangway/store"
)

const eventColumns = `SELECT seq, time, kind, code, owner, device, token, addr, message FROM events `

var (
	insertEvent = prepared(`INSERT INTO events (time, kind, code, owner, device, token, addr, message)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?)`)
	selectEvents         = prepared(eventColumns + `WHERE seq < ? ORDER BY seq DESC LIMIT ?`)
	selectEventsOfOwner  = prepared(eventColumns + `WHERE owner = ? AND seq < ? ORDER BY seq DESC LIMIT ?`)
	selectEventsOfDevice = prepared(eventColumns + `WHERE device = ? AND device <> '' AND seq < ?
		ORDER BY seq DESC LIMIT ?`)
	// A device has one owner in its life, so the owner is a filter on the
	// device's events and needs no index of the two.
	selectEventsOfBoth = prepared(eventColumns + `WHERE device = ? AND device <> '' AND +owner = ?
		AND seq < ? ORDER BY seq DESC LIMIT ?`)
)

// AppendEvent implements store.Store.
func (s *Store) AppendEvent(ctx context.Context, e store.Event) error {
	return s.writer.do(ctx, func(c *conn) error { return appendEvent(c, e) })
}

func appendEvent(c *conn, e store.Event) error {
	_, err := c.exec(insertEvent, micro(e.Time), e.Kind, e.Code, e.Owner, e.Device, e.Token, e.Addr, e.Message)
	return err
}

// Events implements store.Store.
func (s *Store) Events(ctx context.Context, f store.EventFilter) (events []store.Event, err error) {
	before := f.Before
	if before == 0 {
		before = math.MaxInt64
	}
	limit := pageLimit(f.Limit)
	read := func(r row) (bool, error) {
		events = append(events, store.Event{
			Seq:     r.int64(),
			Time:    r.time(),
			Kind:    r.text(),
			Code:    r.text(),
			Owner:   r.text(),
			Device:  r.text(),
			Token:   r.text(),
			Addr:    r.text(),
			Message: r.text(),
		})
		return true, nil
	}
	err = s.readers.do(ctx, func(c *conn) error {
		switch {
		case f.Owner != "" && f.Device != "":
			return c.each(selectEventsOfBoth, read, f.Device, f.Owner, before, limit)
		case f.Owner != "":
			return c.each(selectEventsOfOwner, read, f.Owner, before, limit)
		case f.Device != "":
			return c.each(selectEventsOfDevice, read, f.Device, before, limit)
		default:
			return c.each(selectEvents, read, before, limit)
		}
	})
	if err != nil {
		return nil, err
	}
	return events, nil
}

// pageLimit turns a limit as the interface has it into rows: 100 when not
// given, at most 1000.
func pageLimit(n int) int64 {
	if n <= 0 {
		return 100
	}
	return int64(min(n, 1000))
}
