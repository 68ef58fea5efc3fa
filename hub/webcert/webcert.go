// Package webcert provides the certificate of the hub's pages, which browsers trust: from two files
// that the operator replaces (Files), or from a CA with the protocol ACME, RFC 8555 (ACME). Devices
// never see this certificate: the listener for devices has a certificate of the hub's own CA.
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
	// checkEvery is how often Files reads its files again, at most.
	checkEvery = time.Second
	// maxFile is the largest size of a file, in bytes.
	maxFile = 1 << 20
)

// Files is a certificate and its key in two PEM files. It uses a new pair when the files have
// changed. It compares the contents, because the time of a copied file may be older than that of
// the file before. If a new pair is not usable, for example because its key is only half written,
// Files keeps the last pair and logs the reason.
type Files struct {
	cert, key, name string
	log             *slog.Logger
	now             func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
	tried   pairSum   // of the contents that were last parsed
	checked time.Time // when the files were last read
	problem string    // what was last logged, so that it is not logged each second
}

// pairSum are the SHA-256 hashes of the two files.
type pairSum [2][sha256.Size]byte

// NewFiles reads the pair for the pages of the host `name`. It refuses a pair that is broken or for
// another name. It accepts an expired certificate with a warning, because the hub must start for
// its devices.
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
		log.Warn("the certificate of the pages has expired: replace it", "file", cert, "expired", f.current.Leaf.NotAfter)
	}
	return f, nil
}

// GetCertificate is for tls.Config. It reads the files again if that was a second or more ago.
func (f *Files) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.checked) >= checkEvery || now.Before(f.checked) {
		f.checked = now
		if err := f.check(now); err != nil && err.Error() != f.problem {
			f.problem = err.Error()
			f.log.Error("the new certificate of the pages is not used; the one before stays", "err", err)
		}
	}
	return f.current, nil
}

// check reads the files, and uses their pair if it is new and usable. The caller holds mu.
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
		return fmt.Errorf("webcert: the certificate in %s has expired on %s", f.cert, pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	f.current, f.problem = pair, ""
	f.log.Info("the pages have a new certificate", "file", f.cert, "expires", pair.Leaf.NotAfter)
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

// parse makes the pair of the files' texts. It refuses a key that is not the certificate's, and a
// certificate without the name of the pages.
func (f *Files) parse(text [2][]byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(text[0], text[1])
	if err != nil {
		return nil, fmt.Errorf("webcert: %s and %s: %w", f.cert, f.key, err)
	}
	if err := pair.Leaf.VerifyHostname(f.name); err != nil {
		return nil, fmt.Errorf("webcert: %s is not for the name of the pages: %w", f.cert, err)
	}
	return &pair, nil
}

func expired(c *tls.Certificate, now time.Time) bool { return !now.Before(c.Leaf.NotAfter) }

// Protocols are further ALPN protocols of the listener: none.
func (f *Files) Protocols() []string { return nil }

// Expires returns the end of the certificate's life.
func (f *Files) Expires() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current.Leaf.NotAfter
}

// Run waits until ctx ends: a handshake reads changed files.
func (f *Files) Run(ctx context.Context) { <-ctx.Done() }
