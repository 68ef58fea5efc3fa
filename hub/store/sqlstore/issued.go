package sqlstore

import (
	"context"
	"time"

	"gangway/hub/store"
)

var (
	// Returns the number of rows, which is compared with the limit of the table, or 0 if there is a
	// row with this EK and name, because a new row would only replace it.
	countIssued = prepared(`SELECT CASE WHEN EXISTS (SELECT 1 FROM issued_aiks WHERE ek = ? AND name = ?)
		THEN 0 ELSE (SELECT count(*) FROM issued_aiks) END`)
	issuedOfEK   = prepared(`SELECT count(*) FROM issued_aiks WHERE ek = ? AND expires > ?`)
	upsertIssued = prepared(`INSERT INTO issued_aiks (ek, name, device, issued, expires, certificate) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (ek, name) DO UPDATE SET device = excluded.device, issued = excluded.issued,
		expires = excluded.expires, certificate = excluded.certificate`)
	trimIssued = prepared(`DELETE FROM issued_aiks WHERE ek = ?1 AND id NOT IN
		(SELECT id FROM issued_aiks WHERE ek = ?1 ORDER BY issued DESC, id DESC LIMIT ?2)`)
	selectIssued = prepared(`SELECT ek, name, device, certificate, issued, expires FROM issued_aiks
		WHERE ek = ? AND name = ? AND expires > ?`)
	expireIssued = prepared(`DELETE FROM issued_aiks WHERE id IN
		(SELECT id FROM issued_aiks WHERE expires <= ? ORDER BY expires LIMIT ?)`)
)

// RecordIssuedAIK implements store.IssuedAIKs.
func (s *Store) RecordIssuedAIK(ctx context.Context, a store.IssuedAIK, most int) (first bool, err error) {
	err = s.db.Write(ctx, func(c Conn) error {
		r, _, err := c.One(issuedOfEK, a.EK[:], micro(a.Issued))
		if err != nil {
			return err
		}
		first = r.int() == 0
		if r, _, err = c.One(countIssued, a.EK[:], a.Name); err != nil {
			return err
		}
		if r.int() >= most {
			return store.ErrFull
		}
		if err := c.Do(upsertIssued, a.EK[:], a.Name, a.DeviceID, micro(a.Issued), micro(a.Expires), a.Certificate); err != nil {
			return err
		}
		return c.Do(trimIssued, a.EK[:], int64(store.MaxIssuedPerEK))
	})
	return first && err == nil, err
}

// IssuedAIK implements store.IssuedAIKs.
func (s *Store) IssuedAIK(ctx context.Context, ek store.Hash, name []byte, now time.Time) (a store.IssuedAIK, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, ok, err := c.One(selectIssued, ek[:], name, micro(now))
		if err == nil && !ok {
			err = store.ErrNotFound
		}
		if err == nil {
			a = store.IssuedAIK{EK: r.hash(), Name: r.blob(), DeviceID: r.text(), Certificate: r.blob(), Issued: r.time(), Expires: r.time()}
		}
		return err
	})
	return a, err
}

// ExpireIssuedAIKs implements store.IssuedAIKs.
func (s *Store) ExpireIssuedAIKs(ctx context.Context, now time.Time, limit int) (int, error) {
	return s.expire(ctx, expireIssued, now, limit)
}
