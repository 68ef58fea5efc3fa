package api

import (
	"bytes"
	"cmp"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"net/http"
	"time"

	"gangway/hub/store"
)

// signedURLLife is how long a signed URL can be used to start an upload or download. pvr requests
// the URLs of all objects before it starts the first transfer.
const signedURLLife = time.Hour

// The path of a signed URL is /local-s3/ and the base64url form of these fields:
//   - the version (1 byte),
//   - the first letter of the method (1 byte),
//   - the time of expiry, in seconds since 1970 (8 bytes),
//   - the owner (12 bytes),
//   - the SHA-256 of the object (32 bytes),
//   - the credential (33 bytes),
//   - the HMAC-SHA256 over all other fields (32 bytes), with a key that only the hub has.
//
// Everything is in the path, because devices drop the query of a URL.
const (
	signedURLVersion = 2
	signedURLHead    = 1 + 1 + 8 + 12 + 32 + credentialSize
	signedURLSize    = signedURLHead + sha256.Size
)

// credential is a field of a signed URL that names the session, API token or device of the caller
// who got the URL. The URL is valid only as long as the session, the API token or the device's
// certificate is valid; see checkCredential. The first byte is the kind of credential, which
// determines the other 32 bytes:
//   - for a session or an API token, its hash,
//   - for a device, its id (12 bytes) and the start of the SHA-256 of its certificate (20 bytes;
//     zeros for a device without a TPM),
//   - for a public device, its id and zeros.
type credential [credentialSize]byte

const credentialSize = 1 + 32

// Kinds of credentials.
const (
	sessionCredential  = 's'
	apiTokenCredential = 't'
	deviceCredential   = 'd'
	publicCredential   = 'p' // no credential: the device is public, and the URL is only for downloads
)

// credentialOf returns the caller's credential.
func credentialOf(c caller) (b credential) {
	switch {
	case c.Device != nil:
		appendID(append(b[:0], deviceCredential), c.Device.ID)
		copy(b[13:], c.Device.IDevIDHash[:])
	case c.signIn.apiToken != nil:
		b[0] = apiTokenCredential
		copy(b[1:], c.signIn.apiToken.Hash[:])
	default:
		b[0] = sessionCredential
		copy(b[1:], c.signIn.session.TokenHash[:])
	}
	return b
}

// credentialFor returns the caller's credential for the objects of a revision. If the revision
// belongs to another account, the credential's kind is publicCredential.
func credentialFor(c caller, revision store.Revision) (b credential) {
	if c.Owner == revision.Owner {
		return credentialOf(c)
	}
	appendID(append(b[:0], publicCredential), revision.Device)
	return b
}

func (c credential) kind() byte       { return c[0] }
func (c credential) hash() store.Hash { return store.Hash(c[1:]) }
func (c credential) device() string   { return hex.EncodeToString(c[1:13]) }

func (c credential) hasCertificate(hash store.Hash) bool { return bytes.Equal(c[13:], hash[:20]) }

// signedURLKey derives the key that signs URLs from the hub's seal key.
func signedURLKey(seal []byte) ([]byte, error) {
	return hkdf.Key(sha256.New, seal, nil, "gangway object address v1", sha256.Size)
}

// signURL returns a URL, below the hub's URL `hub`, that permits one method, GET or PUT, on one
// object. The URL expires at the time `until`, or when the caller's credential `by` becomes
// invalid.
func (s *Server) signURL(hub, method string, o store.Object, by credential, until time.Time) string {
	b := make([]byte, 0, signedURLSize)
	b = append(b, signedURLVersion, method[0])
	b = binary.BigEndian.AppendUint64(b, uint64(until.Unix()))
	b = appendID(b, o.Owner)
	b = append(b, o.Sum[:]...)
	b = append(b, by[:]...)
	return hub + "/local-s3/" + base64.RawURLEncoding.EncodeToString(s.appendMAC(b))
}

// appendID appends the 12 bytes of an account's or a device's id.
func appendID(b []byte, id string) []byte {
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) != 12 {
		panic("hub: an id is not 24 hexadecimal digits")
	}
	return append(b, raw...)
}

func (s *Server) appendMAC(head []byte) []byte {
	m := hmac.New(sha256.New, s.signedURLKey)
	m.Write(head)
	return m.Sum(head)
}

// signedURL has the object and the credential that a valid signed URL contains.
type signedURL struct {
	object  store.Object // Owner and Sum only
	by      credential
	uploads bool // the URL is for uploads
}

const getNewURL = "Get a new URL: GET /objects/SHA, or POST /objects/."

var (
	errNotSigned  = problem(http.StatusNotFound, "no-such-address", getNewURL, "The hub did not sign this URL for this method.")
	errURLExpired = problem(http.StatusGone, "address-expired", getNewURL, "The signed URL has expired.")
	errURLRevoked = problem(http.StatusGone, "address-revoked", getNewURL, "The signed URL is revoked: its session or API token has ended, the account is disabled, or its device was deleted, has onboarded again, or is no longer public.")
)

// signsMethod reports whether a signed URL permits a method. `letter` is the first letter of the
// method in the URL, GET or PUT. A URL for PUT also permits the HEAD and PATCH of a resumable
// upload.
func signsMethod(letter byte, method string) bool {
	if letter == http.MethodPut[0] {
		return method == http.MethodPut || method == http.MethodPatch || method == http.MethodHead
	}
	return letter == http.MethodGet[0] && (method == http.MethodGet || method == http.MethodHead)
}

// readSignedURL returns the contents of a signed URL, after verifying that {token} is valid for the
// request's method.
func (s *Server) readSignedURL(r *http.Request) (*signedURL, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(r.PathValue("token"))
	if err != nil || len(b) != signedURLSize {
		return nil, errNotSigned
	}
	if !hmac.Equal(b, s.appendMAC(append([]byte(nil), b[:signedURLHead]...))) || b[0] != signedURLVersion || !signsMethod(b[1], r.Method) {
		return nil, errNotSigned
	}
	if s.cfg.Now().Unix() >= int64(binary.BigEndian.Uint64(b[2:])) {
		return nil, errURLExpired
	}
	u := &signedURL{by: credential(b[54 : 54+credentialSize]), uploads: b[1] == http.MethodPut[0]}
	u.object.Owner = hex.EncodeToString(b[10:22])
	copy(u.object.Sum[:], b[22:54])
	if valid, err := s.checkCredential(r.Context(), u.by); err != nil || !valid {
		return nil, cmp.Or(err, error(errURLRevoked))
	}
	return u, nil
}
