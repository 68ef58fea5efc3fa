package install

import (
	"bytes"

	"gangway/device/install/luks"

	"golang.org/x/crypto/xts"
)

// The method `encrypt` makes a new key, and changes p.target so that it encrypts all data that is
// written with that key. p.head gets the LUKS header, which stores the key.
func (j Job) encrypt(p *place) error {
	head, key, err := luks.Format(j.Encrypt)
	if err != nil {
		return err
	}
	c, err := key.Cipher()
	if err != nil {
		return err
	}
	p.head, p.target, p.offset = head, &encrypted{Target: j.Target, at: p.at + luks.Overhead, cipher: c}, 0
	return nil
}

// encrypted is a Target that encrypts data, sector by sector, before it passes the data to the
// underlying Target. The byte at position p of `encrypted` is the byte at position at+p of the
// underlying Target.
type encrypted struct {
	Target
	at     int64
	cipher *xts.Cipher
}

func (e *encrypted) WriteAt(p []byte, at int64) (int, error) {
	out := make([]byte, len(p))
	for i := 0; i < len(p); i += sector {
		e.cipher.Encrypt(out[i:i+sector], p[i:i+sector], uint64(at+int64(i))/sector)
	}
	return e.Target.WriteAt(out, e.at+at)
}

func (e *encrypted) ReadAt(p []byte, at int64) (int, error) {
	n, err := e.Target.ReadAt(p, e.at+at)
	if err != nil {
		return n, err
	}
	for i := 0; i < len(p); i += sector {
		e.cipher.Decrypt(p[i:i+sector], bytes.Clone(p[i:i+sector]), uint64(at+int64(i))/sector)
	}
	return n, nil
}

// Zero writes encrypted zeros, so that the disk does not show which blocks are in use.
func (e *encrypted) Zero(at, size int64) error {
	zero := make([]byte, mib)
	for size > 0 {
		n, err := e.WriteAt(zero[:min(size, mib)], at)
		if err != nil {
			return err
		}
		at, size = at+int64(n), size-int64(n)
	}
	return nil
}
