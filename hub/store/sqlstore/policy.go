package sqlstore

import (
	"bytes"
	"context"
	"encoding/hex"

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
	selectEKPage = prepared(`SELECT key, note, certificate_required FROM ek_lists WHERE owner = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?`)
	countEKs     = prepared(`SELECT count(*) FROM (SELECT 1 FROM ek_lists WHERE owner = ? LIMIT ?) AS few`)
	deleteEK     = prepared(`DELETE FROM ek_lists WHERE owner = ? AND key = ?`)
	anyEK        = prepared(`SELECT 1 FROM ek_lists WHERE owner = ? LIMIT 1`)
	findEK       = prepared(`SELECT note, certificate_required FROM ek_lists WHERE owner = ? AND key = ?`)
)

// Policy implements store.Policies.
func (s *Store) Policy(ctx context.Context, owner string) (p store.Policy, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, err := one(c, selectPolicy, owner)
		if err != nil {
			return err
		}
		p = store.Policy{Owner: owner, Text: r.text(), Updated: r.time()}
		return nil
	})
	return p, err
}

// PutPolicy implements store.Policies.
func (s *Store) PutPolicy(ctx context.Context, p store.Policy) error {
	return s.db.Write(ctx, func(c Conn) error { return putPolicy(c, p) })
}

// SwapPolicy implements store.Policies.
func (s *Store) SwapPolicy(ctx context.Context, p store.Policy, was string) error {
	return s.db.Write(ctx, func(c Conn) error {
		r, ok, err := c.One(selectPolicy, p.Owner)
		if err != nil {
			return err
		}
		is := ""
		if ok {
			is = r.text()
		}
		if is != was {
			return store.ErrChanged
		}
		return putPolicy(c, p)
	})
}

func putPolicy(c Conn, p store.Policy) (err error) {
	if p.Text == "" {
		err = c.Do(deletePolicy, p.Owner)
	} else {
		err = c.Do(upsertPolicy, p.Owner, p.Text, micro(p.Updated))
	}
	if err != nil {
		return err
	}
	return bumpConfig(c)
}

// ekKey and serialKey return values of the column ek_lists.key: ekKey returns "k" followed by an
// EK's hash, serialKey returns "s" followed by a serial number.
func ekKey(ek store.Hash) []byte     { return append([]byte("k"), ek[:]...) }
func serialKey(serial []byte) []byte { return append([]byte("s"), serial...) }

func keyOf(l store.ListedEK) []byte {
	if l.Key != nil {
		return ekKey(*l.Key)
	}
	return serialKey(l.Cert)
}

// readEK decodes a row of ek_lists. It returns the line of the EK list and the row's key.
func readEK(r Row) (store.ListedEK, []byte) {
	key := r.blob()
	l := store.ListedEK{Note: r.text(), CertificateRequired: r.bool()}
	if key[0] == 'k' {
		h := store.Hash(key[1:])
		l.Key = &h
	} else {
		l.Cert = key[1:]
	}
	return l, key
}

// EKListPage implements store.EKLists.
func (s *Store) EKListPage(ctx context.Context, owner, prefix, after string, limit int) (lines []store.ListedEK, next string, err error) {
	last, err := hex.DecodeString(after)
	if err != nil {
		return nil, "", store.ErrNotFound
	}
	low, high, ok := hexRange(prefix)
	if !ok {
		return nil, "", nil
	}
	most := int(pageLimit(limit))
	err = s.db.Read(ctx, func(c Conn) error {
		lines, next = nil, ""
		var key []byte
		for _, tag := range []byte("ks") {
			from, to := append([]byte{tag}, low...), append([]byte{tag}, high...)
			if high == nil {
				to = []byte{tag + 1}
			}
			if len(last) > 0 && bytes.Compare(last, from) >= 0 {
				from = append(bytes.Clone(last), 0)
			}
			err := c.Each(selectEKPage, func(r Row) (bool, error) {
				if len(lines) == most {
					next = hex.EncodeToString(key)
					return false, nil
				}
				var l store.ListedEK
				l, key = readEK(r)
				lines = append(lines, l)
				return true, nil
			}, owner, from, to, int64(most-len(lines)+1))
			if err != nil || next != "" {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return lines, next, nil
}

// hexRange returns the range of the byte strings whose hexadecimal form begins with `prefix`. The
// range includes `low` but not `high`. If the range has no upper end, `high` is nil. If `prefix` is
// not hexadecimal, `ok` is false.
func hexRange(prefix string) (low, high []byte, ok bool) {
	step := byte(1)
	if len(prefix)%2 == 1 {
		prefix, step = prefix+"0", 16
	}
	low, err := hex.DecodeString(prefix)
	if err != nil {
		return nil, nil, false
	}
	high = bytes.Clone(low)
	for len(high) > 0 {
		end := len(high) - 1
		if high[end] += step; high[end] >= step { // no overflow
			return low, high, true
		}
		high, step = high[:end], 1
	}
	return low, nil, true
}

// CountEKList implements store.EKLists.
func (s *Store) CountEKList(ctx context.Context, owner string, limit int) (n int, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		r, _, err := c.One(countEKs, owner, int64(limit))
		n = r.int()
		return err
	})
	return n, err
}

// ChangeEKList implements store.EKLists.
func (s *Store) ChangeEKList(ctx context.Context, owner string, l store.ListedEK, remove bool, most int) error {
	return s.db.Write(ctx, func(c Conn) error {
		if remove {
			n, err := c.Exec(deleteEK, owner, keyOf(l))
			if err != nil {
				return err
			}
			if n == 0 {
				return store.ErrNotFound
			}
			return bumpConfig(c)
		}
		if err := c.Do(insertEK, owner, keyOf(l), l.Note, flag(l.CertificateRequired)); err != nil {
			return err
		}
		r, _, err := c.One(countEKs, owner, int64(most)+1)
		if err != nil {
			return err
		}
		if r.int() > most {
			return store.ErrFull
		}
		return bumpConfig(c)
	})
}

// PutEKList implements store.EKLists.
func (s *Store) PutEKList(ctx context.Context, owner string, list []store.ListedEK) error {
	return s.db.Write(ctx, func(c Conn) error {
		if err := c.Do(deleteEKList, owner); err != nil {
			return err
		}
		for _, l := range list {
			if err := c.Do(insertEK, owner, keyOf(l), l.Note, flag(l.CertificateRequired)); err != nil {
				return err
			}
		}
		return bumpConfig(c)
	})
}

// EKList implements store.EKLists.
func (s *Store) EKList(ctx context.Context, owner string) (list []store.ListedEK, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		list = nil
		return c.Each(selectEKList, func(r Row) (bool, error) {
			l, _ := readEK(r)
			list = append(list, l)
			return true, nil
		}, owner)
	})
	return list, err
}

// HasEKList implements store.EKLists.
func (s *Store) HasEKList(ctx context.Context, owner string) (has bool, err error) {
	err = s.db.Read(ctx, func(c Conn) (err error) {
		_, has, err = c.One(anyEK, owner)
		return err
	})
	return has, err
}

// FindEK implements store.EKLists.
func (s *Store) FindEK(ctx context.Context, owner string, ek store.Hash, serial []byte) (l store.ListedEK, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		l = store.ListedEK{Key: &ek}
		r, ok, err := c.One(findEK, owner, ekKey(ek))
		if err == nil && !ok && serial != nil {
			l = store.ListedEK{Cert: serial}
			r, ok, err = c.One(findEK, owner, serialKey(serial))
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
