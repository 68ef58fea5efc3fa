package api

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"sync"
	"time"

	"gangway/hub/objects"
	"gangway/hub/store"
)

// getBlob serves a content to whoever has its address. It is never a page:
// whatever its owner says it is, a browser gets a file to save.
func (s *Server) getBlob(w http.ResponseWriter, r *http.Request) error {
	o := callerOf(r).url.object
	// The owner may have lost it since the URL was signed.
	o, err := s.cfg.Store.Object(r.Context(), o.Owner, o.Sum)
	if err != nil {
		return err
	}
	if !o.Stored {
		return store.ErrNotFound
	}
	content, err := s.cfg.Objects.Open(r.Context(), o.Sum)
	if errors.Is(err, objects.ErrNotFound) {
		s.log.Error("the content of an object is gone", "sha256", hex.EncodeToString(o.Sum[:]))
		return store.ErrNotFound
	}
	if err != nil {
		return err
	}
	defer content.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", "private, no-store")
	h.Set("ETag", `"`+hex.EncodeToString(o.Sum[:])+`"`)
	name := mime.FormatMediaType("attachment", map[string]string{"filename": o.Name})
	if name == "" {
		name = "attachment"
	}
	h.Set("Content-Disposition", name)
	rc := http.NewResponseController(w)
	// Every block that is read was preceded by one that the client took.
	http.ServeContent(w, r, "", time.Time{}, struct {
		io.Reader
		io.Seeker
	}{readerFunc(func(p []byte) (int, error) {
		if err := rc.SetWriteDeadline(time.Now().Add(patience)); err != nil {
			return 0, err
		}
		return content.Read(p)
	}), content})
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// patience is how long the hub waits for the next block of an upload or
// download. minSpeed is the mean speed, in bytes a second, below which an
// upload has taken too long.
const (
	patience = 60 * time.Second
	minSpeed = 4 << 10
)

// upload is a PUT under way.
type upload struct {
	body  io.Reader
	rc    *http.ResponseController
	whole int64     // bytes that it takes on the disk
	size  int64     // of those, the bytes that count against the owner's quota while it runs
	end   time.Time // not later than this

	broken error // set by Read: it was the client's side that broke

	mu   sync.Mutex
	over bool      // guarded by mu: another upload took its place
	last time.Time // guarded by mu: when something came last
}

// newUpload is the upload of an object that begins now.
func newUpload(w http.ResponseWriter, body io.Reader, o store.Object) *upload {
	now := time.Now()
	u := &upload{body: body, rc: http.NewResponseController(w), whole: o.Size, last: now}
	// Bounded before it is a time.Duration.
	seconds := min(o.Size, store.MaxObjectSize) / minSpeed
	u.end = now.Add(10 * time.Minute).Add(time.Duration(min(seconds, 365*24*3600)) * time.Second)
	if !o.Stored {
		u.size = o.Size
	}
	return u
}

var errOvertaken = errors.New("hub: a newer upload of the same object took its place")

// Read waits with patience, and remembers whether it was the client's side
// that broke.
func (u *upload) Read(p []byte) (int, error) {
	if err := u.wait(); err != nil {
		u.broken = err
		return 0, err
	}
	n, err := u.body.Read(p)
	if n > 0 {
		u.mu.Lock()
		u.last = time.Now()
		u.mu.Unlock()
	}
	if err != nil && err != io.EOF {
		u.broken = err
	}
	return n, err
}

func (u *upload) wait() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over {
		return errOvertaken
	}
	until := time.Now().Add(patience)
	if until.After(u.end) {
		until = u.end
	}
	return u.rc.SetReadDeadline(until)
}

// giveWay stops the upload if nothing has come for a while: it is most likely
// the other end of a broken connection.
func (u *upload) giveWay(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Sub(u.last) < stalledAfter {
		return false
	}
	u.over = true
	// A failure leaves it to the deadline that was set before.
	_ = u.rc.SetReadDeadline(now)
	return true
}

// Bounds of the uploads of one object by one owner. More than uploadsOfOne at
// once would only fill the disk: others wait for their turn, and take the
// place of one that is stalled.
const (
	uploadsOfOne = 2
	stalledAfter = 3 * time.Second
	turnTimeout  = 2 * time.Minute // how long one waits for its turn
)

var errNoTurn = problem(http.StatusServiceUnavailable, "busy", "Send it again in a moment.", "The same object is being uploaded over other connections.")

// uploads are those under way.
type uploads struct {
	mu      sync.Mutex
	running map[store.Object][]*upload // guarded by mu; the key has Owner and Sum only
	bytes   map[string]int64           // guarded by mu: sizes of what runs, by owner
	ended   chan struct{}              // guarded by mu: closed when one ends, and made again
}

// begin waits for an upload's turn. room is how many bytes the owner may still
// keep: what runs already has taken its part of it.
func (u *uploads) begin(ctx context.Context, key store.Object, one *upload, room int64) (end func(), err error) {
	give := time.Now().Add(turnTimeout)
	for {
		began, ended, err := u.try(key, one, room)
		if err != nil {
			return nil, err
		}
		if began {
			return func() { u.finish(key, one) }, nil
		}
		if time.Now().After(give) {
			return nil, errNoTurn
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ended:
		case <-time.After(stalledAfter / 4): // one may be stalled by then
		}
	}
}

// try begins an upload if it is its turn; else ended is closed when another
// one ends.
func (u *uploads) try(key store.Object, one *upload, room int64) (began bool, ended <-chan struct{}, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.running == nil {
		u.running, u.bytes, u.ended = make(map[store.Object][]*upload), make(map[string]int64), make(chan struct{})
	}
	list, now := u.running[key], time.Now()
	if len(list) >= uploadsOfOne {
		i := slices.IndexFunc(list, func(other *upload) bool { return other.giveWay(now) })
		if i < 0 {
			return false, u.ended, nil
		}
		// Its bytes count until it has ended.
		list = slices.Delete(list, i, i+1)
	}
	if one.size > room-u.bytes[key.Owner] {
		return false, nil, store.ErrQuota
	}
	u.running[key] = append(list, one)
	u.bytes[key.Owner] += one.size
	return true, nil, nil
}

// all is how many bytes the uploads that run will have taken.
func (u *uploads) all() (n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, list := range u.running {
		for _, one := range list {
			n += one.whole
		}
	}
	return n
}

func (u *uploads) finish(key store.Object, one *upload) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if list := slices.DeleteFunc(u.running[key], func(other *upload) bool { return other == one }); len(list) > 0 {
		u.running[key] = list
	} else {
		delete(u.running, key)
	}
	if u.bytes[key.Owner] -= one.size; u.bytes[key.Owner] == 0 {
		delete(u.bytes, key.Owner)
	}
	close(u.ended)
	u.ended = make(chan struct{})
}

// putBlob takes a content. 200 means that it is there, whole, checked and
// durable; anything else that nothing has changed, and that it can be sent
// again, as often as needed while the address is good.
func (s *Server) putBlob(w http.ResponseWriter, r *http.Request) error {
	u := callerOf(r).url
	key := u.object
	o, err := s.beginUpload(r.Context(), key)
	if err != nil {
		return err
	}
	// Some clients send an empty file in chunks. Whatever the length says, size
	// and hash decide.
	if r.ContentLength >= 0 && r.ContentLength != o.Size {
		return problem(http.StatusBadRequest, "object-size", "Announce the object again with its size, or send the right one.", "The upload has %d bytes, and %d were announced.", r.ContentLength, o.Size)
	}
	used, err := s.cfg.Store.Usage(r.Context(), o.Owner)
	if err != nil {
		return err
	}
	if !s.space.fits(o.Size, s.uploads.all()) {
		return errStorage
	}
	one := newUpload(w, r.Body, o)
	end, err := s.uploads.begin(r.Context(), key, one, s.cfg.ObjectQuota-used)
	if err != nil {
		_ = one.rc.SetWriteDeadline(time.Now().Add(patience)) // it may have waited long
		return trailProblem(err)
	}
	defer end()
	err = s.cfg.Objects.Put(r.Context(), o.Sum, o.Size, one)
	// The server's own deadline may have passed meanwhile. What is left of a
	// broken body is not waited for.
	_ = one.rc.SetWriteDeadline(time.Now().Add(patience))
	if one.broken != nil {
		_ = one.rc.SetReadDeadline(time.Now())
		w.Header().Set("Connection", "close")
	}
	switch {
	case errors.Is(err, objects.ErrSum), errors.Is(err, objects.ErrSize):
		return problem(http.StatusBadRequest, "object-sum", "Send the content that was announced.", "What came is not the content that was announced: its size or its SHA-256 differs.")
	case one.broken != nil:
		return problem(http.StatusBadRequest, "upload-broken", "Send it again.", "The upload did not come to its end.")
	case err != nil:
		return err
	}
	// An upload may take long: who has meanwhile ended leaves nothing.
	if ok, err := s.checkCredential(r.Context(), u.by); err != nil || !ok {
		return cmp.Or(err, error(errAddressRevoked))
	}
	switch err := s.cfg.Store.FinishUpload(r.Context(), o.Owner, o.Sum, o.Size, s.cfg.ObjectQuota, s.cfg.Now()); {
	case errors.Is(err, store.ErrStatus), errors.Is(err, store.ErrCondemned):
		return problem(http.StatusConflict, "announced-anew", "Announce it with its real size, and send it again.", "The object was announced anew, with another size, during the upload.")
	case err != nil:
		return trailProblem(err)
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

// beginUpload waits while an old content with the same hash is being removed.
func (s *Server) beginUpload(ctx context.Context, o store.Object) (store.Object, error) {
	give := time.Now().Add(10 * time.Second)
	for {
		found, err := s.cfg.Store.BeginUpload(ctx, o.Owner, o.Sum, s.cfg.Now())
		if !errors.Is(err, store.ErrCondemned) {
			return found, err
		}
		if time.Now().After(give) {
			return store.Object{}, problem(http.StatusServiceUnavailable, "busy", "Send it again in a moment.", "An old content with the same hash is being removed.")
		}
		select {
		case <-ctx.Done():
			return store.Object{}, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
