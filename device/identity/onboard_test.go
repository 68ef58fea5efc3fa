package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"maps"
	"math/big"
	"net"
	"testing"
	"time"

	"gangway/internal/swtpm"
	"gangway/tcg"
)

// verifyRequest verifies a request as a hub does, using only the request's bytes.
func verifyRequest(t *testing.T, raw []byte, roots []*x509.Certificate, issuer *x509.Certificate) *tcg.CSR {
	t.Helper()
	csr, err := tcg.ParseCSR(raw)
	if err != nil {
		t.Fatal(err)
	}
	iak, err := tcg.ParsePublic(csr.AttestPub)
	if err != nil {
		t.Fatal(err)
	}
	idevid, err := tcg.ParsePublic(csr.SigningPub)
	if err != nil {
		t.Fatal(err)
	}
	if tcg.Match(tcg.IAKTemplates, iak) == nil || tcg.Match(tcg.IDevIDTemplates, idevid) == nil {
		t.Error("the keys are of no known template")
	}
	verify := func(what string, key *tcg.Public, message, signature []byte) {
		s, err := tcg.ParseSignature(signature)
		if err == nil {
			err = key.Verify(message, s)
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	verify("signature of the request", idevid, csr.Contents, csr.Signature)
	verify("signature of the certify", iak, csr.SgnCertifyInfo, csr.SgnCertifySig)

	a, err := tcg.ParseCertify(csr.SgnCertifyInfo)
	if err != nil {
		t.Fatal(err)
	}
	iakName, _ := iak.Name()
	name, _ := idevid.Name()
	qualified, _ := tcg.EndorsementQualifiedName(name)
	signer, _ := tcg.EndorsementQualifiedName(iakName)
	if !bytes.Equal(a.Name, name) || !bytes.Equal(a.QualifiedName, qualified) || !bytes.Equal(a.QualifiedSigner, signer) {
		t.Error("the certify is about other keys")
	}
	want := sha256.Sum256(csr.CAData)
	if !bytes.Equal(a.ExtraData, want[:]) {
		t.Error("the certify does not bind prodCaData")
	}
	if !bytes.Equal(csr.CAData, append([]byte("owned:"), name...)) {
		t.Error("CAData was not asked for the IDevID key's name")
	}
	if string(csr.ProdModel) != "Model 1" || string(csr.ProdSerial) != "0001" || string(csr.EventLog) != "log" {
		t.Error("model, serial or event log differ")
	}
	ek, err := tcg.ParseEKCertificate(csr.EKCert)
	if err != nil {
		t.Fatal(err)
	}
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, r := range roots {
		opts.Roots.AddCert(r)
	}
	opts.Intermediates.AddCert(issuer)
	if _, err := ek.Certificate.Verify(opts); err != nil {
		t.Errorf("EK certificate: %v", err)
	}
	return csr
}

// TestOnboarding runs all operations for each kind of key. It compares the number of TPM commands
// with the table in the package comment, and checks that no object stays in the TPM.
func TestOnboarding(t *testing.T) {
	for _, c := range []struct {
		name string
		ek   swtpm.EK
		o    Options
		want string // EK template
		iak  string // IAK's algorithm
		made bool   // the TPM has no persistent EK, so the EK must be made
	}{
		{"RSA EK, P-256 keys", swtpm.RSA2048, Options{}, "L-1", "ECDSA P-256", false},
		{"P-384 EK, P-256 keys", swtpm.P384, Options{}, "H-3", "ECDSA P-256", false},
		{"P-384 EK, P-384 keys", swtpm.P384, Options{Algorithm: P384}, "H-3", "ECDSA P-384", false},
		{"RSA EK, P-521 keys", swtpm.RSA2048, Options{Algorithm: P521}, "L-1", "ECDSA P-521", false},
		{"P-384 EK, RSA keys", swtpm.P384, Options{Algorithm: RSA2048}, "H-3", "RSA 2048", false},
		{"RSA EK that is not persistent", swtpm.RSA2048, Options{}, "L-1", "ECDSA P-256", true},
		{"P-384 EK that is not persistent", swtpm.P384, Options{}, "H-3", "ECDSA P-256", true},
		{"RSA EK by name", swtpm.P384, Options{EK: "L-1"}, "L-1", "ECDSA P-256", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := startTPM(t, c.ek)
			if c.made {
				handle := map[string]uint32{"L-1": 0x81010001, "H-3": 0x81010016}[c.want]
				if err := s.EvictHandle(handle); err != nil {
					t.Fatal(err)
				}
			}
			tpm := open(t, s)
			id := load(t, tpm, c.o)
			if id.EKTemplate != c.want || id.IAK.Algorithm() != c.iak || id.IDevID.Algorithm() != c.iak {
				t.Errorf("EK %s, IAK %s, IDevID %s", id.EKTemplate, id.IAK.Algorithm(), id.IDevID.Algorithm())
			}
			raw, err := id.Request(info())
			if err != nil {
				t.Fatal(err)
			}
			verifyRequest(t, raw, s.Roots(), s.Issuer())

			secret := newSecret()
			blob, enc := credential(t, id.EK.Raw, id.IAKName, secret)
			got, err := id.ActivateCredential(blob, enc)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, secret) {
				t.Error("another secret came out")
			}
			handshake(t, id.Signer())

			counts := make(map[Operation]int)
			for step, n := range tpm.Stats().ByOperation {
				counts[step] = n.Commands
			}
			want := map[Operation]int{
				OpFindEK: 4, OpMakeKeys: 2, OpCertify: 8, OpSign: 4, OpActivate: 8, OpRelease: 1, OpHandshake: 4,
			}
			want[OpFindEK] += (len(id.EKCertificate.Certificate.Raw) - 1) / 1024
			if c.want == "L-1" {
				want[OpActivate]-- // an EK of the low range needs no PolicyOR
			}
			if c.made {
				want[OpFindEK]++
				want[OpRelease]++
			}
			if !maps.Equal(counts, want) {
				t.Errorf("commands %v, %v were expected", counts, want)
			}
			if h := loaded(t, s); len(h) != 1 {
				t.Errorf("loaded after activation: %x, want only the IDevID key", h)
			}
			if err := id.Close(); err != nil {
				t.Error(err)
			}
			if n := tpm.Stats().ByOperation[OpRelease].Commands; n != want[OpRelease]+1 {
				t.Errorf("%d handles flushed in all, %d were expected", n, want[OpRelease]+1)
			}
			assertEmpty(t, s)
			if _, err := id.Request(info()); !errors.Is(err, ErrClosed) {
				t.Errorf("Request after Close: %v", err)
			}
		})
	}
}

// handshake authenticates as a TLS 1.3 client with the key.
func handshake(t *testing.T, key crypto.Signer) {
	t.Helper()
	now := time.Now()
	ca, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := func(pub crypto.PublicKey, usage x509.ExtKeyUsage) []byte {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{"x"},
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
			BasicConstraintsValid: true,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, pub, ca)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	serverDER, clientDER := leaf(ca.Public(), x509.ExtKeyUsageServerAuth), leaf(key.Public(), x509.ExtKeyUsageClientAuth)
	pool := x509.NewCertPool()
	cert, err := x509.ParseCertificate(serverDER)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(cert)
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	result := make(chan error, 1)
	go func() {
		conn := tls.Server(b, &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{serverDER}, PrivateKey: ca}},
			ClientAuth:   tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13,
		})
		_, err := conn.Read(make([]byte, 1)) // completes the handshake
		if err == nil && !bytes.Equal(conn.ConnectionState().PeerCertificates[0].Raw, clientDER) {
			err = errors.New("another client certificate")
		}
		result <- err
	}()
	client := tls.Client(a, &tls.Config{
		RootCAs: pool, ServerName: "x", MinVersion: tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{clientDER}, PrivateKey: key}},
	})
	if _, err := client.Write([]byte("x")); err != nil {
		t.Errorf("client: %v", err)
	}
	if err := <-result; err != nil {
		t.Errorf("server: %v", err)
	}
}
