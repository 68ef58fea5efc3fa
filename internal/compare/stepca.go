package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"gangway/internal/fleet"

	"github.com/fxamacker/cbor/v2"
	"github.com/go-jose/go-jose/v4"
)

// stepCA is `step-ca`, with the ACME challenge device-attest-01.
type stepCA struct {
	server   *process
	url      string
	material *material
	roots    *x509.CertPool
}

func (s *stepCA) process() *process { return s.server }

func startStepCA(dir, bin string, m *material) (peer, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	root, rootKey, err := newCA("step root")
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "step intermediate"}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	intermediate, err := x509.CreateCertificate(rand.Reader, template, root, key.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	config, err := json.Marshal(map[string]any{
		"root": path("root.pem"), "crt": path("intermediate.pem"), "key": path("intermediate.key"),
		"address": addr, "dnsNames": []string{"127.0.0.1"}, "logger": map[string]string{"format": "text"},
		"db": map[string]string{"type": "badgerv2", "dataSource": path("db")},
		"authority": map[string]any{"provisioners": []any{map[string]any{
			"type": "ACME", "name": "devices", "challenges": []string{"device-attest-01"}, "attestationFormats": []string{"tpm"},
			// The maker's intermediate CA is enough here, because Go accepts an intermediate CA as
			// a root.
			"attestationRoots": certPEM(m.maker.Intermediate.Raw),
		}}},
	})
	if err != nil {
		return nil, err
	}
	for name, text := range map[string][]byte{
		"root.pem": certPEM(root.Raw), "intermediate.pem": certPEM(intermediate),
		"intermediate.key": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), "ca.json": config,
	} {
		if err := os.WriteFile(path(name), text, 0o600); err != nil {
			return nil, err
		}
	}
	s := &stepCA{url: "https://" + addr, material: m, roots: x509.NewCertPool()}
	s.roots.AddCert(root)
	s.server, err = startProcess(dir, addr, filepath.Join(bin, "step-ca"), path("ca.json"))
	return s, err
}

func (s *stepCA) client(certs ...tls.Certificate) *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS13, Certificates: certs}, ForceAttemptHTTP2: true,
	}}
}

// identity gets a certificate by ACME (RFC 8555, draft-ietf-acme-device-attest).
func (s *stepCA) identity(ctx context.Context, i int, call bool) error {
	cert, err := s.issue(ctx, i)
	if err != nil || !call {
		return err
	}
	c := s.client(*cert)
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/health", nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET /health: %s", resp.Status)
	}
	return nil
}

// order is one ACME account with its connection, for one certificate order.
type order struct {
	http  *http.Client
	key   *ecdsa.PrivateKey
	kid   string
	nonce string
}

// post sends a signed request, and decodes the answer's JSON into `into` if it is not nil.
func (o *order) post(ctx context.Context, url string, payload, into any) (*http.Response, []byte, error) {
	body := []byte{} // an empty payload is a POST-as-GET
	if payload != nil {
		var err error
		if body, err = json.Marshal(payload); err != nil {
			return nil, nil, err
		}
	}
	opts := &jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{"nonce": o.nonce, "url": url}, EmbedJWK: o.kid == ""}
	if o.kid != "" {
		opts.ExtraHeaders["kid"] = o.kid
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: o.key}, opts)
	if err != nil {
		return nil, nil, err
	}
	signed, err := signer.Sign(body)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader([]byte(signed.FullSerialize())))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/jose+json")
	resp, err := o.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("POST %s: %s: %.500s", url, resp.Status, text)
	}
	if err == nil && into != nil {
		err = json.Unmarshal(text, into)
	}
	o.nonce = resp.Header.Get("Replay-Nonce")
	return resp, text, err
}

func (s *stepCA) issue(ctx context.Context, i int) (*tls.Certificate, error) {
	account, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	o := &order{http: s.client(), key: account}
	defer o.http.CloseIdleConnections()
	base := s.url + "/acme/devices/"
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, base+"new-nonce", nil)
	if err != nil {
		return nil, err
	}
	resp, err := o.http.Do(req)
	if err != nil {
		return nil, err
	}
	resp.Body.Close()
	o.nonce = resp.Header.Get("Replay-Nonce")
	if resp, _, err = o.post(ctx, base+"new-account", map[string]any{"termsOfServiceAgreed": true}, nil); err != nil {
		return nil, err
	}
	o.kid = resp.Header.Get("Location")
	id := fmt.Sprintf("device-%d-%d", i, time.Now().UnixNano())
	var made struct {
		Authorizations []string
		Finalize       string
		Certificate    string
		Status         string
	}
	if _, _, err = o.post(ctx, base+"new-order", map[string]any{"identifiers": []map[string]string{{"type": "permanent-identifier", "value": id}}}, &made); err != nil {
		return nil, err
	}
	var authz struct {
		Challenges []struct{ Type, URL, Token string }
	}
	if _, _, err = o.post(ctx, made.Authorizations[0], nil, &authz); err != nil {
		return nil, err
	}
	k, err := newKey()
	if err != nil {
		return nil, err
	}
	object, err := attestation(s.material.tpms[i%tpms], k, account, authz.Challenges[0].Token)
	if err != nil {
		return nil, err
	}
	if _, _, err = o.post(ctx, authz.Challenges[0].URL, map[string]string{"attObj": object}, nil); err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: id}}, k.Private)
	if err != nil {
		return nil, err
	}
	if _, _, err = o.post(ctx, made.Finalize, map[string]string{"csr": base64.RawURLEncoding.EncodeToString(csr)}, &made); err != nil {
		return nil, err
	}
	_, chain, err := o.post(ctx, made.Certificate, nil, nil)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{PrivateKey: k.Private}
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	if len(cert.Certificate) == 0 {
		return nil, errors.New("the order gave no certificate")
	}
	return cert, nil
}

// attestation returns the attestation object in the format tpm (WebAuthn, 8.3) for a challenge.
func attestation(t *tpm, k *fleet.Key, account *ecdsa.PrivateKey, token string) (string, error) {
	print, err := (&jose.JSONWebKey{Key: account.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", err
	}
	auth := sha256.Sum256([]byte(token + "." + base64.RawURLEncoding.EncodeToString(print)))
	certInfo, sig, err := t.certify(k, auth[:])
	if err != nil {
		return "", err
	}
	object, err := cbor.Marshal(map[string]any{"fmt": "tpm", "attStmt": map[string]any{
		"ver": "2.0", "alg": int64(-257), "x5c": [][]byte{t.akCert}, "sig": sig, "certInfo": certInfo, "pubArea": k.Public.Raw,
	}})
	return base64.RawURLEncoding.EncodeToString(object), err
}
