package pki

import (
	"crypto"
	"crypto/x509"
	"time"

	"gangway/hub/pki/cakey"
)

// Description is what a person needs to know about a CA of the hub.
type Description struct {
	Subject  string    `json:"subject"`
	Key      string    `json:"key"`      // where the private key is: one of the constants below, or a URI
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

// Describe returns a description of each CA, including the former CAs.
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
	case c == h.root:
		return place(h.rootKey)
	case c == h.aca.cert:
		return place(h.aca.key)
	case c == h.device.cert:
		return place(h.device.key)
	case c == h.tlsCA:
		return place(h.tlsKey)
	}
	return KeyReplaced
}

func place(key crypto.Signer) string {
	if k, ok := key.(*cakey.Key); ok {
		return k.URI()
	}
	return KeyInFile
}
