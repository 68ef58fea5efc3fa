package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gangway/hub/api"
	"gangway/hub/pki"
	"gangway/hub/store/postgres"
	"gangway/hub/store/transfer"
)

// A running hub and 'gangway db migrate' cooperate through files in the data folder:
//
//  1. The command copies the database, and follows the changes.
//  2. The command writes moveFile, which names the new database.
//  3. The hub finds moveFile, and copies the changes until few are left. From then on, it accepts
//     no connections; new connections wait in the backlog of the listeners. The hub asks its
//     clients to connect again, finishes the running requests, and closes the database file.
//  4. The hub copies the last changes, renames the database file to movedFile, and continues to
//     serve with the new database. If this step fails before the new database is complete, the hub
//     continues with the file, and renames moveFile to moveFailed.
//
// If the hub is killed during these steps, it completes the remaining steps when it next starts,
// because moveFile and the database file both exist. After the move, moveFile stays, so that the
// hub and all commands find the database.
const (
	moveFile   = "database.json"
	moveFailed = "database.failed"
	moveLock   = "move.lock" // locked while 'gangway db migrate' runs
)

const (
	// moveDrain is how long the clients of open connections may send requests before the hub closes
	// the connections and the database file.
	moveDrain = 2 * time.Second
	// movePoll is how often a hub looks for moveFile, which requests a move of its database.
	movePoll = 300 * time.Millisecond
	// fewChanges is the number of remaining changed rows below which the hub begins the last step
	// of a move. The hub can copy this many rows in a fraction of a second.
	fewChanges = 1000
	// maxRounds is the maximum number of rounds of copying before the last step of a move. Under a
	// high load, a round may never have fewer than fewChanges rows.
	maxRounds = 50
	// moveForgotten is the time after which a hub cancels a move, if no command has worked on the
	// move in that time.
	moveForgotten = 7 * 24 * time.Hour
)

// moveTarget is the content of moveFile. It says to which PostgreSQL database the hub moves.
type moveTarget struct {
	URL          string `json:"url"`
	PasswordFile string `json:"password-file,omitempty"`
	Password     string `json:"password,omitempty"`
}

// movedDatabase returns the flags of the PostgreSQL database to which the hub's database was moved.
// If the database was not moved, the flags have no URL.
func movedDatabase(dir string) (flags databaseFlags, err error) {
	text, err := os.ReadFile(filepath.Join(dir, moveFile))
	if errors.Is(err, os.ErrNotExist) {
		return flags, nil
	}
	var to moveTarget
	if err == nil {
		err = json.Unmarshal(text, &to)
	}
	if err == nil && to.URL == "" {
		err = errors.New("it has no url")
	}
	if err != nil {
		return flags, fmt.Errorf("read %s: %w", filepath.Join(dir, moveFile), err)
	}
	return databaseFlags{url: to.URL, passwordFile: to.PasswordFile, password: to.Password}, nil
}

// databaseOf is like the function `database`, but if no flag names the database, it also finds the
// database to which the hub in the folder `dir` was moved.
func databaseOf(ctx context.Context, dir string) (config postgres.Config, ok bool, err error) {
	if config, ok, err = database(ctx); ok || err != nil || exists(filepath.Join(dir, databaseFile)) {
		return config, ok, err
	}
	flags, err := movedDatabase(dir)
	if err != nil {
		return config, false, err
	}
	return flags.config()
}

// sockets are the listeners of a hub.
type sockets struct {
	listeners, pages []net.Listener
	private          net.Listener // nil: none
}

// The method `copies` returns other listeners for the same sockets. After `pause` is called, the
// copies accept no connections. While nobody accepts connections, new connections wait in the
// backlog of the sockets.
func (s sockets) copies() (c sockets, pause func(), err error) {
	var all []*waitroom
	again := func(list ...net.Listener) (copied []net.Listener) {
		for _, l := range list {
			w, failed := newWaitroom(l)
			if failed != nil {
				err = failed
				return nil
			}
			all, copied = append(all, w), append(copied, w)
		}
		return copied
	}
	c.listeners, c.pages = again(s.listeners...), again(s.pages...)
	if s.private != nil {
		if list := again(s.private); err == nil {
			c.private = list[0]
		}
	}
	pause = func() {
		for _, w := range all {
			w.pause()
		}
	}
	if err != nil {
		for _, w := range all {
			w.Close()
		}
	}
	return c, pause, err
}

// waitroom is a second listener of a socket. After `pause` is called, Accept waits until the
// listener is closed.
type waitroom struct {
	*net.TCPListener
	paused atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func newWaitroom(l net.Listener) (*waitroom, error) {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("the listener %s is not a TCP listener", l.Addr())
	}
	f, err := tcp.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	again, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return &waitroom{TCPListener: again.(*net.TCPListener), closed: make(chan struct{})}, nil
}

func (w *waitroom) pause() {
	w.paused.Store(true)
	_ = w.SetDeadline(time.Now()) // ends the running Accept
}

// Accept implements net.Listener.
func (w *waitroom) Accept() (net.Conn, error) {
	c, err := w.TCPListener.Accept()
	if err != nil && w.paused.Load() {
		<-w.closed
		return nil, net.ErrClosed
	}
	return c, err
}

// Close implements net.Listener.
func (w *waitroom) Close() error {
	w.once.Do(func() { close(w.closed) })
	return w.TCPListener.Close()
}

// mover waits for a request to move the database of a running hub.
type mover struct {
	a      *app
	dir    string
	pause  func() // stops the accepting of connections
	server atomic.Pointer[api.Server]
	move   *transfer.Move // a move that has caught up; nil: there was no request
}

// serveThroughMove serves a hub. If 'gangway db migrate' requests a move, the hub moves its
// database, and then continues to serve.
func (a *app) serveThroughMove(ctx context.Context, dir string, s sockets, serve func(context.Context, *mover, sockets) error) error {
	if _, shared, err := database(ctx); err != nil || shared {
		return errors.Join(err, ifNil(err, func() error { return serve(ctx, &mover{}, s) }))
	}
	if err := a.finishInterrupted(ctx, dir); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if flags, err := movedDatabase(dir); err != nil || flags.url != "" && !exists(filepath.Join(dir, databaseFile)) {
			return errors.Join(err, ifNil(err, func() error { return serve(ctx, &mover{}, s) }))
		}
		again, pause, err := s.copies()
		if err != nil {
			return err
		}
		m := &mover{a: a, dir: dir, pause: pause}
		serving, stop := context.WithCancel(ctx)
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			m.watch(serving, stop)
		}()
		err = serve(serving, m, again)
		stop()
		<-watched
		if m.move == nil || err != nil || ctx.Err() != nil {
			return errors.Join(err, m.close())
		}
		if err := a.finishMove(ctx, dir, m.move); err != nil {
			return err
		}
	}
	return nil
}

func ifNil(err error, f func() error) error {
	if err != nil {
		return nil
	}
	return f()
}

func (m *mover) close() error {
	if m.move == nil {
		return nil
	}
	return m.move.Close()
}

// watch waits for moveFile. Then it copies the changes so far, and stops serving, so that the
// caller can complete the move.
func (m *mover) watch(ctx context.Context, stop context.CancelFunc) {
	tick := time.NewTicker(movePoll)
	defer tick.Stop()
	file := filepath.Join(m.dir, databaseFile)
	for checked := (time.Time{}); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if time.Since(checked) > time.Hour && exists(file) {
			checked = time.Now()
			if stopped, err := transfer.Stop(ctx, file, moveForgotten); err != nil {
				m.a.note("Warning: cannot cancel an unfinished move of the database: %v", err)
			} else if stopped {
				m.a.note("The hub has cancelled the move of the database to PostgreSQL, because no command has worked on the move for %d days.", int(moveForgotten.Hours()/24))
			}
		}
		server := m.server.Load()
		if server == nil || !exists(filepath.Join(m.dir, moveFile)) {
			continue
		}
		move, err := prepareMove(ctx, m.dir)
		if err != nil {
			if ctx.Err() == nil {
				m.a.failMove(m.dir, err)
			}
			continue
		}
		m.move = move
		m.pause()
		server.DrainFor(moveDrain)
		stop()
		return
	}
}

// prepareMove connects to the database that moveFile names, and copies changed rows to it, until
// few are left.
func prepareMove(ctx context.Context, dir string) (_ *transfer.Move, err error) {
	flags, err := movedDatabase(dir)
	if err != nil {
		return nil, err
	}
	config, _, err := flags.config()
	if err != nil {
		return nil, err
	}
	ca, err := pki.Open(keysFolder(ctx, dir), pki.Options{})
	if err != nil {
		return nil, err
	}
	m, err := transfer.Open(ctx, transfer.Options{File: filepath.Join(dir, databaseFile), To: config, Hub: ca.HubName()})
	if err != nil {
		return nil, err
	}
	if err := catchUp(ctx, m); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// catchUp copies changed rows until few are left.
func catchUp(ctx context.Context, m *transfer.Move) error {
	for range maxRounds {
		if n, err := m.CatchUp(ctx); err != nil || n < fewChanges {
			return err
		}
	}
	return nil
}

// failMove tells 'gangway db migrate' that the hub continues to use the database file.
func (a *app) failMove(dir string, why error) {
	a.note("Warning: the database is not moved to PostgreSQL, and the hub continues to use the file: %v", why)
	from := filepath.Join(dir, moveFile)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, moveFailed), []byte(why.Error()+"\n"), 0o600), os.Remove(from)); err != nil {
		a.note("Warning: %v", err)
	}
}

// finishInterrupted completes a move that was interrupted in its last step.
func (a *app) finishInterrupted(ctx context.Context, dir string) error {
	if !exists(filepath.Join(dir, moveFile)) || !exists(filepath.Join(dir, databaseFile)) {
		return nil
	}
	a.note("The hub was stopped while it moved its database to PostgreSQL. It continues the move now.")
	m, err := prepareMove(ctx, dir)
	if err != nil {
		return a.orClosed(ctx, dir, err)
	}
	return a.finishMove(ctx, dir, m)
}

// orClosed handles the error `why` of a move. If the database file is still open, orClosed calls
// failMove and returns nil, so that the hub continues with the file. If the move had already closed
// the file, orClosed returns an error, because the new database may be complete.
func (a *app) orClosed(ctx context.Context, dir string, why error) error {
	closed, err := transfer.Closed(ctx, filepath.Join(dir, databaseFile))
	if err != nil || closed {
		return fmt.Errorf("the move to PostgreSQL is not complete, and the database file is closed: start the hub again when PostgreSQL can be reached: %w", errors.Join(why, err))
	}
	a.failMove(dir, why)
	return nil
}

// finishMove copies the last changes of the closed database file, and renames the file. It closes
// `m`.
func (a *app) finishMove(ctx context.Context, dir string, m *transfer.Move) error {
	lock, err := serveAlone(dir)
	if err != nil {
		return errors.Join(err, m.Close())
	}
	defer lock.Close()
	begun := time.Now()
	if err := errors.Join(m.Finish(ctx), m.Close()); err != nil {
		return a.orClosed(ctx, dir, err)
	}
	file := filepath.Join(dir, databaseFile)
	if err := os.Rename(file, filepath.Join(dir, movedFile)); err != nil {
		return err
	}
	a.note("The database was moved to PostgreSQL. The last step took %v, and the file is now named %s.", time.Since(begun).Round(time.Millisecond), filepath.Join(dir, movedFile))
	return nil
}

// moveRunning moves the database of a running hub.
func (a *app) moveRunning(ctx context.Context, dir string, to databaseFlags, config postgres.Config) error {
	file, ask, failed := filepath.Join(dir, databaseFile), filepath.Join(dir, moveFile), filepath.Join(dir, moveFailed)
	lock, err := os.OpenFile(filepath.Join(dir, moveLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another 'gangway db migrate' is working on %s: wait until it has ended", dir)
	}
	if err := os.Remove(failed); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if !exists(ask) {
		if err := a.copyRunning(ctx, dir, config); err != nil {
			return err
		}
		if err := writeMoveFile(dir, to, config); err != nil {
			return err
		}
	}
	a.note("PostgreSQL has the same rows as the file. The hub now changes to PostgreSQL.")
	for exists(file) {
		if why, err := os.ReadFile(failed); err == nil {
			return fmt.Errorf("the hub continues to use its file: %s", why)
		}
		if served, err := isServed(dir); err == nil && !served && exists(file) {
			a.note("The hub has stopped. It completes the move when it starts.")
		}
		select {
		case <-ctx.Done():
			return errors.New("interrupted: the hub completes the move by itself")
		case <-time.After(movePoll):
		}
	}
	if err := transfer.Validate(ctx, config); err != nil {
		return err
	}
	a.note("The hub now uses PostgreSQL. When the hub next starts, it finds the database through %s, or through --database.", ask)
	return nil
}

// copyRunning copies the database of a running hub, and compares every row.
func (a *app) copyRunning(ctx context.Context, dir string, to postgres.Config) (err error) {
	ca, err := pki.Open(keysFolder(ctx, dir), pki.Options{})
	if err != nil {
		return err
	}
	m, err := transfer.Open(ctx, transfer.Options{File: filepath.Join(dir, databaseFile), To: to, Hub: ca.HubName(), Progress: a.copyProgress()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := m.Copy(ctx); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted: run the command again to continue")
		}
		return err
	}
	return catchUp(ctx, m)
}

// writeMoveFile writes moveFile. The file belongs to the owner of the database file, so that the
// hub can read it even if root runs the command.
func writeMoveFile(dir string, to databaseFlags, config postgres.Config) error {
	content := moveTarget{URL: to.url}
	if to.passwordFile != "" {
		path, err := filepath.Abs(to.passwordFile)
		if err != nil {
			return err
		}
		content.PasswordFile = path
	} else {
		content.Password = os.Getenv("PGPASSWORD")
	}
	text, err := json.Marshal(content)
	if err != nil {
		return err
	}
	info, err := os.Stat(filepath.Join(dir, databaseFile))
	if err != nil {
		return err
	}
	path := filepath.Join(dir, moveFile)
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o600); err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		if err := os.Chown(path+".new", int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return os.Rename(path+".new", path)
}

// isServed reports whether a server has locked a data folder.
func isServed(dir string) (bool, error) {
	f, err := os.OpenFile(filepath.Join(dir, serveFile), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}
