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

// EK is the kind of endorsement key certificate that a TPM has.
type EK int

const (
	RSA2048 EK = iota // one certificate, at 0x01C00002 (L-1; its key at 0x81010001)
	P384              // one at 0x01C00016 (H-3; its key at 0x81010016); Debian 12's swtpm_setup adds that of RSA2048
	None              // no certificate, like some real TPMs; the keys can still be made
)

// Options configure New. The zero value is a TPM with an RSA 2048 endorsement key and a maker
// of its own.
type Options struct {
	EK EK

	// Maker is the folder of the TPM maker's CA. It is made if it does not exist. TPMs with the
	// same Maker have the same maker. Empty: DIR/ca.
	Maker string
}

// TPM is a running software TPM. Its methods may be called from several
// goroutines.
type TPM struct {
	dir, socket, control string
	temp                 string // folder of the sockets if dir's path is too long
	root, issuer         *x509.Certificate

	mu   sync.Mutex
	proc *process.Process // nil while stopped
}

// controlName is the control socket's name. tpm2-tools' swtpm TCTI expects this name for a
// command socket "tpm.sock".
const controlName = "tpm.sock.ctrl"

// maxSocket is the maximum length of a socket's path in bytes (sockaddr_un.sun_path, without
// its final zero).
const maxSocket = 107

// New starts the TPM in dir. If there is none, it first makes one, which takes about a second.
// An existing TPM is kept, and opts.EK is ignored. ctx bounds only the making and the start:
// the TPM runs until Stop, or until this process ends.
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

// finish removes the certificates that swtpm_setup made although New was not asked for them, and
// then marks the TPM as made. If New is interrupted before that, the next New makes the TPM again.
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

// chooseSockets chooses the paths of the sockets.
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

// Address returns "unix:" and the absolute path of the socket for raw TPM commands. It stays the
// same after Restart.
func (t *TPM) Address() string { return "unix:" + t.socket }

// TCTI returns the TPM's address for tpm2-tools and OpenSSL's TPM provider (TPM2TOOLS_TCTI,
// TPM2OPENSSL_TCTI). While one of them runs, nothing else can use the socket.
func (t *TPM) TCTI() string { return "swtpm:path=" + t.socket }

// Roots returns the maker's root certificate and no others. The CA of Issuer, which is below the
// root, signs the EK certificates. A TPM made with EK None has no root.
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
			pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // writing to a bytes.Buffer cannot fail
		}
	}
	return b.Bytes()
}

// Restart resets the TPM, as a power cycle does: transient state is lost, persistent state
// stays.
func (t *TPM) Restart(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proc.Stop(grace)
	t.proc = nil
	return t.startLocked(ctx)
}

// Stop ends the TPM and waits for its end. It keeps the TPM's state. A second call does nothing.
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
