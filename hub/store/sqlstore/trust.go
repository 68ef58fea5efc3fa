package sqlstore

import (
	"context"

	"gangway/hub/store"
)

var (
	selectTrusted = prepared(`SELECT fingerprint, der, kind, source, added FROM trusted_certificates ORDER BY fingerprint`)
	findTrusted   = prepared(`SELECT 1 FROM trusted_certificates WHERE fingerprint = ?`)
	deleteTrusted = prepared(`DELETE FROM trusted_certificates WHERE fingerprint = ?`)
	insertTrusted = prepared(`INSERT INTO trusted_certificates (fingerprint, kind, source, added, der) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (fingerprint) DO UPDATE SET kind = excluded.kind, source = excluded.source,
		added = excluded.added, der = excluded.der`)
)

// TrustedCertificates implements store.TrustStore.
func (s *Store) TrustedCertificates(ctx context.Context) (certs []store.TrustedCertificate, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		certs = nil
		return c.Each(selectTrusted, func(r Row) (bool, error) {
			certs = append(certs, store.TrustedCertificate{
				Fingerprint: r.hash(),
				DER:         r.blob(),
				Kind:        store.TrustKind(r.text()),
				Source:      r.text(),
				Added:       r.time(),
			})
			return true, nil
		})
	})
	if err != nil {
		return nil, err
	}
	return certs, nil
}

// ChangeTrust implements store.TrustStore.
func (s *Store) ChangeTrust(ctx context.Context, change store.TrustChange) error {
	if len(change.Put)+len(change.Remove) == 0 {
		return nil
	}
	return s.db.Write(ctx, func(c Conn) error {
		for _, f := range change.Remove {
			if _, ok, err := c.One(findTrusted, f[:]); err != nil {
				return err
			} else if !ok {
				return store.ErrNotFound
			}
		}
		if err := bumpConfig(c); err != nil {
			return err
		}
		for _, f := range change.Remove {
			if err := c.Do(deleteTrusted, f[:]); err != nil {
				return err
			}
		}
		for _, t := range change.Put {
			if err := c.Do(insertTrusted, t.Fingerprint[:], string(t.Kind), t.Source, micro(t.Added), t.DER); err != nil {
				return err
			}
		}
		if change.Event.Kind == "" {
			return nil
		}
		return appendEvent(c, change.Event)
	})
}
