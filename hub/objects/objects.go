// Package objects stores the contents of objects, named by their SHA-256. Each content is stored
// once, even if several accounts upload it. This package does not know the owners of objects:
// package store does, and the hub decides who may read an object.
//
// Every engine guarantees three things. If Put returned nil, the content survives a crash and a
// power failure. A content that Open returns is complete, and had the requested hash when it was
// written. A Put that failed or was killed leaves nothing that Open, Stat or Walk can see.
//
// Folder is the engine for a hub on one machine. S3 is the engine for services with the S3 API.
// TestEngines runs the same tests on both.
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

// Sum is the SHA-256 of a content. It is the content's name in a Store.
type Sum = [sha256.Size]byte

// Errors of this package. Test for them with errors.Is.
var (
	// ErrNotFound means that the content is not stored.
	ErrNotFound = errors.New("objects: content not found")
	// ErrSize means that more or fewer bytes were received than announced.
	ErrSize = errors.New("objects: the content's size differs from the announced size")
	// ErrSum means that the bytes do not have the announced SHA-256.
	ErrSum = errors.New("objects: the content's SHA-256 differs from the announced one")
)

// Info describes a content.
type Info struct {
	Size     int64 // in bytes
	Modified time.Time
}

// Store stores contents. All methods are safe for concurrent use, even for calls about the same
// content.
type Store interface {
	// Put reads r to its end and stores the bytes if they are exactly size bytes with the SHA-256
	// sum. If it returns nil, the bytes are durable. Otherwise it returns ErrSize, ErrSum, or an
	// error of r or of the engine, and nothing has changed. It writes a content even if it is
	// already stored, so that the duration of a Put does not reveal whether another account has
	// these bytes.
	Put(ctx context.Context, sum Sum, size int64, r io.Reader) error
	// Open returns a reader at the content's first byte, or ErrNotFound. With a Folder, a content
	// that is deleted while it is open can still be read to its end.
	Open(ctx context.Context, sum Sum) (io.ReadSeekCloser, error)
	// Stat returns the content's size and time, or ErrNotFound.
	Stat(ctx context.Context, sum Sum) (Info, error)
	// Delete removes a content. If the content is not stored, Delete does nothing and returns nil.
	Delete(ctx context.Context, sum Sum) error
	// Walk calls f with each content, in no particular order. If f returns an error, Walk stops and
	// returns that error. Contents that are added or deleted during the walk may be included or
	// not. f may call Delete.
	Walk(ctx context.Context, f func(Sum, Info) error) error
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

// checked reads from r. At the end of r it returns ErrSize or ErrSum unless r had exactly size
// bytes with the hash sum. It reads one byte beyond size to detect a longer content.
type checked struct {
	r    io.Reader
	sum  Sum
	left int64 // bytes that are still expected
	hash hash.Hash
	err  error // the result, set at the end; io.EOF if size and hash match
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
