package evidence

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// No CA certificate of a real maker breaks the constraints above it.
func TestMakersOwnChainsKeepTheirConstraints(t *testing.T) {
	t.Parallel()
	read := func(name string) (certs []*x509.Certificate) {
		rest, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "data", name))
		if err != nil {
			t.Skip("the collection of makers' certificates is not beside the project (../shared/data)")
		}
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				return certs
			}
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			certs = append(certs, c)
		}
	}
	links := read("tpm-vendor-intermediates.pem")
	trust, err := NewTrust(read("tpm-vendor-roots.pem"), links)
	if err != nil {
		t.Fatal(err)
	}
	good := 0
	for _, c := range links {
		_, err := trust.verifyCA(canonical(c), nil, c.NotBefore.Add(24*time.Hour))
		var broken *constraintError
		if errors.As(err, &broken) {
			t.Errorf("%s: %v", c.Subject, err)
		}
		if err == nil {
			good++
		}
	}
	if good < 130 {
		t.Errorf("%d of %d chains lead to a root", good, len(links))
	}
}
