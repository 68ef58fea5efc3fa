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

// getBlob serves an object. Whatever MIME type the owner chose, the headers make browsers save the
// object as a file instead of showing it: a page from the hub's address could run scripts against
// the hub.
func (s *Server) getBlob(w http.ResponseWriter, r *http.Request) error {
	o := callerOf(r).url.object
	if callerOf(r).url.uploads {
		return s.showOffset(w, r, o)
	}
	// The owner may have deleted the object since the URL was signed.
	o, err := s.cfg.Store.Object(r.Context(), o.Owner, o.Sum)
	if err != nil {
		return err
	}
	if !o.Stored {
		return store.ErrNotFound
	}
	content, err := s.cfg.Objects.Open(r.Context(), keyOf(o))
	if errors.Is(err, objects.ErrNotFound) {
		s.log.Error("the file of an object is missing; upload the object again", "sha256", hex.EncodeToString(o.Sum[:]))
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
	// Each block gets a new write deadline. A block is read only after the client has received the
	// previous one.
	http.ServeContent(w, r, "", time.Time{}, struct {
		io.Reader
		io.Seeker
	}{readerFunc(func(p []byte) (int, error) {
		if err := rc.SetWriteDeadline(time.Now().Add(blockTimeout)); err != nil {
			return 0, err
		}
		return content.Read(p)
	}), content})
	return nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// blockTimeout is how long the hub waits for the next block of an upload or download. minSpeed is
// the lowest mean speed of an upload, in bytes per second; the hub ends slower uploads.
const (
	blockTimeout = 60 * time.Second
	minSpeed     = 4 << 10
)

// upload is a running upload: one PUT request.
type upload struct {
	body  io.Reader
	rc    *http.ResponseController
	whole int64     // the object's size on the disk, in bytes
	size  int64     // the part of `whole` that counts against the owner's quota while the upload runs
	end   time.Time // the deadline of the whole upload

	broken error // set by Read, if receiving failed

	mu   sync.Mutex
	over bool      // guarded by mu: another upload replaced this upload
	last time.Time // guarded by mu: when data last arrived
}

// newUpload makes an upload that starts now.
func newUpload(w http.ResponseWriter, body io.Reader, o store.Object) *upload {
	now := time.Now()
	u := &upload{body: body, rc: http.NewResponseController(w), whole: o.Size, last: now}
	// Bound the size first, because a large value overflows time.Duration.
	seconds := min(o.Size, store.MaxObjectSize) / minSpeed
	u.end = now.Add(10 * time.Minute).Add(time.Duration(min(seconds, 365*24*3600)) * time.Second)
	if !o.Stored {
		u.size = o.Size
	}
	return u
}

var errOvertaken = errors.New("hub: a newer upload of the same object replaced this upload")

// Read waits up to blockTimeout. It sets u.broken if receiving failed, so that putBlob can
// distinguish this from a failure of the object store.
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
	until := time.Now().Add(blockTimeout)
	if until.After(u.end) {
		until = u.end
	}
	return u.rc.SetReadDeadline(until)
}

// giveWay stops the upload if no data has arrived for stalledAfter, because its connection is
// probably broken. It reports whether it stopped the upload.
func (u *upload) giveWay(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Sub(u.last) < stalledAfter {
		return false
	}
	u.over = true
	// If SetReadDeadline fails, the present deadline ends the upload.
	_ = u.rc.SetReadDeadline(now)
	return true
}

// Limits on the concurrent uploads of one object by one owner. More than uploadsOfOne uploads at a
// time would only fill the disk, so a further upload waits for its turn, or replaces a stalled
// upload.
const (
	uploadsOfOne = 2
	stalledAfter = 3 * time.Second
	turnTimeout  = 2 * time.Minute // how long an upload waits for its turn
)

var errNoTurn = problem(http.StatusServiceUnavailable, "busy", "Send the object again in a few seconds.", "The same object is being uploaded on other connections.")

// uploads are the running uploads.
type uploads struct {
	mu      sync.Mutex
	running map[store.Object][]*upload // guarded by mu; the key has Owner and Sum only
	bytes   map[string]int64           // guarded by mu: sizes of the running uploads, by owner
	ended   chan struct{}              // guarded by mu: closed and replaced when an upload ends
}

// The method `begin` waits for an upload's turn. `room` is the owner's quota in bytes, less the
// bytes that are already stored. The bytes of running uploads are not yet subtracted.
func (u *uploads) begin(ctx context.Context, key store.Object, one *upload, room int64) (end func(), err error) {
	deadline := time.Now().Add(turnTimeout)
	for {
		began, ended, err := u.try(key, one, room)
		if err != nil {
			return nil, err
		}
		if began {
			return func() { u.finish(key, one) }, nil
		}
		if time.Now().After(deadline) {
			return nil, errNoTurn
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ended:
		case <-time.After(stalledAfter / 4): // another upload may have stalled
		}
	}
}

// The method `try` begins an upload if the upload's turn has come. If not, the channel `ended` is
// closed when another upload ends.
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
		// Until the replaced upload has finished, its bytes still count against the owner's quota.
		list = slices.Delete(list, i, i+1)
	}
	if one.size > room-u.bytes[key.Owner] {
		return false, nil, store.ErrQuota
	}
	u.running[key] = append(list, one)
	u.bytes[key.Owner] += one.size
	return true, nil, nil
}

// totalSize is the size of all running uploads, in bytes.
func (u *uploads) totalSize() (n int64) {
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

// putBlob stores an object's file. Status 200 means that the file is complete, verified and
// durable. After any other status nothing has changed, and the client may send the file again until
// the URL expires.
func (s *Server) putBlob(w http.ResponseWriter, r *http.Request) error {
	u := callerOf(r).url
	record := store.Upload{Owner: u.object.Owner, Sum: u.object.Sum, Place: objects.NewPlace()}
	o, err := s.cfg.Store.BeginUpload(r.Context(), record, s.cfg.Now())
	if err != nil {
		return err
	}
	err = s.receive(w, r, o, record, u.by)
	if err != nil {
		s.giveUp(r.Context(), record)
	}
	return err
}

// The method `receive` does the part of putBlob that follows BeginUpload. If it fails, the caller
// ends the upload.
func (s *Server) receive(w http.ResponseWriter, r *http.Request, o store.Object, record store.Upload, by credential) error {
	// Some clients send an empty file in chunks, so the length may be unknown. Objects.Put checks
	// size and hash.
	if r.ContentLength >= 0 && r.ContentLength != o.Size {
		return problem(http.StatusBadRequest, "object-size", "Announce the object again with its size, or send a file of the announced size.", "The upload has %d bytes, but the announced size is %d.", r.ContentLength, o.Size)
	}
	used, err := s.cfg.Store.Usage(r.Context(), o.Owner)
	if err != nil {
		return err
	}
	if !s.space.hasRoomFor(o.Size, s.uploads.totalSize()) {
		return errStorage
	}
	one := newUpload(w, r.Body, o)
	end, err := s.uploads.begin(r.Context(), store.Object{Owner: o.Owner, Sum: o.Sum}, one, s.cfg.ObjectQuota-used)
	if err != nil {
		_ = one.rc.SetWriteDeadline(time.Now().Add(blockTimeout)) // the upload may have waited long for its turn
		return trailProblem(err)
	}
	defer end()
	// The bytes are written even if another account has already stored them, so that the duration
	// of an upload does not reveal this.
	err = s.cfg.Objects.Put(r.Context(), objects.Key{Sum: record.Sum, Place: record.Place}, o.Size, one)
	// The server's own deadline may have passed during the upload, so set a new deadline for the
	// answer. The rest of a broken body is not read.
	_ = one.rc.SetWriteDeadline(time.Now().Add(blockTimeout))
	if one.broken != nil {
		_ = one.rc.SetReadDeadline(time.Now())
		w.Header().Set("Connection", "close")
	}
	switch {
	case errors.Is(err, objects.ErrSum), errors.Is(err, objects.ErrSize):
		return errOtherContent
	case one.broken != nil:
		return problem(http.StatusBadRequest, "upload-broken", "Send the file again.", "The upload ended early.")
	case err != nil:
		return err
	}
	inUse, err := s.finishUpload(r.Context(), o, record, by)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	if !inUse {
		_ = one.rc.Flush() // the client does not wait for the removal
		s.removeBytes(r.Context(), record)
	}
	return nil
}

var errOtherContent = problem(http.StatusBadRequest, "object-sum", "Send the file that was announced.", "The size or the SHA-256 of the upload differs from the announced value.")

// finishUpload records that an upload has stored all bytes of the object `o`. If the credential for
// the upload's URL was revoked during the upload, finishUpload records nothing. If inUse is false,
// no object uses the uploaded bytes, and the caller removes them after it has answered.
func (s *Server) finishUpload(ctx context.Context, o store.Object, record store.Upload, by credential) (inUse bool, err error) {
	if ok, err := s.checkCredential(ctx, by); err != nil || !ok {
		return false, cmp.Or(err, error(errURLRevoked))
	}
	// If another owner has the object, check whether the object's bytes still exist. If they are
	// lost, this upload replaces them. If no other owner has the object, check whether the bytes of
	// this upload exist, but only so that both cases take equally long: otherwise a client could
	// tell from the duration of the answer whether another owner has the object.
	at, lost := cmp.Or(o.Place, record.Place), ""
	if _, err := s.cfg.Objects.Stat(ctx, objects.Key{Sum: o.Sum, Place: at}); errors.Is(err, objects.ErrNotFound) {
		lost = at
	} else if err != nil {
		return false, err
	}
	inUse, err = s.cfg.Store.FinishUpload(ctx, record, lost, o.Size, s.cfg.ObjectQuota, s.cfg.Now())
	if errors.Is(err, store.ErrStatus) {
		return false, problem(http.StatusConflict, "announced-anew", "Announce the object with its real size, and send the file again.", "During the upload, the object was announced again with another size.")
	}
	if err != nil {
		return false, trailProblem(err)
	}
	return inUse, nil
}

// cleanUp bounds how long the hub tries to remove the bytes of a failed upload. If the hub cannot
// remove the bytes in this time, Collect removes them later.
const cleanUp = 10 * time.Second

// giveUp ends an upload that failed, and removes its bytes.
func (s *Server) giveUp(ctx context.Context, record store.Upload) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	if err := s.cfg.Store.EndUpload(ctx, record.Place); err != nil {
		s.log.Warn("could not end an upload; the upload expires later", "err", err)
		return
	}
	s.removeBytes(ctx, record)
}

// removeBytes removes the bytes of an upload that has ended. It first asks the store whether an
// object uses these bytes, because the upload may have succeeded although the store returned an
// error.
func (s *Server) removeBytes(ctx context.Context, record store.Upload) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	unneeded, err := s.cfg.Store.RemoveContent(ctx, record.Sum, record.Place)
	if err == nil && unneeded {
		err = s.cfg.Objects.Delete(ctx, objects.Key{Sum: record.Sum, Place: record.Place})
	}
	if err != nil {
		s.log.Warn("could not remove the bytes of an upload; the hub tries again later", "err", err)
	}
}
