package sqlstore

import (
	"context"
	"fmt"
	"time"

	"gangway/hub/store"
)

var (
	selectAlarms = prepared(`SELECT name, since, fact FROM alarms ORDER BY name`)
	insertAlarm  = prepared(`INSERT INTO alarms (name, since, fact) VALUES (?, ?, ?)`)
	deleteAlarm  = prepared(`DELETE FROM alarms WHERE name = ?`)
	selectClock  = timed(`SELECT NOW`)
)

// Settings that store.Upkeep uses.
const (
	// SettingBackup is the setting with the time of the newest backup, in RFC 3339 form.
	SettingBackup = "last-backup"
	// settingBackupFault is the setting that says what the newest check of a backup found wrong. It
	// is empty if the check found no fault.
	settingBackupFault = "backup-fault"
	settingScan        = "trust-scan"
)

// Alarms implements store.Alarms.
func (s *Store) Alarms(ctx context.Context) (list []store.Alarm, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list, err = alarms(c)
		return err
	})
	return list, err
}

func alarms(c Conn) (list []store.Alarm, err error) {
	err = c.Each(selectAlarms, func(r Row) (bool, error) {
		list = append(list, store.Alarm{Name: r.text(), Since: r.time(), Fact: r.text()})
		return true, nil
	})
	return list, err
}

// SetAlarms implements store.Alarms.
func (s *Store) SetAlarms(ctx context.Context, list []store.Alarm, event func(a store.Alarm, ended bool) store.Event) (changed int, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		changed = 0
		before, err := alarms(c)
		if err != nil {
			return err
		}
		ended := make(map[string]store.Alarm, len(before))
		for _, a := range before {
			ended[a.Name] = a
		}
		for _, a := range list {
			if _, lasts := ended[a.Name]; lasts {
				delete(ended, a.Name)
				continue
			}
			changed++
			if err := c.Do(insertAlarm, a.Name, micro(a.Since), a.Fact); err != nil {
				return err
			}
			if err := appendEvent(c, event(a, false)); err != nil {
				return err
			}
		}
		for _, a := range before {
			if _, ends := ended[a.Name]; !ends {
				continue
			}
			changed++
			if err := c.Do(deleteAlarm, a.Name); err != nil {
				return err
			}
			if err := appendEvent(c, event(a, true)); err != nil {
				return err
			}
		}
		return nil
	})
	return changed, err
}

// LastBackup implements store.Upkeep.
func (s *Store) LastBackup(ctx context.Context) (at time.Time, err error) {
	text, err := s.setting(ctx, SettingBackup)
	if err != nil || text == "" {
		return at, err
	}
	if at, err = time.Parse(time.RFC3339, text); err != nil {
		return at, fmt.Errorf("store: the setting %s: %w", SettingBackup, err)
	}
	return at, nil
}

// SetLastBackup implements store.Upkeep.
func (s *Store) SetLastBackup(ctx context.Context, at time.Time) error {
	return s.setSetting(ctx, SettingBackup, at.UTC().Format(time.RFC3339))
}

// BackupFault implements store.Upkeep.
func (s *Store) BackupFault(ctx context.Context) (string, error) {
	return s.setting(ctx, settingBackupFault)
}

// SetBackupFault implements store.Upkeep.
func (s *Store) SetBackupFault(ctx context.Context, fact string) error {
	return s.setSetting(ctx, settingBackupFault, fact)
}

// TrustScan implements store.Upkeep.
func (s *Store) TrustScan(ctx context.Context) ([]byte, error) {
	text, err := s.setting(ctx, settingScan)
	if err != nil || text == "" {
		return nil, err
	}
	return []byte(text), nil
}

// SetTrustScan implements store.Upkeep.
func (s *Store) SetTrustScan(ctx context.Context, text []byte) error {
	return s.setSetting(ctx, settingScan, string(text))
}

// Clock implements store.Upkeep.
func (s *Store) Clock(ctx context.Context) (now time.Time, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, _, err := c.One(selectClock)
		if err == nil {
			now = r.time()
		}
		return err
	})
	return now, err
}
