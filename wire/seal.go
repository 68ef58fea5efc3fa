package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"gangway/internal/strictjson"
	"gangway/tcg"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// CredentialSize is the size in bytes of the secret that the hub encrypts to the TPM with
// TPM2_MakeCredential. An EK whose name algorithm is SHA-256 allows no larger secret.
const CredentialSize = 32

// MaxReply is the largest reply that a device accepts, in bytes.
const MaxReply = 64 << 10

// Reply is the hub's reply to a request for certificates: JSON, with binary fields in standard
// base64.
type Reply struct {
	// CredentialBlob and Secret are the two inputs of TPM2_ActivateCredential: the contents of a
	// TPM2B_ID_OBJECT and of a TPM2B_ENCRYPTED_SECRET.
	CredentialBlob []byte `json:"credential-blob"`
	Secret         []byte `json:"secret"`
	// Sealed is a CMS AuthEnvelopedData, made by Seal. Its content is four certificates in PEM:
	// IDevID, device CA, IAK, ACA.
	Sealed []byte `json:"sealed"`
}

// ParseReply parses the JSON of a reply, at most MaxReply bytes.
func ParseReply(b []byte) (*Reply, error) {
	if len(b) > MaxReply {
		return nil, fmt.Errorf("the reply has %d bytes; at most %d are allowed", len(b), MaxReply)
	}
	r := new(Reply)
	if err := strictjson.Decode(b, r); err != nil {
		return nil, fmt.Errorf("reply: %w", err)
	}
	if len(r.CredentialBlob) == 0 || len(r.Secret) == 0 || len(r.Sealed) == 0 {
		return nil, errors.New("reply: a field is missing")
	}
	return r, nil
}

// Encode returns the reply's JSON, with the same bytes as json.Marshal. It does not use
// json.Marshal, which would copy several kilobytes three times.
func (r *Reply) Encode() []byte {
	enc := base64.StdEncoding
	b := make([]byte, 0, 64+enc.EncodedLen(len(r.CredentialBlob))+enc.EncodedLen(len(r.Secret))+enc.EncodedLen(len(r.Sealed)))
	b = enc.AppendEncode(append(b, `{"credential-blob":"`...), r.CredentialBlob)
	b = enc.AppendEncode(append(b, `","secret":"`...), r.Secret)
	b = enc.AppendEncode(append(b, `","sealed":"`...), r.Sealed)
	return append(b, `"}`...)
}

// Keys are the keys that the device and the hub derive from the credential secret.
type Keys struct {
	Wrapping   []byte // AES-256: the key encryption key of the sealed reply
	Activation []byte // HMAC-SHA256: the key of the activation proof
}

// DeriveKeys derives the keys from the secret, which only the TPM can decrypt, and from the hash of
// the request:
//
//	wrapping   = HKDF-SHA256(secret, salt = request hash, info = "gangway reply v1", 32)
//	activation = HKDF-SHA256(secret, salt = request hash, info = "gangway activation v1", 32)
//
// where the request hash is the SHA-256 of the TCG-CSR-IDEVID.
func DeriveKeys(secret []byte, requestHash [32]byte) (Keys, error) {
	prk := tcg.HMACSHA256(requestHash[:], secret) // HKDF-Extract, RFC 5869, 2.2
	// HKDF-Expand for one block, RFC 5869, 2.3.
	wrapping := tcg.HMACSHA256(prk[:], []byte("gangway reply v1\x01"))
	activation := tcg.HMACSHA256(prk[:], []byte("gangway activation v1\x01"))
	return Keys{Wrapping: wrapping[:], Activation: activation[:]}, nil
}

// ExporterLabel and ExporterSize define the TLS exporter (RFC 8446, 7.5) to which an activation
// proof is bound, similar to the channel binding of RFC 9266. The context is empty.
const (
	ExporterLabel = "EXPORTER-gangway-activation"
	ExporterSize  = 32
)

// ActivationProof returns the proof that the TPM opened the reply, for one TLS connection and one
// certificate:
//
//	HMAC-SHA256(activation key, exporter (32 bytes) || SHA-256(IDevID certificate))
func ActivationProof(k Keys, exporter []byte, certHash [32]byte) []byte {
	proof := tcg.HMACSHA256(k.Activation, exporter, certHash[:])
	return proof[:]
}

// VerifyActivationProof checks an activation proof in constant time.
func VerifyActivationProof(k Keys, exporter []byte, certHash [32]byte, proof []byte) bool {
	return len(exporter) == ExporterSize && subtle.ConstantTimeCompare(ActivationProof(k, exporter, certHash), proof) == 1
}

// ActivationRequest is the body of POST /onboard/activate: JSON, with the proof in base64.
type ActivationRequest struct {
	Proof []byte `json:"proof"`
}

// KeyID is the key identifier (kekid) in every sealed reply. openssl needs it as -secretkeyid.
const KeyID = "gangway"

var (
	oidAuthEnvelopedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 23}
	oidData              = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidAES256Wrap        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 45}
	oidAES256GCM         = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 46}

	context0 = casn1.Tag(0).ContextSpecific()
)

// Seal encrypts and authenticates `content` in a CMS AuthEnvelopedData (RFC 5083). It uses
// AES-256-GCM (RFC 5084) with a 12-byte nonce, a 16-byte tag and a random key. The key is wrapped
// by AES-256 key wrap (RFC 3565, RFC 3394) for one KEKRecipientInfo (RFC 5652, 6.2.3). `openssl cms
// -decrypt` can open the result.
func Seal(k Keys, content []byte) ([]byte, error) { return AppendSealed(nil, k, content) }

// AppendSealed appends the result of Seal to `b`. It allocates memory at most once, because all
// sizes are known in advance.
func AppendSealed(b []byte, k Keys, content []byte) ([]byte, error) {
	var random [keySize + nonceSize]byte
	rand.Read(random[:]) // never fails
	cek, nonce := [keySize]byte(random[:]), [nonceSize]byte(random[keySize:])
	kek, err := aes.NewCipher(k.Wrapping)
	if err != nil {
		return nil, fmt.Errorf("seal reply: %w", err)
	}
	wrapped := wrapKey(kek, &cek)
	gcm, err := newGCM(cek[:])
	if err != nil {
		return nil, err
	}

	encrypted := len(sealAlgorithm) + nonceSize + len(sealTagSize) + tlvSize(len(content)) // EncryptedContentInfo
	enveloped := len(sealRecipient) + wrappedSize + tlvSize(encrypted) + tlvSize(tagSize)
	explicit := tlvSize(enveloped)
	info := len(sealType) + tlvSize(explicit)

	b = slices.Grow(b, tlvSize(info))
	b = appendHead(b, 0x30, info)
	b = append(b, sealType...)
	b = appendHead(b, 0xA0, explicit)
	b = appendHead(b, 0x30, enveloped)
	b = append(b, sealRecipient...)
	b = append(b, wrapped[:]...)
	b = appendHead(b, 0x30, encrypted)
	b = append(b, sealAlgorithm...)
	b = append(b, nonce[:]...)
	b = append(b, sealTagSize...)
	b = appendHead(b, 0x80, len(content))
	b = gcm.Seal(b, nonce[:], content, nil)
	// GCM puts the tag directly after the ciphertext. In CMS, the tag's type and length come
	// between them, so this function moves the tag.
	var tag [tagSize]byte
	copy(tag[:], b[len(b)-tagSize:])
	return append(appendHead(b[:len(b)-tagSize], 0x04, tagSize), tag[:]...), nil
}

const (
	nonceSize = 12
	tagSize   = 16

	// The constant parts of every sealed reply. sealType is the ContentInfo's type. sealRecipient
	// is the AuthEnvelopedData's version and its KEKRecipientInfo up to the wrapped key.
	// sealAlgorithm is the content's type and algorithm up to the nonce. sealTagSize is the tag's
	// size.
	sealType = "\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x17" // id-ct-authEnvelopedData

	sealRecipient = "\x02\x01\x00" + // version 0
		"\x31\x47\xa2\x45\x02\x01\x04" + // SET OF, [2], version 4
		"\x30\x09\x04\x07" + KeyID +
		"\x30\x0b\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x2d" + // id-aes256-wrap
		"\x04\x28"

	sealAlgorithm = "\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01" + // id-data
		"\x30\x1e\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01\x2e" + // id-aes256-GCM
		"\x30\x11\x04\x0c"

	sealTagSize = "\x02\x01\x10"
)

// tlvSize returns the size in bytes of a DER value with `n` bytes of content, including its tag and
// length.
func tlvSize(n int) int {
	switch {
	case n < 0x80:
		return 2 + n
	case n < 0x100:
		return 3 + n
	case n < 0x10000:
		return 4 + n
	}
	return 5 + n // enough for 16 MiB; a reply is always much smaller
}

// appendHead appends the DER tag and length of a value with `n` bytes of content.
func appendHead(b []byte, tag byte, n int) []byte {
	switch {
	case n < 0x80:
		return append(b, tag, byte(n))
	case n < 0x100:
		return append(b, tag, 0x81, byte(n))
	case n < 0x10000:
		return append(b, tag, 0x82, byte(n>>8), byte(n))
	}
	return append(b, tag, 0x83, byte(n>>16), byte(n>>8), byte(n))
}

// ErrSealed means that the reply was sealed for another TPM or request, or was altered.
var ErrSealed = errors.New("the sealed reply cannot be opened: it was sealed for another TPM or request, or was altered")

// Open decrypts a reply that Seal made. It accepts no other algorithms, recipients or attributes.
func Open(k Keys, sealed []byte) ([]byte, error) {
	malformed := errors.New("the sealed reply is not an AuthEnvelopedData of the expected form")
	s := cryptobyte.String(sealed)
	var info, content, env, recipients, r, kekid, wrapAlg, eci, gcmAlg, gcmParams, ciphertext cryptobyte.String
	var keyID, wrapped, nonce, tag []byte
	var version, rversion, icv int64
	var oid asn1.ObjectIdentifier
	is := func(want asn1.ObjectIdentifier) bool { return oid.Equal(want) }
	if !s.ReadASN1(&info, casn1.SEQUENCE) || !s.Empty() ||
		!info.ReadASN1ObjectIdentifier(&oid) || !is(oidAuthEnvelopedData) ||
		!info.ReadASN1(&content, context0.Constructed()) || !info.Empty() ||
		!content.ReadASN1(&env, casn1.SEQUENCE) || !content.Empty() ||
		!env.ReadASN1Integer(&version) || version != 0 ||
		!env.ReadASN1(&recipients, casn1.SET) ||
		!recipients.ReadASN1(&r, casn1.Tag(2).ContextSpecific().Constructed()) || !recipients.Empty() ||
		!r.ReadASN1Integer(&rversion) || rversion != 4 ||
		!r.ReadASN1(&kekid, casn1.SEQUENCE) || !kekid.ReadASN1Bytes(&keyID, casn1.OCTET_STRING) || !kekid.Empty() || string(keyID) != KeyID ||
		!r.ReadASN1(&wrapAlg, casn1.SEQUENCE) || !wrapAlg.ReadASN1ObjectIdentifier(&oid) || !is(oidAES256Wrap) || !wrapAlg.Empty() ||
		!r.ReadASN1Bytes(&wrapped, casn1.OCTET_STRING) || !r.Empty() || len(wrapped) != wrappedSize ||
		!env.ReadASN1(&eci, casn1.SEQUENCE) ||
		!eci.ReadASN1ObjectIdentifier(&oid) || !is(oidData) ||
		!eci.ReadASN1(&gcmAlg, casn1.SEQUENCE) || !gcmAlg.ReadASN1ObjectIdentifier(&oid) || !is(oidAES256GCM) ||
		!gcmAlg.ReadASN1(&gcmParams, casn1.SEQUENCE) || !gcmAlg.Empty() ||
		!gcmParams.ReadASN1Bytes(&nonce, casn1.OCTET_STRING) || len(nonce) != nonceSize ||
		!gcmParams.ReadASN1Integer(&icv) || icv != tagSize || !gcmParams.Empty() ||
		!eci.ReadASN1(&ciphertext, context0) || !eci.Empty() ||
		!env.ReadASN1Bytes(&tag, casn1.OCTET_STRING) || len(tag) != tagSize || !env.Empty() {
		return nil, malformed
	}
	kek, err := aes.NewCipher(k.Wrapping)
	if err != nil {
		return nil, fmt.Errorf("open reply: %w", err)
	}
	cek, err := unwrapKey(kek, wrapped)
	if err != nil {
		return nil, ErrSealed
	}
	gcm, err := newGCM(cek[:])
	if err != nil {
		return nil, err
	}
	out, err := gcm.Open(nil, nonce, append(append([]byte(nil), ciphertext...), tag...), nil)
	if err != nil {
		return nil, ErrSealed
	}
	return out, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("AES-256-GCM: %w", err)
	}
	return cipher.NewGCM(block)
}
