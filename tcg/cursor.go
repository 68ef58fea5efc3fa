package tcg

import (
	"encoding/binary"
	"errors"
)

// errShort reports a structure that ends early.
var errShort = errors.New("the data ends before the end of the structure")

// cursor reads big-endian TPM structures. After the first error, every read returns zeros, so a
// parser checks err only once, at its end.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) take(n int) []byte {
	if c.err != nil {
		return nil
	}
	if n < 0 || n > len(c.b) {
		c.err = errShort
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) u8() uint8 {
	if v := c.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if v := c.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if v := c.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if v := c.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// The method `sized` reads a TPM2B: a 16-bit size, then that number of bytes, at most `max`.
func (c *cursor) sized(max int) []byte {
	n := int(c.u16())
	if c.err == nil && n > max {
		c.err = errTooLong
		return nil
	}
	return c.take(n)
}

var (
	errTooLong  = errors.New("a field is longer than its TPM type allows")
	errTrailing = errors.New("bytes follow the structure")
)

// end returns the first error of the reads. If all reads succeeded but bytes are left over, it
// returns an error for these bytes.
func (c *cursor) end() error {
	if c.err == nil && len(c.b) > 0 {
		c.err = errTrailing
	}
	return c.err
}
