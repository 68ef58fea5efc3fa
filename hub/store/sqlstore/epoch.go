package sqlstore

import (
	"context"
	"fmt"
	"strconv"
)

const settingEpoch = "epoch"

// NextEpoch implements store.Epochs.
func (s *Store) NextEpoch(ctx context.Context) (epoch int64, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		if epoch, err = currentEpoch(c); err != nil {
			return err
		}
		epoch++
		return c.Do(upsertSetting, settingEpoch, strconv.FormatInt(epoch, 10))
	})
	return epoch, err
}

// currentEpoch returns the number of the latest epoch, or 0.
func currentEpoch(c Conn) (int64, error) {
	r, ok, err := c.One(selectSetting, settingEpoch)
	if err != nil || !ok {
		return 0, err
	}
	n, err := strconv.ParseInt(r.text(), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("store: the setting %q: %w", settingEpoch, err)
	}
	return n, nil
}
