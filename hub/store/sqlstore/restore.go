package sqlstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"gangway/hub/store"
)

// settingRestore is the name of the setting that holds the latest restore, as JSON.
const settingRestore = "restore"

var (
	endAllSessions  = prepared(`DELETE FROM sessions`)
	pauseTokens     = prepared(`UPDATE join_tokens SET paused = 1 WHERE max_uses > 0 AND disabled = 0 AND expires > ?`)
	selectPaused    = prepared(tokenColumns + ` FROM join_tokens WHERE paused = 1 ORDER BY id`)
	selectAccountID = prepared(`SELECT id FROM accounts ORDER BY id`)
	resumeToken     = prepared(`UPDATE join_tokens SET paused = 0, max_uses = ?, disabled = ? WHERE id = ?`)

	insertLost = prepared(`INSERT INTO lost_devices (id, owner, token, certificate, issued, first_seen, last_seen, addr)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`)
	updateLost = prepared(`UPDATE lost_devices SET certificate = ?, issued = ?, last_seen = ?, addr = ? WHERE id = ?`)
	selectLost = prepared(`SELECT id, owner, token, certificate, issued, first_seen, last_seen, addr FROM lost_devices
		WHERE id > ? ORDER BY id LIMIT ?`)
	selectLostOf = prepared(`SELECT id, owner, token, certificate, issued, first_seen, last_seen, addr FROM lost_devices
		WHERE owner = ? AND id > ? ORDER BY id LIMIT ?`)
	selectLostOwner = prepared(`SELECT owner, EXISTS (SELECT 1 FROM accounts a WHERE a.id = owner) FROM lost_devices WHERE id = ?`)
	deleteLost      = prepared(`DELETE FROM lost_devices WHERE id = ?`)
)

// MarkRestored implements store.Restores.
func (s *Store) MarkRestored(ctx context.Context, restore store.Restore) (done store.Restored, err error) {
	text, err := json.Marshal(restore)
	if err != nil {
		return done, err
	}
	err = s.db.Write(ctx, func(c Conn) error {
		epoch, err := currentEpoch(c)
		if err != nil {
			return err
		}
		done = store.Restored{Epoch: (max(epoch, restore.Epoch)/store.EpochsPerRestore+1)*store.EpochsPerRestore + 1}
		for _, setting := range [][2]string{{settingEpoch, strconv.FormatInt(done.Epoch, 10)}, {settingRestore, string(text)}} {
			if err := c.Do(upsertSetting, setting[0], setting[1]); err != nil {
				return err
			}
		}
		sessions, err := c.Exec(endAllSessions)
		if err != nil {
			return err
		}
		tokens, err := c.Exec(pauseTokens, micro(restore.Time))
		if err != nil {
			return err
		}
		done.Sessions, done.Tokens = int(sessions), int(tokens)
		return tellOfRestore(c, restore)
	})
	return done, err
}

// tellOfRestore appends an event to the audit trail of each account, and of the operator.
func tellOfRestore(c Conn, restore store.Restore) error {
	owners := []string{""}
	err := c.Each(selectAccountID, func(r Row) (bool, error) {
		owners = append(owners, r.text())
		return true, nil
	})
	if err != nil {
		return err
	}
	message := fmt.Sprintf("The hub was restored from a backup of %s (epoch %d). All later changes are lost. Devices that were deleted later may work again. API tokens, join tokens and passwords that were changed later may be valid again. Repeat these changes.",
		restore.Backup.UTC().Format(time.RFC3339), restore.Epoch)
	for _, owner := range owners {
		e := store.Event{Time: restore.Time, Kind: store.EventRestored, Owner: owner, Means: store.ByCommand, Message: message}
		if err := appendEvent(c, e); err != nil {
			return err
		}
	}
	return nil
}

// LatestRestore implements store.Restores.
func (s *Store) LatestRestore(ctx context.Context) (restore store.Restore, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, ok, err := c.One(selectSetting, settingRestore)
		if err == nil && !ok {
			err = store.ErrNotFound
		}
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(r.text()), &restore)
	})
	return restore, err
}

// RecordLostDevice implements store.Restores.
func (s *Store) RecordLostDevice(ctx context.Context, d store.LostDevice, e store.Event) error {
	return s.db.Write(ctx, func(c Conn) error {
		n, err := c.Exec(insertLost, d.ID, d.Owner, d.TokenID, d.Certificate[:], micro(d.Issued), micro(d.FirstSeen), micro(d.LastSeen), d.Addr)
		if err != nil {
			return err
		}
		if n == 0 {
			return c.Do(updateLost, d.Certificate[:], micro(d.Issued), micro(d.LastSeen), d.Addr, d.ID)
		}
		return appendEvent(c, e)
	})
}

// LostDevices implements store.Restores.
func (s *Store) LostDevices(ctx context.Context, after string, limit int) ([]store.LostDevice, error) {
	return s.lostDevices(ctx, selectLost, after, int64(limit))
}

// LostDevicesOf implements store.Restores.
func (s *Store) LostDevicesOf(ctx context.Context, owner, after string, limit int) ([]store.LostDevice, error) {
	return s.lostDevices(ctx, selectLostOf, owner, after, int64(limit))
}

func (s *Store) lostDevices(ctx context.Context, query *Statement, args ...any) (list []store.LostDevice, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(query, func(r Row) (bool, error) {
			list = append(list, store.LostDevice{ID: r.text(), Owner: r.text(), TokenID: r.text(), Certificate: r.hash(), Issued: r.time(), FirstSeen: r.time(), LastSeen: r.time(), Addr: r.text()})
			return true, nil
		}, args...)
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// PausedTokens implements store.Restores.
func (s *Store) PausedTokens(ctx context.Context) ([]store.JoinToken, error) {
	return s.manyTokens(ctx, selectPaused)
}

// ResumeToken implements store.Restores.
func (s *Store) ResumeToken(ctx context.Context, id string, spent int, e store.Event) error {
	if spent < 0 {
		return errors.New("store: the number of lost uses is negative")
	}
	return s.db.Write(ctx, func(c Conn) error {
		r, ok, err := c.One(selectToken, id)
		if err != nil {
			return err
		}
		if !ok {
			return store.ErrNotFound
		}
		t := readToken(&r)
		if !t.Paused {
			return store.ErrNotFound
		}
		// The new maximum is at least 1, because a maximum of 0 would mean that there is no limit.
		most, disabled := max(t.MaxUses-spent, t.Uses, 1), t.Disabled || t.MaxUses-spent <= t.Uses
		if err := c.Do(resumeToken, int64(most), flag(disabled), id); err != nil {
			return err
		}
		e.Owner, e.Token = t.Owner, id
		return appendEvent(c, e)
	})
}

// returnLost returns store.ErrOtherOwner if a TPM's device was lost in a restore and had another
// owner whose account still exists: only that owner may onboard the TPM again. `ids` are the ids
// that the device may have had. If there is no error, returnLost removes the record that the device
// is lost.
func returnLost(c Conn, owner string, ids []string) error {
	for _, id := range ids {
		r, ok, err := c.One(selectLostOwner, id)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if was, there := r.text(), r.bool(); there && was != owner {
			return store.ErrOtherOwner
		}
		if err := c.Do(deleteLost, id); err != nil {
			return err
		}
	}
	return nil
}
