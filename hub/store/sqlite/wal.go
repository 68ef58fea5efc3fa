package sqlite

import (
	"errors"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// walBuffer collects what a connection writes to the write-ahead log, and writes it with few system
// calls. SQLite itself makes two system calls for each changed page, which is 10 % of the cost of a
// commit. The buffer is empty before each flush to disk, read or change of the file's length. So
// the file has the same content at each flush as without the buffer, and other connections see the
// same content, because SQLite tells them about new pages only after the flush.
type walBuffer struct {
	old     sqlite3.Tsqlite3_io_methods // the methods of the file, which this buffer calls
	methods uintptr                     // C memory: the methods that SQLite calls
	keep    []any                       // the Go functions in `methods`, which the garbage collector does not see there

	data   uintptr // C memory of the size walBufferSize
	length int
	start  int64 // position in the file
}

const (
	walBufferSize = 1 << 20
	walWriteSize  = 64 << 10 // SQLite's xWrite for Unix fails with 128 KiB or more
)

var errNoWAL = errors.New("sqlite: the database has no write-ahead log")

// bufferWAL makes the connection use a walBuffer. The connection must have read from the database
// already, because SQLite opens the write-ahead log at the first read.
func (c *conn) bufferWAL() error {
	out := libc.Xcalloc(c.tls, 1, pointerSize)
	defer libc.Xfree(c.tls, out)
	if rc := sqlite3.Xsqlite3_file_control(c.tls, c.db, 0, sqlite3.SQLITE_FCNTL_JOURNAL_POINTER, out); rc != sqlite3.SQLITE_OK {
		return c.failure(rc)
	}
	address := *(*uintptr)(pointer(out))
	if address == 0 {
		return errNoWAL
	}
	file := (*sqlite3.Tsqlite3_file)(pointer(address))
	if file.FpMethods == 0 {
		return errNoWAL
	}
	b := &walBuffer{old: *(*sqlite3.Tsqlite3_io_methods)(pointer(file.FpMethods))}
	b.data = libc.Xmalloc(c.tls, walBufferSize)
	b.methods = libc.Xmalloc(c.tls, libc.Tsize_t(unsafe.Sizeof(b.old)))
	m := (*sqlite3.Tsqlite3_io_methods)(pointer(b.methods))
	*m = b.old
	m.FxRead = b.function(b.read)
	m.FxWrite = b.function(b.write)
	m.FxTruncate = b.function(b.truncate)
	m.FxSync = b.function(b.sync)
	m.FxFileSize = b.function(b.fileSize)
	file.FpMethods = b.methods
	c.wal = b
	return nil
}

func (b *walBuffer) free(tls *libc.TLS) {
	libc.Xfree(tls, b.data)
	libc.Xfree(tls, b.methods)
}

// function returns a Go function as a function pointer of the translated C code.
func (b *walBuffer) function(f any) uintptr {
	b.keep = append(b.keep, f)
	return (*[2]uintptr)(unsafe.Pointer(&f))[1]
}

// call converts a function pointer of the translated C code to a Go function.
func call[F any](address uintptr) F { return *(*F)(unsafe.Pointer(&struct{ uintptr }{address})) }

type (
	fileIO   = func(tls *libc.TLS, file, data uintptr, n int32, at int64) int32
	fileSync = func(tls *libc.TLS, file uintptr, flags int32) int32
	fileCut  = func(tls *libc.TLS, file uintptr, size int64) int32
	fileSize = func(tls *libc.TLS, file, out uintptr) int32
)

// flush writes the buffer to the file. It returns a result code of SQLite. The buffer is empty
// afterwards, also after an error: SQLite then rolls the transaction back.
func (b *walBuffer) flush(tls *libc.TLS, file uintptr) int32 {
	if b.length == 0 {
		return sqlite3.SQLITE_OK
	}
	n := b.length
	b.length = 0
	for done := 0; done < n; done += walWriteSize {
		size := min(n-done, walWriteSize)
		if rc := call[fileIO](b.old.FxWrite)(tls, file, b.data+uintptr(done), int32(size), b.start+int64(done)); rc != sqlite3.SQLITE_OK {
			return rc
		}
	}
	return sqlite3.SQLITE_OK
}

func (b *walBuffer) write(tls *libc.TLS, file, data uintptr, n int32, at int64) int32 {
	size := int(n)
	if b.length > 0 && (at != b.start+int64(b.length) || b.length+size > walBufferSize) {
		if rc := b.flush(tls, file); rc != sqlite3.SQLITE_OK {
			return rc
		}
	}
	if size > walBufferSize {
		return call[fileIO](b.old.FxWrite)(tls, file, data, n, at)
	}
	if b.length == 0 {
		b.start = at
	}
	copy(memory(b.data+uintptr(b.length), size), memory(data, size))
	b.length += size
	return sqlite3.SQLITE_OK
}

func (b *walBuffer) sync(tls *libc.TLS, file uintptr, flags int32) int32 {
	if rc := b.flush(tls, file); rc != sqlite3.SQLITE_OK {
		return rc
	}
	return call[fileSync](b.old.FxSync)(tls, file, flags)
}

func (b *walBuffer) read(tls *libc.TLS, file, data uintptr, n int32, at int64) int32 {
	if rc := b.flush(tls, file); rc != sqlite3.SQLITE_OK {
		return rc
	}
	return call[fileIO](b.old.FxRead)(tls, file, data, n, at)
}

func (b *walBuffer) truncate(tls *libc.TLS, file uintptr, size int64) int32 {
	if rc := b.flush(tls, file); rc != sqlite3.SQLITE_OK {
		return rc
	}
	return call[fileCut](b.old.FxTruncate)(tls, file, size)
}

func (b *walBuffer) fileSize(tls *libc.TLS, file, out uintptr) int32 {
	if rc := b.flush(tls, file); rc != sqlite3.SQLITE_OK {
		return rc
	}
	return call[fileSize](b.old.FxFileSize)(tls, file, out)
}
