// Package escrow stores the recovery key of an encrypted disk for the disk's owner. The installer
// encrypts the recovery key to the owner's age recipient with Token. The owner decrypts the
// recovery key with Open. Nobody else can read it, not even the hub.
//
// The ciphertext is stored in the disk's LUKS2 header, as a LUKS2 token. So it is on the same disk
// as the data, and exists as soon as the recovery key exists. The installed system sends the
// ciphertext to the hub as the device-meta MetaKey.
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

// TokenType is the type of the LUKS2 token.
const TokenType = "gangway-escrow"

// MetaKey is the key in the device-meta under which the hub stores the ciphertext.
const MetaKey = "gangway.disk-recovery"

// maxText is the maximum size of a ciphertext, in bytes. The ciphertext of a recovery key, which
// has 71 characters, has about 500 bytes.
const maxText = 4 << 10

// CheckRecipient returns an error if `recipient` is not an X25519 recipient of age, that is, age1
// followed by 58 characters.
func CheckRecipient(recipient string) error {
	_, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return fmt.Errorf("escrow: %.80q is not an age recipient (age1...): %w", recipient, err)
	}
	return nil
}

// NewIdentity makes an age identity and its recipient. The identity is secret.
func NewIdentity() (identity, recipient string, err error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return "", "", fmt.Errorf("escrow: %w", err)
	}
	return id.String(), id.Recipient().String(), nil
}

// Token encrypts a recovery key and returns the LUKS2 token with the ciphertext.
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

// Ciphertext returns the ciphertext in a LUKS2 token. It returns an error if the ciphertext is not
// in age's armored format.
func Ciphertext(token []byte) (string, error) {
	var t struct {
		Type string `json:"type"`
		Age  string `json:"age"`
	}
	if err := json.Unmarshal(token, &t); err != nil {
		return "", fmt.Errorf("escrow: the LUKS2 token in the disk's header: %w", err)
	}
	if t.Type != TokenType || !isArmored(t.Age) {
		return "", errors.New("escrow: the LUKS2 token in the disk's header does not contain an encrypted recovery key; install the machine again to store one")
	}
	return t.Age, nil
}

func isArmored(text string) bool {
	return len(text) <= maxText && strings.HasPrefix(text, armor.Header+"\n") && strings.HasSuffix(text, armor.Footer+"\n") &&
		!strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') })
}

// Open decrypts a ciphertext and returns the recovery key. `identities` is the text of an identity
// file from age-keygen. The ciphertext comes from the hub and is not trusted, so Open checks that
// the result consists only of characters that occur in recovery keys.
func Open(identities, ciphertext string) (string, error) {
	if !isArmored(ciphertext) {
		return "", errors.New("escrow: the value from the hub is not an encrypted recovery key")
	}
	ids, err := age.ParseIdentities(strings.NewReader(identities))
	if err != nil {
		return "", fmt.Errorf("escrow: the identity file: %w", err)
	}
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(ciphertext)), ids...)
	if err != nil {
		return "", fmt.Errorf("escrow: decrypting the recovery key: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxText))
	if err != nil {
		return "", fmt.Errorf("escrow: decrypting the recovery key: %w", err)
	}
	if key := string(b); len(key) > 0 && strings.Trim(key, "cbdefghijklnrtuv-") == "" {
		return key, nil
	}
	return "", errors.New("escrow: the decrypted text is not a recovery key")
}
