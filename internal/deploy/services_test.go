package deploy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"golang.org/x/sys/unix"
)

const hubPassword = "a long random password"

// authority is a CA for the servers that the hub uses.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func newCA(t *testing.T) *authority {
	t.Helper()
	a := &authority{cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

// server returns the certificate and the key of a server, in PEM.
func (a *authority) server(t *testing.T, host string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// startDatabase starts PostgreSQL at db.example, with TLS, and with the role and the database of
// the compose file.
func startDatabase(t *testing.T, ca *authority) *container {
	t.Helper()
	img, files := postgresImage(t)
	dir := t.TempDir()
	cert, key := ca.server(t, "db.example")
	for name, content := range map[string][]byte{"server.crt": cert, "server.key": key, "hub-password": []byte(hubPassword), "postgres-password": []byte("another long password")} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, content, 0o600), os.Chown(path, 999, 999)); err != nil {
			t.Fatal(err)
		}
	}
	data := t.TempDir()
	if err := errors.Join(os.Chown(data, 999, 999), os.Chmod(data, 0o700)); err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs(filepath.Join(repository, "contrib/compose/database.sql"))
	if err != nil {
		t.Fatal(err)
	}
	db := start(t, spec{
		Name: "database", Root: img.root, Dir: "/", UID: 999, GID: 999, Files: files,
		Args: slices.Concat(img.config.Entrypoint, []string{"postgres", "-c", "listen_addresses=127.0.0.1", "-c", "ssl=on", "-c", "ssl_cert_file=/run/secrets/server.crt", "-c", "ssl_key_file=/run/secrets/server.key"}),
		Env:  append(slices.Clone(img.config.Env), "POSTGRES_PASSWORD_FILE=/run/secrets/postgres-password", "POSTGRES_INITDB_ARGS=--auth=scram-sha-256"),
		Mounts: []mount{
			{Source: data, Target: "/var/lib/postgresql/data"}, {Target: "/run/postgresql", Options: "mode=1777"}, {Target: "/tmp", Options: "mode=1777"},
			{Source: dir, Target: "/run/secrets", ReadOnly: true}, {Source: script, Target: "/docker-entrypoint-initdb.d/database.sql", ReadOnly: true},
		},
	})
	db.await(t, "listening", func() error {
		conn, err := net.Dial("tcp", "127.0.0.1:5432")
		if err == nil {
			conn.Close()
		}
		return err
	})
	return db
}

// images is a registry of OCI images at registry.example.
type images struct {
	t        *testing.T
	ca       *authority
	unpacked map[v1.Hash]*image // by digest; a container does not change its image
}

// startRegistry starts a registry at registry.example, a name for which /etc/hosts has an address
// in the test's namespace.
func startRegistry(t *testing.T, ca *authority) *images {
	t.Helper()
	const address = "127.0.0.2"
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"+address+" registry.example\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	serveTLS(t, ca, address, "registry.example", registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	return &images{t, ca, map[v1.Hash]*image{}}
}

// pull asks the registry for an image. If the test does not have an image with this digest yet, pull
// downloads and unpacks it.
func (r *images) pull(named string) *image {
	r.t.Helper()
	ref, err := name.ParseReference(named, name.StrictValidation)
	if err != nil {
		r.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(r.ca.pem))
	img, err := remote.Image(ref, remote.WithTransport(&http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}))
	if err != nil {
		r.t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		r.t.Fatal(err)
	}
	if r.unpacked[digest] == nil {
		r.unpacked[digest] = unpack(r.t, img)
	}
	return r.unpacked[digest]
}

// startS3 starts an S3 server at s3.example with the bucket "fleet".
func startS3(t *testing.T, ca *authority) {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("fleet"); err != nil {
		t.Fatal(err)
	}
	serveTLS(t, ca, "127.0.0.1", "s3.example", gofakes3.New(backend).Server())
}

// serveTLS starts an HTTPS server for a host, at port 443 of an address.
func serveTLS(t *testing.T, ca *authority, address, host string, handler http.Handler) {
	t.Helper()
	pair, err := tls.X509KeyPair(ca.server(t, host))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", address+":443")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(handler)
	s.Listener.Close()
	s.Listener, s.TLS = l, &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	t.Cleanup(s.Close)
}
