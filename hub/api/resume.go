package api

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"gangway/hub/objects"
	"gangway/hub/store"
)

// A client can upload an object piece by piece, perhaps over several connections. The hub supports
// the core of the protocol tus 1.0.0 (https://tus.io/protocols/resumable-upload): HEAD on the
// upload's signed URL says how many bytes the hub has, and PATCH sends the bytes that follow. POST
// /objects/ replaces the creation request of tus. The hub stores only whole parts
// (objects.PartSize), so after an interruption, it may lack up to one part of the bytes that the
// client has sent.
const (
	tusHeader    = "Tus-Resumable"
	tusVersion   = "1.0.0"
	offsetHeader = "Upload-Offset"
	lengthHeader = "Upload-Length"

	// maxPartials is the largest number of unfinished uploads that one owner may have. Their sizes
	// count against the owner's quota.
	maxPartials = 64
)

var (
	errTooManyPartials = problem(http.StatusRequestEntityTooLarge, "too-many-uploads", "Finish the other uploads, or wait a day until they expire.", "The account has %d unfinished uploads.", maxPartials)
	errPartsGone       = problem(http.StatusConflict, "upload-gone", "Send the object again, from its start.", "The hub no longer has the parts of the upload.")
)

// partial returns an owner's unfinished upload of an object, and the object's record. The upload's
// Place is empty if there is no unfinished upload with the size in the record.
func (s *Server) partial(ctx context.Context, of store.Object) (store.PartialUpload, store.Object, error) {
	p, o, err := s.cfg.Store.Partial(ctx, of.Owner, of.Sum)
	if err != nil {
		return p, o, err
	}
	if p.Place == "" && o.Stored {
		p.Received = o.Size
	}
	if p.Place != "" && p.Size != o.Size {
		// Meanwhile, the object was announced again, with another size.
		if err := s.abandon(ctx, p); err != nil {
			return p, o, err
		}
		p = store.PartialUpload{Upload: store.Upload{Owner: o.Owner, Sum: o.Sum}}
	}
	return p, o, nil
}

// showOffset answers HEAD on a signed URL for uploads.
func (s *Server) showOffset(w http.ResponseWriter, r *http.Request, of store.Object) error {
	p, o, err := s.partial(r.Context(), of)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set(tusHeader, tusVersion)
	h.Set(offsetHeader, strconv.FormatInt(p.Received, 10))
	h.Set(lengthHeader, strconv.FormatInt(o.Size, 10))
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	return nil
}

// appendBlob stores further bytes of an object. Status 204 means that the bytes up to the answer's
// Upload-Offset are durable. If these are all bytes, the object is complete, verified and durable,
// as after a PUT.
func (s *Server) appendBlob(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set(tusHeader, tusVersion)
	offset, err := strconv.ParseInt(r.Header.Get(offsetHeader), 10, 64)
	if err != nil || offset < 0 {
		return problem(http.StatusBadRequest, "upload-offset", "Send the number that the answer to HEAD has in this header.", "The header %s is not a number of bytes.", offsetHeader)
	}
	u := callerOf(r).url
	p, o, err := s.partial(r.Context(), u.object)
	if err != nil {
		return err
	}
	left := o.Size - offset
	switch {
	case o.Size == 0:
		return problem(http.StatusBadRequest, "object-size", "Send an empty object with PUT.", "An empty object has no parts.")
	case offset != p.Received:
		return otherOffset(w, p.Received)
	case r.ContentLength > left:
		return problem(http.StatusBadRequest, "object-size", "Announce the object again with its size, or send fewer bytes.", "The upload has more bytes than the announced size, %d.", o.Size)
	case p.Place == "" && o.Stored:
		return sendOffset(w, offset)
	}
	// If the objects are in a folder, CompleteParts copies the parts, so the disk needs room for
	// both the parts and the object.
	if !s.space.hasRoomFor(o.Size+left, s.uploads.totalSize()) {
		return errStorage
	}
	if p.Place == "" {
		if p, err = s.beginPartial(r.Context(), o); err != nil {
			return err
		}
	}
	one := newUpload(w, r.Body, o)
	one.size = 0 // the store has counted the size
	end, err := s.uploads.begin(r.Context(), store.Object{Owner: o.Owner, Sum: o.Sum}, one, math.MaxInt64)
	if err != nil {
		_ = one.rc.SetWriteDeadline(time.Now().Add(blockTimeout)) // the upload may have waited long for its turn
		return err
	}
	defer end()
	err = s.receiveParts(r.Context(), &p, one)
	// The write deadline of the http.Server may have passed during the upload.
	_ = one.rc.SetWriteDeadline(time.Now().Add(blockTimeout))
	if one.broken != nil {
		_ = one.rc.SetReadDeadline(time.Now())
		w.Header().Set("Connection", "close")
	}
	switch {
	case one.broken != nil:
		return problem(http.StatusBadRequest, "upload-broken", "Ask with HEAD for the offset, and send the rest.", "The upload ended early.")
	case errors.Is(err, store.ErrStatus):
		// Another connection has sent these parts, or has finished the upload.
		return problem(http.StatusConflict, "upload-offset", "Ask with HEAD for the offset, and send the rest.", "Another connection has sent a part of the object.")
	case errors.Is(err, objects.ErrNotFound):
		return cmp.Or(s.abandon(r.Context(), p), error(errPartsGone))
	case errors.Is(err, io.EOF):
		return sendOffset(w, p.Received)
	case err != nil:
		return err
	}
	return s.complete(w, r, p, o, u.by, one)
}

func otherOffset(w http.ResponseWriter, offset int64) error {
	w.Header().Set(offsetHeader, strconv.FormatInt(offset, 10))
	return problem(http.StatusConflict, "upload-offset", "Send the bytes from this number on.", "The hub has %d bytes of the object.", offset)
}

func sendOffset(w http.ResponseWriter, offset int64) error {
	w.Header().Set(offsetHeader, strconv.FormatInt(offset, 10))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// beginPartial begins an upload that may be sent in several requests.
func (s *Server) beginPartial(ctx context.Context, o store.Object) (store.PartialUpload, error) {
	p := store.PartialUpload{Upload: store.Upload{Owner: o.Owner, Sum: o.Sum, Place: objects.NewPlace()}, Size: o.Size}
	key := objects.Key{Sum: p.Sum, Place: p.Place}
	var err error
	if p.Token, err = s.cfg.Objects.BeginParts(ctx, key); err != nil {
		return p, err
	}
	err = s.cfg.Store.BeginPartial(ctx, p, s.cfg.ObjectQuota, maxPartials, s.cfg.Now())
	if err == nil {
		return p, nil
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	if err := s.cfg.Objects.AbortParts(clean, key, p.Token); err != nil {
		s.log.Warn("could not abort a multipart upload", "err", err)
	}
	switch {
	case errors.Is(err, store.ErrTooManyUploads):
		return p, errTooManyPartials
	case errors.Is(err, store.ErrExists), errors.Is(err, store.ErrStatus):
		return p, problem(http.StatusConflict, "upload-offset", "Ask with HEAD for the offset, and send the rest.", "Another connection has begun to send the object, or has announced it again.")
	}
	return p, trailProblem(err)
}

// receiveParts stores parts until the object is complete, or until the body ends, when it returns
// io.EOF.
func (s *Server) receiveParts(ctx context.Context, p *store.PartialUpload, body io.Reader) error {
	key := objects.Key{Sum: p.Sum, Place: p.Place}
	for p.Received < p.Size {
		if err := s.cfg.Objects.PutPart(ctx, key, p.Token, p.Size, p.Received, body); err != nil {
			return err
		}
		next := min(p.Received+objects.PartSize(p.Size), p.Size)
		if err := s.cfg.Store.AdvancePartial(ctx, p.Place, p.Received, next, s.cfg.Now()); err != nil {
			return err
		}
		p.Received = next
	}
	return nil
}

// The method `complete` finishes an upload whose parts are all stored.
func (s *Server) complete(w http.ResponseWriter, r *http.Request, p store.PartialUpload, o store.Object, by credential, one *upload) error {
	err := s.cfg.Objects.CompleteParts(r.Context(), objects.Key{Sum: p.Sum, Place: p.Place}, p.Token, p.Size)
	_ = one.rc.SetWriteDeadline(time.Now().Add(blockTimeout)) // the object may be large
	switch {
	case errors.Is(err, objects.ErrSum), errors.Is(err, objects.ErrSize):
		return cmp.Or(s.abandon(r.Context(), p), error(errOtherContent))
	case errors.Is(err, objects.ErrNotFound):
		return cmp.Or(s.abandon(r.Context(), p), error(errPartsGone))
	case err != nil:
		return err
	}
	inUse, err := s.finishUpload(r.Context(), o, p.Upload, by)
	if err != nil {
		return err
	}
	if err := sendOffset(w, p.Size); err != nil || inUse {
		return err
	}
	_ = one.rc.Flush() // the client does not wait for the removal
	s.removeBytes(r.Context(), p.Upload)
	return nil
}

// abandon ends an upload that has not stored its object. It removes the parts before the record, so
// that if the hub is killed in between, Collect finds the record and calls abandon again.
func (s *Server) abandon(ctx context.Context, p store.PartialUpload) error {
	ctx, cancel := context.WithTimeout(ctx, cleanUp)
	defer cancel()
	if p.Token != "" {
		if err := s.cfg.Objects.AbortParts(ctx, objects.Key{Sum: p.Sum, Place: p.Place}, p.Token); err != nil {
			return err
		}
	}
	return s.cfg.Store.EndUpload(ctx, p.Place)
}

// expireUploads ends the uploads that have made no progress since `before`. It returns their
// number.
func (s *Server) expireUploads(ctx context.Context, before time.Time) (int, error) {
	list, err := s.cfg.Store.ExpiredUploads(ctx, before, 100)
	if err != nil {
		return 0, err
	}
	for _, p := range list {
		if err := s.abandon(ctx, p); err != nil {
			return 0, err
		}
	}
	return len(list), nil
}
