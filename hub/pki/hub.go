// Package pki is the hub's certificate authorities: a root, the attestation CA
// (ACA) that signs IAK certificates, the device CA that signs IDevID
// certificates, and the hub's own TLS certificate.
//
// The keys are files for now (PKCS#8 PEM, mode 0600), behind crypto.Signer.
// The CAs never end, as the identities that they sign never do (IEEE 802.1AR):
// what ends an identity is its row in the store.
package pki

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Hub is a hub's authorities. It is safe for concurrent use.
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

// organization is the O of every subject.
const organization = "Gangway"

// authorities are the files' names and how the subject's CN ends: the root
// first, for it signs the others.
var authorities = []struct{ file, title string }{
	{"root", "Root CA"},
	{"aca", "Attestation CA"},
	{"device-ca", "Device CA"},
}

// Open loads the authorities in dir, or makes them if dir is not there (its
// parent must be). They are made in a folder beside it that is renamed when it
// is complete: a crash leaves all of them or none. It refuses a folder that is
// incomplete or empty (a disk that is not mounted looks so), keys that others
// may read, and keys or certificates that are not what their names say; it
// never makes a new key beside old ones. Its errors say what to do.
func Open(dir string, o Options) (*Hub, error) {
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) == 0 {
		return nil, fmt.Errorf("pki: %s is empty: mount its disk or restore it from its backup; only for a new hub, remove it", dir)
	}
	made := false
	if errors.Is(err, fs.ErrNotExist) {
		m := &maker{step: func() {}}
		if m.Options, err = o.withDefaults(); err != nil {
			return nil, err
		}
		if made, err = m.create(dir); err != nil {
			return nil, fmt.Errorf("pki: making the authorities: %w", err)
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

// HubName is the lower-case hexadecimal SHA-256 of the root's
// SubjectPublicKeyInfo (DER): the name that ownership proofs are bound to.
func (h *Hub) HubName() string { return h.name }

// SealKey is the 32-byte secret that per-request secrets and device ids are
// derived from. It must not be changed.
func (h *Hub) SealKey() []byte { return h.sealKey }

// RootPEM is the root certificate: what devices are given to trust.
func (h *Hub) RootPEM() []byte { return h.rootPEM }

// ACAPEM is the attestation CA's certificate in PEM, as replies carry it.
func (h *Hub) ACAPEM() []byte { return h.acaPEM }

// DeviceCAPEM is the device CA's.
func (h *Hub) DeviceCAPEM() []byte { return h.devicePEM }

// Root is the root's certificate.
func (h *Hub) Root() *x509.Certificate { return h.root }

// ACA is the attestation CA's certificate.
func (h *Hub) ACA() *x509.Certificate { return h.aca.cert }

// DeviceCA is the device CA's certificate.
func (h *Hub) DeviceCA() *x509.Certificate { return h.device.cert }

// ClientCAs holds the device CA alone, so that nothing else that this hub (or
// anybody) signed passes for a device in TLS.
func (h *Hub) ClientCAs() *x509.CertPool { return h.clientCAs }
