package sqlstore

import (
	"context"
	"time"

	"gangway/hub/store"
)

var (
	selectEKCertificate = prepared(`SELECT certificate, links, proven, expires FROM ek_certificates
		WHERE ek = ? AND (proven = 1 OR expires > ?)`)
	keepEKCertificate = prepared(`INSERT INTO ek_certificates (ek, proven, expires, certificate, links) VALUES (?, 0, ?, ?, ?)
		ON CONFLICT (ek) DO UPDATE SET expires = excluded.expires, certificate = excluded.certificate, links = excluded.links
		WHERE ek_certificates.proven = 0 AND (ek_certificates.expires <= ? OR ek_certificates.certificate = excluded.certificate AND ek_certificates.expires < excluded.expires)`)
	countUnproven = prepared(`SELECT count(*) FROM ek_certificates WHERE proven = 0`)
	dropUnproven  = prepared(`DELETE FROM ek_certificates WHERE ek IN
		(SELECT ek FROM ek_certificates WHERE proven = 0 ORDER BY expires LIMIT ?)`)
	expireEKCertificates = prepared(`DELETE FROM ek_certificates WHERE ek IN
		(SELECT ek FROM ek_certificates WHERE proven = 0 AND expires <= ? ORDER BY expires LIMIT ?)`)

	// proveWithCertificate stores the EK certificate of an activated enrolment whose EKKnown is
	// true. For other enrolments, proveEK marks the stored EK certificate as proven.
	proveWithCertificate = prepared(`INSERT INTO ek_certificates (ek, proven, expires, certificate, links)
		SELECT ek, 1, 0, ek_certificate, ek_links FROM enrolments WHERE id = ?
		ON CONFLICT (ek) DO UPDATE SET proven = 1, expires = 0, certificate = excluded.certificate, links = excluded.links`)
	proveEK = prepared(`UPDATE ek_certificates SET proven = 1, expires = 0 WHERE ek = ? AND proven = 0`)
)

// EKCertificate implements store.EKCertificates.
func (s *Store) EKCertificate(ctx context.Context, ek store.Hash, now time.Time) (k store.KeptEKCertificate, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, err := one(c, selectEKCertificate, ek[:], micro(now))
		if err != nil {
			return err
		}
		k = store.KeptEKCertificate{EK: ek, Certificate: r.blob(), Links: r.blob(), Proven: r.bool()}
		if !k.Proven {
			k.Expires = r.time()
		}
		return nil
	})
	return k, err
}

// KeepEKCertificate implements store.EKCertificates.
func (s *Store) KeepEKCertificate(ctx context.Context, k store.KeptEKCertificate, now time.Time, limit int) error {
	return s.db.Write(ctx, func(c Conn) error { return s.keepCertificate(c, k, now, limit) })
}

// keepCertificate stores a certificate. Counting the unproven certificates costs more than storing
// one. So keepCertificate counts only at every 40th call if the limit is 10,000.
func (s *Store) keepCertificate(c Conn, k store.KeptEKCertificate, now time.Time, limit int) error {
	if err := c.Do(keepEKCertificate, k.EK[:], micro(k.Expires), k.Certificate, append([]byte{}, k.Links...), micro(now)); err != nil {
		return err
	}
	if (s.unproven.Add(1)-1)%uint64(max(1, limit/256+1)) != 0 {
		return nil
	}
	r, _, err := c.One(countUnproven)
	if err != nil {
		return err
	}
	if over := r.int() - limit; over > 0 {
		err = c.Do(dropUnproven, int64(over))
	}
	return err
}

// ExpireEKCertificates implements store.EKCertificates.
func (s *Store) ExpireEKCertificates(ctx context.Context, now time.Time, limit int) (int, error) {
	return s.expire(ctx, expireEKCertificates, now, limit)
}
