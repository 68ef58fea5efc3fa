package wire

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"gangway/internal/strictjson"
)

// SecretSize is the size of a join token's secret in bytes. In standard base64, the secret has 32
// characters, which is less than Pantavisor's limit of 66 characters.
const SecretSize = 24

// MaxTokenFile is the largest token file that ParseTokenFile accepts, in bytes.
const MaxTokenFile = 64 << 10

// Prefixes of prns. A prn is a Pantacor resource name: the name of an account, a device or a token
// in Pantacor's API.
const (
	AccountPRN = "prn:::accounts:/"
	DevicePRN  = "prn:::devices:/"
	TokenPRN   = "prn:::devices-tokens:/"
)

// TokenFile is the content of device_autojointoken.json: everything that a device needs to find its
// hub, to authenticate the hub, and to prove who owns the device. The file is secret until the
// token is used up, expired or disabled.
type TokenFile struct {
	ID    string `json:"id"`    // 24 lower-case hexadecimal digits
	PRN   string `json:"prn"`   // TokenPRN + ID
	Nick  string `json:"nick"`  // the owner's name for the token; may be empty
	Owner string `json:"owner"` // AccountPRN + 24 lower-case hexadecimal digits
	// Token is the secret: 24 random bytes in standard base64.
	Token string `json:"token"`
	// Hub is the https URL of the hub, without a path.
	Hub string `json:"hub"`
	// HubName is the lower-case hexadecimal SHA-256 of the hub's root key (SubjectPublicKeyInfo,
	// DER). Ownership proofs contain it, so a proof is valid at only one hub.
	HubName string `json:"hub-name"`
	// HubCA contains CA certificates in PEM. The chain of the hub's TLS certificate must end at one
	// of these certificates; the device trusts no other CA.
	HubCA   string `json:"hub-ca"`
	Expires string `json:"expires,omitempty"` // RFC 3339; only for people, because the hub enforces the expiry
}

// ParseTokenFile parses and checks a token file. It ignores unknown fields, because Pantacor's
// files have more fields. It refuses a duplicate field, a field name in another case, and data
// after the JSON.
func ParseTokenFile(b []byte) (*TokenFile, error) {
	if len(b) > MaxTokenFile {
		return nil, fmt.Errorf("the join token file has %d bytes; at most %d are allowed", len(b), MaxTokenFile)
	}
	t := new(TokenFile)
	if err := strictjson.Decode(b, t); err != nil {
		return nil, fmt.Errorf("join token file: %w", err)
	}
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("join token file: %w", err)
	}
	return t, nil
}

func (t *TokenFile) check() error {
	if !IsID(t.ID) {
		return errors.New(`"id" is not 24 lower-case hexadecimal digits`)
	}
	if owner, ok := strings.CutPrefix(t.Owner, AccountPRN); !ok || !IsID(owner) {
		return fmt.Errorf(`"owner" is not %s and 24 hexadecimal digits`, AccountPRN)
	}
	if _, err := t.Secret(); err != nil {
		return err
	}
	return t.checkHub()
}

// checkHub checks the fields that identify the hub.
func (t *TokenFile) checkHub() error {
	if len(t.HubName) != 2*sha256.Size {
		return errors.New(`"hub-name" is not 64 hexadecimal digits`)
	}
	if _, err := hex.DecodeString(t.HubName); err != nil || strings.ToLower(t.HubName) != t.HubName {
		return errors.New(`"hub-name" is not 64 lower-case hexadecimal digits`)
	}
	if !IsHubURL(t.Hub) {
		return errors.New(`"hub" is not an https URL of the form https://host[:port]`)
	}
	_, err := t.Roots()
	return err
}

// Secret decodes the token's secret.
func (t *TokenFile) Secret() ([]byte, error) {
	s, err := base64.StdEncoding.Strict().DecodeString(t.Token)
	if err != nil || len(s) != SecretSize {
		return nil, fmt.Errorf(`"token" is not the base64 of %d bytes`, SecretSize)
	}
	return s, nil
}

// Roots returns the certificates of HubCA: the device's only trust anchors.
func (t *TokenFile) Roots() ([]*x509.Certificate, error) {
	var roots []*x509.Certificate
	rest := []byte(t.HubCA)
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf(`"hub-ca": %w`, err)
		}
		if !cert.IsCA {
			return nil, errors.New(`"hub-ca" contains a certificate that is not a CA certificate`)
		}
		roots = append(roots, cert)
	}
	if len(roots) == 0 {
		return nil, errors.New(`"hub-ca" contains no PEM certificate`)
	}
	return roots, nil
}

// RootName returns the name of the hub whose root key is in HubCA. It fails if this name is not
// equal to HubName. A proof that is not bound to a TLS connection must contain the result of
// RootName. Otherwise an attacker could distribute a token file with the attacker's own CA and with
// another hub's name in HubName, and send the device's proof to that hub.
func (t *TokenFile) RootName() (string, error) {
	roots, err := t.Roots()
	if err != nil {
		return "", err
	}
	for _, r := range roots {
		if sum := sha256.Sum256(r.RawSubjectPublicKeyInfo); hex.EncodeToString(sum[:]) != t.HubName {
			return "", errors.New(`"hub-ca" contains a key that does not match "hub-name": another hub may answer at this address`)
		}
	}
	return t.HubName, nil
}

// IsID reports whether `s` has the form of the hub's ids: 24 lower-case hexadecimal digits.
func IsID(s string) bool {
	if len(s) != 24 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// NewID returns a random id.
func NewID() string {
	var b [12]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// NewSecret returns a random secret for a join token.
func NewSecret() []byte {
	b := make([]byte, SecretSize)
	rand.Read(b) // never fails
	return b
}

// OwnershipKey derives the key that signs ownership proofs: Ed25519 (RFC 8032) with the seed
// HKDF-SHA256(secret, salt = token id, info = "gangway ownership v1", 32 bytes). The hub stores
// only the public key.
func OwnershipKey(secret []byte, tokenID string) (ed25519.PrivateKey, error) {
	seed, err := hkdf.Key(sha256.New, secret, []byte(tokenID), "gangway ownership v1", ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive ownership key: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// OwnershipMessage returns the message that an ownership proof signs:
//
//	"gangway ownership v1" 0x00
//	opaque hub-name<0..255>  owner<0..255>  token-id<0..255>  idevid-name<0..255>
//
// Each of the four fields is preceded by its length in one byte. The field owner is the owner's
// Pantacor resource name (prn), which begins with AccountPRN. The field idevid-name is the TPM name
// of the IDevID key. A proof is valid only for this key, hub, owner and token.
func OwnershipMessage(hubName, owner, tokenID string, idevidName []byte) []byte {
	b := append(make([]byte, 0, 256), "gangway ownership v1\x00"...)
	b = appendField(b, hubName)
	b = appendField(b, owner)
	b = appendField(b, tokenID)
	return appendField(b, idevidName)
}

func appendField[T string | []byte](b []byte, field T) []byte {
	if len(field) > 255 {
		panic("wire: a field of an ownership proof is too long") // cannot happen: the parsers bound all fields
	}
	return append(append(b, byte(len(field))), field...)
}

// HubNamesEqual compares two hub names in constant time.
func HubNamesEqual(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
