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

	"gangway/hub/store"
)

// A full disk must not keep people from signing in, and from ending what must
// end. So there are three levels, by what is free in the data folder:
//
//	roomy  all is taken
//	low    less than the reserve: no uploads (507)
//	scarce less than half of it: nothing but sign-ins, and what ends or removes
//	       something (507)
//
// Other programs may fill the disk beyond that. For then there is the ballast:
// a file that is removed when little is left, and made again when there is room.
type space struct {
	dir string // empty: nothing is watched
	log *slog.Logger
	// usage tells what is free and the size of the file system, in bytes.
	usage func(dir string) (free, size int64, err error)

	mu      sync.Mutex
	looked  time.Time // guarded by mu: when it was looked at last
	free    int64     // guarded by mu
	reserve int64     // guarded by mu
	level   level     // guarded by mu
	refused int64     // guarded by mu: size of an upload that found no room
}

type level int

const (
	roomy level = iota
	low
	scarce
)

const (
	// maxReserve bounds the reserve, which is a twentieth of the file system.
	maxReserve = 1 << 30
	// maxBallast bounds the ballast, which is an eighth of the reserve.
	maxBallast  = 16 << 20
	ballastFile = "ballast"
	lookEvery   = time.Second
)

var errStorage = problem(http.StatusInsufficientStorage, "storage-full", "Try again later; the operator makes room on the hub's disk.", "The hub's disk is nearly full, so it takes nothing new.")

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

// now is the level. A folder that cannot be looked at is taken to be roomy:
// writing to it says what is wrong.
func (s *space) now() level {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look(false)
	return s.level
}

// fits reports whether an upload of size bytes leaves the reserve, beside the
// bytes that other uploads will need.
func (s *space) fits(size, others int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look(true) // many uploads may come within a second
	if s.dir == "" || s.level == roomy && size <= s.free-s.reserve-others {
		return true
	}
	s.refused = size
	return false
}

// degraded reports whether uploads are refused: all of them, or one of the size
// that was refused last.
func (s *space) degraded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.level == roomy && s.refused <= s.free-s.reserve {
		s.refused = 0
	}
	return s.level != roomy || s.refused > 0
}

// full is told when a write found no room, whatever was seen before.
func (s *space) full() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look(true)
}

// look updates the level, at most once a second unless it must. s.mu is held.
func (s *space) look(must bool) {
	if s.dir == "" || !must && time.Since(s.looked) < lookEvery {
		return
	}
	s.looked = time.Now()
	free, size, err := s.usage(s.dir)
	if err != nil {
		s.log.Error("looking at the disk", "dir", s.dir, "err", err)
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
	s.ballast()
}

func (l level) String() string { return [...]string{"roomy", "low", "scarce"}[l] }

// ballast removes the ballast when what is free is less than it, and makes it
// when there is plenty. s.mu is held.
func (s *space) ballast() {
	path, size := filepath.Join(s.dir, ballastFile), min(s.reserve/8, maxBallast)
	_, err := os.Lstat(path)
	switch {
	case err == nil && s.free < size:
		if err := os.Remove(path); err != nil {
			s.log.Error("giving up the ballast", "err", err)
		}
	case errors.Is(err, os.ErrNotExist) && s.level == roomy && size > 0:
		if err := fill(path, size); err != nil {
			s.log.Error("making the ballast", "err", err)
			os.Remove(path)
		}
	}
}

// fill makes a file whose bytes are really on the disk.
func fill(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(syscall.Fallocate(int(f.Fd()), 0, 0, size), f.Close())
}

// essential are the routes that write and go on when the disk is scarce, beside
// all of method DELETE: people sign in, and end or remove what must not go on.
var essential = map[string]bool{
	"POST /auth/login": true, "POST /sign-in": true, "POST /auth/logout": true, "POST /sign-out": true,
	"POST /devices/{id}/deny": true,
}

// essentialPatience is how long what is essential waits for a busy database.
const essentialPatience = 40 * time.Second

// reserveDisk refuses a request that a scarce disk has no room for, and lets an essential one
// wait longer for a busy database.
func (s *Server) reserveDisk(rt *route, r *http.Request) (*http.Request, error) {
	switch {
	case rt.method == http.MethodGet:
	case rt.method == http.MethodDelete, essential[rt.name()]:
		return r.WithContext(store.Patient(r.Context(), essentialPatience)), nil
	case s.space.now() == scarce:
		return r, errStorage
	}
	return r, nil
}

// Readiness is what /readyz answers.
type Readiness struct {
	Status string `json:"status"` // "ready", or "degraded": something is refused
	// Refused says what, in a sentence.
	Refused string `json:"refused,omitempty"`
}

// readyPatience is how long readyz waits for the database.
const readyPatience = 2 * time.Second

// readyz asks the store and the disk. 503 is for what makes the hub useless: a
// proxy then sends its clients elsewhere.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(store.Patient(r.Context(), readyPatience), readyPatience)
	defer cancel()
	if err := s.cfg.Store.Ping(ctx); err != nil {
		s.log.Error("not ready", "err", err)
		reason := "The hub's store does not answer."
		if errors.Is(err, store.ErrBusy) || errors.Is(err, context.DeadlineExceeded) {
			reason = "The hub's database is locked by another program, or too slow."
		}
		return problem(http.StatusServiceUnavailable, "not-ready", "The operator finds the cause in the hub's log.", "%s", reason)
	}
	if s.space.now() == scarce {
		return problem(http.StatusServiceUnavailable, "not-ready", "The operator makes room on the disk of the hub's data folder.", "The hub's disk is full: only sign-ins, and what ends or removes something, are taken.")
	}
	state := Readiness{Status: "ready"}
	if s.space.degraded() {
		state = Readiness{"degraded", "Uploads: the hub's disk is nearly full."}
	}
	writeJSON(w, http.StatusOK, state)
	return nil
}

// isDiskFull tells whether an error is a disk's that is full.
func isDiskFull(err error) bool {
	return errors.Is(err, store.ErrNoSpace) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

var errStoreBusy = problem(http.StatusServiceUnavailable, "store-busy", "Try again in some seconds.", "The hub's database is busy; nothing was changed.")

// trouble maps the store's passing trouble to answers; nil if it is none.
func (s *Server) trouble(r *http.Request, err error) *Problem {
	switch {
	case isDiskFull(err):
		s.space.full()
		s.log.Error("no room on the disk", "method", r.Method, "path", r.URL.Path, "err", err)
		return errStorage
	case errors.Is(err, store.ErrBusy):
		s.log.Error("the database is busy", "method", r.Method, "path", r.URL.Path, "err", err)
		return errStoreBusy
	}
	return nil
}
