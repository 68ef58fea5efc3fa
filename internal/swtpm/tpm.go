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
	RSA2048 EK = iota // one, at 0x01C00002 (L-1; its key at 0x81010001)
	P384              // one at 0x01C00016 (H-3; its key at 0x81010016); Debian 12's swtpm_setup adds the former
	None              // none, as some chips; the keys can still be made
)

// Options for New. The zero value is a TPM with an RSA 2048 endorsement key
// and a maker of its own.
type Options struct {
	EK EK

	// Maker is the folder of the TPM maker's CA, created when absent. TPMs
	// with the same Maker are of one maker. Empty: DIR/ca.
	Maker string
}

// TPM is a running software TPM. Its methods may be called from several
// goroutines.
type TPM struct {
	dir, socket, control string
	temp                 string // folder of the sockets where dir's path is too long
	root, issuer         *x509.Certificate

	mu   sync.Mutex
	proc *process.Process // nil while stopped
}

// controlName is the control socket's name as tpm2-tools' swtpm TCTI expects
// it beside a socket "tpm.sock".
const controlName = "tpm.sock.ctrl"

// maxSocket is what fits sockaddr_un.sun_path with its final zero, in bytes.
const maxSocket = 107

// New starts the TPM in dir and, where there is none yet, makes it first,
// which takes about a second. A TPM that is there already is kept and opts.EK
// is ignored. ctx bounds the making and the starting alone: the TPM runs
// until Stop, or until this process ends.
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
	if err := t.place(); err != nil {
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

// finish takes off what swtpm_setup made and was not asked for, and marks the
// TPM as made: not before, so that an interrupted making starts again.
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

// place chooses where the sockets are.
func (t *TPM) place() error {
	at := t.dir
	if len(filepath.Join(at, controlName)) > maxSocket {
		temp, err := os.MkdirTemp("", "swtpm")
		if err != nil {
			return fmt.Errorf("swtpm: %w", err)
		}
		if len(filepath.Join(temp, controlName)) > maxSocket {
			os.RemoveAll(temp)
			return fmt.Errorf("swtpm: %s is too long a path for a Unix socket, and so is TMPDIR: set TMPDIR to a shorter one", t.dir)
		}
		t.temp, at = temp, temp
	}
	t.socket = filepath.Join(at, "tpm.sock")
	t.control = filepath.Join(at, controlName)
	return nil
}

// Address is "unix:" and the absolute path of the socket that speaks raw TPM
// commands. It stays the same over Restart.
func (t *TPM) Address() string { return "unix:" + t.socket }

// TCTI is the TPM's address as tpm2-tools and OpenSSL's TPM provider take it
// (TPM2TOOLS_TCTI, TPM2OPENSSL_TCTI). They keep the socket to themselves while
// they run.
func (t *TPM) TCTI() string { return "swtpm:path=" + t.socket }

// Roots returns the maker's root certificate alone; none for a TPM made with
// EK None. EK certificates are signed by the Issuer below it.
func (t *TPM) Roots() []*x509.Certificate {
	if t.root == nil {
		return nil
	}
	return []*x509.Certificate{t.root}
}

// Issuer returns the maker's intermediate certificate, which signs the EK
// certificates; nil for a TPM made with EK None.
func (t *TPM) Issuer() *x509.Certificate { return t.issuer }

// CAPEM returns the maker's root and intermediate certificates in PEM.
func (t *TPM) CAPEM() []byte {
	var b bytes.Buffer
	for _, c := range []*x509.Certificate{t.root, t.issuer} {
		if c != nil {
			pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a bytes.Buffer takes everything
		}
	}
	return b.Bytes()
}

// Restart is a TPM reset, as a power cycle is one: everything transient is
// gone, everything persistent stays.
func (t *TPM) Restart(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proc.Stop(grace)
	t.proc = nil
	return t.startLocked(ctx)
}

// Stop ends the TPM and waits for its end. Its state stays. Stopping twice is
// no error.
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
