// Package revision installs the revisions of a device's trail. A Follower accepts the next revision
// that the hub offers, downloads the objects that the revision's state names, and writes them to a
// folder. It calls a program, the hook, to install and test the revision, and reports the
// revision's status to the hub. If the test fails, the Follower rolls the revision back.
//
// A journal on the disk records each action before the action begins. So if the process is killed
// or the power fails, at whatever point, the Follower then continues with the same action, tests
// the revision again, or rolls it back. docs/agent.md describes the hook. This package does not
// know what a revision contains.
//
// If the owner's keys are pinned (Config.Keys), the Follower installs only revisions that the owner
// has signed (package wire/trail/sig), and refuses every revision that is older than one that it
// has accepted.
//
// The hub is not trusted. Its messages are parsed strictly and their size is limited (package
// wire/trail). No name in a state can refer to a file outside the revision's folder. Each object
// must have the SHA-256 that the state names.
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
	"gangway/wire/trail/sig"
)

// Conn is the device's connection to its hub.
type Conn interface {
	// Do sends a request as the device and returns the body of an answer with the status 200, of at
	// most `limit` bytes. An answer with another status is a Refusal.
	Do(ctx context.Context, method, path string, body []byte, limit int64) ([]byte, error)
	// Download gets an object's bytes from `offset` to the object's end. It sends no client
	// certificate, because everyone who knows the secret path may get the object. The answer may
	// have any status and a body of any size.
	Download(ctx context.Context, path string, offset int64, etag string) (*http.Response, error)
	// Upload uploads an object of `size` bytes. It sends no client certificate, because everyone
	// who knows the secret path may upload the object. If the hub has a part of the object from an
	// earlier upload, only the rest is sent. If the hub refuses the upload, the error is a Refusal.
	Upload(ctx context.Context, path string, content io.ReadSeeker, size int64) error
}

// Refusal is the error for an answer of the hub with a status other than 200.
type Refusal interface {
	error
	HTTPStatus() int
	// Temporary reports whether the same request may succeed later.
	Temporary() bool
}

// Config configures a Follower.
type Config struct {
	// Dir is the path of the journal's folder. The folder is created if missing.
	Dir string
	// Data is the path of the folder for objects and revisions. The folder is created if missing.
	// Every user who can enter this folder can read its files. Default: Dir.
	Data string
	// Device is the device's id.
	Device string
	// Hook is the path of the program that installs, tests and rolls back revisions. If Hook is
	// empty, the follower accepts no revision.
	Hook string
	// Keys are the owner's keys. The follower installs only revisions that one of these keys has
	// signed, and refuses a revision whose sequence number is smaller than that of an accepted
	// revision. If Keys is nil, revisions need no signature.
	Keys *sig.Keys
	// First is a folder with the first revision, for a device that has no trail yet. It contains
	// state.json, and the folder `objects` with files named by SHA-256. The folder is removed when
	// the trail exists. If First is empty or the folder is missing, the first revision is empty.
	First string
	// Poll is the interval between checks for a new revision. Default: 30
	// seconds.
	Poll time.Duration
	// HookTimeout is the time limit for each call of the hook. Default: 30 minutes.
	HookTimeout time.Duration
	// HubWithin is the time limit for reaching the hub after a revision passed the hook's test. If
	// the device does not reach the hub in this time, the revision is rolled back. Default: 10
	// minutes. If HubWithin is negative, the follower does not check this.
	HubWithin time.Duration
	// RebootWithin is the time limit for a reboot of the machine. The time begins when the agent
	// calls the hook to reboot. Default: 15 minutes.
	RebootWithin time.Duration
	// Parallel is the number of parallel downloads. Default: 4.
	Parallel int
	// Reserve is the space that must stay free on the disk, in bytes. Default: 64 MiB.
	Reserve int64
	// BootID is the path of a file whose content changes with each boot. Default: Linux's boot_id.
	BootID string
	// Say, if set, is called with a sentence about each step. Line, if set, is called with each
	// line that the hook prints.
	Say  func(sentence string)
	Line func(line string)

	waitDelay time.Duration // how long a call waits for the hook's output after the hook has ended; default: hookWaitDelay
}

// Status is a follower's status, for reports.
type Status struct {
	Revision string // number of the running revision; empty: unknown
	Phase    string // "idle", or the phase of the installation
	Step     string // number of the revision that is being installed; empty: none
}

// Follower follows one trail.
type Follower struct {
	cfg       Config
	conn      Conn
	dir       string
	data      string
	objects   objects
	journal   journal
	owner     *owner // nil: no keys are pinned
	status    atomic.Pointer[Status]
	changed   chan struct{}
	complaint string // the last error that `complain` reported

	hashed       map[string]bool // objects that were hashed and found correct since the revision was accepted
	phase        string          // the phase that this process entered at the time `since`
	since        time.Time       // when this process entered the phase; monotonic
	rebootCalled bool            // this process has called the hook to reboot
}

// Open reads the journal and returns a Follower, which does nothing until Run is called.
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
	set(&cfg.waitDelay, hookWaitDelay)
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
	if f.owner, err = openOwner(dir, cfg.Device, cfg.Keys); err != nil {
		return nil, err
	}
	f.publish()
	return f, nil
}

func (f *Follower) journalPath() string { return filepath.Join(f.dir, "journal.json") }
func (f *Follower) revisions() string   { return filepath.Join(f.data, "revisions") }

// Status returns the current status. It is safe for concurrent use.
func (f *Follower) Status() Status { return *f.status.Load() }

// publish makes Status return the status that is now in the journal. If the running revision has
// changed, publish sends a value on the channel that Changed returns.
func (f *Follower) publish() {
	s := f.journal.status()
	if was := f.status.Swap(&s); was == nil || was.Revision != s.Revision {
		select {
		case f.changed <- struct{}{}:
		default: // a change is already pending
		}
	}
}

// Changed returns a channel that gets a value when the running revision has changed.
func (f *Follower) Changed() <-chan struct{} { return f.changed }

func (f *Follower) say(format string, args ...any) { f.cfg.Say(fmt.Sprintf(format, args...)) }

// complain reports that the Follower cannot follow the trail. If the error is the same as the last
// error, complain reports nothing.
func (f *Follower) complain(err error) {
	if line := err.Error(); line != f.complaint {
		f.complaint = line
		f.say("Following the trail failed: %s. Retrying.", strings.TrimSuffix(line, "."))
	}
}

// Run follows the trail until ctx ends, or until the hub permanently refuses the device. In the
// second case, the error is a Refusal.
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

// The method `next` does the follower's next action, and returns how long to wait after that
// action.
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
	// If the hook is missing, the device accepts no revision. It stays connected, so that the owner
	// can repair the device.
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
		return fmt.Errorf("no revision is accepted, because the installer hook is missing: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("no revision is accepted, because the installer hook %s is not an executable file; run 'chmod +x' on it", f.cfg.Hook)
	}
	return nil
}

// emptyState is the first state of a device without a first revision.
const emptyState = `{"#spec":"pantavisor-service-system@1"}`

// If the hub has no trail for the device, beginTrail creates a trail at the hub.
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
		// Save the journal before the request that creates the trail, so that the journal names the
		// running revision even if the agent is killed right after the request.
		if j.Current == nil {
			j.Current = &rev
			if err := f.save(j); err != nil {
				return err
			}
		}
		if _, err := f.conn.Do(ctx, http.MethodPost, "/trails/", s.posted.JSON, trail.MaxAnswer); err != nil {
			return err
		}
		f.say("Created the trail: revision 0 has %d file(s).", len(s.files))
	} else if j.Current == nil && f.cfg.First != "" {
		f.say("The hub already has a trail of this machine, so the image's first revision is not used.")
	}
	j.Begun = true
	if err := f.save(j); err != nil {
		return err
	}
	f.removeFirst()
	return nil
}

const pending = "/steps?limit=1&progress.status=%7B%22%24in%22%3A%5B%22NEW%22%2C%22QUEUED%22%2C%22DOWNLOADING%22%2C%22SYNCING%22%2C%22INPROGRESS%22%2C%22TESTING%22%5D%7D"

// accept asks the hub for the next revision and records that revision in the journal. If there is
// no next revision, accept returns false.
func (f *Follower) accept(ctx context.Context) (bool, error) {
	j := f.journal
	text, err := f.conn.Do(ctx, http.MethodGet, "/trails/"+f.cfg.Device+pending, nil, trail.MaxAnswer)
	if withdrawn(err) { // the hub has lost the trail
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
	s, signed, err := f.owner.parse(next.State)
	if errors.Is(err, errDisk) {
		return false, err
	}
	if err != nil {
		j.Step = &work{revision: revision{Rev: next.Rev}, Phase: ended, Outcome: wontGo, Reason: "This device refuses the revision: " + err.Error() + "."}
		return true, f.save(j)
	}
	if err := f.owner.accept(s, signed); err != nil {
		return false, err
	}
	rev := revision{next.Rev, s.sum}
	if j.Current != nil && *j.Current == rev {
		j.Step = &work{revision: rev, Phase: ended, Outcome: done, Reason: "It already runs."}
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
	f.say("The hub offers revision %d%s.", rev.Rev, message)
	return true, f.save(j)
}
