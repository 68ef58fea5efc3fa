package signer

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// ListenOptions say who may use a signer's socket.
type ListenOptions struct {
	// Users are the ids of the users that may connect.
	Users []int
	// Group is the id of a group whose members may open the socket; even so, the signer checks the
	// user of each connection. If Group is -1, only the signer's own user may open the socket.
	Group int
	Log   *slog.Logger
}

// Listen listens on a Unix socket, which gets the mode 0600, or 0660 if there is a group. It
// replaces a socket that a killed signer left behind, but never the socket of a running signer or
// another kind of file.
func Listen(path string, o ListenOptions) (net.Listener, error) {
	if len(o.Users) == 0 {
		return nil, errors.New("signer: no user may connect")
	}
	if err := removeDead(path); err != nil {
		return nil, err
	}
	// The socket gets its final name only after its mode is set, so that nobody else can connect
	// before that.
	tmp, err := os.MkdirTemp(filepath.Dir(path), ".signer-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	inner := filepath.Join(tmp, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: inner, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := publish(inner, path, o.Group); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &listener{l, path, o}, nil
}

func publish(inner, path string, group int) error {
	mode := fs.FileMode(0o600)
	if group >= 0 {
		mode = 0o660
		info, err := os.Lstat(inner)
		if err != nil {
			return err
		}
		// gangway-signer.service forbids chown, but chown is not needed if the socket already has
		// the right group.
		if int(info.Sys().(*syscall.Stat_t).Gid) != group {
			if err := os.Chown(inner, -1, group); err != nil {
				return err
			}
		}
	}
	if err := os.Chmod(inner, mode); err != nil {
		return err
	}
	return os.Rename(inner, path)
}

// removeDead removes the socket of a signer that no longer runs.
func removeDead(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("signer: %s exists and is not a socket: choose another path", path)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return fmt.Errorf("signer: another signer uses %s: stop it first", path)
	}
	return os.Remove(path)
}

type listener struct {
	*net.UnixListener
	path string
	o    ListenOptions
}

// Accept returns the next connection of an allowed user. It closes the connections of other users.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		user, err := userOf(conn)
		if err == nil && slices.Contains(l.o.Users, user) {
			return conn, nil
		}
		l.o.Log.Warn("Refused a connection: this user may not use the signer.", "user", user, "error", err)
		conn.Close()
	}
}

func (l *listener) Close() error {
	return errors.Join(os.Remove(l.path), l.UnixListener.Close())
}

// userOf returns the id of the user at the other end of the connection. It comes from the kernel,
// which recorded it when the user connected, so the user cannot forge it.
func userOf(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return -1, err
	}
	if failed != nil {
		return -1, failed
	}
	return int(cred.Uid), nil
}
