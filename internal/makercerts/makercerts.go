// Package makercerts reads a collection of real TPM makers' CA certificates, for tests. The
// collection is not part of this project. It must be in the folder ../shared/data, next to the
// project's folder.
package makercerts

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
)

// Roots and Intermediates are the names of the collection's two files. They contain 26 root
// certificates and 143 intermediate certificates.
const (
	Roots         = "tpm-vendor-roots.pem"
	Intermediates = "tpm-vendor-intermediates.pem"
)

// Folder returns the folder of the collection. It skips the test if the folder does not exist.
func Folder(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for { // go up to the project's folder
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("the test does not run inside the project's folder")
		}
		dir = filepath.Dir(dir)
	}
	dir = filepath.Join(filepath.Dir(dir), "shared", "data")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the collection of makers' certificates (../shared/data) does not exist")
	}
	return dir
}

// DER returns the certificates in a PEM file of the collection.
func DER(t testing.TB, name string) (ders [][]byte) {
	t.Helper()
	rest, err := os.ReadFile(filepath.Join(Folder(t), name))
	if err != nil {
		t.Fatal(err)
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return ders
		}
		ders = append(ders, block.Bytes)
	}
}

// Read returns the parsed certificates in a PEM file of the collection.
func Read(t testing.TB, name string) (certs []*x509.Certificate) {
	t.Helper()
	for _, der := range DER(t, name) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, c)
	}
	return certs
}
