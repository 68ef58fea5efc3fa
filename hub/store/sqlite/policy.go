package sqlite

import (
	"context"

	"gangway/hub/store"
)

var (
	selectPolicy = prepared(`SELECT text, updated FROM policies WHERE owner = ?`)
	upsertPolicy = prepared(`INSERT INTO policies (owner, text, updated) VALUES (?, ?, ?)
		ON CONFLICT (owner) DO UPDATE SET text = excluded.text, updated = excluded.updated`)
	deletePolicy = prepared(`DELETE FROM policies WHERE owner = ?`)

	deleteEKList = prepared(`DELETE FROM ek_lists WHERE owner = ?`)
	insertEK     = prepared(`INSERT INTO ek_lists (owner, key, note, certificate_required) VALUES (?, ?, ?, ?)
		ON CONFLICT (owner, key) DO UPDATE SET note = excluded.note, certificate_required = excluded.certificate_required`)
	selectEKList = prepared(`SELECT key, note, certificate_required FROM ek_lists WHERE owner = ?`)
	anyEK        = prepared(`SELECT 1 FROM ek_lists WHERE owner = ? LIMIT 1`)
	findEK       = prepared(`SELECT note, certificate_required FROM ek_lists WHERE owner = ? AND key = ?`)
)

// Policy implements store.Policies.
func (s *Store) Policy(ctx context.Context, owner string) (p store.Policy, err error) {
	err = s.readers.do(ctx, func(c *conn) error {
		r, ok, err := c.one(selectPolicy, owner)
		if err != nil {
			return err
		}
		if !ok {
			return store.ErrNotFound
		}
		p = store.Policy{Owner: owner, Text: r.text(), Updated: r.time()}
		return nil
	})
	return p, err
}

// PutPolicy implements store.Policies.
func (s *Store) PutPolicy(ctx context.Context, p store.Policy) error {
	return s.writer.do(ctx, func(c *conn) error {
		var err error
		if p.Text == "" {
			_, err = c.exec(deletePolicy, p.Owner)
		} else {
			_, err = c.exec(upsertPolicy, p.Owner, p.Text, micro(p.Updated))
		}
		if err != nil {
			return err
		}
		return bumpConfig(c)
	})
}

// ekKey and serialKey return values of the column ek_lists.key: the prefix "k" and an EK's hash, or
// the prefix "s" and a serial number.
func ekKey(ek store.Hash) []byte     { return append([]byte("k"), ek[:]...) }
func serialKey(serial []byte) []byte { return append([]byte("s"), serial...) }

// PutEKList implements store.EKLists.
func (s *Store) PutEKList(ctx context.Context, owner string, list []store.ListedEK) error {
	return s.writer.do(ctx, func(c *conn) error {
		if _, err := c.exec(deleteEKList, owner); err != nil {
			return err
		}
		for _, l := range list {
			key := serialKey(l.Cert)
			if l.Key != nil {
				key = ekKey(*l.Key)
			}
			if _, err := c.exec(insertEK, owner, key, l.Note, flag(l.CertificateRequired)); err != nil {
				return err
			}
		}
		return bumpConfig(c)
	})
}

// EKList implements store.EKLists.
func (s *Store) EKList(ctx context.Context, owner string) (list []store.ListedEK, err error) {
	err = s.readers.do(ctx, func(c *conn) error {
		return c.each(selectEKList, func(r row) (bool, error) {
			key := r.blob()
			l := store.ListedEK{Note: r.text(), CertificateRequired: r.bool()}
			if key[0] == 'k' {
				h := store.Hash(key[1:])
				l.Key = &h
			} else {
				l.Cert = key[1:]
			}
			list = append(list, l)
			return true, nil
		}, owner)
	})
	return list, err
}

// HasEKList implements store.EKLists.
func (s *Store) HasEKList(ctx context.Context, owner string) (has bool, err error) {
	err = s.readers.do(ctx, func(c *conn) (err error) {
		_, has, err = c.one(anyEK, owner)
		return err
	})
	return has, err
}

// FindEK implements store.EKLists.
func (s *Store) FindEK(ctx context.Context, owner string, ek store.Hash, serial []byte) (l store.ListedEK, err error) {
	err = s.readers.do(ctx, func(c *conn) error {
		l = store.ListedEK{Key: &ek}
		r, ok, err := c.one(findEK, owner, ekKey(ek))
		if err == nil && !ok && serial != nil {
			l = store.ListedEK{Cert: serial}
			r, ok, err = c.one(findEK, owner, serialKey(serial))
		}
		if err != nil {
			return err
		}
		if !ok {
			return store.ErrNotFound
		}
		l.Note, l.CertificateRequired = r.text(), r.bool()
		return nil
	})
	if err != nil {
		return store.ListedEK{}, err
	}
	return l, nil
}
