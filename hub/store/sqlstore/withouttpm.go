package sqlstore

import (
	"context"
	"strings"
	"time"

	"gangway/hub/store"
)

const deviceFilter = `FROM devices d LEFT JOIN enrolments e ON e.id = d.enrolment
	WHERE d.owner = ?1 AND d.nick > ?2 AND d.deleted = 0 AND (?3 = 0 OR d.public = 1)
	AND (?4 = '' OR d.nick = ?4) AND (?5 = '' OR d.nick <> ?5) `

var (
	newPlainDevice = prepared(`INSERT INTO devices (id, nick, owner, token, enrolment, deleted, created,
		activated, last_seen, last_seen_addr, user_meta, device_meta)
		VALUES (?, ?, ?, ?, NULL, 0, ?, ?, ?, ?, ?, '{}')
		ON CONFLICT (owner, nick) WHERE deleted = 0 DO NOTHING`)
	selectUnclaimed = prepared(`SELECT nick FROM devices WHERE id = ? AND owner = '' AND deleted = 0`)
	claimDevice     = prepared(`UPDATE devices SET owner = ?, nick = ?, activated = ? WHERE id = ?`)
	anyUnclaimedAt  = prepared(`SELECT 1 FROM devices WHERE owner = '' AND deleted = 0 LIMIT 1 OFFSET ?`)
	listUnclaimed   = prepared(`SELECT id FROM devices WHERE owner = '' AND deleted = 0 AND last_seen < ? ORDER BY last_seen LIMIT ?`)
	removeDevice    = prepared(`DELETE FROM devices WHERE id = ?`)

	upsertSecret = prepared(`INSERT INTO device_secrets (device, secret, expires) VALUES (?, ?, ?)
		ON CONFLICT (device) DO UPDATE SET secret = excluded.secret, expires = excluded.expires`)
	selectStanding = prepared(`SELECT 1 FROM devices d LEFT JOIN enrolments e ON e.id = d.enrolment
		WHERE d.id = ? AND d.deleted = 0 AND coalesce(e.idevid_hash, x'0000000000000000000000000000000000000000000000000000000000000000') = ?`)
	deleteSecret = prepared(`DELETE FROM device_secrets WHERE device = ?`)
	selectSecret = prepared(`SELECT s.secret FROM device_secrets s JOIN devices d ON d.id = s.device
		WHERE s.device = ? AND d.deleted = 0 AND (s.expires = 0 OR s.expires > ?)`)

	updatePublic       = prepared(`UPDATE devices SET public = ? WHERE id = ? AND owner = ? AND deleted = 0`)
	replaceUserMeta    = prepared(`UPDATE devices SET user_meta = ? WHERE id = ? AND owner = ? AND deleted = 0`)
	replaceDeviceMeta  = prepared(`UPDATE devices SET device_meta = ? WHERE id = ? AND deleted = 0`)
	selectDeviceByNick = prepared(deviceColumns + `FROM devices d LEFT JOIN enrolments e ON e.id = d.enrolment
		WHERE d.owner = ? AND d.nick = ? AND d.deleted = 0`)
	// Selects the devices that match a DeviceFilter. LIKE ignores the case of ASCII letters.
	findDevices = both(deviceColumns+deviceFilter+`AND d.nick LIKE ?6 ESCAPE '\' ORDER BY d.nick LIMIT ?7`,
		deviceColumns+deviceFilter+`AND lower(d.nick) LIKE lower(?6 COLLATE "C") ESCAPE '\' ORDER BY d.nick LIMIT ?7`)
)

// CreateDevice implements store.DevicesWithoutTPM.
func (s *Store) CreateDevice(ctx context.Context, d store.Device, secret store.Hash) (store.Device, error) {
	meta, err := store.EncodeMeta(d.UserMeta)
	if err != nil {
		return store.Device{}, err
	}
	created := micro(d.Created)
	err = s.db.Write(ctx, func(c Conn) error {
		if _, ok, err := c.One(selectDevice, d.ID); err != nil {
			return err
		} else if ok {
			return store.ErrExists
		}
		if d.Owner == "" {
			if _, full, err := c.One(anyUnclaimedAt, int64(store.MaxUnclaimed-1)); err != nil {
				return err
			} else if full {
				return store.ErrFull
			}
		}
		if d.Owner != "" {
			if err := takesDevices(c, d.Owner); err != nil {
				return err
			}
		}
		if d.TokenID != "" {
			if err := spendToken(c, d); err != nil {
				return err
			}
		}
		nick := d.Nick
		for {
			n, err := c.Exec(newPlainDevice, d.ID, nick, d.Owner, d.TokenID, created, created, created, d.LastSeenAddr, meta)
			if err != nil {
				return existsOr(err)
			}
			if n != 0 {
				break
			}
			if nick, err = freeNick(c, d.Owner, d.Nick); err != nil {
				return err
			}
		}
		if err := (indexed{}).move(c, indexed{words{owner: d.Owner, nick: nick}, meta, "{}"}); err != nil {
			return err
		}
		return c.Do(upsertSecret, d.ID, secret[:], int64(0))
	})
	if err != nil {
		return store.Device{}, err
	}
	return s.Device(ctx, d.ID)
}

// takesDevices returns store.ErrNotFound if the account was deleted or disabled, because such
// accounts cannot get new devices.
func takesDevices(c Conn, owner string) error {
	a, err := oneAccount(c, selectAccount, owner)
	if err == nil && a.Disabled {
		err = store.ErrNotFound
	}
	return err
}

func spendToken(c Conn, d store.Device) error {
	r, ok, err := c.One(selectToken, d.TokenID)
	if err != nil {
		return err
	}
	if !ok {
		return store.ErrTokenUnusable
	}
	switch t := readToken(&r); {
	case t.Owner != d.Owner, t.Disabled, !d.Created.Before(t.Expires), !t.WithoutTPM:
		return store.ErrTokenUnusable
	case t.Paused:
		return store.ErrTokenPaused
	case t.MaxUses > 0 && t.Uses >= t.MaxUses:
		return store.ErrTokenUsedUp
	}
	return c.Do(countUse, d.TokenID)
}

// ClaimDevice implements store.DevicesWithoutTPM.
func (s *Store) ClaimDevice(ctx context.Context, id, owner string, now time.Time) (store.Device, error) {
	err := s.db.Write(ctx, func(c Conn) error {
		if err := takesDevices(c, owner); err != nil {
			return err
		}
		r, err := one(c, selectUnclaimed, id)
		if err != nil {
			return err
		}
		nick := r.text()
		if _, taken, err := c.One(nickTaken, owner, nick); err != nil {
			return err
		} else if taken {
			if nick, err = freeNick(c, owner, nick); err != nil {
				return err
			}
		}
		is, err := indexedOf(c, id)
		if err != nil {
			return err
		}
		if err := c.Do(claimDevice, owner, nick, micro(now), id); err != nil {
			return err
		}
		is.owner, is.nick = owner, nick
		return indexed{}.move(c, is)
	})
	if err != nil {
		return store.Device{}, err
	}
	return s.Device(ctx, id)
}

// RemoveUnclaimed implements store.DevicesWithoutTPM.
func (s *Store) RemoveUnclaimed(ctx context.Context, before time.Time, limit int) (removed int, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		removed = 0
		var ids []string
		err := c.Each(listUnclaimed, func(r Row) (bool, error) {
			ids = append(ids, r.text())
			return true, nil
		}, micro(before), int64(max(limit, 0)))
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := c.Do(deleteSecret, id); err != nil {
				return err
			}
			if err := c.Do(removeDevice, id); err != nil {
				return err
			}
			removed++
		}
		return nil
	})
	return removed, err
}

// PutDeviceSecret implements store.DeviceSecrets.
func (s *Store) PutDeviceSecret(ctx context.Context, device string, idevid, secret store.Hash, expires time.Time) error {
	var at int64
	if !expires.IsZero() {
		at = micro(expires)
	}
	return s.db.Write(ctx, func(c Conn) error {
		if _, ok, err := c.One(selectStanding, device, idevid[:]); err != nil {
			return err
		} else if !ok {
			return store.ErrNotFound
		}
		return c.Do(upsertSecret, device, secret[:], at)
	})
}

// DeviceSecret implements store.DeviceSecrets.
func (s *Store) DeviceSecret(ctx context.Context, device string, now time.Time) (h store.Hash, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, ok, err := c.One(selectSecret, device, micro(now))
		if err == nil && !ok {
			err = store.ErrNotFound
		}
		if err == nil {
			h = r.hash()
		}
		return err
	})
	return h, err
}

// SetPublic implements store.Devices.
func (s *Store) SetPublic(ctx context.Context, owner, id string, public bool) error {
	return s.changeDevice(ctx, updatePublic, flag(public), id, owner)
}

// ReplaceUserMeta implements store.Metadata.
func (s *Store) ReplaceUserMeta(ctx context.Context, owner, id string, meta map[string]any) error {
	text, err := store.EncodeMeta(meta)
	if err != nil {
		return err
	}
	return s.changeMeta(ctx, id, replaceUserMeta, text, id, owner)
}

// ReplaceDeviceMeta implements store.Metadata.
func (s *Store) ReplaceDeviceMeta(ctx context.Context, id string, meta map[string]any) error {
	text, err := store.EncodeMeta(meta)
	if err != nil {
		return err
	}
	return s.changeMeta(ctx, id, replaceDeviceMeta, text, id)
}

func (s *Store) changeMeta(ctx context.Context, id string, change *Statement, args ...any) error {
	return s.db.Write(ctx, func(c Conn) error {
		was, err := indexedOf(c, id)
		if err != nil {
			return err
		}
		n, err := c.Exec(change, args...)
		if err == nil && n == 0 {
			err = store.ErrNotFound
		}
		if err != nil {
			return err
		}
		is, err := indexedOf(c, id)
		if err != nil {
			return err
		}
		return was.move(c, is)
	})
}

func (s *Store) changeDevice(ctx context.Context, change *Statement, args ...any) error {
	return s.db.Write(ctx, func(c Conn) error {
		n, err := c.Exec(change, args...)
		if err == nil && n == 0 {
			return store.ErrNotFound
		}
		return err
	})
}

// DeviceByNick implements store.Devices.
func (s *Store) DeviceByNick(ctx context.Context, owner, nick string) (store.Device, error) {
	return s.oneDevice(ctx, readDevice, selectDeviceByNick, owner, nick)
}

// FindDevices implements store.Devices.
func (s *Store) FindDevices(ctx context.Context, f store.DeviceFilter) ([]store.Device, error) {
	if f.Owner == "" {
		return nil, nil
	}
	return s.manyDevices(ctx, findDevices, f.Owner, f.After, flag(f.PublicOnly), f.Nick, f.NotNick, likePrefix(f.NickPrefix), pageLimit(f.Limit))
}

// likePrefix returns a LIKE pattern for texts that begin with `prefix`. The pattern uses the
// backslash as its escape character.
func likePrefix(prefix string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(prefix) + "%"
}
