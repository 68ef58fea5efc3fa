// Package escrow keeps the recovery key of an encrypted disk for the owner: it
// is encrypted to the owner's age recipient on the machine that makes it, and
// nobody on the way, the hub least of all, can read it.
//
// The ciphertext is a token of the disk's LUKS2 header, so it is there from the
// moment that the key is, on the one disk that it is of use for. The installed
// system sends it to the hub as the device-meta MetaKey.
package escrow

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// TokenType is the LUKS2 token's.
const TokenType = "gangway-escrow"

// MetaKey is the name that the hub has the ciphertext under.
const MetaKey = "gangway.disk-recovery"

// maxText bounds a ciphertext, in bytes: a key of 71 characters has about 500.
const maxText = 4 << 10

// CheckRecipient is an error if a text is no recipient that a key can be kept
// for: age's X25519, age1 and 58 characters.
func CheckRecipient(recipient string) error {
	_, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return fmt.Errorf("escrow: %.80q is no recipient of age (age1...): %w", recipient, err)
	}
	return nil
}

// NewIdentity makes an identity and its recipient. The identity is a secret.
func NewIdentity() (identity, recipient string, err error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", "", fmt.Errorf("escrow: %w", err)
	}
	return id.String(), id.Recipient().String(), nil
}

// Token encrypts a recovery key and returns the LUKS2 token that holds it.
func Token(recipient, recovery string) (map[string]any, error) {
	r, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return nil, fmt.Errorf("escrow: %w", err)
	}
	var text bytes.Buffer
	a := armor.NewWriter(&text)
	w, err := age.Encrypt(a, r)
	if err != nil {
		return nil, fmt.Errorf("escrow: %w", err)
	}
	_, err = io.WriteString(w, recovery)
	if err := errors.Join(err, w.Close(), a.Close()); err != nil {
		return nil, fmt.Errorf("escrow: %w", err)
	}
	return map[string]any{"type": TokenType, "age": text.String()}, nil
}

// Ciphertext is what a token holds: age's armored text, checked for its form.
func Ciphertext(token []byte) (string, error) {
	var t struct {
		Type string `json:"type"`
		Age  string `json:"age"`
	}
	if err := json.Unmarshal(token, &t); err != nil {
		return "", fmt.Errorf("escrow: the token: %w", err)
	}
	if t.Type != TokenType || !isArmored(t.Age) {
		return "", errors.New("escrow: the token holds no recovery key")
	}
	return t.Age, nil
}

func isArmored(text string) bool {
	return len(text) <= maxText && strings.HasPrefix(text, armor.Header+"\n") && strings.HasSuffix(text, armor.Footer+"\n") &&
		!strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') })
}

// Open decrypts a ciphertext with the identities of a file as age-keygen makes
// it, and returns the recovery key. What the hub sent is not trusted: it must
// be a key that can be typed.
func Open(identities, ciphertext string) (string, error) {
	if !isArmored(ciphertext) {
		return "", errors.New("escrow: what the hub has is no encrypted recovery key")
	}
	ids, err := age.ParseIdentities(strings.NewReader(identities))
	if err != nil {
		return "", fmt.Errorf("escrow: the identity file: %w", err)
	}
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(ciphertext)), ids...)
	if err != nil {
		return "", fmt.Errorf("escrow: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxText))
	if err != nil {
		return "", fmt.Errorf("escrow: %w", err)
	}
	if key := string(b); len(key) > 0 && strings.Trim(key, "cbdefghijklnrtuv-") == "" {
		return key, nil
	}
	return "", errors.New("escrow: what was encrypted to you is no recovery key")
}
