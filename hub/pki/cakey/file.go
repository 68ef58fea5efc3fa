package cakey

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// ErrReadable means that other users can read a secret file. The operator must correct the file's
// permissions; restoring it from the backup does not help.
var ErrReadable = errors.New("can be read by other users")

// private reports whether the mode of a file keeps a secret from other users. Only the file's owner
// may read it, with one exception: if root owns the file and the hub does not run as root, the
// file's group may read it too, because Kubernetes mounts a Secret as a file that root owns and a
// group may read. PostgreSQL has the same rule.
func private(mode fs.FileMode, owner uint32, hub int) bool {
	if owner == 0 && hub != 0 {
		return mode&^0o640 == 0
	}
	return mode&0o077 == 0
}

// ReadSecret reads a file, and returns an error if other users may read the file. It checks the
// permissions of the open file, not those of the path, so that nobody can put another file at the
// path between the check and the read.
func ReadSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !private(info.Mode().Perm(), info.Sys().(*syscall.Stat_t).Uid, os.Geteuid()) {
		return nil, fmt.Errorf("%s %w (mode %04o): run 'chmod 600' on the file, and find out who may have read the file", path, ErrReadable, info.Mode().Perm())
	}
	return io.ReadAll(io.LimitReader(f, 16<<10))
}

// ReadFile reads a private key from a file, which must be PKCS #8 in PEM, ECDSA on P-256 or P-384.
// Errors call the file `name`.
func ReadFile(path, name string) (*ecdsa.PrivateKey, error) {
	text, err := ReadSecret(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is not a PEM key", name)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
		return nil, fmt.Errorf("%s is not an ECDSA key on P-256 or P-384", name)
	}
	return k, nil
}

// fileKey is the path of a private key. The file is read for each signature, so the key is not in
// the hub's memory between signatures, and can be on removable media.
type fileKey string

func (f fileKey) public(context.Context) (*ecdsa.PublicKey, error) {
	k, err := ReadFile(string(f), string(f))
	if err != nil {
		return nil, err
	}
	return &k.PublicKey, nil
}

func (f fileKey) sign(_ context.Context, digest []byte, _ crypto.Hash) ([]byte, error) {
	k, err := ReadFile(string(f), string(f))
	if err != nil {
		return nil, err
	}
	return ecdsa.SignASN1(rand.Reader, k, digest)
}
