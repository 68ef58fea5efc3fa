package sqlstore

import (
	"context"
	"strings"
)

var (
	selectSetting = prepared(`SELECT value FROM settings WHERE name = ?`)
	upsertSetting = prepared(`INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`)
)

// SettingURLs is the name of the setting that holds the hub's URLs, separated by spaces.
const SettingURLs = "urls"

// SettingHub is the name of the setting that holds the name of the hub to which the database
// belongs.
const SettingHub = "hub"

var insertSetting = prepared(`INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING`)

// Hub returns the name of the hub to which the database belongs, or "" if it belongs to none.
func (s *Store) Hub(ctx context.Context) (name string, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		name, err = hub(c)
		return err
	})
	return name, err
}

// ClaimForHub makes the database belong to the hub `name`, unless it already belongs to a hub. It
// returns the name of the hub to which the database then belongs.
func (s *Store) ClaimForHub(ctx context.Context, name string) (hubName string, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		if err := c.Do(insertSetting, SettingHub, name); err != nil {
			return err
		}
		hubName, err = hub(c)
		return err
	})
	return hubName, err
}

// setting returns the value of a setting, or "" if it is not set.
func (s *Store) setting(ctx context.Context, name string) (value string, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, ok, err := c.One(selectSetting, name)
		if value = ""; ok {
			value = r.text()
		}
		return err
	})
	return value, err
}

func (s *Store) setSetting(ctx context.Context, name, value string) error {
	return s.db.Write(ctx, func(c Conn) error { return c.Do(upsertSetting, name, value) })
}

func hub(c Conn) (name string, err error) {
	r, ok, err := c.One(selectSetting, SettingHub)
	if ok {
		name = r.text()
	}
	return name, err
}

// URLs implements store.Addresses.
func (s *Store) URLs(ctx context.Context) (urls []string, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, ok, err := c.One(selectSetting, SettingURLs)
		if err == nil && ok {
			urls = strings.Fields(r.text())
		}
		return err
	})
	return urls, err
}

// SetURLs implements store.Addresses.
func (s *Store) SetURLs(ctx context.Context, urls []string) error {
	return s.db.Write(ctx, func(c Conn) error {
		return c.Do(upsertSetting, SettingURLs, strings.Join(urls, " "))
	})
}
