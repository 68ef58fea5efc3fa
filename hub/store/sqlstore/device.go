package sqlstore

import (
	"context"
	"time"

	"gangway/hub/store"
)

const (
	bareColumns = `SELECT d.id, d.nick, d.owner, d.token, e.ek, e.request_hash, e.idevid_hash,
	e.manufacturer, e.model, e.firmware, e.prod_model, e.prod_serial, e.key_algorithm,
	d.created, d.activated, d.last_seen, d.last_seen_addr, d.public, d.clone,
	(SELECT b.requested FROM boot_devices b WHERE b.device = d.id)`
	// The last two columns, user_meta and device_meta, are slower to read than the others.
	deviceColumns = bareColumns + `, d.user_meta, d.device_meta `
	withVersion   = `, (SELECT version FROM config_version)`
	// withIdle selects whether the device has a trail, and no revision of it is open.
	withIdle = `, EXISTS (SELECT 1 FROM trails t WHERE t.device = d.id)
	AND NOT EXISTS (SELECT 1 FROM steps s INDEXED BY steps_open WHERE s.device = d.id ` + stepsOpen + `)`
	deviceByID = ` FROM devices d LEFT JOIN enrolments e ON e.id = d.enrolment WHERE d.id = ? AND d.deleted = 0`
)

var (
	selectDevice     = prepared(deviceColumns + deviceByID)
	selectBareDevice = prepared(bareColumns + withVersion + withIdle + deviceByID)
	// CROSS JOIN makes SQLite read the row of enrolments first.
	selectDeviceByIDevID = prepared(bareColumns + withVersion + ` FROM enrolments e CROSS JOIN devices d
		ON d.id = e.device AND d.enrolment = e.id
		WHERE e.idevid_hash = ? AND e.state = 'a' AND d.deleted = 0`)
	selectDevices = prepared(deviceColumns + `FROM devices d LEFT JOIN enrolments e ON e.id = d.enrolment
		WHERE d.owner = ? AND d.nick > ? AND d.deleted = 0 ORDER BY d.nick LIMIT ?`)
	countDevices = prepared(`SELECT count(*) FROM devices WHERE owner = ? AND deleted = 0`)
	renameDevice = prepared(`UPDATE devices SET nick = ? WHERE id = ? AND owner = ? AND deleted = 0`)

	selectDeviceForDelete = prepared(`SELECT e.id, e.ek FROM devices d LEFT JOIN enrolments e ON e.id = d.enrolment
		WHERE d.id = ? AND d.owner = ? AND d.deleted = 0`)
	markDeviceDeleted = prepared(`UPDATE devices SET deleted = 1, user_meta = '{}', device_meta = '{}' WHERE id = ?`)
	revokeEnrolment   = prepared(`UPDATE enrolments SET state = 'r' WHERE id = ?`)
	// Revokes pending enrolments and removes their evidence, which no TPM has proven, just as the
	// statement `expire` does. A device's pending enrolments are found by its EK, from which its id is
	// computed.
	revokePending = prepared(`UPDATE enrolments SET state = 'r', verdict = x'', request = x'', ek_certificate = x'', ek_links = x''
		WHERE ek = ? AND +owner = ? AND +device = ? AND state = 'p'`)
	letTPMGo   = prepared(`UPDATE tpms SET owner = '', device = '', generation = generation + 1 WHERE ek = ?`)
	deleteAIKs = prepared(`WITH RECURSIVE activated (id, iak_name, previous) AS (
			SELECT id, iak_name, previous FROM enrolments WHERE id = ?
			UNION ALL
			SELECT e.id, e.iak_name, e.previous FROM activated a JOIN enrolments e ON e.id = a.previous)
		DELETE FROM aiks WHERE name IN (SELECT iak_name FROM activated) AND device = ?`)
)

// Device implements store.Devices.
func (s *Store) Device(ctx context.Context, id string) (store.Device, error) {
	return s.oneDevice(ctx, readDevice, selectDevice, id)
}

// BareDevice implements store.Devices.
func (s *Store) BareDevice(ctx context.Context, id string) (store.Device, error) {
	return s.oneDevice(ctx, readIdleDevice, selectBareDevice, id)
}

// DeviceByCertificate implements store.Devices.
func (s *Store) DeviceByCertificate(ctx context.Context, idevid store.Hash) (store.Device, error) {
	return s.oneDevice(ctx, readVersionedDevice, selectDeviceByIDevID, idevid[:])
}

func (s *Store) oneDevice(ctx context.Context, read func(*Row) store.Device, query *Statement, args ...any) (d store.Device, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, err := one(c, query, args...)
		if err != nil {
			return err
		}
		d = read(&r)
		return nil
	})
	if err != nil {
		return store.Device{}, err
	}
	s.seen.overlay(&d)
	return d, nil
}

// Devices implements store.Devices. Nicks are ordered by their bytes, so upper-case letters come
// first.
func (s *Store) Devices(ctx context.Context, owner, after string, limit int) ([]store.Device, error) {
	return s.manyDevices(ctx, selectDevices, owner, after, pageLimit(limit))
}

func (s *Store) manyDevices(ctx context.Context, query *Statement, args ...any) (devices []store.Device, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		devices = nil
		return c.Each(query, func(r Row) (bool, error) {
			devices = append(devices, readDevice(&r))
			return true, nil
		}, args...)
	})
	if err != nil {
		return nil, err
	}
	for i := range devices {
		s.seen.overlay(&devices[i])
	}
	return devices, nil
}

func readDevice(r *Row) store.Device {
	d := readBareDevice(r)
	setMetas(&d, r.text(), r.text())
	return d
}

// readBareDevice reads a device without its metadata.
func readBareDevice(r *Row) store.Device {
	return store.Device{
		ID:           r.text(),
		Nick:         r.text(),
		Owner:        r.text(),
		TokenID:      r.text(),
		EK:           r.hash(),
		Enrolment:    r.hash(),
		IDevIDHash:   r.hash(),
		TPMMaker:     r.text(),
		TPMModel:     r.text(),
		TPMFirmware:  r.text(),
		ProdModel:    r.text(),
		ProdSerial:   r.text(),
		KeyAlgorithm: r.text(),
		Created:      r.time(),
		Activated:    r.time(),
		LastSeen:     r.time(),
		LastSeenAddr: r.text(),
		Public:       r.bool(),
		Clone:        r.text(),
		// NULL, and so false, before the first boot measurement or request.
		BootRequested: r.bool(),
	}
}

// readVersionedDevice reads a device without its metadata, and the config version.
func readVersionedDevice(r *Row) store.Device {
	d := readBareDevice(r)
	d.ConfigVersion = r.int64()
	return d
}

// readIdleDevice is like readVersionedDevice, but also reads whether the device's trail is idle.
func readIdleDevice(r *Row) store.Device {
	d := readVersionedDevice(r)
	d.Idle = r.bool()
	return d
}

// setMetas decodes a device's user-meta and device-meta from their columns.
func setMetas(d *store.Device, user, device string) {
	var more []string
	d.UserMeta, d.Unreadable = decodeMeta(user, "/user-meta")
	d.DeviceMeta, more = decodeMeta(device, "/device-meta")
	d.Unreadable = append(d.Unreadable, more...)
}

// CountDevices implements store.Devices.
func (s *Store) CountDevices(ctx context.Context, owner string) (n int, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, _, err := c.One(countDevices, owner)
		if err == nil {
			n = r.int()
		}
		return err
	})
	return n, err
}

// RenameDevice implements store.Devices.
func (s *Store) RenameDevice(ctx context.Context, owner, id, nick string) error {
	return s.db.Write(ctx, func(c Conn) error {
		was, err := indexedOf(c, id)
		if err != nil {
			return err
		}
		n, err := c.Exec(renameDevice, nick, id, owner)
		if err == nil && n == 0 {
			return store.ErrNotFound
		}
		if err != nil {
			return existsOr(err)
		}
		is := was
		is.nick = nick
		return was.move(c, is)
	})
}

// DeleteDevice implements store.Devices. It does not store the time of the deletion, which the
// caller records in an event.
func (s *Store) DeleteDevice(ctx context.Context, owner, id string, now time.Time) error {
	return s.db.Write(ctx, func(c Conn) error {
		r, err := one(c, selectDeviceForDelete, id, owner)
		if err != nil {
			return err
		}
		evidence := !r.null()
		active, ek := r.int64(), r.hash()
		was, err := indexedOf(c, id)
		if err != nil {
			return err
		}
		if err := was.move(c, indexed{}); err != nil {
			return err
		}
		if err := c.Do(markDeviceDeleted, id); err != nil {
			return err
		}
		if err := dropJudged(c, id); err != nil {
			return err
		}
		for _, of := range []*Statement{deleteSecret, deleteBoots, deleteBootDevice, deleteMarks, deleteTold, deleteClone} {
			if err := c.Do(of, id); err != nil {
				return err
			}
		}
		if !evidence {
			return nil
		}
		if err := c.Do(revokeEnrolment, active); err != nil {
			return err
		}
		if err := s.keepPending(c, ek, now); err != nil {
			return err
		}
		if err := c.Do(revokePending, ek[:], owner, id); err != nil {
			return err
		}
		if err := c.Do(letTPMGo, ek[:]); err != nil {
			return err
		}
		if err := c.Do(deleteAIKs, active, id); err != nil {
			return err
		}
		if err := stripSuperseded(c, active); err != nil {
			return err
		}
		return c.Do(deleteWaiting, owner, ek[:])
	})
}
