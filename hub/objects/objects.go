// Package objects keeps the contents of objects: bytes found by their SHA-256,
// each content once, whoever uploaded it. Whose an object is, and who may read
// it, is the business of package store and of the hub; here a content is there
// or it is not.
//
// An engine promises three things. What Put has acknowledged survives a crash
// and a power cut. What Open returns is whole, and has the hash it was asked
// for when it was written. A Put that failed, or was killed, leaves nothing
// that Open, Stat or Walk can see.
//
// Folder is the engine for a hub that runs on one machine, S3 the one for any
// service that speaks S3. Test runs what both must do.
package objects

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
)

// Sum is a SHA-256 digest, by which a content is found.
type Sum = [sha256.Size]byte

// Errors, tested with errors.Is.
var (
	// ErrNotFound: there is no such content.
	ErrNotFound = errors.New("objects: no such content")
	// ErrSize: more or fewer bytes came than were announced.
	ErrSize = errors.New("objects: the content has another size than was announced")
	// ErrSum: the bytes have another SHA-256 than was announced.
	ErrSum = errors.New("objects: the content has another SHA-256 than was announced")
)

// Info is what is known of a content besides its bytes.
type Info struct {
	Size     int64 // in bytes
	Modified time.Time
}

// Store keeps contents. All methods are safe for concurrent use, also of the
// same content.
type Store interface {
	// Put reads exactly size bytes and the end of r, and keeps them when their
	// SHA-256 is sum; they are durable when it returns nil. Otherwise it is
	// ErrSize, ErrSum, or what r or the engine said, and nothing has changed. A
	// content that is there already is written again all the same: how long a
	// Put takes does not tell whether somebody else has these bytes.
	Put(ctx context.Context, sum Sum, size int64, r io.Reader) error
	// Open returns the content from its first byte, or ErrNotFound. A content
	// that is deleted while it is open may be read to its end.
	Open(ctx context.Context, sum Sum) (io.ReadSeekCloser, error)
	// Stat returns ErrNotFound when the content is not there.
	Stat(ctx context.Context, sum Sum) (Info, error)
	// Delete removes a content. One that is not there is no error.
	Delete(ctx context.Context, sum Sum) error
	// Walk calls f with each content, in no particular order, until f returns
	// an error, which it returns. What changes meanwhile may be seen or not.
	// f may Delete.
	Walk(ctx context.Context, f func(Sum, Info) error) error
	// Ping says whether the engine can be reached.
	Ping(ctx context.Context) error
	Close() error
}

// ParseSum reads 64 lower-case hexadecimal digits.
func ParseSum(text string) (sum Sum, err error) {
	if len(text) != hex.EncodedLen(len(sum)) {
		return sum, fmt.Errorf("objects: a SHA-256 has %d hexadecimal digits, not %d", hex.EncodedLen(len(sum)), len(text))
	}
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return sum, fmt.Errorf("objects: %q is no lower-case hexadecimal digit", c)
		}
	}
	_, err = hex.Decode(sum[:], []byte(text))
	return sum, err
}

// checked passes on what r has, and turns its end into ErrSize or ErrSum
// unless exactly size bytes with the hash came. It asks for one byte beyond
// size, so that a longer content is found out.
type checked struct {
	r    io.Reader
	sum  Sum
	left int64 // bytes that are still to come
	hash hash.Hash
	err  error // once it has ended: io.EOF when all is well
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
		err = nil // the next call checks
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
