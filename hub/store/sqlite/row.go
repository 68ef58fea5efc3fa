package sqlite

import (
	"time"

	"gangway/hub/store"
)

// row is one row of a query. Each method that returns a value reads the next column, from left to
// right. For NULL, the method returns the zero value; for an empty blob, it returns nil.
type row struct {
	values []any
	next   int
}

func (r *row) value() any {
	v := r.values[r.next]
	r.next++
	return v
}

// null reports whether the next column is NULL. It does not move to the next column.
func (r *row) null() bool { return r.values[r.next] == nil }

func (r *row) text() string {
	s, _ := r.value().(string)
	return s
}

func (r *row) int64() int64 {
	n, _ := r.value().(int64)
	return n
}

func (r *row) int() int { return int(r.int64()) }

func (r *row) bool() bool { return r.int64() != 0 }

func (r *row) blob() []byte {
	b, _ := r.value().([]byte)
	return b
}

func (r *row) hash() (h store.Hash) {
	copy(h[:], r.blob())
	return h
}

func (r *row) time() time.Time { return fromMicro(r.int64()) }

// fromMicro and micro convert between a time and the value of a column: microseconds since 1970.
func fromMicro(n int64) time.Time { return time.UnixMicro(n).UTC() }

func micro(t time.Time) int64 { return t.UnixMicro() }

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
