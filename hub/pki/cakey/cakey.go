// Package cakey signs with a private key that is in a file, in the TPM of this machine, or in a
// signer, which is a program that is connected to an HSM. It is used for the keys of the hub's CAs,
// and for the key with which an owner signs reference manifests. A URI names the key:
//
//	file:/run/credentials/gangway.service/aca.key   PKCS #8 PEM, mode 0600
//	tpm:0x81010060                                  a persistent handle; ?device=ADDRESS, default /dev/tpmrm0
//	signer:/run/gangway-signer/socket?key=aca       a key of a signer: see package signer
//
// A Key connects to its TPM or signer only to sign, so a hub can load its CAs for commands that
// sign nothing while an HSM is not reachable.
package cakey

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ErrUnavailable means that a key cannot be used now: its TPM or signer does not answer correctly,
// or its file cannot be read. A later attempt to sign may succeed.
var ErrUnavailable = errors.New("the key cannot be used")

// timeout bounds one signature. A slow TPM needs less than a second.
const timeout = 30 * time.Second

// maxURI is the maximum length of a URI, in bytes.
const maxURI = 512

// source is the place of a private key: a file, a TPM or a signer.
type source interface {
	// public reads the public key.
	public(ctx context.Context) (*ecdsa.PublicKey, error)
	// sign returns an ASN.1 Ecdsa-Sig-Value (RFC 3279, 2.2.3) of the digest.
	sign(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error)
}

// maker is a source in which the hub itself can make and remove a key.
type maker interface {
	create(ctx context.Context, curve elliptic.Curve) error
	remove(ctx context.Context) error
}

// URI names a private key.
type URI struct {
	text string
	at   source
}

func (u URI) String() string { return u.text }

// Parse parses a URI. It does not connect to the TPM or the signer.
func Parse(text string) (URI, error) {
	if len(text) > maxURI {
		return URI{}, fmt.Errorf("cakey: the URI has %d bytes; at most %d are allowed", len(text), maxURI)
	}
	u, err := url.Parse(text)
	if err != nil {
		return URI{}, fmt.Errorf("cakey: %w", err)
	}
	if u.Host != "" || u.Fragment != "" || u.User != nil {
		return URI{}, fmt.Errorf("cakey: the URI %q has a host or a fragment: write tpm:HANDLE, signer:SOCKET?key=NAME or file:PATH", text)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return URI{}, fmt.Errorf("cakey: the URI %q: %w", text, err)
	}
	at, err := parse(u, query)
	if err != nil {
		return URI{}, fmt.Errorf("cakey: the URI %q: %w", text, err)
	}
	return URI{text, at}, nil
}

func parse(u *url.URL, query url.Values) (source, error) {
	switch u.Scheme {
	case "file":
		if !strings.HasPrefix(u.Path, "/") || len(query) > 0 {
			return nil, errors.New("write file:PATH, with an absolute path")
		}
		return fileKey(u.Path), nil
	case "tpm":
		handle, err := strconv.ParseUint(u.Opaque, 0, 32)
		if err != nil || handle < firstPersistent || handle > lastPersistent {
			return nil, errors.New("write tpm:HANDLE, with a persistent handle like 0x81010060")
		}
		device, err := only(query, "device")
		if err != nil {
			return nil, err
		}
		if device == "" {
			device = "/dev/tpmrm0"
		}
		return &tpmKey{device, uint32(handle)}, nil
	case "signer":
		key, err := only(query, "key")
		if err != nil || !strings.HasPrefix(u.Path, "/") || key == "" {
			return nil, errors.New("write signer:SOCKET?key=NAME, with the absolute path of a socket")
		}
		return newSignerKey(u.Path, key)
	}
	return nil, errors.New("the scheme must be file, tpm or signer")
}

// only returns the value of the parameter `name`. It returns an error if the query has any other
// parameter, which may be a spelling mistake.
func only(query url.Values, name string) (string, error) {
	for k, v := range query {
		if k != name || len(v) != 1 {
			return "", fmt.Errorf("unknown or repeated parameter %q: only %s is known", k, name)
		}
	}
	return query.Get(name), nil
}

// Public returns the public key. It returns an error if the key is not an ECDSA key on P-256 or
// P-384.
func (u URI) Public(ctx context.Context) (*ecdsa.PublicKey, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	key, err := u.at.public(ctx)
	if err != nil {
		return nil, fmt.Errorf("cakey: read %s: %w", u, err)
	}
	if _, err := hashOf(key); err != nil {
		return nil, fmt.Errorf("cakey: %s: %w", u, err)
	}
	return key, nil
}

// Makes reports whether Create can make the key. It cannot make the key of a signer, which another
// program makes.
func (u URI) Makes() bool {
	_, is := u.at.(maker)
	return is
}

// Create makes a new key on a curve. It never replaces a key.
func (u URI) Create(ctx context.Context, curve elliptic.Curve) error {
	m, ok := u.at.(maker)
	if !ok {
		return fmt.Errorf("cakey: %s: the hub cannot make this key", u)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := m.create(ctx, curve); err != nil {
		return fmt.Errorf("cakey: make %s: %w", u, err)
	}
	return nil
}

// Remove deletes a key that Create made, and whose public key is `public`. If the URI names another
// key now, Remove deletes nothing and returns an error.
func (u URI) Remove(ctx context.Context, public *ecdsa.PublicKey) error {
	m, ok := u.at.(maker)
	if !ok {
		return nil
	}
	present, err := u.Public(ctx)
	if err != nil {
		return err
	}
	if !present.Equal(public) {
		return fmt.Errorf("cakey: %s names another key now, so the hub did not remove it", u)
	}
	return m.remove(ctx)
}

// Key is a private key at a URI. It is a crypto.Signer, and safe for concurrent use.
type Key struct {
	uri       URI
	publicKey *ecdsa.PublicKey
	hash      crypto.Hash
}

// Open returns the private key at a URI. The caller knows the public key, for example from the CA's
// certificate, so Open need not connect to the TPM or the signer, or read the key's file.
func Open(u URI, public *ecdsa.PublicKey) (*Key, error) {
	hash, err := hashOf(public)
	if err != nil {
		return nil, fmt.Errorf("cakey: %s: %w", u, err)
	}
	return &Key{u, public, hash}, nil
}

// hashOf returns the hash function of the digests that a key signs.
func hashOf(public *ecdsa.PublicKey) (crypto.Hash, error) {
	switch public.Curve {
	case elliptic.P256():
		return crypto.SHA256, nil
	case elliptic.P384():
		return crypto.SHA384, nil
	}
	return 0, errors.New("the key is not an ECDSA key on P-256 or P-384")
}

// URI returns the URI of the key.
func (k *Key) URI() string { return k.uri.text }

// Public returns an *ecdsa.PublicKey.
func (k *Key) Public() crypto.PublicKey { return k.publicKey }

// Sign signs a digest. It verifies the signature before it returns it, so a broken TPM, or a signer
// with another key, causes an error and never a wrong certificate. Sign ignores its first argument,
// a source of random numbers: a TPM and a signer have their own source, and for a key in a file,
// Sign uses crypto/rand.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != k.hash || len(digest) != k.hash.Size() {
		return nil, fmt.Errorf("cakey: %s signs only complete digests of %v; the given digest has %d bytes and is of %v", k.uri, k.hash, len(digest), opts.HashFunc())
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	sig, err := k.uri.at.sign(ctx, digest, k.hash)
	if err != nil {
		return nil, fmt.Errorf("cakey: %w: sign with %s: %w", ErrUnavailable, k.uri, err)
	}
	if !ecdsa.VerifyASN1(k.publicKey, digest, sig) {
		return nil, fmt.Errorf("cakey: %w: %s returned a signature that the expected key did not make", ErrUnavailable, k.uri)
	}
	return sig, nil
}

// Prove signs a random digest, to show that the key can be used and is the CA's key.
func (k *Key) Prove() error {
	digest := make([]byte, k.hash.Size())
	rand.Read(digest) // never fails
	_, err := k.Sign(nil, digest, k.hash)
	return err
}
