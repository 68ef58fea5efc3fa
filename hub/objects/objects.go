// Package objects stores the bytes of objects. The key of an object is the SHA-256 of its bytes and
// a place: a random text that is new for each upload. Thanks to the place, a hub that removes an
// old copy late never removes a newer copy of the same bytes, so several hubs can share a bucket.
// This package knows neither the owners of objects nor which of several places is in use: package
// store has these records, and the hub decides who may read an object.
//
// Every engine makes these guarantees:
//
//   - If Put returned nil, the object survives a crash and a power failure.
//   - An object that Open returns is complete, and had the requested hash when it was written.
//   - If Put failed, or the process was killed during Put, then Open, Stat and Walk do not see
//     the object.
//
// Folder is the engine for a hub on one machine. S3 is the engine for services with the S3 API.
// TestEngines runs the same tests on both engines.
package objects

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"
)

// Sum is the SHA-256 of an object's bytes.
type Sum = [sha256.Size]byte

// Key names a copy of an object in a Store.
type Key struct {
	Sum Sum
	// Place distinguishes the copy from all other copies of the same bytes, even those that were
	// removed. It comes from NewPlace, and is empty for an object that an older version of the hub
	// stored.
	Place string
}

// NewPlace returns a place that no other copy has or had.
func NewPlace() string { return rand.Text() }

// placeSize is the length of a place that is not empty.
const placeSize = 26

// name returns the key's name: the SHA-256 in hexadecimal, with a slash after the first two digits.
// If the place is not empty, a dot and the place follow.
func (k Key) name() string {
	text := hex.EncodeToString(k.Sum[:])
	text = text[:2] + "/" + text[2:]
	if k.Place != "" {
		text += "." + k.Place
	}
	return text
}

// parseName is the inverse of Key.name. The result `ok` is false if the text is not a key's name.
func parseName(text string) (k Key, ok bool) {
	first, rest, ok := strings.Cut(text, "/")
	if !ok || len(first) != 2 {
		return k, false
	}
	rest, k.Place, ok = strings.Cut(rest, ".")
	if ok && len(k.Place) != placeSize {
		return k, false
	}
	for _, c := range []byte(k.Place) {
		if (c < 'A' || c > 'Z') && (c < '2' || c > '7') {
			return k, false
		}
	}
	var err error
	k.Sum, err = ParseSum(first + rest)
	return k, err == nil
}

// Errors of this package. Test for them with errors.Is.
var (
	// ErrNotFound means that the object is not stored.
	ErrNotFound = errors.New("objects: object not found")
	// ErrSize means that more or fewer bytes were received than announced.
	ErrSize = errors.New("objects: the object's size differs from the announced size")
	// ErrSum means that the bytes do not have the announced SHA-256.
	ErrSum = errors.New("objects: the object's SHA-256 differs from the announced SHA-256")
)

// Info describes an object.
type Info struct {
	Size     int64 // in bytes
	Modified time.Time
}

// Store stores objects. All methods are safe for concurrent use, even for calls about the same
// object.
type Store interface {
	// Put reads `r` to its end, and stores the bytes if there are `size` of them and their SHA-256 is
	// the one that `key` contains. If Put returns nil, the object is durable. If Put returns an
	// error, which is ErrSize, ErrSum, or an error of `r` or of the engine, nothing has changed.
	Put(ctx context.Context, key Key, size int64, r io.Reader) error
	// BeginParts begins a multipart upload, and returns a token for the three methods below. Every
	// part except the last one has PartSize bytes. Until CompleteParts is called, Open, Stat and
	// Walk do not see the object.
	BeginParts(ctx context.Context, key Key) (token string, err error)
	// PutPart durably stores the part that begins at `offset` of an object of `whole` bytes. It
	// reads no more than the bytes of this part from `r`. It can be called again for the same part,
	// after an error or after success. It returns ErrNotFound if the upload has ended or its parts
	// are gone, and io.EOF or io.ErrUnexpectedEOF if `r` ends before the part does.
	PutPart(ctx context.Context, key Key, token string, whole, offset int64, r io.Reader) error
	// CompleteParts stores the object from all its parts, if the size and the SHA-256 of its bytes
	// are right. It can be called again, even after it has succeeded. It returns ErrNotFound if the
	// parts are gone, and ErrSize or ErrSum if the bytes are wrong; call only AbortParts then.
	CompleteParts(ctx context.Context, key Key, token string, size int64) error
	// AbortParts removes the parts of an upload, if there are any.
	AbortParts(ctx context.Context, key Key, token string) error
	// Open returns a reader at the object's first byte, or ErrNotFound. With a Folder, a reader can
	// read an object to its end even if the object is deleted during the read.
	Open(ctx context.Context, key Key) (io.ReadSeekCloser, error)
	// Stat returns the object's size and time, or ErrNotFound.
	Stat(ctx context.Context, key Key) (Info, error)
	// Delete removes an object. If the object is not stored, Delete does nothing and returns nil.
	Delete(ctx context.Context, key Key) error
	// Walk calls the function `f` with each object, in no particular order. If `f` returns an
	// error, Walk stops and returns that error. Objects that are added or deleted during the walk
	// may or may not be included. `f` may call Delete.
	Walk(ctx context.Context, f func(Key, Info) error) error
	// Ping returns an error if the engine cannot be reached.
	Ping(ctx context.Context) error
	Close() error
}

// ParseSum parses a SHA-256 of 64 lower-case hexadecimal digits.
func ParseSum(text string) (sum Sum, err error) {
	if len(text) != hex.EncodedLen(len(sum)) {
		return sum, fmt.Errorf("objects: a SHA-256 must have %d hexadecimal digits, not %d", hex.EncodedLen(len(sum)), len(text))
	}
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return sum, fmt.Errorf("objects: %q is not a lower-case hexadecimal digit", c)
		}
	}
	_, err = hex.Decode(sum[:], []byte(text))
	return sum, err
}

// Check reads the reader `r` to its end, and returns the error that Put would return for its bytes.
func Check(ctx context.Context, key Key, size int64, r io.Reader) error {
	_, err := io.Copy(io.Discard, &cancellable{ctx, check(r, key.Sum, size)})
	return err
}

// checked is a reader that checks the bytes that it reads from `r`. At the end of `r`, it returns
// ErrSize if the number of bytes is not the announced size, and ErrSum if their SHA-256 is not
// `sum`. To detect that `r` is too long, it tries to read one more byte.
type checked struct {
	r    io.Reader
	sum  Sum
	left int64 // number of bytes that `r` must yield until `size` is reached
	hash hash.Hash
	err  error // the error to return after the last byte; io.EOF if size and hash match
}

func check(r io.Reader, sum Sum, size int64) *checked {
	return &checked{r: r, sum: sum, left: size, hash: sha256.New()}
}

func (c *checked) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if c.left == 0 {
		c.err = c.end()
		return 0, c.err
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.r.Read(p)
	c.hash.Write(p[:n])
	c.left -= int64(n)
	if err == io.EOF && c.left > 0 {
		err = ErrSize
	}
	if err == io.EOF {
		err = nil // the next call of Read checks size and hash
	}
	c.err = err
	return n, err
}

func (c *checked) end() error {
	var extra [1]byte
	if _, err := io.ReadFull(c.r, extra[:]); err == nil {
		return ErrSize
	} else if err != io.EOF {
		return err
	}
	if Sum(c.hash.Sum(nil)) != c.sum {
		return ErrSum
	}
	return io.EOF
}
