// Package pki holds the hub's certificate authorities: a root, the attestation CA (ACA), which
// signs IAK certificates, and the device CA, which signs IDevID certificates. It also makes the
// hub's TLS certificate.
//
// The keys are in files (PKCS #8 PEM, mode 0600), and are used through crypto.Signer. The CAs never
// expire, because the identities that they sign never expire (IEEE 802.1AR). An identity ends when
// the hub revokes or replaces its row in the store.
package pki

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Hub holds a hub's authorities. It is safe for concurrent use.
type Hub struct {
	root       *x509.Certificate
	rootKey    crypto.Signer
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

// authorities lists the file names of the CAs, and the title that ends each CA's CN. The root is
// first, because it signs the others.
var authorities = []struct{ file, title string }{
	{"root", "Root CA"},
	{"aca", "Attestation CA"},
	{"device-ca", "Device CA"},
}

// Open loads the authorities in dir. If dir does not exist, Open makes it and the authorities; its
// parent must exist. Open makes them in a temporary folder and renames it when it is complete: a
// crash leaves all of them or none.
//
// Open refuses a folder that is incomplete or empty, like the mount point of a disk that is not
// mounted. It refuses keys that other users may read, and keys or certificates that do not match
// their file names. It never makes new keys next to old ones. Its errors name the remedy.
func Open(dir string, o Options) (*Hub, error) {
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) == 0 {
		return nil, fmt.Errorf("pki: %s is empty: mount its disk or restore it from its backup; remove it only to make a new hub", dir)
	}
	made := false
	if errors.Is(err, fs.ErrNotExist) {
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

// Created reports whether Open made the authorities.
func (h *Hub) Created() bool { return h.firstStart }

// HubName returns the lower-case hexadecimal SHA-256 of the root's SubjectPublicKeyInfo (DER).
// Ownership proofs are bound to it.
func (h *Hub) HubName() string { return h.name }

// SealKey returns the 32-byte secret from which per-request secrets and device ids are derived. The
// caller must not change it.
func (h *Hub) SealKey() []byte { return h.sealKey }

// RootPEM returns the root certificate in PEM. Devices trust this certificate.
func (h *Hub) RootPEM() []byte { return h.rootPEM }

// ACAPEM returns the attestation CA's certificate in PEM. Replies contain it in this form.
func (h *Hub) ACAPEM() []byte { return h.acaPEM }

// DeviceCAPEM returns the device CA's certificate in PEM. Replies contain it in this form.
func (h *Hub) DeviceCAPEM() []byte { return h.devicePEM }

// Root returns the root's certificate.
func (h *Hub) Root() *x509.Certificate { return h.root }

// ACA returns the attestation CA's certificate.
func (h *Hub) ACA() *x509.Certificate { return h.aca.cert }

// DeviceCA returns the device CA's certificate.
func (h *Hub) DeviceCA() *x509.Certificate { return h.device.cert }

// ClientCAs returns a pool that holds only the device CA. So the TLS server accepts no other
// certificate as a device's, not even another certificate of this hub.
func (h *Hub) ClientCAs() *x509.CertPool { return h.clientCAs }
