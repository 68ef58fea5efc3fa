package revision

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gangway/internal/diskfile"
	"gangway/wire/trail"
)

// objects stores each object in a file that is named by the object's SHA-256: dir/ab/cdef... The
// folder `incoming` contains incomplete objects. An object is moved to `dir` when it is complete,
// its hash has been checked, and its bytes have been flushed to the disk.
type objects struct{ dir, incoming string }

func (o objects) path(sum string) string    { return filepath.Join(o.dir, sum[:2], sum[2:]) }
func (o objects) partial(sum string) string { return filepath.Join(o.incoming, sum) }

// The method `has` reports whether the store has an object. It hashes the object's file, because
// the disk or a hook may have damaged it. A damaged object is removed and counts as missing.
func (o objects) has(sum string) (bool, error) {
	file, err := os.Open(o.path(sum))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, diskError(err)
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(h, file); err == nil && hex.EncodeToString(h.Sum(nil)) == sum {
		return true, nil
	}
	return false, diskError(os.Remove(o.path(sum)))
}

// partialSize returns the number of bytes of an incomplete object that are on the disk.
func (o objects) partialSize(sum string) int64 {
	info, err := os.Stat(o.partial(sum))
	if err != nil {
		return 0
	}
	return info.Size()
}

// The method `free` returns the number of bytes that this process can write until the disk is full.
func (o objects) free() (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(o.dir, &s); err != nil {
		return 0, diskError(err)
	}
	return int64(min(s.Bavail, 1<<40) * uint64(s.Bsize)), nil
}

// errContent means that the hub sent an object whose SHA-256 differs from the SHA-256 in the state.
var errContent = errors.New("the SHA-256 of the object that the hub sent differs from the SHA-256 in the state")

// errExpired means that the download URL of an object has expired.
var errExpired = errors.New("the download URL of the object has expired")

// idle is how long a download may receive nothing before it fails.
const idle = time.Minute

// download gets the bytes of an object that are not on the disk yet. It calls `count` with the size
// of each piece that arrives.
func (o objects) download(ctx context.Context, conn Conn, sum string, r trail.Record, count func(int64)) error {
	file, err := os.OpenFile(o.partial(sum), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return diskError(err)
	}
	defer file.Close()
	h := sha256.New()
	from, err := resume(file, h, r.Size)
	if err != nil {
		return diskError(err)
	}
	count(from)
	if from < r.Size || r.Size == 0 {
		if err := o.rest(ctx, conn, sum, r, file, h, from, count); err != nil {
			return err
		}
	}
	if hex.EncodeToString(h.Sum(nil)) != sum {
		count(-r.Size)
		if err := os.Remove(o.partial(sum)); err != nil {
			return diskError(err)
		}
		return fmt.Errorf("object %s: %w", sum, errContent)
	}
	return diskError(o.keep(file, sum))
}

// resume hashes the part of an object that is on the disk, and returns the part's size. If the part
// is longer than the whole object, resume discards the part.
func resume(file *os.File, h hash.Hash, size int64) (int64, error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() > size {
		return 0, file.Truncate(0)
	}
	return io.Copy(h, file)
}

// The method `rest` downloads an object's bytes from the offset `from` to the object's end. If the
// hub answers with the whole object, the answer replaces the part on the disk.
func (o objects) rest(ctx context.Context, conn Conn, sum string, r trail.Record, file *os.File, h hash.Hash, from int64, count func(int64)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The timer limits the wait for the answer, and then the wait for each piece of it.
	alarm := time.AfterFunc(idle, cancel)
	defer alarm.Stop()
	resp, err := conn.Download(ctx, r.Path, from, `"`+sum+`"`)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusPartialContent:
		if want := fmt.Sprintf("bytes %d-%d/%d", from, r.Size-1, r.Size); resp.Header.Get("Content-Range") != want {
			return fmt.Errorf("object %s: %w: the hub answered with the range %q, not %q", sum, errContent, clip(resp.Header.Get("Content-Range"), 60), want)
		}
	case http.StatusOK:
		count(-from)
		from = 0
		h.Reset()
		if err := file.Truncate(0); err != nil {
			return diskError(err)
		}
	case http.StatusForbidden, http.StatusNotFound, http.StatusUnauthorized, http.StatusGone:
		return errExpired
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return fmt.Errorf("object %s: the hub answered with status %d", sum, resp.StatusCode)
	default:
		err := fmt.Errorf("object %s: the hub answered with status %d", sum, resp.StatusCode)
		if resp.StatusCode < 500 {
			return errors.Join(fmt.Errorf("%w: %w", errContent, err), diskError(os.Remove(o.partial(sum))))
		}
		return err
	}
	if _, err := file.Seek(from, io.SeekStart); err != nil {
		return diskError(err)
	}
	body := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(body)
		alarm.Reset(idle)
		if int64(n) > r.Size-from {
			count(-from)
			return errors.Join(fmt.Errorf("object %s: %w: the answer is longer than %d bytes", sum, errContent, r.Size), diskError(os.Remove(o.partial(sum))))
		}
		if n > 0 {
			if _, err := file.Write(body[:n]); err != nil {
				return diskError(err)
			}
			h.Write(body[:n])
			from += int64(n)
			count(int64(n))
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("object %s: the connection broke after %d of %d bytes: %w", sum, from, r.Size, err)
		}
	}
	if from < r.Size {
		// If the connection had broken, there would have been an error above. So the hub sent an
		// incomplete object as if it were complete: discard the object's bytes.
		count(-from)
		return errors.Join(fmt.Errorf("object %s: %w: the answer has %d bytes instead of %d", sum, errContent, from, r.Size), diskError(os.Remove(o.partial(sum))))
	}
	return nil
}

// keep moves a complete object to its place in the store and flushes the folders. After that, the
// object's file never changes.
func (o objects) keep(file *os.File, sum string) error {
	if err := errors.Join(file.Chmod(0o444), file.Sync()); err != nil {
		return err
	}
	dir := filepath.Dir(o.path(sum))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Rename(o.partial(sum), o.path(sum)); err != nil {
		return err
	}
	return errors.Join(diskfile.FlushFolder(dir), diskfile.FlushFolder(o.dir))
}

// sweep removes all objects from the store, except those in `wanted`.
func (o objects) sweep(wanted map[string]bool) error {
	return filepath.WalkDir(o.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(o.dir, path)
		if err != nil || wanted[strings.ReplaceAll(rel, "/", "")] {
			return err
		}
		return os.Remove(path)
	})
}

// sweepParts removes all incomplete objects, except those in `wanted`.
func (o objects) sweepParts(wanted map[string]bool) error {
	list, err := os.ReadDir(o.incoming)
	if err != nil {
		return err
	}
	var errs error
	for _, d := range list {
		if !wanted[d.Name()] {
			errs = errors.Join(errs, os.Remove(filepath.Join(o.incoming, d.Name())))
		}
	}
	return errs
}
