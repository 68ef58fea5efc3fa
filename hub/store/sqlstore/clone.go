package sqlstore

import (
	"context"

	"gangway/hub/store"
)

var (
	selectClone = prepared(`SELECT c.version, d.clone, c.record FROM clones c JOIN devices d ON d.id = c.device
		WHERE c.device = ? AND d.deleted = 0`)
	selectCloneVersion = prepared(`SELECT version FROM clones WHERE device = ?`)
	upsertClone        = prepared(`INSERT INTO clones (device, version, record) VALUES (?, ?, ?)
		ON CONFLICT (device) DO UPDATE SET version = excluded.version, record = excluded.record`)
	setDeviceClone = prepared(`UPDATE devices SET clone = ? WHERE id = ? AND deleted = 0`)
	deleteClone    = prepared(`DELETE FROM clones WHERE device = ?`)
)

// Clone implements store.Clones.
func (s *Store) Clone(ctx context.Context, device string) (k store.Clone, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, ok, err := c.One(selectClone, device)
		if err == nil && !ok {
			err = store.ErrNotFound
		}
		if err == nil {
			k = store.Clone{Device: device, Version: r.int64(), State: r.text(), Record: r.blob()}
		}
		return err
	})
	return k, err
}

// PutClone implements store.Clones.
func (s *Store) PutClone(ctx context.Context, k store.Clone, events ...store.Event) (version int64, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		r, ok, err := c.One(selectCloneVersion, k.Device)
		if err != nil {
			return err
		}
		var is int64
		if ok {
			is = r.int64()
		}
		if is != k.Version {
			return store.ErrChanged
		}
		n, err := c.Exec(setDeviceClone, k.State, k.Device)
		if err != nil {
			return err
		}
		if n == 0 {
			return store.ErrNotFound
		}
		version = is + 1
		if err := c.Do(upsertClone, k.Device, version, k.Record); err != nil {
			return err
		}
		for _, e := range events {
			if err := appendEvent(c, e); err != nil {
				return err
			}
		}
		return nil
	})
	return version, err
}
