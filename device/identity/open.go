package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Open opens the TPM 2.0 at an address, which has one of these forms:
//
//	/dev/tpmrm0        a character device: the kernel's resource manager
//	unix:/path         a Unix stream socket for raw TPM commands, such as
//	                   swtpm's server socket; "unix:" may be omitted if the
//	                   socket exists
//	tcp:host:port      raw TPM commands over TCP; "tcp:" may be omitted
//
// Open checks that it can open the device or connect to the socket. It sends no command. It
// connects to a socket only during an operation, so that several processes can take turns. Only
// processes that use this package may use the socket, because a socket has no resource manager.
//
// Each error explains what to do. Errors wrap fs.ErrNotExist, fs.ErrPermission or ErrTPM12 where
// these apply.
func Open(address string) (*TPM, error) {
	network, where, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	if network == "device" {
		return openDevice(where)
	}
	if network == "unix" && len(where) > 107 {
		return nil, fmt.Errorf("identity: %s: the path of a Unix socket may have at most 107 bytes, but this path has %d: use a shorter path, for example of a symbolic link", where, len(where))
	}
	s := &socket{network: network, address: where}
	if err := s.connect(context.Background()); err != nil {
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
			return nil, fmt.Errorf("identity: no TPM at %s: is the software TPM running? %w", address, err)
		case errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("identity: no permission to use the TPM at %s: run as the socket's owner or as root: %w", address, err)
		}
		return nil, fmt.Errorf("identity: connecting to the TPM at %s: %w", address, err)
	}
	s.idle()
	return newTPM(s, false, true), nil
}

func parseAddress(a string) (network, where string, err error) {
	if path, ok := strings.CutPrefix(a, "unix:"); ok && path != "" {
		return "unix", path, nil
	}
	if host, ok := strings.CutPrefix(a, "tcp:"); ok {
		if _, _, err := net.SplitHostPort(host); err != nil {
			return "", "", fmt.Errorf("identity: malformed TPM address %q: write it as tcp:host:port: %w", a, err)
		}
		return "tcp", host, nil
	}
	if info, err := os.Stat(a); err == nil {
		switch {
		case info.Mode()&fs.ModeSocket != 0:
			return "unix", a, nil
		case info.Mode()&fs.ModeCharDevice != 0:
			return "device", a, nil
		}
		return "", "", fmt.Errorf("identity: TPM address %q is neither a character device nor a socket", a)
	}
	if strings.ContainsRune(a, '/') {
		return "device", a, nil // the device is missing or not visible; opening it returns the error
	}
	if host, port, err := net.SplitHostPort(a); err == nil && host != "" && port != "" {
		return "tcp", a, nil
	}
	return "", "", fmt.Errorf("identity: malformed TPM address %q: write it as /dev/tpmrm0, unix:/path or tcp:host:port", a)
}

func openDevice(path string) (*TPM, error) {
	d := &device{open: func() (io.ReadWriteCloser, error) {
		// O_NONBLOCK is not set, so that the kernel completes each command before write
		// returns. os.OpenFile would set it, for Go's poller.
		fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}}
	if err := d.connect(); err != nil {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if is12(path) {
				return nil, fmt.Errorf("%w: %w", ErrTPM12, err)
			}
			return nil, fmt.Errorf("identity: no TPM at %s: switch it on in the firmware setup (\"Security Device\", \"PTT\", \"fTPM\") and load its driver (tpm_tis or tpm_crb): %w", path, err)
		case errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("identity: no permission to use the TPM at %s: add this user to the group tss, or run as root: %w", path, err)
		case errors.Is(err, syscall.EBUSY):
			return nil, fmt.Errorf("identity: another program uses the TPM at %s: use /dev/tpmrm0, which can be shared: %w", path, err)
		}
		return nil, fmt.Errorf("identity: opening the TPM: %w", err)
	}
	managed := strings.HasPrefix(filepath.Base(path), "tpmrm")
	return newTPM(d, managed, false), nil
}

// is12 reports whether the kernel has a TPM 1.2. For a TPM 1.2, the kernel makes no resource
// manager device, so the file at `path` is missing.
func is12(path string) bool {
	n, ok := strings.CutPrefix(filepath.Base(path), "tpmrm")
	if !ok {
		return false
	}
	b, err := os.ReadFile("/sys/class/tpm/tpm" + n + "/tpm_version_major")
	return err == nil && strings.TrimSpace(string(b)) == "1"
}
