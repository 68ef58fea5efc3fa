package sqlstore

import (
	"context"
	"strings"
)

var (
	selectSetting = prepared(`SELECT value FROM settings WHERE name = ?`)
	upsertSetting = prepared(`INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`)
)

// SettingURLs is the name of the setting that has the hub's URLs, separated by spaces.
const SettingURLs = "urls"

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
		_, err := c.Exec(upsertSetting, SettingURLs, strings.Join(urls, " "))
		return err
	})
}
