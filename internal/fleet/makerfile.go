package fleet

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
)

// Names of the files of a maker in its folder. The first two are for `gangway serve --tpm-roots`
// and `--tpm-intermediates`.
const (
	RootFile         = "root.pem"
	IntermediateFile = "intermediate.pem"
	rootKeyFile      = "root.key"
	keyFile          = "intermediate.key"
)

// Save writes the maker's certificates and private keys to the folder `dir`, which it creates. It
// never overwrites a file, because the keys of a maker that a hub trusts must not be lost.
func (m *Maker) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	for name, key := range map[string]crypto.Signer{rootKeyFile: m.rootKey, keyFile: m.key} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return fmt.Errorf("fleet: %w", err)
		}
		if err := writePEM(filepath.Join(dir, name), "PRIVATE KEY", der, 0o600); err != nil {
			return err
		}
	}
	for name, c := range map[string]*x509.Certificate{RootFile: m.Root, IntermediateFile: m.Intermediate} {
		if err := writePEM(filepath.Join(dir, name), "CERTIFICATE", c.Raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func writePEM(path, kind string, der []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	if err := pem.Encode(f, &pem.Block{Type: kind, Bytes: der}); err != nil {
		f.Close()
		return fmt.Errorf("fleet: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	return nil
}

// LoadMaker reads a maker that Save wrote.
func LoadMaker(dir string) (*Maker, error) {
	m := new(Maker)
	for name, key := range map[string]*crypto.Signer{rootKeyFile: &m.rootKey, keyFile: &m.key} {
		der, err := readPEM(filepath.Join(dir, name), "PRIVATE KEY")
		if err != nil {
			return nil, err
		}
		k, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return nil, fmt.Errorf("fleet: %s: %w", filepath.Join(dir, name), err)
		}
		signer, ok := k.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("fleet: %s: the key cannot sign", filepath.Join(dir, name))
		}
		*key = signer
	}
	for name, c := range map[string]**x509.Certificate{RootFile: &m.Root, IntermediateFile: &m.Intermediate} {
		der, err := readPEM(filepath.Join(dir, name), "CERTIFICATE")
		if err != nil {
			return nil, err
		}
		if *c, err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("fleet: %s: %w", filepath.Join(dir, name), err)
		}
	}
	return m, nil
}

func readPEM(path, kind string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("fleet: %s has no PEM block %s", path, kind)
	}
	return block.Bytes, nil
}
