package join

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	josecipher "github.com/go-jose/go-jose/v4/cipher"
	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// CredentialSize is the size in bytes of the secret that the hub encrypts to
// the TPM with TPM2_MakeCredential. An EK with a SHA-256 name takes no more.
const CredentialSize = 32

// MaxReply is the largest reply accepted by a device, in bytes.
const MaxReply = 64 << 10

// Reply is the answer to a request: JSON, the binary fields in standard
// base64.
type Reply struct {
	// CredentialBlob is the content of a TPM2B_ID_OBJECT and Secret that of a
	// TPM2B_ENCRYPTED_SECRET: the two inputs of TPM2_ActivateCredential.
	CredentialBlob []byte `json:"credential-blob"`
	Secret         []byte `json:"secret"`
	// Sealed is a CMS AuthEnvelopedData, see Seal, whose content is the
	// certificates in PEM: IDevID, device CA, IAK, ACA.
	Sealed []byte `json:"sealed"`
}

// ParseReply reads a reply.
func ParseReply(b []byte) (*Reply, error) {
	if len(b) > MaxReply {
		return nil, fmt.Errorf("join: reply of %d bytes, at most %d are allowed", len(b), MaxReply)
	}
	r := new(Reply)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("join: reply: %w", err)
	}
	if len(r.CredentialBlob) == 0 || len(r.Secret) == 0 || len(r.Sealed) == 0 {
		return nil, errors.New("join: reply: a field is missing")
	}
	return r, nil
}

// Encode makes the reply's JSON. It is what json.Marshal makes of it, without
// copying several kilobytes thrice.
func (r *Reply) Encode() []byte {
	enc := base64.StdEncoding
	b := make([]byte, 0, 64+enc.EncodedLen(len(r.CredentialBlob))+enc.EncodedLen(len(r.Secret))+enc.EncodedLen(len(r.Sealed)))
	b = enc.AppendEncode(append(b, `{"credential-blob":"`...), r.CredentialBlob)
	b = enc.AppendEncode(append(b, `","secret":"`...), r.Secret)
	b = enc.AppendEncode(append(b, `","sealed":"`...), r.Sealed)
	return append(b, `"}`...)
}

// Keys are what both sides derive from the credential secret.
type Keys struct {
	Wrapping   []byte // AES-256: the key encryption key of the sealed reply
	Activation []byte // HMAC-SHA256: the key of the activation proof
}

// DeriveKeys derives the keys from the secret that only the TPM could decrypt
// and from the request that it answers:
//
//	wrapping   = HKDF-SHA256(secret, salt = request hash, info = "gangway reply v1", 32)
//	activation = HKDF-SHA256(secret, salt = request hash, info = "gangway activation v1", 32)
//
// where the request hash is the SHA-256 of the TCG-CSR-IDEVID.
func DeriveKeys(secret []byte, requestHash [32]byte) (Keys, error) {
	prk, err := hkdf.Extract(sha256.New, secret, requestHash[:])
	if err != nil {
		return Keys{}, fmt.Errorf("join: %w", err)
	}
	var k Keys
	if k.Wrapping, err = hkdf.Expand(sha256.New, prk, "gangway reply v1", 32); err != nil {
		return Keys{}, fmt.Errorf("join: %w", err)
	}
	if k.Activation, err = hkdf.Expand(sha256.New, prk, "gangway activation v1", 32); err != nil {
		return Keys{}, fmt.Errorf("join: %w", err)
	}
	return k, nil
}

// ExporterLabel and ExporterSize are for the TLS exporter (RFC 8446, 7.5;
// RFC 9266 in spirit) that an activation proof is bound to. The context is
// empty.
const (
	ExporterLabel = "EXPORTER-gangway-activation"
	ExporterSize  = 32
)

// ActivationProof proves that the TPM opened the reply, on one TLS connection
// and for one certificate:
//
//	HMAC-SHA256(activation key, exporter (32 bytes) || SHA-256(IDevID certificate))
func ActivationProof(k Keys, exporter []byte, certHash [32]byte) []byte {
	m := hmac.New(sha256.New, k.Activation)
	m.Write(exporter)
	m.Write(certHash[:])
	return m.Sum(nil)
}

// VerifyActivationProof checks a proof in constant time.
func VerifyActivationProof(k Keys, exporter []byte, certHash [32]byte, proof []byte) bool {
	return len(exporter) == ExporterSize && subtle.ConstantTimeCompare(ActivationProof(k, exporter, certHash), proof) == 1
}

// ActivationRequest is the body of the activation: JSON, base64.
type ActivationRequest struct {
	Proof []byte `json:"proof"`
}

// KeyID is the kekid of a sealed reply, for openssl's -secretkeyid.
const KeyID = "gangway"

var (
	oidAuthEnvelopedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 23}
	oidData              = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidAES256Wrap        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 45}
	oidAES256GCM         = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 46}

	context0 = casn1.Tag(0).ContextSpecific()
)

// Seal encrypts and authenticates content in a CMS AuthEnvelopedData (RFC
// 5083): AES-256-GCM (RFC 5084) with a 12-byte nonce and a 16-byte tag, under
// a random key that is wrapped by AES-256 key wrap (RFC 3565, RFC 3394) for
// one KEKRecipientInfo (RFC 5652, 6.2.3). So `openssl cms -decrypt` opens it.
func Seal(k Keys, content []byte) ([]byte, error) {
	var random [32 + 12]byte
	rand.Read(random[:]) // never fails
	cek, nonce := random[:32], random[32:]
	kek, err := aes.NewCipher(k.Wrapping)
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	wrapped, err := josecipher.KeyWrap(kek, cek)
	if err != nil {
		return nil, fmt.Errorf("join: wrapping the content key: %w", err)
	}
	gcm, err := newGCM(cek)
	if err != nil {
		return nil, err
	}
	box := gcm.Seal(make([]byte, 0, len(content)+gcm.Overhead()), nonce, content, nil)
	ciphertext, tag := box[:len(content)], box[len(content):]

	b := cryptobyte.NewBuilder(make([]byte, 0, len(content)+256))
	b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) { // ContentInfo
		b.AddASN1ObjectIdentifier(oidAuthEnvelopedData)
		b.AddASN1(context0.Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) { // AuthEnvelopedData
				b.AddASN1Int64(0)
				b.AddASN1(casn1.SET, func(b *cryptobyte.Builder) {
					b.AddASN1(casn1.Tag(2).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { // KEKRecipientInfo
						b.AddASN1Int64(4)
						b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1OctetString([]byte(KeyID)) })
						b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidAES256Wrap) })
						b.AddASN1OctetString(wrapped)
					})
				})
				b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) { // EncryptedContentInfo
					b.AddASN1ObjectIdentifier(oidData)
					b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(oidAES256GCM)
						b.AddASN1(casn1.SEQUENCE, func(b *cryptobyte.Builder) {
							b.AddASN1OctetString(nonce)
							b.AddASN1Int64(int64(len(tag)))
						})
					})
					b.AddASN1(context0, func(b *cryptobyte.Builder) { b.AddBytes(ciphertext) })
				})
				b.AddASN1OctetString(tag)
			})
		})
	})
	return b.Bytes()
}

// ErrSealed means that the reply was not sealed for this TPM and request, or was
// altered.
var ErrSealed = errors.New("join: the sealed reply does not open: it is for another TPM or request, or was altered")

// Open opens what Seal made, strictly: it accepts no other algorithms,
// recipients or attributes.
func Open(k Keys, sealed []byte) ([]byte, error) {
	malformed := errors.New("join: the sealed reply is not the AuthEnvelopedData that was expected")
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
		!r.ReadASN1Bytes(&wrapped, casn1.OCTET_STRING) || !r.Empty() || len(wrapped) != 40 ||
		!env.ReadASN1(&eci, casn1.SEQUENCE) ||
		!eci.ReadASN1ObjectIdentifier(&oid) || !is(oidData) ||
		!eci.ReadASN1(&gcmAlg, casn1.SEQUENCE) || !gcmAlg.ReadASN1ObjectIdentifier(&oid) || !is(oidAES256GCM) ||
		!gcmAlg.ReadASN1(&gcmParams, casn1.SEQUENCE) || !gcmAlg.Empty() ||
		!gcmParams.ReadASN1Bytes(&nonce, casn1.OCTET_STRING) || len(nonce) != 12 ||
		!gcmParams.ReadASN1Integer(&icv) || icv != 16 || !gcmParams.Empty() ||
		!eci.ReadASN1(&ciphertext, context0) || !eci.Empty() ||
		!env.ReadASN1Bytes(&tag, casn1.OCTET_STRING) || len(tag) != 16 || !env.Empty() {
		return nil, malformed
	}
	kek, err := aes.NewCipher(k.Wrapping)
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	cek, err := josecipher.KeyUnwrap(kek, wrapped)
	if err != nil {
		return nil, ErrSealed
	}
	gcm, err := newGCM(cek)
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
		return nil, fmt.Errorf("join: %w", err)
	}
	return cipher.NewGCM(block)
}
