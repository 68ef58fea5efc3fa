package revision

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"gangway/internal/diskfile"
	"gangway/wire/trail"
)

// A revision's folder contains the state's text and the state's files:
//
//	REV-HASH/state.json
//	REV-HASH/files/...   objects are links to the store, documents are files
const (
	stateName = "state.json"
	filesName = "files"
)

func (f *Follower) folderOf(r revision) string { return filepath.Join(f.revisions(), r.folder()) }

// keepState writes a state's text into its revision's folder.
func (f *Follower) keepState(r revision, s *state) error {
	dir := f.folderOf(r)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return diskError(err)
	}
	return diskError(errors.Join(diskfile.Replace(filepath.Join(dir, stateName), s.JSON, nil), diskfile.FlushFolder(f.revisions())))
}

// stateOf reads a revision's state from the revision's folder. It parses and checks the state
// again, in case the file has been damaged or changed.
func (f *Follower) stateOf(r revision) (*state, error) {
	text, err := os.ReadFile(filepath.Join(f.folderOf(r), stateName))
	if err != nil {
		return nil, diskError(err)
	}
	s, err := parseState(text)
	if err != nil {
		return nil, diskError(fmt.Errorf("%s: %w", f.folderOf(r), err))
	}
	if s.sum != r.Sum {
		return nil, diskError(fmt.Errorf("%s is damaged: the file does not contain the state that the journal names", filepath.Join(f.folderOf(r), stateName)))
	}
	return s, nil
}

// The type `abandoned` is the error that ends a revision before the hook was called.
type abandoned struct {
	outcome outcome
	reason  string
}

func (g *abandoned) Error() string { return g.reason }

// prepare downloads those objects of a revision that the store does not have yet, and then writes
// the revision's files to a folder.
func (f *Follower) prepare(ctx context.Context, rev revision) error {
	s, err := f.stateOf(rev)
	if err != nil {
		return err
	}
	if f.hashed == nil {
		f.hashed = map[string]bool{}
	}
	var missing []string
	for _, sum := range s.ObjectSums() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if f.hashed[sum] {
			continue // do not hash an object at each retry while the hub cannot be reached
		}
		have, err := f.objects.has(sum)
		if err != nil {
			return err
		}
		if f.hashed[sum] = have; !have {
			missing = append(missing, sum)
		}
	}
	if len(missing) > 0 {
		err := f.download(ctx, rev, missing)
		if errors.Is(err, syscall.ENOSPC) {
			return &abandoned{failed, "The disk is full: " + err.Error() + "."}
		}
		if err != nil {
			return err
		}
	}
	return f.layOut(rev, s)
}

// The method `download` downloads the missing objects, several at the same time.
func (f *Follower) download(ctx context.Context, rev revision, missing []string) error {
	records := make([]trail.Record, len(missing))
	var total, have int64
	for i, sum := range missing {
		var err error
		if records[i], err = f.record(ctx, sum); err != nil {
			return err
		}
		if total += records[i].Size; total > maxTotal {
			return &abandoned{wontGo, fmt.Sprintf("The revision's objects have more than %d bytes.", int64(maxTotal))}
		}
		have += min(f.objects.partialSize(sum), records[i].Size)
	}
	if err := f.objects.sweepParts(set(missing)); err != nil {
		return diskError(err)
	}
	free, err := f.objects.free()
	if err != nil {
		return err
	}
	if need := total - have; need > free-f.cfg.Reserve {
		return &abandoned{failed, fmt.Sprintf("The revision needs %d bytes. The disk has %d free bytes, and %d of them must stay free.", need, free, f.cfg.Reserve)}
	}
	var got atomic.Int64
	start := time.Now()
	progress := func() downloads {
		return downloads{transfer{Name: "total", Total: total, Downloaded: got.Load(), Start: start.Unix(), Current: time.Now().Unix()}}
	}
	if err := f.report(ctx, rev.Rev, "DOWNLOADING", 25, fmt.Sprintf("%d object(s), %d bytes.", len(missing), total), progress()); err != nil {
		return err
	}
	// Report the progress during the downloads. If the hub refuses a report, for example because
	// the owner has withdrawn the revision, the downloads are cancelled.
	group, both := errgroup.WithContext(ctx)
	finished := make(chan struct{})
	var left sync.WaitGroup
	left.Add(len(missing))
	go func() { left.Wait(); close(finished) }()
	group.Go(func() error {
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-finished:
				return nil
			case <-both.Done():
				return nil
			case <-tick.C:
				percent := 25
				if total > 0 {
					percent += int(24 * got.Load() / total)
				}
				if err := f.report(both, rev.Rev, "DOWNLOADING", percent, "", progress()); err != nil {
					return err
				}
			}
		}
	})
	slots := make(chan struct{}, f.cfg.Parallel)
	for i, sum := range missing {
		group.Go(func() error {
			defer left.Done()
			select {
			case slots <- struct{}{}:
			case <-both.Done():
				return both.Err()
			}
			defer func() { <-slots }()
			return f.downloadOne(both, sum, records[i], func(n int64) { got.Add(n) })
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return f.report(ctx, rev.Rev, "DOWNLOADING", 49, "Downloaded.", progress())
}

// maxWrong is how often the hub may send wrong bytes for an object before the revision fails.
const maxWrong = 3

// downloadOne downloads one object. If the download URL has expired, downloadOne asks the hub for a
// new URL, but only once. If the bytes do not have the object's SHA-256, downloadOne downloads them
// again, and gives up after maxWrong downloads. If the connection breaks, downloadOne fails, and
// the next call resumes the download at the first missing byte.
func (f *Follower) downloadOne(ctx context.Context, sum string, r trail.Record, count func(int64)) error {
	renewed := false
	for wrong := 0; ; {
		err := f.objects.download(ctx, f.conn, sum, r, count)
		switch {
		case errors.Is(err, errExpired) && !renewed:
			renewed = true
			if r, err = f.record(ctx, sum); err != nil {
				return err
			}
		case errors.Is(err, errExpired):
			return &abandoned{failed, fmt.Sprintf("The hub has the record of object %s, but has lost the object's bytes.", sum)}
		case errors.Is(err, errContent):
			if wrong++; wrong == maxWrong {
				return &abandoned{failed, "Downloading the revision failed: " + err.Error() + "."}
			}
		default:
			return err
		}
	}
}

func (f *Follower) record(ctx context.Context, sum string) (trail.Record, error) {
	text, err := f.conn.Do(ctx, http.MethodGet, "/objects/"+sum, nil, trail.MaxRecord)
	var no Refusal
	if errors.As(err, &no) && no.HTTPStatus() == http.StatusNotFound {
		return trail.Record{}, &abandoned{failed, fmt.Sprintf("The hub does not have object %s, which the revision names.", sum)}
	}
	if err != nil {
		return trail.Record{}, err
	}
	r, err := trail.ParseRecord(text, sum)
	if err != nil {
		return trail.Record{}, &abandoned{failed, "Downloading the revision failed: " + err.Error() + "."}
	}
	return r, nil
}

// layOut makes the folder with the revision's files. The store must have all of the revision's
// objects. layOut opens all paths relative to a handle of that folder, so no link can make it write
// outside the folder.
func (f *Follower) layOut(rev revision, s *state) error {
	if err := f.keepState(rev, s); err != nil {
		return err
	}
	dir := f.folderOf(rev)
	files, making := filepath.Join(dir, filesName), filepath.Join(dir, filesName+".new")
	for _, old := range []string{making, files} {
		if err := os.RemoveAll(old); err != nil {
			return diskError(err)
		}
	}
	if err := os.Mkdir(making, 0o755); err != nil {
		return diskError(err)
	}
	root, err := os.OpenRoot(making)
	if err != nil {
		return diskError(err)
	}
	defer root.Close()
	for _, file := range s.files {
		if err := f.place(root, making, file); err != nil {
			return diskError(fmt.Errorf("revision %d, %s: %w", rev.Rev, file.Path, err))
		}
	}
	if err := os.Rename(making, files); err != nil {
		return diskError(err)
	}
	// Flush all new folders and files with one call.
	d, err := os.Open(dir)
	if err != nil {
		return diskError(err)
	}
	return diskError(errors.Join(syncFS(d), d.Close()))
}

func (f *Follower) place(root *os.Root, at string, file trail.File) error {
	if parent := filepath.Dir(file.Path); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	if file.Object == "" {
		return root.WriteFile(file.Path, file.Document, 0o444)
	}
	// State.Files has checked file.Path, and layOut has made every folder in the path, so no folder
	// is a link.
	return os.Link(f.objects.path(file.Object), filepath.Join(at, file.Path))
}

// collect removes unused revisions and objects. After a failure it only logs the error, because the
// next call tries again.
func (f *Follower) collect() {
	if err := f.sweep(); err != nil {
		f.say("Removing old revisions failed: %v.", err)
	}
}

// sweep removes the folders and objects that are needed neither by the running revision, nor by the
// previous one, nor by the present installation.
func (f *Follower) sweep() error {
	var keep []revision
	for _, r := range []*revision{f.journal.Current, f.journal.Former} {
		if r != nil {
			keep = append(keep, *r)
		}
	}
	if w := f.journal.Step; w != nil && w.Phase != ended {
		keep = append(keep, w.revision)
	}
	folders, wanted := map[string]bool{}, map[string]bool{}
	for _, r := range keep {
		folders[r.folder()] = true
		s, err := f.stateOf(r)
		if errors.Is(err, fs.ErrNotExist) && f.journal.Step != nil && r == f.journal.Step.revision {
			continue
		}
		if err != nil {
			return err
		}
		for _, sum := range s.ObjectSums() {
			wanted[sum] = true
		}
	}
	list, err := os.ReadDir(f.revisions())
	if err != nil {
		return diskError(err)
	}
	for _, d := range list {
		if !folders[d.Name()] {
			if err := os.RemoveAll(filepath.Join(f.revisions(), d.Name())); err != nil {
				return diskError(err)
			}
		}
	}
	return diskError(errors.Join(f.objects.sweep(wanted), f.objects.sweepParts(wanted)))
}

func set(list []string) map[string]bool {
	m := make(map[string]bool, len(list))
	for _, s := range list {
		m[s] = true
	}
	return m
}
