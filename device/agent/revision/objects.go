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

	"gangway/wire/trail"
)

// objects stores contents as files named by their SHA-256, in DIR/ab/cdef... A
// download is in the folder incoming until it is complete, verified and flushed.
type objects struct{ dir, incoming string }

func (o objects) path(sum string) string    { return filepath.Join(o.dir, sum[:2], sum[2:]) }
func (o objects) partial(sum string) string { return filepath.Join(o.incoming, sum) }

// has reports whether the store has an object. It reads and hashes the file, because
// the disk or a hook may have damaged it. It removes a damaged object.
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

// partialSize returns how many bytes of an object are already downloaded.
func (o objects) partialSize(sum string) int64 {
	info, err := os.Stat(o.partial(sum))
	if err != nil {
		return 0
	}
	return info.Size()
}

// free returns the number of bytes that this process can still write to the disk.
func (o objects) free() (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(o.dir, &s); err != nil {
		return 0, diskError(err)
	}
	return int64(min(s.Bavail, 1<<40) * uint64(s.Bsize)), nil
}

// errContent means that a content does not have the SHA-256 in the state.
var errContent = errors.New("the hub sent content whose SHA-256 is not the one in the state")

// errExpired means that the download URL of a content has expired.
var errExpired = errors.New("the address of the content has expired")

// idle is how long a download may make no progress.
const idle = time.Minute

// download gets the rest of an object. It calls count with the size of each piece.
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

// resume hashes the part of an object that is already downloaded, and returns its size. It discards
// the part if it is longer than the object.
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

// rest downloads the bytes that are missing after the part. If the hub answers with all bytes,
// these replace the part.
func (o objects) rest(ctx context.Context, conn Conn, sum string, r trail.Record, file *os.File, h hash.Hash, from int64, count func(int64)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The alarm bounds the wait for the answer and for each piece.
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
			return fmt.Errorf("object %s: %w: it answered with the range %q, not %q", sum, errContent, clip(resp.Header.Get("Content-Range"), 60), want)
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
			return errors.Join(fmt.Errorf("object %s: %w: it is longer than %d bytes", sum, errContent, r.Size), diskError(os.Remove(o.partial(sum))))
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
			return fmt.Errorf("object %s: the download broke after %d of %d bytes: %w", sum, from, r.Size, err)
		}
	}
	if from < r.Size {
		// A broken connection would have been an error above, so the hub says that this answer is
		// complete: discard it.
		count(-from)
		return errors.Join(fmt.Errorf("object %s: %w: it has %d bytes instead of %d", sum, errContent, from, r.Size), diskError(os.Remove(o.partial(sum))))
	}
	return nil
}

// keep gives a complete object its name, durably. After that, the file does not change.
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
	return errors.Join(flush(dir), flush(o.dir))
}

// sweep removes all objects from the store that are not in wanted.
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

// sweepParts does the same with partly downloaded objects.
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
