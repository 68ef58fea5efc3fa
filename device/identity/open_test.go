package identity

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gangway/internal/swtpm"
)

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, c := range []struct {
		address string
		is      error
		says    string
	}{
		{"/dev/tpmrm99", fs.ErrNotExist, "firmware setup"},
		{"unix:" + filepath.Join(dir, "none.sock"), fs.ErrNotExist, "software TPM running"},
		{dead, syscall.ECONNREFUSED, "software TPM running"},
		{dir, nil, "neither"},
		{"", nil, "malformed TPM address"},
		{"nonsense", nil, "malformed TPM address"},
		{"unix:", nil, "malformed TPM address"},
		{"tcp:localhost", nil, "tcp:host:port"},
		{"unix:/" + strings.Repeat("x", 120), nil, "107"},
	} {
		tpm, err := Open(c.address)
		if err == nil {
			tpm.Close()
			t.Errorf("%q: opened", c.address)
			continue
		}
		if c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v", c.address, err)
		}
	}
}

func TestPermissionDeniedNamesTheGroup(t *testing.T) {
	t.Parallel()
	if os.Getuid() == 0 {
		t.Skip("root is denied nothing: run the tests as another user to see this one")
	}
	path := filepath.Join(t.TempDir(), "tpm")
	if err := os.WriteFile(path, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := openDevice(path); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "tss") {
		t.Errorf("error %v", err)
	}
}

// serve answers the clients of a Unix socket, one at a time, with the function `answer`. It returns
// the socket's address.
func serve(t *testing.T, answer func(net.Conn)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "id")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); os.RemoveAll(dir) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			answer(c)
			c.Close()
		}
	}()
	return "unix:" + path
}

func TestForeignServersAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		answer []byte
		want   error
		says   string
	}{
		{"TPM 1.2", []byte{0x00, 0xC4, 0, 0, 0, 10, 0, 0, 0, 0x1E}, ErrTPM12, "TPM 2.0 is required"},
		{"another protocol", []byte("HTTP/1.1 400 Bad Request\r\n"), nil, "check that the address belongs to a TPM 2.0"},
		{"a response of 4 GB", []byte{0x80, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0}, nil, "check that the address belongs to a TPM 2.0"},
		{"another tag", []byte{0x80, 9, 0, 0, 0, 10, 0, 0, 0, 0}, nil, "check that the address belongs to a TPM 2.0"},
		{"hanging up", nil, io.EOF, ""},
		{"hanging up early", []byte{0x80, 1, 0, 0, 0, 20, 0, 0, 0, 0, 1}, io.ErrUnexpectedEOF, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			address := serve(t, func(conn net.Conn) {
				if n, _ := conn.Read(make([]byte, 4096)); n > 0 {
					conn.Write(c.answer)
				}
			})
			tpm, err := Open(address)
			if err != nil {
				t.Fatal(err)
			}
			defer tpm.Close()
			_, err = Load(t.Context(), tpm, Options{})
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestDeadTPMDoesNotHang: if the TPM never answers, an operation ends when its context ends, or at
// the time limit of its command.
func TestDeadTPMDoesNotHang(t *testing.T) {
	t.Parallel()
	address := serve(t, func(conn net.Conn) { io.Copy(io.Discard, conn) })
	tpm, err := Open(address)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := Load(ctx, tpm, Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	if _, err := tpm.link.exchange(t.Context(), make([]byte, 10), 100*time.Millisecond); err == nil || !strings.Contains(err.Error(), "did not answer") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestOpensEveryFormOfAddress(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	path := strings.TrimPrefix(s.Address(), "unix:")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("unix", path)
			if err != nil {
				c.Close()
				continue
			}
			go func() { io.Copy(up, c); up.Close() }()
			go func() { io.Copy(c, up); c.Close() }()
		}
	}()
	for _, address := range []string{s.Address(), path, l.Addr().String(), "tcp:" + l.Addr().String()} {
		tpm, err := Open(address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if _, err := LoadSigner(t.Context(), tpm, Options{}); err != nil {
			t.Errorf("%s: %v", address, err)
		}
		if err := tpm.Close(); err != nil {
			t.Errorf("%s: %v", address, err)
		}
		if _, err := LoadSigner(t.Context(), tpm, Options{}); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: after Close: %v", address, err)
		}
	}
	assertEmpty(t, s)
}

// chip behaves like the kernel's character device: one write is a command, and one read returns
// its response. It forwards the commands to a software TPM.
type chip struct {
	s    *socket
	rsp  []byte
	hang chan struct{} // if not nil, a write blocks until this channel is closed
}

func (c *chip) Write(cmd []byte) (int, error) {
	if c.hang != nil {
		<-c.hang
		return 0, os.ErrClosed
	}
	var err error
	c.rsp, err = c.s.exchange(context.Background(), cmd, time.Minute)
	c.s.idle() // disconnect, so that the test can use the socket
	return len(cmd), err
}

func (c *chip) Read(b []byte) (int, error) {
	n := copy(b, c.rsp)
	c.rsp = nil
	return n, nil
}

func (c *chip) Close() error { return c.s.close() }

func TestDeviceIsOpenedAnewAfterAFailure(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.P384)
	opened := 0
	hang := make(chan struct{})
	defer close(hang)
	d := &device{open: func() (io.ReadWriteCloser, error) {
		opened++
		c := &chip{s: &socket{network: "unix", address: strings.TrimPrefix(s.Address(), "unix:")}}
		if opened == 1 {
			c.hang = hang
		}
		return c, nil
	}}
	tpm := newTPM(d, true, false)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Load(ctx, tpm, Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	id, err := Load(t.Context(), tpm, Options{})
	if err != nil {
		t.Fatal(err)
	}
	secret := newSecret()
	blob, enc := credential(t, id.EK.Raw, id.IAKName, secret)
	if got, err := id.ActivateCredential(blob, enc); err != nil || !bytes.Equal(got, secret) {
		t.Error(err)
	}
	if opened != 2 {
		t.Errorf("opened %d times", opened)
	}
	id.Close()
	assertEmpty(t, s)
	if err := tpm.Close(); err != nil {
		t.Error(err)
	}
}
