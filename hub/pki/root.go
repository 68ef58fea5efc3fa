package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gangway/hub/pki/cakey"
)

// Root is a root CA with its private key. An offline root has its own folder, on a machine without
// a hub.
type Root struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// MakeRoot makes an offline root in the folder `dir`: the files root.crt and root.key. The folder
// must not exist yet, but its parent must exist. If `key` is not empty, it is the URI of the root's
// private key (see package cakey), and the folder has the file root.uri instead of root.key.
// MakeRoot makes a key in a TPM itself, whereas a key of a signer must exist already, and
// Options.Curve does not apply to it.
func MakeRoot(ctx context.Context, dir, key string, o Options) (*Root, error) {
	m := &maker{step: func() {}}
	var err error
	if m.Options, err = o.withDefaults(); err != nil {
		return nil, err
	}
	fill := m.fillRoot
	undo := func() {} // deletes the key in a TPM
	if key != "" {
		uri, err := cakey.Parse(key)
		if err != nil {
			return nil, fmt.Errorf("pki: %w", err)
		}
		fill = func(dir string) error {
			remove, err := m.fillRootAt(ctx, dir, uri)
			if remove != nil {
				undo = remove
			}
			return err
		}
	}
	made, err := m.createWith(dir, fill)
	if err != nil {
		undo()
		return nil, fmt.Errorf("pki: make the root: %w", err)
	}
	if !made {
		return nil, fmt.Errorf("pki: %s already exists: choose another folder; a root is never replaced", dir)
	}
	return OpenRoot(dir)
}

func (m *maker) fillRoot(dir string) error {
	key, err := ecdsa.GenerateKey(m.Curve, rand.Reader)
	if err != nil {
		return err
	}
	der, err := m.selfSigned(key)
	if err != nil {
		return err
	}
	return m.writePair(dir, root.file, key, der)
}

// fillRootAt is like fillRoot, but the root's key is at `uri`. If fillRootAt has made the key
// itself, `remove` deletes it again; otherwise `remove` is nil.
func (m *maker) fillRootAt(ctx context.Context, dir string, uri cakey.URI) (remove func(), err error) {
	key, remove, err := m.keyAt(ctx, dir, root, uri, m.Curve)
	if err != nil {
		return remove, err
	}
	der, err := m.selfSigned(key)
	if err != nil {
		return remove, err
	}
	return remove, m.writeFile(filepath.Join(dir, root.file+".crt"), certPEM(der), 0o644)
}

// selfSigned returns the certificate, in DER, of a root with the given key.
func (m *maker) selfSigned(key crypto.Signer) ([]byte, error) {
	public := key.Public().(*ecdsa.PublicKey)
	template, err := root.template(m.Name, public, m.Now)
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificate(rand.Reader, template, template, public, key)
}

// OpenRoot opens the root in the folder `dir`, which is the folder of an offline root, or a hub's
// folder pki that contains the root's key.
func OpenRoot(dir string) (*Root, error) {
	cert, err := loadCertificate(dir, root.file)
	if err != nil {
		return nil, fmt.Errorf("pki: open the root: %w", err)
	}
	if err := checkAuthority(cert, cert, root.title); err != nil {
		return nil, fmt.Errorf("pki: %s.crt: %w", root.file, err)
	}
	key, err := loadKey(dir, root.file, cert)
	if err != nil {
		return nil, fmt.Errorf("pki: open the root: %w", err)
	}
	return &Root{cert, key}, nil
}

// HubName returns the name of the hubs below this root: see Hub.HubName.
func (r *Root) HubName() string { return hubName(r.cert) }

// Certificate returns the root's certificate.
func (r *Root) Certificate() *x509.Certificate { return r.cert }

// DefaultTLSLife is the default validity of a TLS CA.
const DefaultTLSLife = 5 * 365 * 24 * time.Hour

// TLSCAWarning says when the hub begins to warn its operator about the TLS CA: when less than this
// time of its validity is left.
const TLSCAWarning = 180 * 24 * time.Hour

// The shortest and the longest validity of a TLS CA.
const (
	minTLSLife = 30 * 24 * time.Hour
	maxTLSLife = 30 * 365 * 24 * time.Hour
)

// Planned is a certificate that the root is going to sign.
type Planned struct {
	Title    string    // "Device CA", for example
	Subject  string    // of the certificate
	Key      string    // kind of key, such as "ECDSA P-256"
	KeyHash  string    // lower-case hexadecimal SHA-256 of the SubjectPublicKeyInfo
	NotAfter time.Time // when the certificate expires

	template *x509.Certificate
	public   *ecdsa.PublicKey
}

// Plan checks a request, and returns the certificates that Issue would sign for it, so that a
// person can first compare them with the list that the hub printed. From the request, Plan takes
// only the keys and the kinds of the CAs: the root decides everything else. `tlsLife` is the
// validity of a TLS CA.
func (r *Root) Plan(request []byte, now time.Time, tlsLife time.Duration) ([]Planned, error) {
	if tlsLife < minTLSLife || tlsLife > maxTLSLife {
		return nil, fmt.Errorf("pki: a TLS CA must be valid for 30 days to 30 years, not %s", tlsLife)
	}
	if now.Before(r.cert.NotBefore) {
		return nil, fmt.Errorf("pki: this machine's clock says %s, when the root is not valid yet: set the clock", now.UTC().Format(time.RFC3339))
	}
	wanted, err := parseRequest(request)
	if err != nil {
		return nil, err
	}
	name := nameOf(r.cert)
	var plan []Planned
	for _, w := range wanted {
		if w.public.Equal(r.cert.PublicKey) {
			return nil, fmt.Errorf("pki: the request for the %s is for the root's own key", w.authority.title)
		}
		t, err := w.authority.template(name, w.public, now)
		if err != nil {
			return nil, err
		}
		if w.authority == tlsCA {
			t.NotAfter = now.Add(tlsLife)
		}
		plan = append(plan, Planned{w.authority.title, t.Subject.String(), "ECDSA " + w.public.Params().Name, keyHash(w.spki), t.NotAfter, t, w.public})
	}
	return plan, nil
}

// Issue signs the planned certificates, and returns the answer for the hub: the root's certificate
// and the new certificates, in PEM.
func (r *Root) Issue(plan []Planned) ([]byte, error) {
	answer := certPEM(r.cert.Raw)
	for _, p := range plan {
		der, err := x509.CreateCertificate(rand.Reader, p.template, r.cert, p.public, r.key)
		if err != nil {
			return nil, fmt.Errorf("pki: sign the %s: %w", p.Title, err)
		}
		answer = append(answer, certPEM(der)...)
	}
	return answer, nil
}

func keyHash(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// lineage returns the new text of the file that lists the former CAs of the kind `a`, for example
// the former device CAs. If `fresh` has a new key, lineage adds `old` at the beginning of the list.
// If `fresh` only renews the certificate of `old`, the list does not change.
func lineage(dir string, a authority, old, fresh *x509.Certificate) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(dir, a.file+previousSuffix))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if bytes.Equal(old.RawSubjectPublicKeyInfo, fresh.RawSubjectPublicKeyInfo) {
		return text, nil
	}
	return slices.Concat(certPEM(old.Raw), text), nil
}
