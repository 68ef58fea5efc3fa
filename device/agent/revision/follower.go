// Package trail is how a device follows its trail: it takes the next step that
// the hub offers, downloads the objects that its state names, lays them out as
// a folder, has an installer hook put it in place and test it, and reports each
// status; what fails its test is rolled back.
//
// What is under way is in a journal before it is done, so a kill or a power cut
// at any instruction is gone on from, tested again, or rolled back. The hook is
// another program, see docs/agent.md: this package knows nothing of what a
// revision is made of.
//
// The hub is not trusted to be well-meaning: what it sends is parsed strictly
// and bounded, no name leaves the revision's folder, and no content counts that
// has not the SHA-256 that the state names.
package revision

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"gangway/wire/trail"
)

// Conn is the hub, as the device that follows.
type Conn interface {
	// Do sends a request under the device's identity and returns the body of
	// an answer 200, of at most limit bytes. Any other answer is a Refusal.
	Do(ctx context.Context, method, path string, body []byte, limit int64) ([]byte, error)
	// Download gets a path that is its own permission, from a byte on. The
	// answer's body is not bounded; any status comes as it is.
	Download(ctx context.Context, path string, from int64, etag string) (*http.Response, error)
	// Upload puts a content of size bytes to a path that is its own
	// permission. An answer other than 200 is a Refusal.
	Upload(ctx context.Context, path string, content io.Reader, size int64) error
}

// Refusal is an answer of the hub other than 200, an error.
type Refusal interface {
	error
	HTTPStatus() int
	// Temporary says that asking again may help.
	Temporary() bool
}

// Config is what a Follower is made of.
type Config struct {
	// Dir is the folder of the journal, made if it is not there.
	Dir string
	// Data is the folder of objects and revisions, made if it is not there.
	// Who may enter it may read them. Default: Dir.
	Data string
	// Device is the device's id.
	Device string
	// Hook is the installer's program. Empty: no step is taken.
	Hook string
	// First is a folder with the first revision, for a device that has no
	// trail yet: state.json, and objects/ by SHA-256. It is removed once the
	// trail has begun. Empty, or not there: the first revision is empty.
	First string
	// Poll is the time between looks for a new step. Default: 30 seconds.
	Poll time.Duration
	// HookTimeout bounds each call of the hook. Default: 30 minutes.
	HookTimeout time.Duration
	// HubWithin is how long a revision that passed its test may take to reach
	// the hub: one that cuts the machine off is rolled back. Default: 10
	// minutes; less than 0: it need not.
	HubWithin time.Duration
	// RebootWithin is how long a machine may take to start anew once the hook
	// was told to do it. Default: 15 minutes.
	RebootWithin time.Duration
	// Parallel is how many objects are downloaded at once. Default: 4.
	Parallel int
	// Reserve is how many bytes of the disk stay free. Default: 64 MiB.
	Reserve int64
	// BootID is a file that is another after each start of the machine.
	// Default: Linux's.
	BootID string
	// Say, if set, is told in one sentence what happens. Line, if set, gets
	// what the hook prints.
	Say  func(sentence string)
	Line func(line string)
}

// Status is how far a follower is, for reports.
type Status struct {
	Revision string // of what runs; empty: not known
	Phase    string // "idle", or what is being done
	Step     string // with which revision it is being done
}

// Follower follows one trail.
type Follower struct {
	cfg       Config
	conn      Conn
	dir       string
	data      string
	objects   objects
	journal   journal
	status    atomic.Pointer[Status]
	changed   chan struct{}
	complaint string // the last complaint, to say it once

	hashed       map[string]bool // objects found whole since the step was taken
	phase        string          // what since is about
	since        time.Time       // when this process first saw it; by its own clock, which nobody sets
	rebootCalled bool            // this process told the hook to start the machine anew
}

// Open reads the journal. Nothing is done before Run.
func Open(cfg Config, conn Conn) (*Follower, error) {
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	set(&cfg.Poll, 30*time.Second)
	set(&cfg.HookTimeout, 30*time.Minute)
	set(&cfg.HubWithin, 10*time.Minute)
	set(&cfg.RebootWithin, 15*time.Minute)
	if cfg.Parallel <= 0 {
		cfg.Parallel = 4
	}
	if cfg.Reserve == 0 {
		cfg.Reserve = 64 << 20
	}
	if cfg.BootID == "" {
		cfg.BootID = "/proc/sys/kernel/random/boot_id"
	}
	if cfg.Say == nil {
		cfg.Say = func(string) {}
	}
	if cfg.Line == nil {
		cfg.Line = func(string) {}
	}
	if cfg.Data == "" {
		cfg.Data = cfg.Dir
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("trail: %w", err)
	}
	data, err := filepath.Abs(cfg.Data)
	if err != nil {
		return nil, fmt.Errorf("trail: %w", err)
	}
	if cfg.Hook != "" {
		if cfg.Hook, err = filepath.Abs(cfg.Hook); err != nil {
			return nil, fmt.Errorf("trail: %w", err)
		}
	}
	f := &Follower{cfg: cfg, conn: conn, dir: dir, data: data, objects: objects{filepath.Join(data, "objects"), filepath.Join(data, "incoming")}, changed: make(chan struct{}, 1)}
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{{dir, 0o700}, {f.revisions(), 0o755}, {f.objects.dir, 0o700}, {f.objects.incoming, 0o700}} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return nil, fmt.Errorf("trail: %w", err)
		}
	}
	if f.journal, err = readJournal(f.journalPath(), cfg.Device); err != nil {
		return nil, err
	}
	f.publish()
	return f, nil
}

func (f *Follower) journalPath() string { return filepath.Join(f.dir, "journal.json") }
func (f *Follower) revisions() string   { return filepath.Join(f.data, "revisions") }

// Status says how far it is. It may be called from any goroutine.
func (f *Follower) Status() Status { return *f.status.Load() }

// publish publishes the journal's status.
func (f *Follower) publish() {
	s := f.journal.status()
	if was := f.status.Swap(&s); was == nil || was.Revision != s.Revision {
		select {
		case f.changed <- struct{}{}:
		default: // it is told already
		}
	}
}

// Changed gets something whenever another revision runs.
func (f *Follower) Changed() <-chan struct{} { return f.changed }

func (f *Follower) say(format string, args ...any) { f.cfg.Say(fmt.Sprintf(format, args...)) }

// complain says what is in the way, once for as long as it is the same.
func (f *Follower) complain(err error) {
	if line := err.Error(); line != f.complaint {
		f.complaint = line
		f.say("Trail: %s; trying again.", strings.TrimSuffix(line, "."))
	}
}

// Run follows until ctx ends, or the hub does not know this device any more (a
// Refusal).
func (f *Follower) Run(ctx context.Context) error {
	if err := f.stopOrphans(); err != nil {
		return err
	}
	f.collect()
	if f.journal.Begun {
		f.removeFirst()
	}
	wait := newPatience()
	for {
		pause, err := f.next(ctx)
		var no Refusal
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			wait = newPatience()
		case errors.As(err, &no) && !no.Temporary() && (no.HTTPStatus() == http.StatusUnauthorized || no.HTTPStatus() == http.StatusForbidden):
			return err
		default:
			f.complain(err)
			pause = wait.next()
		}
		if pause == 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// next does the next thing that there is to do, and says how long to wait
// after it.
func (f *Follower) next(ctx context.Context) (time.Duration, error) {
	if f.journal.Step != nil {
		return f.advance(ctx)
	}
	if !f.journal.Begun {
		return 0, f.beginTrail(ctx)
	}
	if f.cfg.Hook == "" {
		return jitter(f.cfg.Poll), nil
	}
	// A device whose hook is gone stays on the hub, where it can be mended.
	if err := f.checkHook(); err != nil {
		return 0, err
	}
	accepted, err := f.accept(ctx)
	if err != nil || accepted {
		return 0, err
	}
	return jitter(f.cfg.Poll), nil
}

func (f *Follower) checkHook() error {
	info, err := os.Stat(f.cfg.Hook)
	if err != nil {
		return fmt.Errorf("no revision is taken without the installer hook: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("no revision is taken without the installer hook: %s is no program; make it executable", f.cfg.Hook)
	}
	return nil
}

// emptyState is the first state of a device that has nothing installed yet.
const emptyState = `{"#spec":"pantavisor-service-system@1"}`

// beginTrail makes the trail where there is none.
func (f *Follower) beginTrail(ctx context.Context) error {
	have, err := f.conn.Do(ctx, http.MethodGet, "/trails/", nil, trail.MaxAnswer)
	if err != nil {
		return err
	}
	j := f.journal
	if strings.TrimSpace(string(have)) == "[]" {
		s, err := f.firstState(ctx)
		if err != nil {
			return err
		}
		rev := revision{0, s.sum}
		if err := f.layOut(rev, s); err != nil {
			return err
		}
		// In the journal before the hub has it: whoever is killed in between
		// finds a trail, and knows all the same what runs.
		if j.Current == nil {
			j.Current = &rev
			if err := f.save(j); err != nil {
				return err
			}
		}
		if _, err := f.conn.Do(ctx, http.MethodPost, "/trails/", s.JSON, trail.MaxAnswer); err != nil {
			return err
		}
		f.say("The trail begins: revision 0 has %d file(s).", len(s.files))
	} else if j.Current == nil && f.cfg.First != "" {
		f.say("The hub has a trail of this machine already: the image's first revision is not used.")
	}
	j.Begun = true
	if err := f.save(j); err != nil {
		return err
	}
	f.removeFirst()
	return nil
}

const pending = "/steps?limit=1&progress.status=%7B%22%24in%22%3A%5B%22NEW%22%2C%22QUEUED%22%2C%22DOWNLOADING%22%2C%22SYNCING%22%2C%22INPROGRESS%22%2C%22TESTING%22%5D%7D"

// accept looks for the next step and writes it into the journal.
func (f *Follower) accept(ctx context.Context) (bool, error) {
	j := f.journal
	text, err := f.conn.Do(ctx, http.MethodGet, "/trails/"+f.cfg.Device+pending, nil, trail.MaxAnswer)
	if withdrawn(err) { // the hub has forgotten the trail
		j.Begun = false
		return true, f.save(j)
	}
	if err != nil {
		return false, err
	}
	f.complaint = ""
	next, err := trail.ParsePending(text)
	if err != nil || next == nil {
		return false, err
	}
	s, err := parseState(next.State)
	if err != nil {
		j.Step = &work{revision: revision{Rev: next.Rev}, Phase: ended, Outcome: wontGo, Reason: "This device does not take the revision: " + err.Error() + "."}
		return true, f.save(j)
	}
	rev := revision{next.Rev, s.sum}
	if j.Current != nil && *j.Current == rev {
		j.Step = &work{revision: rev, Phase: ended, Outcome: done, Reason: "It runs already."}
		return true, f.save(j)
	}
	if err := f.keepState(rev, s); err != nil {
		return false, err
	}
	j.Step = &work{revision: rev, Phase: queued}
	message := ""
	if next.Message != "" {
		message = fmt.Sprintf(" (%q)", next.Message)
	}
	f.say("Revision %d is offered%s.", rev.Rev, message)
	return true, f.save(j)
}
