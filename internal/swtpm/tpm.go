package swtpm

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"gangway/internal/process"
)

// EK says which endorsement key certificates a TPM has.
type EK int

const (
	RSA2048 EK = iota // one certificate, at NV index 0x01C00002 (template L-1; key at 0x81010001)
	P384              // a certificate at 0x01C00016 (template H-3; key at 0x81010016); with Debian 12's swtpm_setup, also the certificate of RSA2048
	None              // no certificate, as in some real TPMs; the TPM can still make the keys
)

// Options configure New. The zero value means a TPM with an RSA 2048 endorsement key and a maker
// that has no other TPMs.
type Options struct {
	EK EK

	// Maker is the folder of the CA of the TPM's maker. New creates the CA if the folder does not
	// exist. TPMs with the same folder have the same maker. Empty means DIR/ca.
	Maker string
}

// TPM is a running software TPM. Its methods may be called from several goroutines.
type TPM struct {
	dir, socket, control string
	temp                 string // folder of the sockets, if the path `dir` is too long for a socket
	root, issuer         *x509.Certificate

	mu   sync.Mutex
	proc *process.Process // nil while stopped
}

// controlName is the control socket's name. tpm2-tools' swtpm TCTI expects this name for a
// command socket "tpm.sock".
const controlName = "tpm.sock.ctrl"

// maxSocket is the maximum length of a socket's path in bytes (sockaddr_un.sun_path without the
// terminating zero).
const maxSocket = 107

// New starts the TPM in the folder `dir`. If the folder has no TPM, New first makes a TPM, which
// takes about a second. If the folder has a TPM, New ignores `opts.EK`. The context `ctx` limits
// only the making and the start: the TPM runs until Stop is called or this process ends.
func New(ctx context.Context, dir string, opts Options) (*TPM, error) {
	if m := Missing(); m != "" {
		return nil, errors.New("swtpm: " + m)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("swtpm: %w", err)
	}
	maker := opts.Maker
	if maker == "" {
		maker = filepath.Join(dir, "ca")
	}
	if maker, err = filepath.Abs(maker); err != nil {
		return nil, fmt.Errorf("swtpm: %w", err)
	}
	_, err = os.Stat(filepath.Join(dir, "made"))
	fresh := errors.Is(err, os.ErrNotExist)
	if fresh {
		if err := manufacture(ctx, dir, maker, opts); err != nil {
			return nil, err
		}
	}
	t := &TPM{dir: dir}
	if opts.EK != None {
		if t.root, t.issuer, err = makerCertificates(maker); err != nil {
			return nil, err
		}
	}
	if err := t.chooseSockets(); err != nil {
		return nil, err
	}
	if err := t.start(ctx); err != nil {
		t.Stop()
		return nil, err
	}
	if fresh {
		if err := t.finish(opts); err != nil {
			t.Stop()
			return nil, err
		}
	}
	return t, nil
}

// finish removes the certificates that swtpm_setup made but the caller of New did not request. Then
// finish marks the TPM as completely made. If New is interrupted before the mark, the next New
// makes the TPM again.
func (t *TPM) finish(opts Options) error {
	if opts.EK == RSA2048 {
		if err := t.DeleteNV(0x01C00016); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(t.dir, "made"), nil, 0o600); err != nil {
		return fmt.Errorf("swtpm: %w", err)
	}
	return nil
}

// chooseSockets sets the paths of the command socket and the control socket.
func (t *TPM) chooseSockets() error {
	at := t.dir
	if len(filepath.Join(at, controlName)) > maxSocket {
		temp, err := os.MkdirTemp("", "swtpm")
		if err != nil {
			return fmt.Errorf("swtpm: %w", err)
		}
		if len(filepath.Join(temp, controlName)) > maxSocket {
			os.RemoveAll(temp)
			return fmt.Errorf("swtpm: the path %s is too long for a Unix socket, and so is TMPDIR: set TMPDIR to a shorter path", t.dir)
		}
		t.temp, at = temp, temp
	}
	t.socket = filepath.Join(at, "tpm.sock")
	t.control = filepath.Join(at, controlName)
	return nil
}

// Address returns "unix:" and the absolute path of the command socket. Restart does not change it.
func (t *TPM) Address() string { return "unix:" + t.socket }

// TCTI returns the TPM's address for tpm2-tools (TPM2TOOLS_TCTI) and OpenSSL's TPM provider
// (TPM2OPENSSL_TCTI). While such a program runs, no other program can use the socket.
func (t *TPM) TCTI() string { return "swtpm:path=" + t.socket }

// Roots returns the maker's root certificate, without the intermediate certificate that signs the
// EK certificates (see Issuer). It returns none for a TPM that was made with EK None.
func (t *TPM) Roots() []*x509.Certificate {
	if t.root == nil {
		return nil
	}
	return []*x509.Certificate{t.root}
}

// Issuer returns the maker's intermediate certificate, which signs the EK certificates. It is
// nil for a TPM made with EK None.
func (t *TPM) Issuer() *x509.Certificate { return t.issuer }

// CAPEM returns the maker's root and intermediate certificates in PEM.
func (t *TPM) CAPEM() []byte {
	var b bytes.Buffer
	for _, c := range []*x509.Certificate{t.root, t.issuer} {
		if c != nil {
			pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // never fails: it writes to a bytes.Buffer
		}
	}
	return b.Bytes()
}

// Restart resets the TPM, as a power cycle does: transient state is lost, and persistent state
// remains.
func (t *TPM) Restart(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proc.Stop(grace)
	t.proc = nil
	return t.startLocked(ctx)
}

// Stop ends the TPM and waits until it has ended. The TPM's state remains in its folder. A second
// call does nothing.
func (t *TPM) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proc.Stop(grace)
	t.proc = nil
	os.Remove(t.socket)
	os.Remove(t.control)
	if t.temp != "" {
		os.RemoveAll(t.temp)
	}
}

func (t *TPM) start(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.startLocked(ctx)
}
