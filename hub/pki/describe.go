package pki

import (
	"crypto/x509"
	"time"
)

// Description is what a person needs to know about a CA of the hub.
type Description struct {
	Subject  string    `json:"subject"`
	Key      string    `json:"key"`      // where the private key is: see the constants
	KeyHash  string    `json:"key-hash"` // lower-case hexadecimal SHA-256 of the SubjectPublicKeyInfo
	NotAfter time.Time `json:"not-after"`
	Forever  bool      `json:"forever"` // the CA never expires
}

// Values of Description.Key.
const (
	KeyInFile   = "file"     // in the folder of the authorities
	KeyOffline  = "offline"  // not on this machine
	KeyReplaced = "replaced" // a former CA: the hub only verifies its certificates
)

// Describe returns a description of each CA, also of the former ones.
func (h *Hub) Describe() (list []Description) {
	for _, c := range h.All() {
		list = append(list, Description{c.Subject.String(), h.keyOf(c), keyHash(c.RawSubjectPublicKeyInfo), c.NotAfter.UTC(), c.NotAfter.Equal(forever)})
	}
	return list
}

func (h *Hub) keyOf(c *x509.Certificate) string {
	switch {
	case c == h.root && h.rootKey == nil:
		return KeyOffline
	case c == h.root || c == h.aca.cert || c == h.device.cert || c == h.tlsCA:
		return KeyInFile
	}
	return KeyReplaced
}
