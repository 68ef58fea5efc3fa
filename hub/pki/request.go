package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gangway/hub/pki/cakey"
)

// requestSuffix is added to the name of the folder pki, and gives the name of the folder next to it
// that contains the private keys of an open request.
const requestSuffix = ".request"

// requestFile is the name of the file that contains the request itself, next to its private keys.
const requestFile = "request.pem"

// maxRequest is the maximum size of a request or answer, in bytes.
const maxRequest = 64 << 10

// RequestOptions says which certificates NewRequest requests, and for which keys.
type RequestOptions struct {
	// CAs are the file names of the CAs: "aca", "device-ca", "tls-ca". If the list is empty and the
	// hub has no CAs yet, NewRequest requests all three.
	CAs []string
	// Curve is the curve of the new keys: elliptic.P256() (default) or elliptic.P384(). It does not
	// apply to the keys of a signer, which exist already.
	Curve elliptic.Curve
	// Keys maps the file name of a CA to the URI of the CA's key, for the keys that are not kept in
	// a file. NewRequest makes a key in a TPM itself, whereas a key of a signer must exist already.
	Keys map[string]string
}

// Requested is a CA for which a hub requests a certificate.
type Requested struct {
	Title   string // "Device CA", for example
	Key     string // kind of key, such as "ECDSA P-256"
	KeyHash string // lower-case hexadecimal SHA-256 of the SubjectPublicKeyInfo

	authority authority
	public    *ecdsa.PublicKey
	spki      []byte
}

// NewRequest makes keys for CAs, and a request for their certificates: one PKCS #10 request (RFC
// 2986) for each CA, in PEM. The root's machine answers the request, and the operator passes the
// answer to Install. Until then, the new keys are in a folder next to the authorities' folder
// `dir`, and the hub keeps its current CAs.
func NewRequest(ctx context.Context, dir string, o RequestOptions) (request []byte, list []Requested, err error) {
	if o.Curve == nil {
		o.Curve = elliptic.P256()
	}
	kinds, err := o.kinds(dir)
	if err != nil {
		return nil, nil, err
	}
	uris, err := o.uris(kinds)
	if err != nil {
		return nil, nil, err
	}
	var undo []func() // deletes keys in a TPM
	defer func() {
		if err != nil {
			for _, remove := range undo {
				remove()
			}
		}
	}()
	m := &maker{step: func() {}}
	open := dir + requestSuffix
	made, err := m.createWith(open, func(tmp string) error {
		for _, a := range kinds {
			var key crypto.Signer
			var err error
			if uri, ok := uris[a]; ok {
				var remove func()
				if key, remove, err = m.keyAt(ctx, tmp, a, uri, o.Curve); remove != nil {
					undo = append(undo, remove)
				}
			} else {
				key, err = m.keyInFile(tmp, a, o.Curve)
			}
			if err != nil {
				return err
			}
			one, err := a.request(key)
			if err != nil {
				return err
			}
			request = append(request, one...)
		}
		if err := m.writeFile(filepath.Join(tmp, requestFile), request, 0o644); err != nil {
			return err
		}
		return sameOwner(filepath.Dir(dir), tmp)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("pki: make the request: %w", err)
	}
	if !made {
		return nil, nil, fmt.Errorf("pki: a request is open: its text is in %s; install the answer, or cancel the request with 'gangway ca request --cancel'", filepath.Join(open, requestFile))
	}
	list, err = parseRequest(request)
	return request, list, err
}

// keyInFile makes a key in a file.
func (m *maker) keyInFile(dir string, a authority, curve elliptic.Curve) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		return nil, err
	}
	text, err := keyPEM(key)
	if err != nil {
		return nil, err
	}
	return key, m.writeFile(filepath.Join(dir, a.file+".key"), text, 0o600)
}

// keyAt writes the URI of a CA's key to a file in the folder `dir`, and returns the key. If keyAt
// has made the key itself, `remove` deletes it again; otherwise `remove` is nil.
func (m *maker) keyAt(ctx context.Context, dir string, a authority, uri cakey.URI, curve elliptic.Curve) (key crypto.Signer, remove func(), err error) {
	if uri.Makes() {
		if err := uri.Create(ctx, curve); err != nil {
			return nil, nil, err
		}
	}
	public, err := uri.Public(ctx)
	if err != nil {
		return nil, nil, err
	}
	if uri.Makes() {
		remove = func() { uri.Remove(context.WithoutCancel(ctx), public) }
	}
	if err := m.writeFile(filepath.Join(dir, a.file+uriSuffix), []byte(uri.String()+"\n"), 0o644); err != nil {
		return nil, remove, err
	}
	key, err = cakey.Open(uri, public)
	return key, remove, err
}

// uris parses the URIs of the keys.
func (o RequestOptions) uris(kinds []authority) (map[authority]cakey.URI, error) {
	list := map[authority]cakey.URI{}
	for name, text := range o.Keys {
		i := slices.IndexFunc(kinds, func(a authority) bool { return a.file == name })
		if i < 0 {
			return nil, fmt.Errorf("pki: there is a URI for the key of %q, but the request is not for this CA", name)
		}
		uri, err := cakey.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("pki: %w", err)
		}
		list[kinds[i]] = uri
	}
	return list, nil
}

// kinds returns the CAs that the options name.
func (o RequestOptions) kinds(dir string) (kinds []authority, err error) {
	all := []authority{aca, deviceCA, tlsCA}
	_, err = os.Lstat(dir)
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh && len(o.CAs) == 0 {
		return all, nil
	}
	for _, name := range o.CAs {
		i := slices.IndexFunc(all, func(a authority) bool { return a.file == name })
		if i < 0 {
			return nil, fmt.Errorf("pki: %q is not a CA that can be requested: use aca, device-ca or tls-ca", name)
		}
		if slices.Contains(kinds, all[i]) {
			return nil, fmt.Errorf("pki: %s is named twice", name)
		}
		kinds = append(kinds, all[i])
	}
	if len(kinds) == 0 {
		return nil, errors.New("pki: the hub already has its CAs: name the CAs that get a new key")
	}
	if fresh && len(kinds) < len(all) {
		return nil, errors.New("pki: a new hub needs all of aca, device-ca and tls-ca")
	}
	return kinds, nil
}

// request returns a PKCS #10 request in PEM. Its subject gives only the CA's title, because the
// root chooses the subject of the certificate.
func (a authority) request(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{Organization: []string{organization}, CommonName: a.title},
	}, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// CancelRequest deletes the open request and all its keys, beginning with those in a TPM. If one of
// these cannot be deleted, CancelRequest stops, and the request stays open, so that a later call
// can delete the remaining keys.
func CancelRequest(ctx context.Context, dir string) error {
	open := dir + requestSuffix
	text, err := os.ReadFile(filepath.Join(open, requestFile))
	if err != nil {
		return fmt.Errorf("pki: no request is open: %w", err)
	}
	list, err := parseRequest(text)
	if err != nil {
		return err
	}
	for _, r := range list {
		name := filepath.Join(open, r.authority.file+uriSuffix)
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return fmt.Errorf("pki: %w", err)
		}
		uri, err := cakey.Parse(strings.TrimSpace(string(text)))
		if err != nil {
			return fmt.Errorf("pki: %w", err)
		}
		if err := uri.Remove(ctx, r.public); err != nil {
			return fmt.Errorf("pki: cannot delete the key of the request: %w; to cancel the request without deleting the key, delete the folder %s", err, open)
		}
		// Without this file, a later call does not look for the key, which no longer exists.
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("pki: %w", err)
		}
	}
	return os.RemoveAll(open)
}

// parseRequest parses the text of a request. The text contains a CSR for each CA. parseRequest
// refuses a CSR that does not prove the possession of its key. It also refuses two CSRs with the
// same key or for the same CA.
func parseRequest(text []byte) (list []Requested, err error) {
	if len(text) > maxRequest {
		return nil, fmt.Errorf("pki: the request has %d bytes; at most %d are allowed", len(text), maxRequest)
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE REQUEST" {
			return nil, fmt.Errorf("pki: the request has a PEM block of type %q; only certificate requests are allowed", block.Type)
		}
		r, err := parseOne(block.Bytes)
		if err != nil {
			return nil, err
		}
		for _, other := range list {
			if other.authority == r.authority {
				return nil, fmt.Errorf("pki: the request has two keys for the %s", r.Title)
			}
			if bytes.Equal(other.spki, r.spki) {
				return nil, fmt.Errorf("pki: the request has the same key for the %s and the %s", other.Title, r.Title)
			}
		}
		list = append(list, r)
	}
	if len(list) == 0 || bytes.Contains(text, []byte("-----BEGIN")) {
		return nil, errors.New("pki: this is not a complete request from 'gangway ca request'")
	}
	return list, nil
}

func parseOne(der []byte) (Requested, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return Requested{}, fmt.Errorf("pki: the request: %w", err)
	}
	title := csr.Subject.CommonName
	i := slices.IndexFunc([]authority{aca, deviceCA, tlsCA}, func(a authority) bool { return a.title == title })
	if i < 0 {
		return Requested{}, fmt.Errorf("pki: the request is for %q: a root signs only an Attestation CA, a Device CA and a TLS CA", title)
	}
	if err := csr.CheckSignature(); err != nil {
		return Requested{}, fmt.Errorf("pki: the request for the %s does not prove that the hub has the key: %w", title, err)
	}
	public, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() && public.Curve != elliptic.P384() {
		return Requested{}, fmt.Errorf("pki: the key for the %s is not an ECDSA key on P-256 or P-384", title)
	}
	a := []authority{aca, deviceCA, tlsCA}[i]
	return Requested{a.title, "ECDSA " + public.Params().Name, keyHash(csr.RawSubjectPublicKeyInfo), a, public, csr.RawSubjectPublicKeyInfo}, nil
}

// nameOf returns the hub's name in a root's subject.
func nameOf(cert *x509.Certificate) string {
	return strings.TrimSuffix(cert.Subject.CommonName, " "+root.title)
}
