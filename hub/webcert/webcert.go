// Package webcert provides a certificate that browsers trust, for the hub's web pages. The
// certificate comes either from two files that the operator replaces (type Files), or from a CA by
// ACME, RFC 8555 (type ACME). Devices never see this certificate, because the listener for devices
// has a certificate of the hub's own CA.
package webcert

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

const (
	// checkEvery is the shortest interval at which Files reads its files again.
	checkEvery = time.Second
	// maxFile is the largest size of a certificate file or key file, in bytes.
	maxFile = 1 << 20
)

// Files is a certificate and its key in two PEM files. When the files have changed, Files uses the
// new pair. If the new pair is not usable, for example because the key file is not completely
// written yet, Files keeps the previous pair and logs the reason.
//
// Files detects a change by the contents of the files and not by their times, because a copied file
// may have an older time than the previous one.
type Files struct {
	cert, key, name string
	log             *slog.Logger
	now             func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
	tried   pairSum   // hashes of the files that were parsed last
	checked time.Time // when the files were last read
	problem string    // the error that was logged last, so that the same error is not logged each second
}

// pairSum holds the SHA-256 hashes of the two files.
type pairSum [2][sha256.Size]byte

// NewFiles reads the certificate and the key for the web pages of the host `name`. It returns an
// error if a file is malformed, or if the certificate is for another name. It accepts an expired
// certificate and logs a warning, because the devices need the hub to start anyway.
func NewFiles(cert, key, name string, log *slog.Logger, now func() time.Time) (*Files, error) {
	f := &Files{cert: cert, key: key, name: name, log: log, now: now, checked: now()}
	text, sum, err := f.read()
	if err != nil {
		return nil, err
	}
	if f.current, err = f.parse(text); err != nil {
		return nil, err
	}
	f.tried = sum
	if expired(f.current, now()) {
		log.Warn("the certificate of the web pages has expired: replace the certificate file and the key file", "file", cert, "expired", f.current.Leaf.NotAfter)
	}
	return f, nil
}

// GetCertificate implements the field of the same name of tls.Config. It reads the files again if
// the last read was at least checkEvery ago.
func (f *Files) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.checked) >= checkEvery || now.Before(f.checked) {
		f.checked = now
		if err := f.check(now); err != nil && err.Error() != f.problem {
			f.problem = err.Error()
			f.log.Error("the new certificate of the web pages cannot be used, so the hub keeps the previous one: correct the files", "err", err)
		}
	}
	return f.current, nil
}

// check reads the files. If the pair is new and usable, later handshakes use it. The caller must
// hold mu.
func (f *Files) check(now time.Time) error {
	text, sum, err := f.read()
	if err != nil || sum == f.tried {
		return err
	}
	f.tried = sum
	pair, err := f.parse(text)
	if err != nil {
		return err
	}
	if expired(pair, now) && !expired(f.current, now) {
		return fmt.Errorf("webcert: the certificate in %s expired on %s; replace the file", f.cert, pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	f.current, f.problem = pair, ""
	f.log.Info("the web pages have a new certificate", "file", f.cert, "expires", pair.Leaf.NotAfter)
	return nil
}

// read reads both files.
func (f *Files) read() (text [2][]byte, sum pairSum, err error) {
	for i, path := range []string{f.cert, f.key} {
		if text[i], err = readFile(path); err != nil {
			return text, sum, fmt.Errorf("webcert: %w", err)
		}
		sum[i] = sha256.Sum256(text[i])
	}
	return text, sum, nil
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return text, err
}

// parse parses the texts of the two files. It returns an error if the key is not the key of the
// certificate, or if the certificate is not for the host name of the web pages.
func (f *Files) parse(text [2][]byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(text[0], text[1])
	if err != nil {
		return nil, fmt.Errorf("webcert: %s and %s: %w", f.cert, f.key, err)
	}
	if err := pair.Leaf.VerifyHostname(f.name); err != nil {
		return nil, fmt.Errorf("webcert: %s is not for the host name of the web pages: %w", f.cert, err)
	}
	return &pair, nil
}

func expired(c *tls.Certificate, now time.Time) bool { return !now.Before(c.Leaf.NotAfter) }

// Protocols returns nil, because the listener needs no additional ALPN protocols.
func (f *Files) Protocols() []string { return nil }

// Expires returns the time at which the certificate expires.
func (f *Files) Expires() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current.Leaf.NotAfter
}

// Run has nothing to do until ctx ends, because GetCertificate reads changed files.
func (f *Files) Run(ctx context.Context) { <-ctx.Done() }
