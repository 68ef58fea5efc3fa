package factory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gangway/internal/diskfile"
	"gangway/wire/trail"
)

// source is one of the sources that Merge merges.
type source interface {
	kind() string // kind of source, in words for people
	state(ctx context.Context) ([]byte, error)
	// objects writes the objects with these SHA-256s to the store. It skips objects that the source
	// does not have.
	objects(ctx context.Context, store *folder, sums []string) error
	close()
}

// Trails reads trails on the hub to which the person who builds the image is signed in.
type Trails interface {
	// Trail returns a revision of a trail. `name` is a URL at the hub, or OWNER/NICK.
	Trail(ctx context.Context, name string) (Trail, error)
}

// Trail is one revision of a trail on a hub.
type Trail interface {
	String() string // name of the revision, in words for people
	State(ctx context.Context) ([]byte, error)
	// Object opens the content of the object with this SHA-256.
	Object(ctx context.Context, sum string) (io.ReadCloser, error)
}

// maxState is the number of bytes after which Merge stops reading a state. It is one more than the
// parser accepts, so the parser refuses a state that was cut off.
const maxState = trail.MaxState + 1

// open returns the source with this name: the file or folder with this name if this machine has
// one, and otherwise a trail.
func open(ctx context.Context, name string, trails Trails) (source, error) {
	if !strings.HasPrefix(name, "https://") {
		info, err := os.Stat(name)
		switch {
		case err == nil && info.IsDir():
			return newCheckout(name)
		case err == nil && info.Mode().IsRegular():
			return newExport(name)
		case err == nil:
			return nil, errors.New("the source is neither a folder nor a file: use a pvr checkout's folder, or a file made by `pvr export`")
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
		owner, nick, is := strings.Cut(name, "/")
		if !is || owner == "" || nick == "" || strings.HasPrefix(name, ".") || strings.Contains(nick, "/") {
			return nil, errors.New("no such file or folder; use a pvr checkout's folder, a file made by `pvr export`, https://HUB/trails/ID or OWNER/NICK")
		}
	}
	if trails == nil {
		return nil, errors.New("the source is not on this machine, and no hub is configured: run `gangway login` first")
	}
	t, err := trails.Trail(ctx, name)
	if err != nil {
		return nil, err
	}
	return onHub{t}, nil
}

// checkout is a folder in which a person works with pvr. Its subfolder .pvr contains the state, and
// also the objects unless the configuration in .pvr names another folder for them.
type checkout struct{ dir string }

func newCheckout(dir string) (source, error) {
	for _, at := range []string{filepath.Join(dir, ".pvr"), dir} {
		if _, err := os.Stat(filepath.Join(at, "json")); err == nil {
			return checkout{at}, nil
		}
	}
	return nil, errors.New("this folder is not a pvr checkout, because it has no .pvr/json: use a folder made by `pvr clone`")
}

func (c checkout) kind() string { return "a checkout" }
func (c checkout) close()       {}

func (c checkout) state(context.Context) ([]byte, error) {
	return readBounded(filepath.Join(c.dir, "json"), maxState)
}

func (c checkout) objects(ctx context.Context, store *folder, sums []string) error {
	places := []string{filepath.Join(c.dir, "objects")}
	config, err := readBounded(filepath.Join(c.dir, "config"), 64<<10)
	if err == nil {
		var where struct{ ObjectsDir string }
		if err := json.Unmarshal(config, &where); err != nil {
			return fmt.Errorf("parsing the checkout's .pvr/config: %w", err)
		}
		if where.ObjectsDir != "" {
			places = append(places, where.ObjectsDir)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, sum := range sums {
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, place := range places {
			f, err := diskfile.Open(filepath.Join(place, sum), 0)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			err = store.keep(sum, f)
			f.Close()
			if err != nil {
				return err
			}
			break
		}
	}
	return nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := diskfile.Open(path, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// onHub is a revision of a trail on a hub.
type onHub struct{ Trail }

func (h onHub) kind() string                              { return h.String() }
func (h onHub) close()                                    {}
func (h onHub) state(ctx context.Context) ([]byte, error) { return h.State(ctx) }

func (h onHub) objects(ctx context.Context, store *folder, sums []string) error {
	for _, sum := range sums {
		body, err := h.Object(ctx, sum)
		if err != nil {
			return fmt.Errorf("object %s: %w", sum, err)
		}
		err = store.keep(sum, body)
		body.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
