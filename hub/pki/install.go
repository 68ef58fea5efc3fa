package pki

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"gangway/hub/pki/cakey"

	"golang.org/x/sys/unix"
)

// Installed is the result of Install.
type Installed struct {
	HubName string
	First   bool                // the hub had no CAs before
	CAs     []*x509.Certificate // the new certificates
	Kept    string              // folder of the replaced keys and certificates; empty if First
}

// Install checks `answer`: the certificates that the root issued for the request of NewRequest. If
// the answer is right, Install puts the new keys and certificates in the folder `dir`, in one step.
// If the answer is wrong, Install changes nothing, and the request stays open.
//
// The argument `hub` is the hub name that a person read on the root's machine. A hub without CAs
// trusts the answer's root only if the root has this hub name. A hub with CAs accepts only its own
// root, and `hub` may be empty.
func Install(dir string, answer []byte, hub string, now time.Time) (*Installed, error) {
	dir, err := realPath(dir)
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	open := dir + requestSuffix
	text, err := os.ReadFile(filepath.Join(open, requestFile))
	if err != nil {
		return nil, fmt.Errorf("pki: no request is open: %w", err)
	}
	wanted, err := parseRequest(text)
	if err != nil {
		return nil, err
	}
	old, err := presentHub(dir)
	if err != nil {
		return nil, err
	}
	certs, err := checkAnswer(wanted, answer, hub, old, now)
	if err != nil {
		return nil, err
	}
	for _, w := range wanted {
		if err := checkOpenKey(open, w); err != nil {
			return nil, err
		}
	}
	done := &Installed{HubName: hubName(certs[0]), First: old == nil, CAs: certs[1:]}
	if old == nil {
		err = installFirst(dir, open, wanted, certs)
	} else {
		done.Kept, err = replace(dir, open, wanted, certs, now)
	}
	if err != nil {
		return nil, fmt.Errorf("pki: install the answer: %w", err)
	}
	return done, os.RemoveAll(open)
}

// realPath resolves symbolic links. The folder need not exist.
func realPath(dir string) (string, error) {
	at, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Clean(dir), nil
	}
	return at, err
}

// presentHub returns the hub in the folder, or nil if the folder does not exist.
func presentHub(dir string) (*Hub, error) {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return load(dir)
}

// checkAnswer checks an answer, and returns its certificates: the root, and then one certificate
// for each CA of the request.
func checkAnswer(wanted []Requested, answer []byte, hub string, old *Hub, now time.Time) ([]*x509.Certificate, error) {
	if len(answer) > maxRequest {
		return nil, fmt.Errorf("pki: the answer has %d bytes; at most %d are allowed", len(answer), maxRequest)
	}
	list, err := parseCertificates(answer)
	if err != nil {
		return nil, fmt.Errorf("pki: the answer: %w", err)
	}
	rootCert := list[0]
	if err := checkAnsweredRoot(rootCert, hub, old); err != nil {
		return nil, err
	}
	if len(list) != 1+len(wanted) {
		return nil, fmt.Errorf("pki: the answer has %d CA certificates, and the request is for %d", len(list)-1, len(wanted))
	}
	certs := []*x509.Certificate{rootCert}
	for _, w := range wanted {
		i := slices.IndexFunc(list[1:], func(c *x509.Certificate) bool { return bytes.Equal(c.RawSubjectPublicKeyInfo, w.spki) })
		if i < 0 {
			return nil, fmt.Errorf("pki: the answer has no certificate for this hub's key of the %s: the answer is for another request", w.Title)
		}
		if err := checkIssued(list[1+i], rootCert, w, now); err != nil {
			return nil, fmt.Errorf("pki: the certificate of the %s in the answer: %w", w.Title, err)
		}
		certs = append(certs, list[1+i])
	}
	if old != nil {
		err = checkNewKeys(certs[1:], old)
	}
	return certs, err
}

// checkAnsweredRoot checks the root `c` in an answer. If `old` is not nil, `c` must be the root of
// the hub `old`. If `hub` is not empty, `c` must have this hub name. A new hub needs the name,
// because it has no root yet.
func checkAnsweredRoot(c *x509.Certificate, hub string, old *Hub) error {
	if old != nil && !c.Equal(old.root) {
		return fmt.Errorf("pki: the answer is from another root, with the hub name %s: this hub's root has the hub name %s", hubName(c), old.name)
	}
	if raw, err := hex.DecodeString(hub); hub != "" && (err != nil || len(raw) != 32) {
		return errors.New("pki: the hub name is not 64 hexadecimal digits")
	}
	if old == nil && hub == "" {
		return errors.New("pki: the hub has no root yet: give the hub name that 'gangway ca init' printed on the root's machine")
	}
	if hub != "" && hub != hubName(c) {
		return fmt.Errorf("pki: the answer is from another root: its hub name is %s, not %s", hubName(c), hub)
	}
	if err := checkAuthority(c, c, root.title); err != nil {
		return fmt.Errorf("pki: the root in the answer: %w", err)
	}
	return nil
}

// checkIssued checks that a certificate is exactly what the hub needs for a CA. An answer may have
// come from another program, or from an attacker who knows the root's certificate.
func checkIssued(c, rootCert *x509.Certificate, w Requested, now time.Time) error {
	want, err := w.authority.template(nameOf(rootCert), w.public, now)
	if err != nil {
		return err
	}
	if err := checkAuthority(c, rootCert, w.Title); err != nil {
		return err
	}
	switch {
	case c.Subject.String() != want.Subject.String():
		return fmt.Errorf("the subject is %q, not %q", c.Subject, want.Subject)
	case c.KeyUsage != want.KeyUsage || c.MaxPathLen != 0 || !c.MaxPathLenZero || !slices.Equal(c.ExtKeyUsage, want.ExtKeyUsage) || len(c.UnknownExtKeyUsage) > 0:
		return errors.New("the certificate's key usage, purpose or path length is wrong for this CA")
	case len(c.UnhandledCriticalExtensions) > 0 || c.PermittedDNSDomainsCritical:
		return errors.New("the certificate has critical extensions that limit which certificates this CA can issue")
	case !slices.EqualFunc(c.Policies, want.Policies, x509.OID.Equal):
		return errors.New("the certificate's policies are wrong for this CA")
	case !bytes.Equal(c.SubjectKeyId, want.SubjectKeyId):
		return errors.New("the certificate's key identifier does not match its key")
	case c.NotBefore.After(now):
		return fmt.Errorf("the certificate is valid only from %s, and this machine's time is %s: set the clocks of both machines, and issue the certificates again", c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case w.authority != tlsCA && !c.NotAfter.Equal(forever):
		return fmt.Errorf("the certificate expires at %s, but the certificate of this CA must never expire", c.NotAfter.UTC().Format(time.RFC3339))
	case c.NotAfter.Before(now.Add(minTLSLife)):
		return fmt.Errorf("the certificate expires at %s, in less than 30 days: set the clock of the root's machine, and issue the certificates again", c.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkNewKeys refuses a new CA that has the same key as another CA of this hub.
func checkNewKeys(certs []*x509.Certificate, old *Hub) error {
	for _, c := range certs {
		for _, o := range old.All() {
			if bytes.Equal(c.RawSubjectPublicKeyInfo, o.RawSubjectPublicKeyInfo) && c.Subject.CommonName != o.Subject.CommonName {
				return fmt.Errorf("pki: the new %q has the same key as %q: each CA needs its own key", c.Subject.CommonName, o.Subject.CommonName)
			}
		}
	}
	return nil
}

// checkOpenKey checks that the hub can use the private key that belongs to a request.
func checkOpenKey(open string, w Requested) error {
	key, err := loadKey(open, w.authority.file, &x509.Certificate{PublicKey: w.public})
	if err != nil {
		return fmt.Errorf("pki: the key of the open request for the %s: %w", w.Title, err)
	}
	if k, ok := key.(*cakey.Key); ok {
		return k.Prove()
	}
	return nil
}

// installFirst makes the folder of the authorities for a new hub.
func installFirst(dir, open string, wanted []Requested, certs []*x509.Certificate) error {
	m := &maker{step: func() {}}
	made, err := m.createWith(dir, func(tmp string) error {
		if err := m.writeFile(filepath.Join(tmp, root.file+".crt"), certPEM(certs[0].Raw), 0o644); err != nil {
			return err
		}
		if err := m.writeSeal(tmp); err != nil {
			return err
		}
		if err := m.writeAnswered(tmp, open, wanted, certs[1:]); err != nil {
			return err
		}
		return sameOwner(filepath.Dir(dir), tmp)
	})
	if err == nil && !made {
		err = fmt.Errorf("%s was made by another program in the meantime", dir)
	}
	return err
}

// writeAnswered writes the certificates of the answer, and the keys that belong to them.
func (m *maker) writeAnswered(dir, open string, wanted []Requested, certs []*x509.Certificate) error {
	for i, w := range wanted {
		name, mode := w.authority.file+".key", fs.FileMode(0o600)
		if present(open, w.authority.file+uriSuffix) {
			name, mode = w.authority.file+uriSuffix, 0o644
		}
		key, err := os.ReadFile(filepath.Join(open, name))
		if err != nil {
			return err
		}
		if err := m.writeFile(filepath.Join(dir, name), key, mode); err != nil {
			return err
		}
		if err := m.writeFile(filepath.Join(dir, w.authority.file+".crt"), certPEM(certs[i].Raw), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// replace makes a copy of the folder with the new keys and certificates, checks that a hub can load
// the copy, and exchanges the two folders atomically, so that after a crash `dir` has either all
// the old CAs or all the new ones. It returns the new name of the folder with the old CAs.
func replace(dir, open string, wanted []Requested, certs []*x509.Certificate, now time.Time) (kept string, err error) {
	parent := filepath.Dir(dir)
	unlock, err := lockDir(parent)
	if err != nil {
		return "", err
	}
	defer unlock()
	prefix := "." + filepath.Base(dir) + ".new-"
	if err := removeStale(parent, prefix); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp) // no effect after the exchange, because the folder then has another name
	if err := copyWithout(dir, tmp, wanted, certs[1:]); err != nil {
		return "", err
	}
	m := &maker{step: func() {}}
	if err := m.writeAnswered(tmp, open, wanted, certs[1:]); err != nil {
		return "", err
	}
	if err := sameOwner(dir, tmp); err != nil {
		return "", err
	}
	if err := syncDir(tmp); err != nil {
		return "", err
	}
	if _, err := load(tmp); err != nil {
		return "", err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err != nil {
		return "", fmt.Errorf("exchange %s and %s: %w; the folder must not be a mount point, and its file system must support the atomic exchange of two folders", tmp, dir, err)
	}
	kept = dir + ".replaced-" + now.UTC().Format("20060102T150405Z")
	return kept, errors.Join(os.Rename(tmp, kept), syncDir(parent))
}

// copyWithout copies the files of the folder to `tmp`, except the keys and certificates that the
// new ones replace. It adds the replaced certificates to the lists of former CAs.
func copyWithout(dir, tmp string, wanted []Requested, certs []*x509.Certificate) error {
	m := &maker{step: func() {}}
	skip := map[string]bool{}
	for i, w := range wanted {
		name := w.authority.file
		skip[name+".key"], skip[name+uriSuffix], skip[name+".crt"] = true, true, true
		if w.authority == tlsCA {
			continue // its certificates last 90 days, and the hub makes new ones at its start
		}
		old, err := loadCertificate(dir, name)
		if err != nil {
			return err
		}
		list, err := lineage(dir, w.authority, old, certs[i])
		if err != nil {
			return err
		}
		if len(list) == 0 {
			continue
		}
		skip[name+previousSuffix] = true
		if err := m.writeFile(filepath.Join(tmp, name+previousSuffix), list, 0o644); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if skip[e.Name()] || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		if err := m.writeFile(filepath.Join(tmp, e.Name()), text, info.Mode().Perm()); err != nil {
			return err
		}
	}
	return nil
}

// sameOwner gives the folder `tmp` and its files the owner of the folder `dir`, because root may
// run the command while the hub runs as another user.
func sameOwner(dir, tmp string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return filepath.WalkDir(tmp, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(owner.Uid), int(owner.Gid))
	})
}
