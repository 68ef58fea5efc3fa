package sqlite

import (
	"errors"
	"sync"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// SQLite writes each page of a commit to the write-ahead log with two system calls, one for the
// header of the frame and one for the page. With the VFS of this file, the writer's commits need
// one system call for up to 31 pages. The VFS also lets other goroutines run while the disk makes a
// commit durable: see backgroundSync.
//
// The VFS is SQLite's default VFS, except that it opens the write-ahead log as a walFile. A walFile
// keeps successive writes in memory, until SQLite syncs or truncates the file, or writes to another
// place. So a commit is as durable as with the default VFS, because SQLite syncs the log
// before it makes a commit visible to other connections. This is only true with "PRAGMA synchronous
// = FULL", so only the writer may use this VFS.
const walVFS = "gangway-wal"

// walBuffer is the size of the memory for waiting writes: 31 frames, each of which has a header and
// a page. SQLite's function for Unix writes less than 128 KiB at once.
const walBuffer = 31 * (24 + 4096)

// walFile is the part of an open file that this VFS adds behind the file of the default VFS. It is
// in memory of SQLite.
type walFile struct {
	methods sqlite3.Tsqlite3_io_methods
	base    uintptr // methods of the default VFS, a *sqlite3.Tsqlite3_io_methods
	buffer  uintptr // walBuffer bytes, or 0 before the first write
	size    int     // number of waiting bytes in the buffer
	at      int64   // where the waiting bytes belong in the file
}

// Functions of the default VFS.
type (
	openFunc     = func(tls *libc.TLS, vfs, name, file uintptr, flags int32, out uintptr) int32
	closeFunc    = func(tls *libc.TLS, file uintptr) int32
	readFunc     = func(tls *libc.TLS, file, p uintptr, n int32, at int64) int32
	truncateFunc = func(tls *libc.TLS, file uintptr, size int64) int32
	syncFunc     = func(tls *libc.TLS, file uintptr, flags int32) int32
	sizeFunc     = func(tls *libc.TLS, file, size uintptr) int32
)

// called returns the Go function for one of SQLite's function pointers.
func called[F any](function uintptr) F { return *(*F)(unsafe.Pointer(&struct{ uintptr }{function})) }

// pointerTo returns SQLite's function pointer for a Go function. The function must not be a
// closure, so that the garbage collector never frees it.
func pointerTo[F any](f F) uintptr { return *(*uintptr)(unsafe.Pointer(&f)) }

// defaultVFS is a *sqlite3.Tsqlite3_vfs. registerWAL sets it.
var defaultVFS uintptr

// registerWAL registers the VFS with SQLite. It runs once, when the first store is opened.
var registerWAL = sync.OnceValue(func() error {
	tls := libc.NewTLS()
	defer tls.Close()
	if rc := sqlite3.Xsqlite3_initialize(tls); rc != sqlite3.SQLITE_OK {
		return &engineError{code: rc, message: "initialize SQLite"}
	}
	defaultVFS = sqlite3.Xsqlite3_vfs_find(tls, 0)
	if defaultVFS == 0 {
		return errors.New("sqlite: the default VFS was not found")
	}
	name, err := libc.CString(walVFS)
	if err != nil {
		return err
	}
	address := libc.Xcalloc(tls, 1, libc.Tsize_t(unsafe.Sizeof(sqlite3.Tsqlite3_vfs{})))
	vfs := (*sqlite3.Tsqlite3_vfs)(pointer(address))
	*vfs = *(*sqlite3.Tsqlite3_vfs)(pointer(defaultVFS))
	vfs.FpNext = 0
	vfs.FzName = name
	vfs.FszOsFile = int32(walOffset() + unsafe.Sizeof(walFile{}))
	vfs.FxOpen = pointerTo(openFunc(openWAL))
	if rc := sqlite3.Xsqlite3_vfs_register(tls, address, 0); rc != sqlite3.SQLITE_OK {
		return &engineError{code: rc, message: "register the VFS"}
	}
	return nil
})

// walOffset returns the size of a file of the default VFS, as a multiple of 8 bytes.
func walOffset() uintptr {
	return (uintptr((*sqlite3.Tsqlite3_vfs)(pointer(defaultVFS)).FszOsFile) + 7) &^ 7
}

func walFileOf(file uintptr) *walFile { return (*walFile)(pointer(file + walOffset())) }

// The method `of` returns the methods of the default VFS for this file.
func (w *walFile) of() *sqlite3.Tsqlite3_io_methods {
	return (*sqlite3.Tsqlite3_io_methods)(pointer(w.base))
}

func openWAL(tls *libc.TLS, _, name, file uintptr, flags int32, out uintptr) int32 {
	base := (*sqlite3.Tsqlite3_vfs)(pointer(defaultVFS))
	rc := called[openFunc](base.FxOpen)(tls, defaultVFS, name, file, flags, out)
	if rc != sqlite3.SQLITE_OK || flags&sqlite3.SQLITE_OPEN_WAL == 0 {
		return rc
	}
	opened := (*sqlite3.Tsqlite3_file)(pointer(file))
	w := walFileOf(file)
	*w = walFile{base: opened.FpMethods}
	w.methods = *w.of()
	w.methods.FxClose = pointerTo(closeFunc(closeWAL))
	w.methods.FxRead = pointerTo(readFunc(readWAL))
	w.methods.FxWrite = pointerTo(readFunc(writeWAL))
	w.methods.FxTruncate = pointerTo(truncateFunc(truncateWAL))
	w.methods.FxSync = pointerTo(syncFunc(syncWAL))
	w.methods.FxFileSize = pointerTo(sizeFunc(sizeOfWAL))
	opened.FpMethods = file + walOffset() // the first field of walFile
	if b, err := newBackgroundSync(); err == nil {
		backgroundSyncs.Store(file, b)
	}
	return rc
}

// The method `flush` writes the waiting bytes to the file. If it fails, they keep waiting: they may
// belong to an operation of the transaction that succeeded before, and must then be in the log when
// the transaction commits.
func (w *walFile) flush(tls *libc.TLS, file uintptr) int32 {
	if w.size == 0 {
		return sqlite3.SQLITE_OK
	}
	rc := called[readFunc](w.of().FxWrite)(tls, file, w.buffer, int32(w.size), w.at)
	if rc == sqlite3.SQLITE_OK {
		w.size = 0
	}
	return rc
}

func writeWAL(tls *libc.TLS, file, p uintptr, n int32, at int64) int32 {
	w := walFileOf(file)
	if w.size != 0 && (at != w.at+int64(w.size) || w.size+int(n) > walBuffer) {
		if rc := w.flush(tls, file); rc != sqlite3.SQLITE_OK {
			return rc
		}
	}
	if w.buffer == 0 {
		w.buffer = libc.Xmalloc(tls, walBuffer)
	}
	if w.buffer == 0 || n > walBuffer {
		return called[readFunc](w.of().FxWrite)(tls, file, p, n, at)
	}
	if w.size == 0 {
		w.at = at
	}
	copy(memory(w.buffer+uintptr(w.size), int(n)), memory(p, int(n)))
	w.size += int(n)
	return sqlite3.SQLITE_OK
}

// readWAL reads waiting bytes from memory. So a read need not write, which could fail on a full disk.
func readWAL(tls *libc.TLS, file, p uintptr, n int32, at int64) int32 {
	w := walFileOf(file)
	from, to := at-w.at, at-w.at+int64(n)
	switch {
	case w.size == 0 || to <= 0 || from >= int64(w.size): // none of the bytes are waiting
	case from >= 0 && to <= int64(w.size):
		copy(memory(p, int(n)), memory(w.buffer+uintptr(from), int(n)))
		return sqlite3.SQLITE_OK
	default:
		if rc := w.flush(tls, file); rc != sqlite3.SQLITE_OK {
			return rc
		}
	}
	return called[readFunc](w.of().FxRead)(tls, file, p, n, at)
}

func truncateWAL(tls *libc.TLS, file uintptr, size int64) int32 {
	w := walFileOf(file)
	if rc := w.flush(tls, file); rc != sqlite3.SQLITE_OK {
		return rc
	}
	return called[truncateFunc](w.of().FxTruncate)(tls, file, size)
}

// syncWAL drops the waiting bytes if it cannot write them: the commit then fails, and SQLite rolls the
// whole transaction back.
func syncWAL(tls *libc.TLS, file uintptr, flags int32) int32 {
	w := walFileOf(file)
	if rc := w.flush(tls, file); rc != sqlite3.SQLITE_OK {
		w.size = 0
		return rc
	}
	opened := (*sqlite3.TunixFile)(pointer(file))
	// The first sync of a new file also syncs its folder.
	if b, ok := backgroundSyncs.Load(file); ok && opened.FctrlFlags&sqlite3.UNIXFILE_DIRSYNC == 0 {
		if begun, err := b.(*backgroundSync).fdatasync(opened.Fh); err != nil {
			return sqlite3.SQLITE_IOERR_FSYNC
		} else if begun {
			return sqlite3.SQLITE_OK
		}
	}
	return called[syncFunc](w.of().FxSync)(tls, file, flags)
}

func sizeOfWAL(tls *libc.TLS, file, size uintptr) int32 {
	w := walFileOf(file)
	if rc := w.flush(tls, file); rc != sqlite3.SQLITE_OK {
		return rc
	}
	return called[sizeFunc](w.of().FxFileSize)(tls, file, size)
}

// closeWAL drops the waiting bytes: they belong to a transaction that was never committed.
func closeWAL(tls *libc.TLS, file uintptr) int32 {
	w := walFileOf(file)
	libc.Xfree(tls, w.buffer)
	w.buffer, w.size = 0, 0
	if b, ok := backgroundSyncs.LoadAndDelete(file); ok {
		b.(*backgroundSync).close()
	}
	return called[closeFunc](w.of().FxClose)(tls, file)
}
