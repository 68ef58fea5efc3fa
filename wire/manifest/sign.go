package manifest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"gangway/internal/strictjson"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"
)

// Reasons for which Parse refuses a text. Each refusal wraps one of these errors.
var (
	// ErrForm means that the text is not a signed manifest, or that a value is out of bounds.
	ErrForm = errors.New("manifest: the text is not a signed manifest, or it is damaged")
	// ErrUntrusted means that the text names a key that is not trusted.
	ErrUntrusted = errors.New("manifest: the manifest names a key that is not trusted")
	// ErrSignature means that the key that the text names did not sign this text.
	ErrSignature = errors.New("manifest: the signature is not valid: the manifest was changed, or another key signed it")
)

// typ is the value of the header `typ`. It distinguishes a manifest from other texts that the same
// key may sign (RFC 8725, 3.11).
const typ = "gangway-manifest"

// header is the header of a signed manifest. No other member is permitted: a manifest needs no
// extensions (`crit`), and contains neither a key nor a certificate.
type header struct {
	Alg jose.SignatureAlgorithm `json:"alg"`
	Kid string                  `json:"kid"`
	Typ string                  `json:"typ"`
}

// algorithms returns the algorithms that a key may sign with. They depend only on the key, not on
// the header of a text.
func algorithms(key crypto.PublicKey) []jose.SignatureAlgorithm {
	switch key.(type) {
	case *ecdsa.PublicKey:
		return []jose.SignatureAlgorithm{jose.ES256}
	case *rsa.PublicKey:
		return []jose.SignatureAlgorithm{jose.PS256, jose.RS256}
	}
	return nil
}

// Sign checks the manifest, and returns it with the key's signature, as a JWS in compact
// serialization (RFC 7515, 3.1). The key may be in a TPM: Sign passes to the key only the SHA-256
// of the text.
func Sign(m *Manifest, key crypto.Signer) (string, error) {
	kid, err := KeyID(key.Public())
	if err != nil {
		return "", err
	}
	if err := m.Check(); err != nil {
		return "", err
	}
	payload, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("manifest: %w", err)
	}
	opaque := jose.JSONWebKey{Key: cryptosigner.Opaque(hashSalt{key}), KeyID: kid}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithms(key.Public())[0], Key: opaque}, (&jose.SignerOptions{}).WithType(typ))
	if err != nil {
		return "", fmt.Errorf("manifest: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("manifest: the key did not sign: %w", err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("manifest: %w", err)
	}
	if _, _, err := Parse(text, []crypto.PublicKey{key.Public()}); err != nil {
		return "", fmt.Errorf("manifest: the new manifest is not valid: %w", err)
	}
	return text, nil
}

// hashSalt makes RSASSA-PSS signatures with a salt of the hash's size, as RFC 7518, 3.5 requires.
// Without hashSalt, the library cryptosigner would request the longest possible salt.
type hashSalt struct{ crypto.Signer }

func (s hashSalt) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if _, pss := opts.(*rsa.PSSOptions); pss {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: opts.HashFunc()}
	}
	return s.Signer.Sign(random, digest, opts)
}

// Parse returns the manifest of a signed text, and the trusted key that signed the text. It
// verifies the signature before it returns anything from the text, and it reads the manifest from
// exactly the signed bytes. White space around the text is permitted.
func Parse(text string, trusted []crypto.PublicKey) (*Manifest, crypto.PublicKey, error) {
	t, err := split(text)
	if err != nil {
		return nil, nil, err
	}
	key := keyOf(t.header.Kid, trusted)
	if key == nil {
		return nil, nil, fmt.Errorf("%w: that key has the SHA-256 %s", ErrUntrusted, t.header.Kid)
	}
	jws, err := jose.ParseSignedCompact(t.text, algorithms(key))
	if unexpected := (*jose.ErrUnexpectedSignatureAlgorithm)(nil); errors.As(err, &unexpected) {
		return nil, nil, fmt.Errorf("%w: the algorithm %q does not belong to this key", ErrSignature, unexpected.Got)
	} else if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	payload, err := jws.Verify(key)
	if err != nil {
		return nil, nil, ErrSignature
	}
	m, err := decode(payload)
	if err != nil {
		return nil, nil, err
	}
	return m, key, nil
}

// Unverified returns a text's manifest, and the id of the key that the text names. It does not
// check the signature. Anyone may have written the text, so only show it to a person, and do not
// base a decision on it.
func Unverified(text string) (m *Manifest, kid string, err error) {
	t, err := split(text)
	if err != nil {
		return nil, "", err
	}
	if m, err = decode(t.payload); err != nil {
		return nil, "", err
	}
	return m, t.header.Kid, nil
}

// token has the parts of a signed text.
type token struct {
	text    string // without white space around it
	header  header
	payload []byte
}

// split splits a signed text into its three parts and checks their form. It does not verify the
// signature.
func split(text string) (*token, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("%w: the text has %d bytes; at most %d are allowed", ErrForm, len(text), MaxSize)
	}
	t := &token{text: strings.TrimSpace(text)}
	parts := strings.Split(t.text, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("%w: a signed manifest has three parts, separated by dots", ErrForm)
	}
	var decoded [3][]byte
	for i, part := range parts {
		// The decoder ignores line breaks. Refuse line breaks here, because one manifest would
		// otherwise have many texts.
		b, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || part == "" || strings.ContainsAny(part, "\r\n") {
			return nil, fmt.Errorf("%w: part %d of 3 is not base64url", ErrForm, i+1)
		}
		decoded[i] = b
	}
	if err := strictjson.DecodeKnown(decoded[0], &t.header); err != nil {
		return nil, fmt.Errorf("%w: the header: %w", ErrForm, err)
	}
	if t.header.Typ != typ {
		return nil, fmt.Errorf("%w: its type is %.40q, not %q", ErrForm, t.header.Typ, typ)
	}
	if !isDigest(t.header.Kid, crypto.SHA256) {
		return nil, fmt.Errorf("%w: the field kid is not the SHA-256 of a key in lower-case hexadecimal", ErrForm)
	}
	t.payload = decoded[1]
	return t, nil
}

// keyOf returns the trusted key with this id, or nil. A key that cannot sign manifests is never
// returned, even if it is trusted.
func keyOf(kid string, trusted []crypto.PublicKey) crypto.PublicKey {
	for _, key := range trusted {
		if id, err := KeyID(key); err == nil && id == kid {
			return key
		}
	}
	return nil
}

func decode(payload []byte) (*Manifest, error) {
	m := new(Manifest)
	if err := strictjson.DecodeKnown(payload, m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	if err := m.Check(); err != nil {
		return nil, err
	}
	return m, nil
}
