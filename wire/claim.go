package wire

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"gangway/internal/strictjson"
)

// A machine whose image has no join token makes one itself: a secret, an id,
// and the public key that follows from them (OwnershipKey). It shows id and key
// as a code on its screen. Whoever takes the code to the hub makes the token
// theirs, and the machine proves with the secret, which never leaves it, that it
// is the one with this screen.

// HubFile says which hub a machine without a join token is to join, and how to
// know it. It is no secret.
type HubFile struct {
	Hub     string `json:"hub"`      // as in TokenFile
	HubName string `json:"hub-name"` // as in TokenFile
	HubCA   string `json:"hub-ca"`   // as in TokenFile
}

// ParseHubFile reads a hub file strictly.
func ParseHubFile(b []byte) (*HubFile, error) {
	if len(b) > MaxTokenFile {
		return nil, fmt.Errorf("hub file: %d bytes, at most %d are allowed", len(b), MaxTokenFile)
	}
	h := new(HubFile)
	// Unknown fields are refused: a join token in its place would go unused.
	if err := strictjson.DecodeKnown(b, h); err != nil {
		return nil, fmt.Errorf("hub file: %w", err)
	}
	if err := (&TokenFile{Hub: h.Hub, HubName: h.HubName, HubCA: h.HubCA}).checkHub(); err != nil {
		return nil, fmt.Errorf("hub file: %w", err)
	}
	return h, nil
}

// ClaimLife is how long a machine has, from the moment that its code was taken
// to the hub, to join.
const ClaimLife = time.Hour

// Claim is the answer to GET /claims/CODE: who took the code to the hub.
type Claim struct {
	Owner     string `json:"owner"` // prn
	OwnerNick string `json:"owner-nick"`
}

// claimSize is a code's in bytes: the id's 12, then the public key.
const claimSize = 12 + ed25519.PublicKeySize

// ClaimCode is a machine's own token as a code: base64url, without padding, of
// the id's 12 bytes and the public key's 32. It has 59 characters.
func ClaimCode(id string, key ed25519.PublicKey) (string, error) {
	b, err := hex.DecodeString(id)
	if err != nil || !IsID(id) || len(key) != ed25519.PublicKeySize {
		return "", errors.New("join: no id or no key to make a claim code of")
	}
	return base64.RawURLEncoding.EncodeToString(append(b, key...)), nil
}

// ParseClaimCode reads a code. There is one code for an id and a key.
func ParseClaimCode(code string) (id string, key ed25519.PublicKey, err error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(code)
	if err != nil || len(b) != claimSize || base64.RawURLEncoding.EncodeToString(b) != code {
		return "", nil, errors.New("this is no claim code of a machine")
	}
	return hex.EncodeToString(b[:12]), b[12:], nil
}

// ClaimWords is what a person compares between a machine's screen and the
// hub's page: 60 bits of the code's SHA-256, in base32, as XXXX-XXXX-XXXX.
func ClaimWords(code string) string {
	h := sha256.Sum256([]byte("gangway claim v1\x00" + code))
	s := base32.StdEncoding.EncodeToString(h[:10])
	return s[:4] + "-" + s[4:8] + "-" + s[8:12]
}
