package sqlite

import (
	"context"
	"strings"
)

var (
	selectSetting = prepared(`SELECT value FROM settings WHERE name = ?`)
	upsertSetting = prepared(`INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`)
)

// settingURLs is the name of the setting that has the hub's URLs, separated by spaces.
const settingURLs = "urls"

// URLs implements store.Addresses.
func (s *Store) URLs(ctx context.Context) (urls []string, err error) {
	err = s.readers.do(ctx, func(c *conn) error {
		r, ok, err := c.one(selectSetting, settingURLs)
		if err == nil && ok {
			urls = strings.Fields(r.text())
		}
		return err
	})
	return urls, err
}

// SetURLs implements store.Addresses.
func (s *Store) SetURLs(ctx context.Context, urls []string) error {
	return s.writer.do(ctx, func(c *conn) error {
		_, err := c.exec(upsertSetting, settingURLs, strings.Join(urls, " "))
		return err
	})
}
