package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"gangway/hub/pki/cakey"
	"gangway/hub/store"
)

// space watches the free space of the data folder's disk. On a full disk, people must still be able
// to sign in, to end sessions, and to delete devices and objects. So the hub has three levels,
// which depend on the free space:
//
//	roomy   everything is accepted
//	low     less than the reserve is free: uploads are refused (507)
//	scarce  less than half the reserve is free: only sign-ins, and requests that end or remove
//	        something, are accepted (507 for others)
//
// Other programs may fill the disk even when the hub accepts nothing more. For this case, the hub
// keeps a ballast file, which only takes up space. The hub removes the file when hardly any space
// is left, and makes it again when the level is roomy.
type space struct {
	dir string // empty: the disk is not watched
	log *slog.Logger
	// usage returns the free space and the size of the file system, in bytes.
	usage func(dir string) (free, size int64, err error)

	mu      sync.Mutex
	looked  time.Time // guarded by mu: time of the last check
	free    int64     // guarded by mu
	reserve int64     // guarded by mu
	level   level     // guarded by mu
	refused int64     // guarded by mu: size of the upload that was refused last; 0: none
}

type level int

const (
	roomy level = iota
	low
	scarce
)

const (
	// maxReserve is the largest reserve, in bytes. On a small file system, the reserve is a
	// twentieth of the file system's size.
	maxReserve = 1 << 30
	// maxBallast is the largest size of the ballast file, in bytes. With a small reserve, the file
	// has an eighth of the reserve's size.
	maxBallast  = 16 << 20
	ballastFile = "ballast"
	lookEvery   = time.Second
)

var errStorage = problem(http.StatusInsufficientStorage, "storage-full", "Try again later, or ask the hub's operator to make room on the hub's disk.", "The hub's disk is nearly full, so the hub cannot store anything new.")

func newSpace(dir string, log *slog.Logger) *space {
	return &space{dir: dir, log: log, usage: fileSystem}
}

func fileSystem(dir string) (free, size int64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	return int64(s.Bavail) * s.Bsize, int64(s.Blocks) * s.Bsize, nil
}

// currentLevel returns the present level or, if the free space cannot be read, the last known
// level. If the disk is in fact full, the next write fails with an error that says so.
func (s *space) currentLevel() level {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh(false)
	return s.level
}

// hasRoomFor reports whether the reserve would still be free after an upload of `size` bytes and
// after the running uploads, which need `others` more bytes.
func (s *space) hasRoomFor(size, others int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fitsLocked(size, others) {
		return true
	}
	s.refused = size
	return false
}

// The method `fits` is like hasRoomFor, but for files that are not uploads, so it has no effect on
// the result of the method `degraded`.
func (s *space) fits(size, others int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fitsLocked(size, others)
}

// fitsLocked is like the method `fits`, but the caller has locked s.mu.
func (s *space) fitsLocked(size, others int64) bool {
	s.refresh(true) // many uploads may start within a second
	return s.dir == "" || s.level == roomy && size <= s.free-s.reserve-others
}

// degraded reports whether the hub refuses uploads, be it all uploads or only those of at least the
// size of the upload that was refused last.
func (s *space) degraded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.level == roomy && s.refused <= s.free-s.reserve {
		s.refused = 0
	}
	return s.level != roomy || s.refused > 0
}

// wasFull updates the level after a write failed because the disk was full.
func (s *space) wasFull() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh(true)
}

// refresh updates the level, at most once a second unless `must` is true. The caller has locked
// s.mu.
func (s *space) refresh(must bool) {
	if s.dir == "" || !must && time.Since(s.looked) < lookEvery {
		return
	}
	s.looked = time.Now()
	free, size, err := s.usage(s.dir)
	if err != nil {
		s.log.Error("reading the free disk space", "dir", s.dir, "err", err)
		return
	}
	s.free, s.reserve = free, min(size/20, maxReserve)
	before := s.level
	switch {
	case free < s.reserve/2:
		s.level = scarce
	case free < s.reserve:
		s.level = low
	default:
		s.level = roomy
	}
	if before != s.level {
		s.log.Warn("disk space", "free", free, "reserve", s.reserve, "level", s.level.String())
	}
	s.updateBallast()
}

func (l level) String() string { return [...]string{"roomy", "low", "scarce"}[l] }

// updateBallast removes the ballast file if less space is free than the file's size, and makes the
// file if the level is roomy. The caller has locked s.mu.
func (s *space) updateBallast() {
	path, size := filepath.Join(s.dir, ballastFile), min(s.reserve/8, maxBallast)
	_, err := os.Lstat(path)
	switch {
	case err == nil && s.free < size:
		if err := os.Remove(path); err != nil {
			s.log.Error("removing the ballast file", "err", err)
		}
	case errors.Is(err, os.ErrNotExist) && s.level == roomy && size > 0:
		if err := allocateFile(path, size); err != nil {
			s.log.Error("making the ballast file", "err", err)
			os.Remove(path)
		}
	}
}

// allocateFile makes a file of `size` bytes and allocates its blocks, so that it occupies the disk.
func allocateFile(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(syscall.Fallocate(int(f.Fd()), 0, 0, size), f.Close())
}

// essential lists the routes that write to the disk and that the hub serves even when disk space is
// scarce, as it does every DELETE: people must be able to sign in, to end sessions, and to delete
// devices and objects.
var essential = map[string]bool{
	"POST /auth/login": true, "POST /sign-in": true, "POST /auth/logout": true, "POST /sign-out": true,
	"POST /auth/accounts/{id}/disable": true, "POST /auth/accounts/{id}/delete": true,
	"POST /devices/{id}/deny":              true,
	"POST /ui/onboard/tokens/{id}/disable": true, "POST /ui/onboard/tokens/{id}/delete": true,
	"POST /ui/devices/{id}/delete": true, "POST /ui/devices/{id}/revisions/{rev}/cancel": true, "POST /ui/views/delete": true,
	"POST /ui/settings/sessions": true, "POST /ui/settings/api-tokens/revoke": true, "POST /ui/settings/disable": true, "POST /ui/settings/delete": true,
	"POST /ui/trust/eks/remove": true, "POST /ui/trust/eks/clear": true, "POST /ui/boots/key/{id}": true, "POST /ui/boots/manifest/{id}": true,
}

// essentialPatience is how long an essential request waits for a busy database.
const essentialPatience = 40 * time.Second

// checkDisk returns an error if disk space is scarce and the request is not essential. It gives an
// essential request a context in which writes wait longer for a busy database, and returns any
// other request unchanged.
func (s *Server) checkDisk(rt *route, r *http.Request) (*http.Request, error) {
	switch {
	case rt.method == http.MethodGet:
	case rt.method == http.MethodDelete, essential[rt.name()]:
		return r.WithContext(store.WithWriteTimeout(r.Context(), essentialPatience)), nil
	case s.space.currentLevel() == scarce:
		return r, errStorage
	}
	return r, nil
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Status string `json:"status"` // "ready", or "degraded": some requests are refused
	// Refused is a sentence that says which requests the hub refuses.
	Refused string `json:"refused,omitempty"`
}

// readyPatience is how long readyz waits for the database.
const readyPatience = 2 * time.Second

// readyz checks the database and the disk. If the hub cannot serve most requests or is about to
// stop, it answers 503, so that a load balancer sends requests to another replica.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) error {
	if s.stopping.Load() {
		return errStopping
	}
	ctx, cancel := context.WithTimeout(store.WithWriteTimeout(r.Context(), readyPatience), readyPatience)
	defer cancel()
	if err := s.cfg.Store.Ping(ctx); err != nil {
		s.log.Error("not ready", "err", err)
		reason := "The hub's database does not answer."
		if errors.Is(err, store.ErrBusy) || errors.Is(err, context.DeadlineExceeded) {
			reason = "The hub's database is too slow, or locked by another program."
		}
		return problem(http.StatusServiceUnavailable, "not-ready", "Check that the database runs, and that the hub can use it. The hub's log names the cause.", "%s", reason)
	}
	if s.space.currentLevel() == scarce {
		return problem(http.StatusServiceUnavailable, "not-ready", "Make room on the disk of the hub's data folder.", "The hub's disk is full. The hub accepts only sign-ins, and requests that end or remove something.")
	}
	state := Readiness{Status: "ready"}
	if s.space.degraded() {
		state = Readiness{"degraded", "Uploads are refused: the hub's disk is nearly full."}
	}
	writeJSON(w, http.StatusOK, state)
	return nil
}

// isDiskFull reports whether an error means that a disk, or a disk quota, is full.
func isDiskFull(err error) bool {
	return errors.Is(err, store.ErrNoSpace) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

var errStoreBusy = problem(http.StatusServiceUnavailable, "store-busy", "Try again in a few seconds.", "The hub's database is busy. Nothing was changed.")

var errKeyUnavailable = problem(http.StatusServiceUnavailable, "ca-unavailable", "Try again after the time in the header Retry-After; the agent does this by itself. The hub's log names the cause.", "The hub cannot issue certificates at the moment.")

// temporaryProblem returns the problem that describes a temporary failure of the store or of a CA's
// key. It returns nil for other errors.
func (s *Server) temporaryProblem(r *http.Request, err error) *Problem {
	switch {
	case isDiskFull(err):
		s.space.wasFull()
		s.metrics.errors.WithLabelValues(fullError).Inc()
		s.log.Error("the disk is full", "route", routeOf(r), "err", err)
		return errStorage
	case errors.Is(err, store.ErrBusy):
		s.metrics.errors.WithLabelValues(busyError).Inc()
		s.log.Error("the database is busy", "route", routeOf(r), "err", err)
		return errStoreBusy
	case errors.Is(err, cakey.ErrUnavailable):
		s.metrics.errors.WithLabelValues(internalError).Inc()
		s.log.Error("the key of a CA cannot be used", "route", routeOf(r), "err", err)
		return errKeyUnavailable
	}
	return nil
}
