package signer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func generate(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// run serves keys on a socket in a temporary folder, and returns the socket's path.
func run(t *testing.T, keys map[string]crypto.Signer, log io.Writer, change func(*ListenOptions)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "signer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "socket")
	logger := slog.New(slog.NewTextHandler(log, nil))
	h, err := NewHandler(keys, logger)
	if err != nil {
		t.Fatal(err)
	}
	o := ListenOptions{Users: []int{os.Getuid()}, Group: -1, Log: logger}
	if change != nil {
		change(&o)
	}
	l, err := Listen(path, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestSigns(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	keys := map[string]crypto.Signer{"aca": generate(t, elliptic.P256()), "device-ca": generate(t, elliptic.P384())}
	path := run(t, keys, &log, nil)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	c := NewClient(path)
	for name, key := range keys {
		public, err := c.Public(t.Context(), name)
		if err != nil || !public.Equal(key.Public()) {
			t.Fatalf("%s: %v", name, err)
		}
		digest := make([]byte, hashes[public.Curve].Size())
		sig, err := c.Sign(t.Context(), name, digest, hashes[public.Curve])
		if err != nil || !ecdsa.VerifyASN1(public, digest, sig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := strings.Count(log.String(), "Signed."); got != 2 {
		t.Errorf("the log has %d signatures: %s", got, log.String())
	}
}

// A signer signs only with its listed keys, and only digests of the right length for the key's
// curve.
func TestSignerRefuses(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	path := run(t, map[string]crypto.Signer{"aca": generate(t, elliptic.P256())}, &log, nil)
	c := NewClient(path)
	for what, try := range map[string]func() error{
		"unlisted key":            func() error { _, err := c.Public(t.Context(), "root"); return err },
		"signature of a root":     func() error { _, err := c.Sign(t.Context(), "root", make([]byte, 32), crypto.SHA256); return err },
		"name with a path":        func() error { _, err := c.Public(t.Context(), "../aca"); return err },
		"short digest":            func() error { _, err := c.Sign(t.Context(), "aca", make([]byte, 31), crypto.SHA256); return err },
		"long digest":             func() error { _, err := c.Sign(t.Context(), "aca", make([]byte, 33), crypto.SHA256); return err },
		"empty digest":            func() error { _, err := c.Sign(t.Context(), "aca", nil, crypto.SHA256); return err },
		"huge body":               func() error { _, err := c.Sign(t.Context(), "aca", make([]byte, 1<<20), crypto.SHA256); return err },
		"hash of another curve":   func() error { _, err := c.Sign(t.Context(), "aca", make([]byte, 48), crypto.SHA384); return err },
		"SHA-1":                   func() error { _, err := c.Sign(t.Context(), "aca", make([]byte, 20), crypto.SHA1); return err },
		"unknown route":           func() error { _, err := c.do(t.Context(), "POST", "/v1/keys/aca/export", nil); return err },
		"signature by GET method": func() error { _, err := c.do(t.Context(), "GET", "/v1/keys/aca/sign?hash=SHA-256", nil); return err },
	} {
		if err := try(); err == nil || !strings.Contains(err.Error(), "refuses (40") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if strings.Contains(log.String(), "Signed.") {
		t.Errorf("signed: %s", log.String())
	}
	for name, keys := range map[string]map[string]crypto.Signer{"P-521": {"a": generate(t, elliptic.P521())}, "bad name": {"../a": generate(t, elliptic.P256())}} {
		if _, err := NewHandler(keys, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// brokenHSM is a key whose HSM has failed.
type brokenHSM struct{ crypto.Signer }

func (brokenHSM) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("CKR_DEVICE_REMOVED")
}

func TestBrokenHSMIsLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	path := run(t, map[string]crypto.Signer{"aca": brokenHSM{generate(t, elliptic.P256())}}, &log, nil)
	_, err := NewClient(path).Sign(t.Context(), "aca", make([]byte, 32), crypto.SHA256)
	if err == nil || strings.Contains(err.Error(), "CKR_") || !strings.Contains(log.String(), "CKR_DEVICE_REMOVED") {
		t.Errorf("%v; log %s", err, log.String())
	}
}

// Another user gets no answer, even if the socket's mode lets the user connect. The user of the
// test must be root, to start a process of another user.
func TestRejectsOtherUsers(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can start a process of another user")
	}
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("curl is not installed")
	}
	const other = 65534
	for name, allowed := range map[string][]int{"refused": {0}, "allowed": {0, other}} {
		var log bytes.Buffer
		path := run(t, map[string]crypto.Signer{"aca": generate(t, elliptic.P256())}, &log, func(o *ListenOptions) { o.Users = allowed })
		for file, mode := range map[string]os.FileMode{filepath.Dir(path): 0o755, path: 0o666} { // modes as a careless administrator would set them
			if err := os.Chmod(file, mode); err != nil {
				t.Fatal(err)
			}
		}
		c := exec.Command(curl, "-sS", "--max-time", "10", "--unix-socket", path, "http://signer/v1/keys/aca")
		c.Dir, c.SysProcAttr = "/", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: other, Gid: other}}
		out, err := c.CombinedOutput()
		if answered := strings.Contains(string(out), "PUBLIC KEY"); answered != (name == "allowed") {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
}

func TestListen(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "signer")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "socket")
	o := ListenOptions{Users: []int{os.Getuid()}, Group: os.Getgid(), Log: slog.New(slog.DiscardHandler)}
	if _, err := Listen(path, ListenOptions{Group: -1}); err == nil {
		t.Error("a signer for nobody starts")
	}
	l, err := Listen(path, o)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	if _, err := Listen(path, o); err == nil || !strings.Contains(err.Error(), "another signer") {
		t.Errorf("a second signer: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left %v, %v", entries, err)
	}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	if l, err = Listen(path, o); err != nil {
		t.Fatalf("after a signer that was killed: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, o); err == nil {
		t.Error("a file is replaced")
	}
}

// A signature still works after a restart of the signer, on the connection that the client kept.
func TestClientSurvivesARestart(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "signer")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "socket")
	h, err := NewHandler(map[string]crypto.Signer{"aca": generate(t, elliptic.P256())}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(path)
	for range 3 {
		l, err := Listen(path, ListenOptions{Users: []int{os.Getuid()}, Group: -1, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		done := make(chan error, 1)
		go func() { done <- h.Serve(ctx, l) }()
		if _, err := c.Sign(t.Context(), "aca", make([]byte, 32), crypto.SHA256); err != nil {
			t.Error(err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
