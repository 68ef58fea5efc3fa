package sqlite

import "context"

var (
	selectConfigVersion = prepared(`SELECT version FROM config_version`)
	bumpConfigVersion   = prepared(`UPDATE config_version SET version = version + 1`)
)

// ConfigVersion implements store.Config.
func (s *Store) ConfigVersion(ctx context.Context) (version int64, err error) {
	err = s.readers.do(ctx, func(c *conn) error {
		r, _, err := c.one(selectConfigVersion)
		if err == nil {
			version = r.int64()
		}
		return err
	})
	return version, err
}

// bumpConfig makes readers of settings read them anew. It belongs into the
// operation that changes one.
func bumpConfig(c *conn) error {
	_, err := c.exec(bumpConfigVersion)
	return err
}
