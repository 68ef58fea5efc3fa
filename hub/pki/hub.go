// Package pki has the hub's certificate authorities: a root, the attestation CA (ACA) and the
// device CA. The ACA signs IAK certificates, and the device CA signs IDevID certificates. Package
// pki also makes the hub's TLS certificate.
//
// The CAs' keys are in files (PKCS #8 PEM, mode 0600), in a TPM or in an HSM (package cakey). These
// CAs never expire, because the identities that they sign never expire (IEEE 802.1AR). An identity
// ends when the hub revokes it or replaces it in the database.
//
// The root's key may be offline. Then the hub also has a TLS CA. The TLS CA signs the hub's TLS
// certificates in place of the root. In contrast to the other CAs, the TLS CA expires. A hub gets
// the certificates of its CAs from an offline root in three steps: NewRequest on the hub,
// Root.Issue on the root's machine, and Install on the hub.
package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"gangway/hub/pki/cakey"
)

// Hub has a hub's authorities. It is safe for concurrent use.
type Hub struct {
	root       *x509.Certificate
	rootKey    crypto.Signer     // nil: the root is offline
	tlsCA      *x509.Certificate // nil: the root signs the TLS certificates
	tlsKey     crypto.Signer
	previous   []*x509.Certificate // former ACAs and device CAs
	aca        *issuer
	device     *issuer
	sealKey    []byte
	name       string
	rootPEM    []byte
	acaPEM     []byte
	devicePEM  []byte
	clientCAs  *x509.CertPool
	firstStart bool
}

const (
	sealFile = "seal.key"
	sealSize = 32
)

// organization is the attribute O of the subjects of CAs, IDevID certificates and the hub's TLS
// certificate.
const organization = "Gangway"

// authority is a kind of CA: the name of its files, and the title at the end of its CN.
type authority struct{ file, title string }

var (
	root     = authority{"root", "Root CA"}
	aca      = authority{"aca", "Attestation CA"}
	deviceCA = authority{"device-ca", "Device CA"}
	tlsCA    = authority{"tls-ca", "TLS CA"}
)

// authorities lists the CAs that a hub makes at its first start. The root is first, because the
// root signs the other CAs.
var authorities = []authority{root, aca, deviceCA}

// Open loads the authorities in the folder `dir`. If the folder does not exist, Open makes it, with
// new authorities; the parent folder must exist. Open writes them to a temporary folder, which it
// renames when it is complete, so that after a crash either all authorities exist or none.
//
// Open refuses a folder that is incomplete or empty, such as the mount point of a disk that is not
// mounted. It refuses keys that other users may read, and keys and certificates that do not match
// their file names. It never makes new keys next to old ones. Its errors name the remedy.
func Open(dir string, o Options) (*Hub, error) {
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) == 0 {
		return nil, fmt.Errorf("pki: the folder %s is empty: mount its disk, or restore the folder from the backup; delete the folder only to make a new hub", dir)
	}
	made := false
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(dir + requestSuffix); err == nil {
			return nil, fmt.Errorf("pki: the hub waits for the certificates of its CAs: install the answer to the request in %s with 'gangway ca install', or cancel the request with 'gangway ca request --cancel'", dir+requestSuffix)
		}
		m := &maker{step: func() {}}
		if m.Options, err = o.withDefaults(); err != nil {
			return nil, err
		}
		if made, err = m.create(dir); err != nil {
			return nil, fmt.Errorf("pki: make the authorities: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	h, err := load(dir)
	if err != nil {
		return nil, err
	}
	h.firstStart = made
	return h, nil
}

// Created reports whether Open made the authorities because the folder did not exist.
func (h *Hub) Created() bool { return h.firstStart }

// HubName returns the lower-case hexadecimal SHA-256 of the root's SubjectPublicKeyInfo (DER).
// The signature of an ownership proof covers the hub name.
func (h *Hub) HubName() string { return h.name }

// SealKey returns the 32-byte secret from which the hub derives per-request secrets and device ids.
// The caller must not change the bytes.
func (h *Hub) SealKey() []byte { return h.sealKey }

// RootPEM returns the root certificate in PEM. Devices trust this certificate.
func (h *Hub) RootPEM() []byte { return h.rootPEM }

// ACAPEM returns the attestation CA's certificate in PEM, as it appears in the hub's replies.
func (h *Hub) ACAPEM() []byte { return h.acaPEM }

// DeviceCAPEM returns the device CA's certificate in PEM, as it appears in the hub's replies.
func (h *Hub) DeviceCAPEM() []byte { return h.devicePEM }

// Root returns the root's certificate.
func (h *Hub) Root() *x509.Certificate { return h.root }

// ACA returns the attestation CA's certificate.
func (h *Hub) ACA() *x509.Certificate { return h.aca.cert }

// DeviceCA returns the device CA's certificate.
func (h *Hub) DeviceCA() *x509.Certificate { return h.device.cert }

// ACAs returns the certificates of the attestation CA and of the former ones. An AIK certificate
// may be from any of these CAs.
func (h *Hub) ACAs() []*x509.Certificate {
	return append([]*x509.Certificate{h.ACA()}, h.former(aca)...)
}

// DeviceCAs returns the certificates of the device CA and of the former ones. A device's
// certificate may be from any of these CAs.
func (h *Hub) DeviceCAs() []*x509.Certificate {
	return append([]*x509.Certificate{h.DeviceCA()}, h.former(deviceCA)...)
}

// All returns the certificates of all CAs, including the former CAs. The root is first.
func (h *Hub) All() []*x509.Certificate {
	list := []*x509.Certificate{h.root, h.aca.cert, h.device.cert}
	if h.tlsCA != nil {
		list = append(list, h.tlsCA)
	}
	return append(list, h.previous...)
}

// The method `former` returns the former CAs of the kind `a`, for example the former device CAs.
func (h *Hub) former(a authority) (list []*x509.Certificate) {
	for _, c := range h.previous {
		if strings.HasSuffix(c.Subject.CommonName, " "+a.title) {
			list = append(list, c)
		}
	}
	return list
}

// IssuerOf returns the CA that issued the IAK or IDevID certificate `der`. This is the former CA
// whose key the certificate names as its issuer's key or, if there is none, `now`, which is the
// hub's current CA for such certificates.
func (h *Hub) IssuerOf(der []byte, now *x509.Certificate) *x509.Certificate {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return now
	}
	for _, c := range h.previous {
		if bytes.Equal(c.SubjectKeyId, leaf.AuthorityKeyId) {
			return c
		}
	}
	return now
}

// Prove checks that the hub can sign with the keys of all its CAs. It makes a test signature with
// each key that is at a URI, for example in a TPM. Keys in the hub's folder need no test, because
// Open compared them with the certificates. A server calls Prove when it starts.
func (h *Hub) Prove() error {
	for _, key := range []crypto.Signer{h.aca.key, h.device.key, h.tlsKey} {
		if k, ok := key.(*cakey.Key); ok {
			if err := k.Prove(); err != nil {
				return fmt.Errorf("pki: %w", err)
			}
		}
	}
	return nil
}

// TLSCA returns the certificate of the TLS CA, or nil if the root signs the TLS certificates.
func (h *Hub) TLSCA() *x509.Certificate { return h.tlsCA }

// RootOffline reports whether the hub does not have the root's private key.
func (h *Hub) RootOffline() bool { return h.rootKey == nil }

// ClientCAs returns a pool of the device CA and the former device CAs, so that the TLS server
// accepts only client certificates that these CAs issued, and no other certificates of this hub.
func (h *Hub) ClientCAs() *x509.CertPool { return h.clientCAs }
