package sqlstore

import (
	"context"
	"crypto/sha256"
	"fmt"

	"gangway/hub/store"
)

var (
	tellOnce   = prepared(`INSERT INTO told (device, mark) VALUES (?, ?) ON CONFLICT (device, mark) DO NOTHING`)
	deleteTold = prepared(`DELETE FROM told WHERE device = ?`)

	putMark     = prepared(`INSERT INTO chip_marks (mark, device) VALUES (?, ?) ON CONFLICT (mark, device) DO NOTHING`)
	deleteMarks = prepared(`DELETE FROM chip_marks WHERE device = ?`)
	// Selects other devices with the same mark, oldest first, but at most 8, because a person reads
	// the list.
	sameChip = prepared(`SELECT d.id, d.owner, d.nick FROM chip_marks c JOIN devices d ON d.id = c.device
		WHERE c.mark = ? AND c.device <> ? AND d.deleted = 0 ORDER BY d.created, d.id LIMIT 8`)
)

// AppendEventOnce implements store.Events.
func (s *Store) AppendEventOnce(ctx context.Context, e store.Event, mark store.Hash) error {
	return s.db.Write(ctx, func(c Conn) error {
		n, err := c.Exec(tellOnce, e.Device, mark[:])
		if err != nil || n == 0 {
			return err
		}
		return appendEvent(c, e)
	})
}

// linkChips stores the marks (store.ChipMark) of the activated device. If other devices have one of
// these marks too, it appends events for the owner of the activated device and for the owners of
// the others. An account can cause only one event for each device of another owner, so it cannot
// cause more by deleting its device and onboarding it again.
func (k *claim) linkChips(c Conn, a store.Activation) error {
	told := false
	linked := map[string]bool{}
	for _, m := range a.Marks {
		if !k.known {
			if err := c.Do(putMark, m.Hash[:], k.device); err != nil {
				return err
			}
		} else if n, err := c.Exec(putMark, m.Hash[:], k.device); err != nil {
			return err
		} else if n == 0 {
			continue // the device onboards again: its mark is already stored
		}
		type device struct{ id, owner, nick string }
		var others []device
		if err := c.Each(sameChip, func(r Row) (bool, error) {
			others = append(others, device{r.text(), r.text(), r.text()})
			return true, nil
		}, m.Hash[:], k.device); err != nil {
			return err
		}
		event := store.Event{Time: a.Now, Kind: store.EventSameChip, Addr: a.Addr}
		for _, d := range others {
			if linked[d.id] {
				continue
			}
			linked[d.id] = true
			fresh := d.owner != k.owner
			if fresh {
				mark := sha256.Sum256([]byte(store.EventSameChip + "\x00" + k.owner))
				n, err := c.Exec(tellOnce, d.id, mark[:])
				if err != nil {
					return err
				}
				fresh = n > 0
			}
			if fresh {
				event.Owner, event.Device = d.owner, d.id
				event.Message = fmt.Sprintf("Another owner onboarded a device. Its EK certificate and the EK certificate of this device have %s. Both devices may have the same TPM, with two endorsement keys. If you did not give this machine away, find out who uses it.", m.What)
				if err := appendEvent(c, event); err != nil {
					return err
				}
			}
			if told {
				continue
			}
			told = true
			whose := "a device of another owner"
			if d.owner == k.owner {
				whose = fmt.Sprintf("your device %q (%s)", d.nick, d.id)
			}
			event.Owner, event.Device = k.owner, k.device
			event.Message = fmt.Sprintf("This device's EK certificate has %s as the EK certificate of %s. Both devices may have the same TPM, with two endorsement keys. Find out whether they are the same machine.", m.What, whose)
			if err := appendEvent(c, event); err != nil {
				return err
			}
		}
	}
	return nil
}
