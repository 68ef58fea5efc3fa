package sqlstore

import "context"

var (
	selectConfigVersion = prepared(`SELECT version FROM config_version`)
	bumpConfigVersion   = prepared(`UPDATE config_version SET version = version + 1`)
)

// ConfigVersion implements store.Config.
func (s *Store) ConfigVersion(ctx context.Context) (version int64, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, _, err := c.One(selectConfigVersion)
		if err == nil {
			version = r.int64()
		}
		return err
	})
	return version, err
}

// bumpConfig increases the config version, so that all replicas of the hub drop their cached
// settings. It must be called in the same transaction that changes a setting.
func bumpConfig(c Conn) error {
	return c.Do(bumpConfigVersion)
}
