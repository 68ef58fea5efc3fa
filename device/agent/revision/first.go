package revision

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"gangway/internal/diskfile"
	"gangway/wire/trail"
	"gangway/wire/trail/sig"
)

// errDamaged means that the image's first revision is damaged.
var errDamaged = errors.New("the first revision in the image is damaged")

// errRefused means that the image's first revision has no valid signature by the owner.
var errRefused = errors.New("the first revision in the image is refused")

// firstState returns the state with which the trail begins. When firstState returns, all objects of
// that state are in the local store and on the hub. If an object is missing on the disk, firstState
// downloads the object from the hub. If the hub does not have the object either, the trail begins
// with an empty state. The machine is then connected, and the owner can repair it.
func (f *Follower) firstState(ctx context.Context) (*state, error) {
	s, err := f.importFirst(ctx)
	if errors.Is(err, errDamaged) || errors.Is(err, errRefused) {
		f.say("%s; the trail begins with an empty state.", err)
		s = nil
	} else if err != nil {
		return nil, err
	}
	if s == nil {
		return parseState([]byte(emptyState))
	}
	return s, nil
}

// importFirst imports the first revision and returns its state. It returns nil if there is no first
// revision.
func (f *Follower) importFirst(ctx context.Context) (*state, error) {
	if f.cfg.First == "" {
		return nil, nil
	}
	text, err := diskfile.Read(filepath.Join(f.cfg.First, stateName), unix.O_NOFOLLOW, trail.MaxState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	s, signed, err := f.owner.parse(text)
	if r := (*sig.Refusal)(nil); errors.As(err, &r) {
		return nil, fmt.Errorf("%w: %w", errRefused, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if err := f.owner.accept(s, signed); err != nil {
		return nil, err
	}
	for _, sum := range s.posted.ObjectSums() {
		if err := f.importObject(ctx, sum); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// importObject copies an object of the first revision to the local store and uploads it to the hub.
// If the agent is killed during the call, the next call skips the steps that are already complete.
func (f *Follower) importObject(ctx context.Context, sum string) error {
	have, err := f.objects.has(sum)
	if err != nil {
		return err
	}
	if !have {
		if have, err = f.objects.importFile(filepath.Join(f.cfg.First, "objects", sum), sum); err != nil {
			return err
		}
	}
	if have {
		return f.upload(ctx, sum)
	}
	r, err := f.record(ctx, sum)
	if err == nil {
		err = f.downloadOne(ctx, sum, r, func(int64) {})
	}
	if g := (*abandoned)(nil); errors.As(err, &g) {
		return fmt.Errorf("%w: object %s", errDamaged, sum)
	}
	return err
}

// importFile copies a file into the store. It returns false if the path is not a regular file, if
// the file cannot be read from the disk, or if the file's SHA-256 is not `sum`. The hash is
// computed from the copied bytes, so it is correct even if the file changes during the copy.
func (o objects) importFile(path, sum string) (bool, error) {
	from, err := diskfile.Open(path, unix.O_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, diskfile.ErrNotRegular) || errors.Is(err, unix.ELOOP) {
		return false, nil
	}
	if err != nil {
		return false, diskError(err)
	}
	defer from.Close()
	file, err := os.OpenFile(o.partial(sum), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return false, diskError(err)
	}
	defer file.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(file, h), io.LimitReader(from, trail.MaxObject)); err != nil && !errors.Is(err, unix.EIO) {
		return false, diskError(errors.Join(err, os.Remove(o.partial(sum))))
	}
	if hex.EncodeToString(h.Sum(nil)) != sum {
		return false, diskError(os.Remove(o.partial(sum)))
	}
	return true, diskError(o.keep(file, sum))
}

// The method `upload` uploads an object to the hub. If the hub already has the object for this
// owner, upload sends no data.
func (f *Follower) upload(ctx context.Context, sum string) error {
	file, err := os.Open(f.objects.path(sum))
	if err != nil {
		return diskError(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return diskError(err)
	}
	body, err := json.Marshal(map[string]string{"objectname": sum, "sha256sum": sum, "size": strconv.FormatInt(info.Size(), 10)})
	if err != nil {
		return err
	}
	text, err := f.conn.Do(ctx, http.MethodPost, "/objects/", body, trail.MaxRecord)
	var no Refusal
	if errors.As(err, &no) && no.HTTPStatus() == http.StatusConflict {
		return nil // the hub already has the object
	}
	if err != nil {
		return fmt.Errorf("announcing the first revision's object %s: %w", sum, err)
	}
	path, err := trail.ParseUpload(text, sum)
	if err != nil {
		return err
	}
	if err := f.conn.Upload(ctx, path, file, info.Size()); err != nil {
		// Do not wrap the error: a wrapped Refusal would count as a refusal of the device,
		// although perhaps only the upload URL has expired.
		return fmt.Errorf("uploading the first revision's object %s: %v", sum, err)
	}
	return nil
}

// removeFirst removes the folder of the first revision. Call removeFirst when the store has all
// objects of that revision.
func (f *Follower) removeFirst() {
	if f.cfg.First == "" {
		return
	}
	if err := os.RemoveAll(f.cfg.First); err != nil {
		f.say("Removing the image's first revision failed: %v.", err)
	}
}
