package sqlstore

import (
	"time"

	"gangway/hub/store"
)

// Row is one row of a query. Each method that returns a value reads the next column, from left to
// right. NULL is read as the zero value, and an empty blob as nil.
type Row struct {
	values []any
	next   int
}

// RowOf returns the row with these values. A value is nil (NULL), an int64, a string or a []byte.
// A driver may use the memory of `values` again when the connection is used again.
func RowOf(values []any) Row { return Row{values: values} }

func (r *Row) value() any {
	v := r.values[r.next]
	r.next++
	return v
}

// The method `null` reports whether the next column is NULL. It does not move to the next column.
func (r *Row) null() bool { return r.values[r.next] == nil }

func (r *Row) text() string {
	s, _ := r.value().(string)
	return s
}

func (r *Row) int64() int64 {
	n, _ := r.value().(int64)
	return n
}

func (r *Row) int() int { return int(r.int64()) }

func (r *Row) bool() bool { return r.int64() != 0 }

func (r *Row) blob() []byte {
	b, _ := r.value().([]byte)
	return b
}

func (r *Row) hash() (h store.Hash) {
	copy(h[:], r.blob())
	return h
}

func (r *Row) time() time.Time { return fromMicro(r.int64()) }

// fromMicro and micro convert between a time and the value of a column: microseconds since 1970.
func fromMicro(n int64) time.Time { return time.UnixMicro(n).UTC() }

func micro(t time.Time) int64 { return t.UnixMicro() }

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
