package sqlite

import (
	"sync/atomic"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// A checkpoint copies each changed page from the write-ahead log into the database file only once,
// even if many commits changed it. So fewer checkpoints copy fewer pages.
const (
	// checkpointPages is the usual value of checkpointEvery: 32 MiB.
	checkpointPages = 8192
	// checkpointPasses bounds the passes of the second connection, because the writer may write as
	// fast as they copy.
	checkpointPasses = 4
)

// checkpointEvery is the length of the log, in pages, at which a checkpoint begins. A test makes it
// smaller.
var checkpointEvery = checkpointPages

// checkpointer runs the checkpoints of the writer. By default, SQLite makes a checkpoint in the
// connection that commits, and no operation is written while it copies thousands of pages and waits
// for the disk. So here a second connection copies the pages while the writer continues. Then the
// writer copies the last pages, between two transactions, because SQLite begins the log again at its
// start only after all pages were copied.
//
// An error is not reported: the pages stay in the log, and the next checkpoint copies them.
type checkpointer struct {
	conn  *conn
	start chan struct{}
	ended chan struct{} // closed when the goroutine has ended
	idle  atomic.Bool   // the goroutine waits for `start`

	// Fields of the writer's goroutine.
	every   int  // length of the log at which a checkpoint begins
	began   int  // length of the log when the last checkpoint began; 0 if the log began again since
	copying bool // a checkpoint has begun, and the log has not begun again since
}

func openCheckpointer(path string) (*checkpointer, error) {
	c, err := openConn(path, "", "synchronous = FULL", "cache_size = -64")
	if err != nil {
		return nil, err
	}
	k := &checkpointer{conn: c, start: make(chan struct{}, 1), ended: make(chan struct{}), every: checkpointEvery}
	k.idle.Store(true)
	go k.loop()
	return k, nil
}

// close waits for the end of a running checkpoint. The writer must not use the checkpointer any more.
func (k *checkpointer) close() error {
	close(k.start)
	<-k.ended
	return k.conn.close()
}

func (k *checkpointer) loop() {
	defer close(k.ended)
	for range k.start {
		before := 0
		for range checkpointPasses {
			copied, err := k.conn.checkpoint()
			if err != nil || copied-before < checkpointPages/32 {
				break // the writer copies the rest
			}
			// SQLite syncs the database file only after the last page of the log. If it is synced
			// here, the writer need not wait for these pages.
			if before = copied; k.conn.syncFile() != nil {
				break
			}
		}
		k.idle.Store(true)
	}
}

// committed must be called by the writer's goroutine after each transaction. `pages` is the length of
// the log.
func (k *checkpointer) committed(writer *conn, pages int) {
	if pages < k.began {
		k.began, k.copying = 0, false // SQLite has begun the log again
	}
	switch {
	case !k.idle.Load():
	case pages-k.began >= k.every:
		// If a reader needs an old page, the log grows although all pages may have been copied.
		k.began, k.copying = pages, true
		k.idle.Store(false)
		k.start <- struct{}{}
	case k.copying:
		_, _ = writer.checkpoint()
	}
}

// checkpoint copies pages from the write-ahead log into the database file, except the pages that a
// reader does not yet see. It returns the number of pages of the log that were copied since SQLite
// began the log, by this and by earlier checkpoints.
func (c *conn) checkpoint() (copied int, err error) {
	out := libc.Xcalloc(c.tls, 1, pointerSize)
	defer libc.Xfree(c.tls, out)
	if rc := sqlite3.Xsqlite3_wal_checkpoint_v2(c.tls, c.db, 0, sqlite3.SQLITE_CHECKPOINT_PASSIVE, 0, out); rc != sqlite3.SQLITE_OK {
		return 0, c.failure(rc)
	}
	return int(*(*int32)(pointer(out))), nil
}

// syncFile makes the content of the database file durable. Opening the file again to sync it is not
// possible: closing a second descriptor would release SQLite's locks.
func (c *conn) syncFile() error {
	file, err := c.file(sqlite3.SQLITE_FCNTL_FILE_POINTER)
	if err != nil {
		return err
	}
	methods := (*sqlite3.Tsqlite3_io_methods)(pointer((*sqlite3.Tsqlite3_file)(pointer(file)).FpMethods))
	if rc := called[syncFunc](methods.FxSync)(c.tls, file, sqlite3.SQLITE_SYNC_NORMAL); rc != sqlite3.SQLITE_OK {
		return c.failure(rc)
	}
	return nil
}

// file returns the address of SQLite's file (a *sqlite3.Tsqlite3_file): of the database with
// SQLITE_FCNTL_FILE_POINTER, or of the write-ahead log with SQLITE_FCNTL_JOURNAL_POINTER.
func (c *conn) file(which int32) (uintptr, error) {
	out := libc.Xcalloc(c.tls, 1, pointerSize)
	defer libc.Xfree(c.tls, out)
	if rc := sqlite3.Xsqlite3_file_control(c.tls, c.db, 0, which, out); rc != sqlite3.SQLITE_OK {
		return 0, c.failure(rc)
	}
	return *(*uintptr)(pointer(out)), nil
}

// countPages makes the connection keep the length of the write-ahead log for logPages. SQLite then
// makes no checkpoints by itself.
func (c *conn) countPages() {
	c.pages = libc.Xcalloc(c.tls, 1, pointerSize)
	sqlite3.Xsqlite3_wal_hook(c.tls, c.db, pointerTo(walHook(keepPages)), c.pages)
}

// logPages returns the length of the write-ahead log, in pages, after the last commit of this
// connection.
func (c *conn) logPages() int { return int(*(*int32)(pointer(c.pages))) }

type walHook = func(tls *libc.TLS, to, db, name uintptr, pages int32) int32

func keepPages(_ *libc.TLS, to, _, _ uintptr, pages int32) int32 {
	*(*int32)(pointer(to)) = pages
	return sqlite3.SQLITE_OK
}
