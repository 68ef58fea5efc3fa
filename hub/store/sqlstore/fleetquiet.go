package sqlstore

import (
	"context"
	"time"
)

// When an active device is seen, the table device_search does not change, because that write would
// cost as much as all other writes of the device's report together. Instead, MarkQuiet reads from
// the table `devices` when each active device was last seen. It does this once per store.QuietAfter
// for each device, in the order of device_search.due.
var (
	selectDue = prepared(`SELECT s.owner, s.nick, s.device, d.last_seen
		FROM device_search s INDEXED BY device_search_due CROSS JOIN devices d ON d.id = s.device
		WHERE s.quiet = 0 AND s.due < ? ORDER BY s.due LIMIT ?`)
	setDue   = prepared(`UPDATE device_search SET due = ? WHERE owner = ? AND nick = ?`)
	setQuiet = prepared(`UPDATE devices SET quiet = 1 WHERE id = ? AND deleted = 0`)
)

// MarkQuiet implements store.Fleet.
func (s *Store) MarkQuiet(ctx context.Context, before time.Time, limit int) (marked int, err error) {
	for marked < limit {
		var examined, quiet int
		err := s.db.Write(ctx, func(c Conn) error {
			examined, quiet = 0, 0
			list, err := due(c, before, min(limit-marked, examineMost))
			if err != nil {
				return err
			}
			examined = len(list)
			for _, d := range list {
				held := s.seen.latestOf(d.device)
				seen := max(d.seen, held.at)
				if seen < micro(before) {
					quiet++
					err = markQuiet(c, d, held)
				} else {
					err = c.Do(setDue, seen, d.owner, d.nick)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return marked, err
		}
		marked += quiet
		if examined == 0 {
			break
		}
	}
	return marked, nil
}

// markQuiet marks a device as quiet. `held` is the device's latest sighting that has not been
// written to the database yet. markQuiet writes it first, because writing it later would make the
// device active again, although the sighting is too old for that.
func markQuiet(c Conn, d dueDevice, held sighting) error {
	if held.at > d.seen {
		if err := c.Do(updateSeen, held.at, held.addr, d.device, held.at); err != nil {
			return err
		}
	}
	return c.Do(setQuiet, d.device)
}

type dueDevice struct {
	owner, nick, device string
	seen                int64
}

// The function `due` returns at most `limit` active devices that may have been last seen before the
// time `before`, in the order of device_search.due.
func due(c Conn, before time.Time, limit int) (list []dueDevice, err error) {
	err = c.Each(selectDue, func(r Row) (bool, error) {
		list = append(list, dueDevice{r.text(), r.text(), r.text(), r.int64()})
		return true, nil
	}, micro(before), int64(limit))
	return list, err
}

// latestOf returns the device's sighting that has not been written to the database yet, or the zero
// value if there is none.
func (s *sightings) latestOf(device string) sighting {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.latest[device]
}
