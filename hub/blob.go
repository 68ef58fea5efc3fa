package hub

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"mime"
	"net/http"
	"sync"
	"time"

	"gangway/objects"
	"gangway/store"
)

// addressLife is how long an object's address is good for the start of an
// upload or download. pvr asks for all addresses before it begins with the
// first.
const addressLife = time.Hour

// An address is /local-s3/ and the base64url form of: version, method, end of
// life in seconds since 1970 (8 bytes), owner (12), SHA-256 (32), what it stands
// on (33), and the HMAC-SHA256 of those under a key that only the hub has. It
// stands in the path because devices drop a query.
const (
	addressVersion = 2
	addressHead    = 1 + 1 + 8 + 12 + 32 + standingSize
	addressSize    = addressHead + sha256.Size
)

// standing is what an address stands on, and ends with: a person's session, as
// 's' and its hash (32 bytes); or a device and its certificate, as 'd', the
// device's id (12) and the start of the certificate's SHA-256 (20; zeros for a
// device without a TPM).
type standing [standingSize]byte

const standingSize = 1 + 32

// standingOf is what the caller's addresses stand on.
func standingOf(r *http.Request) (b standing) {
	if c, _ := r.Context().Value(callerKey{}).(caller); c.Device != nil {
		d := c.Device
		b[0] = 'd'
		id, err := hex.DecodeString(d.ID)
		if err != nil || len(id) != 12 {
			panic("hub: a device's id is not 24 hexadecimal digits")
		}
		copy(b[1:13], id)
		copy(b[13:], d.IDevIDHash[:])
		return b
	}
	b[0] = 's'
	hash := signed(r).session.TokenHash
	copy(b[1:], hash[:])
	return b
}

// stands reports whether what an address stands on is still there: the session,
// or the device under the same certificate.
func (s *Server) stands(ctx context.Context, b standing) (bool, error) {
	var err error
	same := true
	switch b[0] {
	case 'd':
		var d store.Device
		d, err = s.cfg.Store.Device(ctx, hex.EncodeToString(b[1:13]))
		same = bytes.Equal(b[13:], d.IDevIDHash[:20])
	default:
		_, err = s.cfg.Store.Session(ctx, store.Hash(b[1:]), s.cfg.Now())
	}
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return same, err
}

// addressKey is the key of addresses, derived from the hub's seal key.
func addressKey(seal []byte) ([]byte, error) {
	return hkdf.Key(sha256.New, seal, nil, "gangway object address v1", sha256.Size)
}

func (s *Server) address(method string, o store.Object, on standing, until time.Time) string {
	b := make([]byte, 0, addressSize)
	b = append(b, addressVersion, method[0])
	b = binary.BigEndian.AppendUint64(b, uint64(until.Unix()))
	owner, err := hex.DecodeString(o.Owner)
	if err != nil || len(owner) != 12 {
		panic("hub: an account's id is not 24 hexadecimal digits")
	}
	b = append(append(b, owner...), o.Sum[:]...)
	b = append(b, on[:]...)
	return s.cfg.PublicURL + "/local-s3/" + base64.RawURLEncoding.EncodeToString(s.signAddress(b))
}

func (s *Server) signAddress(head []byte) []byte {
	m := hmac.New(sha256.New, s.addressKey)
	m.Write(head)
	return m.Sum(head)
}

var (
	errNoAddress      = problem(http.StatusNotFound, "no-such-address", "Ask for a new one: GET /objects/SHA, or POST /objects/.", "This is no address that the hub gave for this method.")
	errAddressExpired = problem(http.StatusGone, "address-expired", "Ask for a new one: GET /objects/SHA, or POST /objects/.", "The address has expired, or the session or device that asked for it has ended.")
)

// readAddress checks {token} and returns the object that it is about, of
// which Owner and Sum are filled in, and what the address stands on.
func (s *Server) readAddress(r *http.Request, method string) (o store.Object, on standing, err error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(r.PathValue("token"))
	if err != nil || len(b) != addressSize {
		return o, on, errNoAddress
	}
	if !hmac.Equal(b, s.signAddress(append([]byte(nil), b[:addressHead]...))) || b[0] != addressVersion || b[1] != method[0] {
		return o, on, errNoAddress
	}
	if s.cfg.Now().Unix() >= int64(binary.BigEndian.Uint64(b[2:])) {
		return o, on, errAddressExpired
	}
	o.Owner = hex.EncodeToString(b[10:22])
	copy(o.Sum[:], b[22:])
	copy(on[:], b[22+len(o.Sum):])
	if ok, err := s.stands(r.Context(), on); err != nil || !ok {
		return o, on, cmp.Or(err, error(errAddressExpired))
	}
	return o, on, nil
}

// getBlob serves a content to whoever has its address. It is never a page:
// whatever its owner says it is, a browser gets a file to save.
func (s *Server) getBlob(w http.ResponseWriter, r *http.Request) error {
	o, _, err := s.readAddress(r, http.MethodGet)
	if err != nil {
		return err
	}
	// The owner may have lost it since the address was given.
	if o, err = s.cfg.Store.Object(r.Context(), o.Owner, o.Sum); err != nil {
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
// download. slowest is the mean speed, in bytes a second, below which an
// upload has taken too long.
const (
	patience = 60 * time.Second
	slowest  = 4 << 10
)

// upload is a PUT under way.
type upload struct {
	body   io.Reader
	rc     *http.ResponseController
	end    time.Time // not later than this
	mu     sync.Mutex
	over   bool // guarded by mu: another upload took its place
	broken error
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

func (u *upload) stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.over = true
	// A failure leaves it to the deadline that was set before.
	_ = u.rc.SetReadDeadline(time.Now())
}

// uploads are those under way, by owner and content. More than two of the same
// would only fill the disk: the oldest, most likely the other end of a broken
// connection, gives way.
type uploads struct {
	mu      sync.Mutex
	running map[store.Object][]*upload // guarded by mu; the key has Owner and Sum alone
}

const uploadsOfOne = 2

func (u *uploads) begin(key store.Object, one *upload) (end func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.running == nil {
		u.running = make(map[store.Object][]*upload)
	}
	list := append(u.running[key], one)
	for len(list) > uploadsOfOne {
		list[0].stop()
		list = list[1:]
	}
	u.running[key] = list
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		var left []*upload
		for _, other := range u.running[key] {
			if other != one {
				left = append(left, other)
			}
		}
		if u.running[key] = left; len(left) == 0 {
			delete(u.running, key)
		}
	}
}

// putBlob takes a content. 200 means that it is there, whole, checked and
// durable; anything else that nothing has changed, and that it can be sent
// again, as often as needed while the address is good.
func (s *Server) putBlob(w http.ResponseWriter, r *http.Request) error {
	key, on, err := s.readAddress(r, http.MethodPut)
	if err != nil {
		return err
	}
	o, err := s.beginUpload(r.Context(), key)
	if err != nil {
		return err
	}
	if r.ContentLength < 0 {
		return problem(http.StatusLengthRequired, "length-required", "Send a Content-Length.", "The upload does not say how long it is.")
	}
	if r.ContentLength != o.Size {
		return problem(http.StatusBadRequest, "object-size", "Announce the object again with its size, or send the right one.", "The upload has %d bytes, and %d were announced.", r.ContentLength, o.Size)
	}
	one := &upload{body: r.Body, rc: http.NewResponseController(w), end: time.Now().Add(10*time.Minute + time.Duration(o.Size/slowest)*time.Second)}
	defer s.uploads.begin(key, one)()
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
	if ok, err := s.stands(r.Context(), on); err != nil || !ok {
		return cmp.Or(err, error(errAddressExpired))
	}
	switch err := s.cfg.Store.FinishUpload(r.Context(), o.Owner, o.Sum, o.Size, s.cfg.Now()); {
	case errors.Is(err, store.ErrStatus), errors.Is(err, store.ErrCondemned):
		return problem(http.StatusConflict, "announced-anew", "Announce it with its real size, and send it again.", "The object was announced anew, with another size, during the upload.")
	case err != nil:
		return err
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
