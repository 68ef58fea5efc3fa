package sqlstore

import (
	"bytes"
	"context"
	"errors"

	"gangway/hub/store"
)

// keptBoots is the maximum number of boot measurements that the store keeps for a device.
const keptBoots = 11

const bootColumns = `SELECT id, device, time, state, measurement, changes, verdict, `

var (
	insertBoot = prepared(`INSERT INTO boots (device, time, state, measurement, changes, verdict, nonce, attest, signature, log)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	replaceBoot = prepared(`UPDATE boots SET time = ?, state = ?, measurement = ?, changes = ?, verdict = ?, nonce = ?, attest = ?, signature = ?, log = ?
		WHERE device = ? AND id = ?`)
	stripBoots = prepared(`UPDATE boots SET nonce = x'', attest = x'', signature = x'', log = x''
		WHERE device = ?1 AND id < (SELECT max(id) FROM boots WHERE device = ?1) AND length(attest) > 0`)
	dropBoots = prepared(`DELETE FROM boots WHERE device = ?1 AND id NOT IN
		(SELECT id FROM boots WHERE device = ?1 ORDER BY id DESC LIMIT ?2)`)
	selectLatestBoot = prepared(bootColumns + `nonce, attest, signature, log FROM boots WHERE device = ? ORDER BY id DESC LIMIT 1`)
	selectBoots      = prepared(bootColumns + `NULL, NULL, NULL, NULL FROM boots WHERE device = ? ORDER BY id DESC`)
	selectBootStates = prepared(`SELECT b.device, b.state FROM boot_devices b JOIN devices d ON d.id = b.device
		WHERE d.owner = ? AND d.deleted = 0 AND b.state <> ''`)

	selectBootReference = prepared(`SELECT reference FROM boot_devices WHERE device = ? AND reference IS NOT NULL`)
	selectBootNumber    = prepared(`SELECT coalesce(max(id), 0) FROM boots WHERE device = ?`)
	updateBoot          = prepared(`UPDATE boots SET state = ?, changes = ?, verdict = ? WHERE id = ?`)
	setBootState        = prepared(`UPDATE boot_devices SET state = ? WHERE device = ? AND refused IS NULL`)
	selectBootState     = prepared(`SELECT state FROM boot_devices WHERE device = ?`)
	selectBootRefusal   = prepared(`SELECT refused, refusal_code, refusal_reason, refusal_hint FROM boot_devices WHERE device = ? AND refused IS NOT NULL`)

	upsertBootReference = prepared(`INSERT INTO boot_devices (device, state, reference, requested) VALUES (?, '', ?, 0)
		ON CONFLICT (device) DO UPDATE SET reference = excluded.reference`)
	upsertBootState = prepared(`INSERT INTO boot_devices (device, state, reference, requested) VALUES (?, ?, NULL, 0)
		ON CONFLICT (device) DO UPDATE SET state = excluded.state, requested = 0,
		refused = NULL, refusal_code = '', refusal_reason = '', refusal_hint = ''`)
	upsertBootRefusal = prepared(`INSERT INTO boot_devices (device, state, reference, requested, refused, refusal_code, refusal_reason, refusal_hint)
		VALUES (?, ?, NULL, 0, ?, ?, ?, ?)
		ON CONFLICT (device) DO UPDATE SET state = excluded.state, requested = 0, refused = excluded.refused,
		refusal_code = excluded.refusal_code, refusal_reason = excluded.refusal_reason, refusal_hint = excluded.refusal_hint`)
	requestBoot = prepared(`INSERT INTO boot_devices (device, state, reference, requested) VALUES (?, '', NULL, 1)
		ON CONFLICT (device) DO UPDATE SET requested = 1`)
	selectBootRequested = prepared(`SELECT requested FROM boot_devices WHERE device = ?`)

	selectAboard = prepared(`SELECT 1 FROM devices WHERE id = ? AND deleted = 0`)

	deleteBoots      = prepared(`DELETE FROM boots WHERE device = ?`)
	deleteBootDevice = prepared(`DELETE FROM boot_devices WHERE device = ?`)
)

// deviceExists returns store.ErrNotFound if the device does not exist or was deleted. It must be
// called before rows of a device are written, because nothing would ever remove rows that were
// written after the device was deleted.
func deviceExists(c Conn, device string) error {
	_, ok, err := c.One(selectAboard, device)
	if err == nil && !ok {
		err = store.ErrNotFound
	}
	return err
}

// PutBoot implements store.Boots.
func (s *Store) PutBoot(ctx context.Context, b store.Boot, reference []byte) (is []byte, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		is = reference
		if err := deviceExists(c, b.Device); err != nil {
			return err
		}
		r, ok, err := c.One(selectBootReference, b.Device)
		if err != nil {
			return err
		}
		if ok {
			if is = r.blob(); !bytes.Equal(is, reference) {
				return nil
			}
		} else if len(reference) > 0 {
			if err := c.Do(upsertBootReference, b.Device, reference); err != nil {
				return err
			}
		}
		if err := putBoot(c, b); err != nil {
			return err
		}
		if err := putJudged(c, b.Device, b.Time, b.Judged); err != nil {
			return err
		}
		return c.Do(upsertBootState, b.Device, b.State)
	})
	return is, err
}

func putBoot(c Conn, b store.Boot) error {
	if b.Number != 0 {
		newest, _, err := c.One(selectBootNumber, b.Device)
		if err != nil {
			return err
		}
		if newest.int64() == b.Number {
			return c.Do(replaceBoot, micro(b.Time), b.State, b.Measurement, b.Changes, b.Verdict, b.Nonce, b.Attest, b.Signature, b.Log, b.Device, b.Number)
		}
	}
	if err := c.Do(insertBoot, b.Device, micro(b.Time), b.State, b.Measurement, b.Changes, b.Verdict, b.Nonce, b.Attest, b.Signature, b.Log); err != nil {
		return err
	}
	if err := c.Do(stripBoots, b.Device); err != nil {
		return err
	}
	return c.Do(dropBoots, b.Device, int64(keptBoots))
}

func readBoot(r *Row) store.Boot {
	return store.Boot{Number: r.int64(), Device: r.text(), Time: r.time(), State: r.text(), Measurement: r.blob(), Changes: r.blob(), Verdict: r.blob(),
		Nonce: r.blob(), Attest: r.blob(), Signature: r.blob(), Log: r.blob()}
}

// LatestBoot implements store.Boots.
func (s *Store) LatestBoot(ctx context.Context, device string) (b store.Boot, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, ok, err := c.One(selectLatestBoot, device)
		if err == nil && !ok {
			err = store.ErrNotFound
		}
		if err == nil {
			b = readBoot(&r)
		}
		return err
	})
	return b, err
}

// BootHistory implements store.Boots.
func (s *Store) BootHistory(ctx context.Context, device string) (list []store.Boot, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(selectBoots, func(r Row) (bool, error) {
			list = append(list, readBoot(&r))
			return true, nil
		}, device)
	})
	return list, err
}

// RefuseBoot implements store.Boots.
func (s *Store) RefuseBoot(ctx context.Context, device string, r store.BootRefusal) (news bool, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		if err := deviceExists(c, device); err != nil {
			return err
		}
		was, err := bootRefusal(c, device)
		news = was.Code != r.Code || was.Reason != r.Reason
		if err == nil || errors.Is(err, store.ErrNotFound) {
			err = c.Do(upsertBootRefusal, device, store.BootRefused, micro(r.Time), r.Code, r.Reason, r.Hint)
		}
		return err
	})
	return news, err
}

// BootRefusal implements store.Boots.
func (s *Store) BootRefusal(ctx context.Context, device string) (r store.BootRefusal, err error) {
	err = s.db.Read(ctx, func(c Conn) (err error) {
		r, err = bootRefusal(c, device)
		return err
	})
	return r, err
}

func bootRefusal(c Conn, device string) (store.BootRefusal, error) {
	r, ok, err := c.One(selectBootRefusal, device)
	if err == nil && !ok {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.BootRefusal{}, err
	}
	return store.BootRefusal{Time: r.time(), Code: r.text(), Reason: r.text(), Hint: r.text()}, nil
}

// BootState implements store.Boots.
func (s *Store) BootState(ctx context.Context, device string) (state string, err error) {
	state = store.BootUnmeasured
	err = s.db.Read(ctx, func(c Conn) error {
		r, ok, err := c.One(selectBootState, device)
		if err != nil || !ok {
			return err
		}
		if is := r.text(); is != "" {
			state = is
		}
		return nil
	})
	return state, err
}

// BootStates implements store.Boots.
func (s *Store) BootStates(ctx context.Context, owner string) (map[string]string, error) {
	states := make(map[string]string)
	err := s.db.Read(ctx, func(c Conn) error {
		return c.Each(selectBootStates, func(r Row) (bool, error) {
			id := r.text()
			states[id] = r.text()
			return true, nil
		}, owner)
	})
	return states, err
}

// BootReference implements store.Boots.
func (s *Store) BootReference(ctx context.Context, device string) (ref store.BootReference, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, ok, err := c.One(selectBootReference, device)
		if err == nil && !ok {
			err = store.ErrNotFound
		}
		if err == nil {
			ref = store.BootReference{Device: device, Text: r.blob()}
		}
		return err
	})
	return ref, err
}

// PutBootReference implements store.Boots.
func (s *Store) PutBootReference(ctx context.Context, r store.BootReference, latest store.Boot) error {
	return s.db.Write(ctx, func(c Conn) error {
		if err := deviceExists(c, r.Device); err != nil {
			return err
		}
		newest, _, err := c.One(selectBootNumber, r.Device)
		if err != nil {
			return err
		}
		if newest.int64() != latest.Number {
			return store.ErrChanged
		}
		var is []byte
		if reference, ok, err := c.One(selectBootReference, r.Device); err != nil {
			return err
		} else if ok {
			is = reference.blob()
		}
		if !bytes.Equal(is, r.Replaces) {
			return store.ErrChanged
		}
		if len(r.Text) > 0 {
			if err := c.Do(upsertBootReference, r.Device, r.Text); err != nil {
				return err
			}
		}
		if latest.Number == 0 {
			return nil
		}
		if err := c.Do(updateBoot, latest.State, latest.Changes, latest.Verdict, latest.Number); err != nil {
			return err
		}
		if err := putJudged(c, r.Device, latest.Time, latest.Judged); err != nil {
			return err
		}
		return c.Do(setBootState, latest.State, r.Device)
	})
}

// RequestBoot implements store.Boots.
func (s *Store) RequestBoot(ctx context.Context, device string) error {
	return s.db.Write(ctx, func(c Conn) error {
		if err := deviceExists(c, device); err != nil {
			return err
		}
		return c.Do(requestBoot, device)
	})
}

// BootRequested implements store.Boots.
func (s *Store) BootRequested(ctx context.Context, device string) (asked bool, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, ok, err := c.One(selectBootRequested, device)
		if err == nil && ok {
			asked = r.bool()
		}
		return err
	})
	return asked, err
}
