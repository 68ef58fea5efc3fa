package factory

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// folder stores objects as files that are named by their SHA-256.
type folder struct {
	dir   string
	sizes map[string]int64
	total int64
}

var errTooLarge = fmt.Errorf("the objects have more than %d MiB: post the rest as a revision once the device is onboarded", MaxObjects>>20)

// keep reads an object to its end and writes it to a file. If the object's SHA-256 is not `sum`,
// keep fails and leaves no file.
func (f *folder) keep(sum string, from io.Reader) (err error) {
	if _, have := f.sizes[sum]; have {
		return nil
	}
	path := filepath.Join(f.dir, sum)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, file.Close()); err != nil {
			os.Remove(path)
		}
	}()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(file, h), io.LimitReader(from, MaxObjects-f.total+1))
	if err != nil {
		return fmt.Errorf("object %s: %w", sum, err)
	}
	if f.total+n > MaxObjects {
		return errTooLarge
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return fmt.Errorf("object %s has wrong content (SHA-256 %s): get the source again", sum, got)
	}
	f.sizes[sum] = n
	f.total += n
	return nil
}
