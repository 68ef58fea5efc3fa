package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// spire is `spire-server run`, with the node attestor tpm_devid.
type spire struct {
	server   *process
	addr     string
	material *material
	roots    *x509.CertPool // root certificates of the trust domain
	ca       *x509.Certificate
	caKey    *ecdsa.PrivateKey // key of the CA that issues DevID certificates
}

func (s *spire) process() *process { return s.server }

const spireConfig = `server {
	bind_address = "127.0.0.1"
	bind_port = "%s"
	socket_path = "%[2]s/api.sock"
	trust_domain = "compare.test"
	data_dir = "%[2]s"
	log_level = "INFO"
	# All devices have one address.
	ratelimit {
		attestation = false
		signing = false
	}
}
plugins {
	DataStore "sql" {
		plugin_data {
			database_type = "sqlite3"
			connection_string = "%[2]s/datastore.sqlite3"
		}
	}
	NodeAttestor "tpm_devid" {
		plugin_data {
			devid_ca_path = "%[2]s/devid.pem"
			endorsement_ca_path = "%[2]s/endorsement.pem"
		}
	}
	KeyManager "disk" {
		plugin_data {
			keys_path = "%[2]s/keys.json"
		}
	}
}
`

func startSPIRE(dir, bin string, m *material) (peer, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s := &spire{addr: addr, material: m, roots: x509.NewCertPool()}
	if s.ca, s.caKey, err = newCA("DevID CA"); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "server.conf")
	for path, text := range map[string][]byte{
		config:                                fmt.Appendf(nil, spireConfig, addr[strings.LastIndexByte(addr, ':')+1:], dir),
		filepath.Join(dir, "devid.pem"):       certPEM(s.ca.Raw),
		filepath.Join(dir, "endorsement.pem"): append(certPEM(m.maker.Intermediate.Raw), certPEM(m.maker.Root.Raw)...),
	} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return nil, err
		}
	}
	program := filepath.Join(bin, "spire-server")
	if s.server, err = startProcess(dir, addr, program, "run", "-config", config); err != nil {
		return nil, err
	}
	bundle, err := trustBundle(program, filepath.Join(dir, "api.sock"))
	if err == nil && !s.roots.AppendCertsFromPEM(bundle) {
		err = errors.New("the trust bundle is empty")
	}
	if err != nil {
		s.server.stop()
		return nil, err
	}
	return s, nil
}

// trustBundle returns the root certificates of the trust domain. The server opens its TCP port and
// its socket at the same time, so the socket may not be there yet.
func trustBundle(program, socket string) ([]byte, error) {
	for end := time.Now().Add(deadline); ; time.Sleep(100 * time.Millisecond) {
		bundle, err := output(exec.Command(program, "bundle", "show", "-socketPath", socket))
		if err == nil || time.Now().After(end) {
			return bundle, err
		}
	}
}

// newCA makes a CA on P-256.
func newCA(name string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	c, err := x509.ParseCertificate(der)
	return c, key, err
}

// dial connects to the server, with a client certificate or without one.
func (s *spire) dial(cert *tls.Certificate) (*grpc.ClientConn, error) {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The server's certificate names the server by its SPIFFE ID, and has no DNS name that Go
		// could verify.
		InsecureSkipVerify: true,
		VerifyConnection: func(c tls.ConnectionState) error {
			leaf := c.PeerCertificates[0]
			if len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://compare.test/spire/server" {
				return errors.New("the peer is not the server of the trust domain")
			}
			_, err := leaf.Verify(x509.VerifyOptions{Roots: s.roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
			return err
		},
	}
	if cert != nil {
		config.Certificates = []tls.Certificate{*cert}
	}
	return grpc.NewClient(s.addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
}

// identity attests a node, and then lists the node's entries, as a SPIRE agent does. By default,
// agents of this version list them with SyncAuthorizedEntries.
func (s *spire) identity(ctx context.Context, i int, call bool) error {
	svid, err := s.attest(ctx, i)
	if err != nil || !call {
		return err
	}
	c, err := s.dial(svid)
	if err != nil {
		return err
	}
	defer c.Close()
	stream, err := entryv1.NewEntryClient(c).SyncAuthorizedEntries(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&entryv1.SyncAuthorizedEntriesRequest{}); err != nil {
		return err
	}
	_, err = stream.Recv() // this node has no entries, so one answer is the whole list
	return err
}

// The messages of the attestor tpm_devid. They are encoded as JSON, and SPIRE's attestation
// protocol carries them as bytes.
type (
	devidRequest struct {
		DevIDCert                              [][]byte
		DevIDPub, EKCert, EKPub, AKPub         []byte
		CertifiedDevID, CertificationSignature []byte
	}
	devidChallenge struct {
		DevID          []byte
		CredActivation *struct{ Credential, Secret []byte }
	}
	devidResponse struct{ DevID, CredActivation []byte }
)

func (s *spire) attest(ctx context.Context, i int) (*tls.Certificate, error) {
	t := s.material.tpms[i%tpms]
	k, err := newKey()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(i) + 2), Subject: pkix.Name{CommonName: fmt.Sprint("device ", i)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	devid, err := x509.CreateCertificate(rand.Reader, template, s.ca, k.Private.Public(), s.caKey)
	if err != nil {
		return nil, err
	}
	certified, signature, err := t.certify(k, nil)
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(devidRequest{
		DevIDCert: [][]byte{devid}, DevIDPub: k.Public.Raw, EKCert: t.device.EKCert, EKPub: t.device.EK.Public.Raw,
		AKPub: t.ak.Public.Raw, CertifiedDevID: certified, CertificationSignature: signature,
	})
	if err != nil {
		return nil, err
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}}}, own)
	if err != nil {
		return nil, err
	}
	c, err := s.dial(nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stream, err := agentv1.NewAgentClient(c).AttestAgent(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{Params: &agentv1.AttestAgentRequest_Params{
		Data: &types.AttestationData{Type: "tpm_devid", Payload: payload}, Params: &agentv1.AgentX509SVIDParams{Csr: csr},
	}}}); err != nil {
		return nil, err
	}
	reply, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	var challenge devidChallenge
	if err := json.Unmarshal(reply.GetChallenge(), &challenge); err != nil {
		return nil, err
	}
	if challenge.CredActivation == nil {
		return nil, errors.New("the challenge has no credential")
	}
	opener := *t.device
	opener.IAK = t.ak
	nonce, err := opener.ActivateCredential(challenge.CredActivation.Credential, challenge.CredActivation.Secret)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(challenge.DevID)
	signed, err := k.Private.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	answer, err := json.Marshal(devidResponse{DevID: signed, CredActivation: nonce})
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_ChallengeResponse{ChallengeResponse: answer}}); err != nil {
		return nil, err
	}
	if reply, err = stream.Recv(); err != nil {
		return nil, err
	}
	svid := reply.GetResult().GetSvid()
	if len(svid.GetCertChain()) == 0 {
		return nil, errors.New("the attestation gave no certificate")
	}
	return &tls.Certificate{Certificate: svid.GetCertChain(), PrivateKey: own}, stream.CloseSend()
}
