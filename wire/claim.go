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

// A machine whose image has no join token makes its own join token: a secret, an id, and the public
// key that OwnershipKey derives from them. The machine's screen displays the id and the public key
// as a claim code. The person who enters the claim code at the hub becomes the owner of the token.
// With the secret, the machine then proves that the claim code belongs to this machine. The secret
// never leaves the machine.

// HubFile names the hub of a machine without a join token, and the CA that authenticates that hub.
// It is not secret.
type HubFile struct {
	Hub     string `json:"hub"`      // as in TokenFile
	HubName string `json:"hub-name"` // as in TokenFile
	HubCA   string `json:"hub-ca"`   // as in TokenFile
}

// ParseHubFile parses a hub file. It refuses unknown and duplicate fields.
func ParseHubFile(b []byte) (*HubFile, error) {
	if len(b) > MaxTokenFile {
		return nil, fmt.Errorf("the hub file has %d bytes; at most %d are allowed", len(b), MaxTokenFile)
	}
	h := new(HubFile)
	// Refuse unknown fields. Otherwise a token file would be read as a hub file, and its join token
	// would be silently ignored.
	if err := strictjson.DecodeKnown(b, h); err != nil {
		return nil, fmt.Errorf("hub file: %w", err)
	}
	if err := (&TokenFile{Hub: h.Hub, HubName: h.HubName, HubCA: h.HubCA}).checkHub(); err != nil {
		return nil, fmt.Errorf("hub file: %w", err)
	}
	return h, nil
}

// ClaimLife is how long a claim code is valid after a person entered it at the hub. The machine
// must onboard within this time.
const ClaimLife = time.Hour

// Claim is the response to GET /claims/CODE: the account that claimed the machine.
type Claim struct {
	Owner     string `json:"owner"` // prn
	OwnerNick string `json:"owner-nick"`
}

// claimSize is the size of a claim code in bytes: 12 bytes of id, then the public key.
const claimSize = 12 + ed25519.PublicKeySize

// ClaimCode returns the claim code of a machine's own join token: the 12 bytes of the id and the 32
// bytes of the public key in base64url, without padding. It has 59 characters.
func ClaimCode(id string, key ed25519.PublicKey) (string, error) {
	b, err := hex.DecodeString(id)
	if err != nil || !IsID(id) || len(key) != ed25519.PublicKeySize {
		return "", errors.New("claim code: the token's id or its public key is invalid")
	}
	return base64.RawURLEncoding.EncodeToString(append(b, key...)), nil
}

// ParseClaimCode parses a claim code. It accepts only one spelling of each id and key.
func ParseClaimCode(code string) (id string, key ed25519.PublicKey, err error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(code)
	if err != nil || len(b) != claimSize || base64.RawURLEncoding.EncodeToString(b) != code {
		return "", nil, errors.New("this is not a valid claim code: enter the code exactly as the machine displays it")
	}
	return hex.EncodeToString(b[:12]), b[12:], nil
}

// ClaimWords returns a short form of a claim code: 60 bits of the code's SHA-256, in base32, as
// XXXX-XXXX-XXXX. A person compares these letters on the machine's screen with the letters on the
// hub's page.
func ClaimWords(code string) string {
	h := sha256.Sum256([]byte("gangway claim v1\x00" + code))
	s := base32.StdEncoding.EncodeToString(h[:10])
	return s[:4] + "-" + s[4:8] + "-" + s[8:12]
}
