package wire

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"gangway/tcg"
)

// This file contains the messages of Pantacor's two-step enrolment. The first step certifies the
// attestation key, the second the identity. Pantacor's documents do not define every detail;
// docs/protocol.md#9-pantacors-two-steps says how Gangway defines the missing details.

// MaxStepBody is the largest size of the body of each request of a two-step enrolment, in bytes.
const MaxStepBody = 64 << 10

// TPMKeys contains a TPM's keys in the bodies of both steps. Each string is in a form that
// DecodeBinary reads. EKCert is empty if the TPM has no EK certificate.
type TPMKeys struct {
	AKPub   string   `json:"ak-pub"`             // TPM2B_PUBLIC, TPMT_PUBLIC, or PEM of the key
	EKPub   string   `json:"ek-pub"`             // in the same forms as ak-pub
	EKCert  string   `json:"ek-cert"`            // X.509, DER or PEM
	EKChain []string `json:"ek-chain,omitempty"` // the maker's intermediate certificates from the TPM, at most MaxIntermediates
}

// EnrollRequest is the body of the first request of a two-step enrolment.
type EnrollRequest struct {
	TPMKeys
	AKName string `json:"ak-name"` // hexadecimal: nameAlg, digest
}

// EnrollAnswer is the response to an EnrollRequest. Byte strings are in standard base64.
type EnrollAnswer struct {
	// Certificate contains the PEM certificates of the AK and of its issuer, encrypted with
	// AES-256-CBC and PKCS #7 padding. It is empty until the owner has decided about the waiting
	// device.
	Certificate []byte `json:"certificate"`
	// Credential is a file in the format of tpm2_makecredential, see CredentialFile.
	Credential []byte `json:"credential"`
	IV         []byte `json:"iv"`  // 16 bytes
	MAC        []byte `json:"mac"` // HMAC-SHA256 over iv and certificate
}

// Registration is the body of the second request of a two-step enrolment. In Pantacor's protocol,
// this body has neither Proof nor TPMKeys; Gangway adds both. The device sends TPMKeys in both
// requests, because the hub stores nothing between them.
type Registration struct {
	CSR        []byte `json:"csr"`                   // PKCS #10, DER
	Name       string `json:"name"`                  // lower-case hexadecimal of the TPM name of the CSR's key
	DeviceName string `json:"device-name,omitempty"` // empty, or the device's id
	TPMKeys
	// IDevIDPub is the public area of the CSR's key. If it is empty, the hub derives the public
	// area from the CSR's key and the IDevID templates.
	IDevIDPub string `json:"idevid-pub,omitempty"`
	// HubName is the hub name that Proof contains, which is the result of TokenFile.RootName. If it
	// is empty, Proof has the old form, which contains no hub name.
	HubName string `json:"hub-name,omitempty"`
	Proof   []byte `json:"proof"` // made by StepKeys.Prove or StepKeys.ProveUnbound
}

// DecodeBinary decodes a structure that is sent as text: PEM, or standard base64 of its bytes or of
// PEM. It ignores white space. It returns PEM unchanged.
func DecodeBinary(text string) ([]byte, error) {
	if strings.HasPrefix(strings.TrimSpace(text), "-----BEGIN") {
		return []byte(strings.TrimSpace(text)), nil
	}
	b, err := base64.StdEncoding.Strict().DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		return nil, errors.New("the value is neither PEM nor standard base64")
	}
	return b, nil
}

// DecodePEM returns the content and the type of the PEM block at the start of `b`. `rest` is the
// data after the block, without surrounding white space. `ok` is false if `b` does not begin with a
// PEM block.
func DecodePEM(b []byte) (der []byte, kind string, rest []byte, ok bool) {
	block, rest := pem.Decode(b)
	if block == nil || !bytes.HasPrefix(b, []byte("-----BEGIN")) {
		return nil, "", nil, false
	}
	return block.Bytes, block.Type, bytes.TrimSpace(rest), true
}

// extensionArc is the object identifier under which Pantacor defines a CSR's extensions:
// 1.3.6.1.4.1.54621.100. An extension's value is raw bytes, without a DER type around them.
var extensionArc = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 54621, 100}

// The last arcs of the object identifiers of a CSR's extensions.
const (
	ExtAKName      = 0 // hexadecimal text
	ExtOwner       = 1 // prn
	ExtOwnership   = 2 // value of OwnershipMAC, or Ed25519 signature of OwnershipMessage, 64 bytes
	ExtToken       = 3 // id
	ExtCertify     = 4 // TPMS_ATTEST of TPM2_Certify: the AK certifies the CSR's key
	ExtCertifySig  = 5 // TPMT_SIGNATURE over the attestation
	ExtQuote       = 6 // TPMS_ATTEST of TPM2_Quote by the AK
	ExtQuoteSig    = 7 // TPMT_SIGNATURE over the attestation
	ExtPCRs        = 8
	ExtDevice      = 9 // prn
	extensionCount = 10
)

// ExtensionOID returns the object identifier of the CSR extension with the last arc `last`.
func ExtensionOID(last int) asn1.ObjectIdentifier {
	return append(append(asn1.ObjectIdentifier(nil), extensionArc...), last)
}

// ExtensionOf returns the last arc of a Pantacor extension. `ok` reports whether `id` is in
// Pantacor's arc. `known` reports whether Gangway knows the extension.
func ExtensionOf(id asn1.ObjectIdentifier) (last int, known, ok bool) {
	if len(id) != len(extensionArc)+1 || !id[:len(extensionArc)].Equal(extensionArc) {
		return 0, false, false
	}
	last = id[len(extensionArc)]
	return last, last < extensionCount, true
}

// OwnershipMAC returns Pantacor's proof of ownership: HMAC-SHA256 over the hexadecimal encoding of
// the text `name`. `key` is the SHA-256 of the join token's secret. The proof covers only the text
// `name`, and does not say which TPM key it belongs to.
func OwnershipMAC(key [32]byte, name string) []byte {
	m := hmac.New(sha256.New, key[:])
	m.Write([]byte(hex.EncodeToString([]byte(name))))
	return m.Sum(nil)
}

// StepKeys are the keys that the device and the hub derive from the credential secret in the answer
// to the first request of a two-step enrolment.
type StepKeys struct {
	Encryption []byte // AES-256
	MAC        []byte // HMAC-SHA256
	Register   []byte // HMAC-SHA256: the key of the second step's proof
}

// DeriveStepKeys derives the keys of the two-step enrolment:
//
//	PRK        = HKDF-Extract(SHA-256, salt = TPM name of the AK, IKM = secret)
//	encryption = HKDF-Expand(PRK, "gangway enroll encryption v1", 32)
//	mac        = HKDF-Expand(PRK, "gangway enroll mac v1", 32)
//	register   = HKDF-Expand(PRK, "gangway register v1", 32)
func DeriveStepKeys(secret, akName []byte) (k StepKeys, err error) {
	for info, key := range map[string]*[]byte{"gangway enroll encryption v1": &k.Encryption, "gangway enroll mac v1": &k.MAC, "gangway register v1": &k.Register} {
		if *key, err = hkdf.Key(sha256.New, secret, akName, info, 32); err != nil {
			return StepKeys{}, fmt.Errorf("derive step keys: %w", err)
		}
	}
	return k, nil
}

// Prove returns the proof that the TPM opened the hub's answer to the first request. The proof is
// valid for exactly one hub and one CSR:
//
//	HMAC-SHA256(register, "gangway register v2" 00 || len(hub name) hub name || CSR in DER)
//
// The length of the hub name is encoded in one byte. If a dishonest hub relays both steps to
// another hub, the proof contains the dishonest hub's name, and the other hub refuses the proof.
func (k StepKeys) Prove(hubName string, csr []byte) []byte {
	m := hmac.New(sha256.New, k.Register)
	m.Write([]byte("gangway register v2\x00"))
	m.Write([]byte{byte(len(hubName))})
	m.Write([]byte(hubName))
	m.Write(csr)
	return m.Sum(nil)
}

// ProveUnbound returns a proof of the old form, which contains no hub name: HMAC-SHA256(register,
// CSR in DER). Hubs accept it only with an ownership proof of Pantacor's form (OwnershipMAC).
func (k StepKeys) ProveUnbound(csr []byte) []byte {
	m := hmac.New(sha256.New, k.Register)
	m.Write(csr)
	return m.Sum(nil)
}

// VerifyProof checks, in constant time, the proof for the hub with the name `hubName`. If `hubName`
// is empty, VerifyProof checks a proof of the old form.
func (k StepKeys) VerifyProof(hubName string, csr, proof []byte) bool {
	if hubName == "" {
		return hmac.Equal(k.ProveUnbound(csr), proof)
	}
	return hmac.Equal(k.Prove(hubName, csr), proof)
}

// SealCertificate encrypts `content`, then authenticates the ciphertext. It sets Certificate, IV
// and MAC. `openssl enc` and `openssl dgst` can open the result.
func (a *EnrollAnswer) SealCertificate(k StepKeys, content []byte) error {
	block, err := aes.NewCipher(k.Encryption)
	if err != nil {
		return fmt.Errorf("seal certificate: %w", err)
	}
	a.IV = make([]byte, aes.BlockSize)
	rand.Read(a.IV) // never fails
	pad := aes.BlockSize - len(content)%aes.BlockSize
	plain := append(bytes.Clone(content), bytes.Repeat([]byte{byte(pad)}, pad)...)
	a.Certificate = make([]byte, len(plain))
	cipher.NewCBCEncrypter(block, a.IV).CryptBlocks(a.Certificate, plain)
	a.MAC = a.mac(k)
	return nil
}

func (a *EnrollAnswer) mac(k StepKeys) []byte {
	m := hmac.New(sha256.New, k.MAC)
	m.Write(a.IV)
	m.Write(a.Certificate)
	return m.Sum(nil)
}

// OpenCertificate checks the MAC and decrypts the certificates. It returns ErrSealed if the
// certificates were sealed for another TPM or were altered.
func (a *EnrollAnswer) OpenCertificate(k StepKeys) ([]byte, error) {
	if len(a.IV) != aes.BlockSize || len(a.Certificate) == 0 || len(a.Certificate)%aes.BlockSize != 0 || !hmac.Equal(a.mac(k), a.MAC) {
		return nil, ErrSealed
	}
	block, err := aes.NewCipher(k.Encryption)
	if err != nil {
		return nil, fmt.Errorf("open certificate: %w", err)
	}
	plain := make([]byte, len(a.Certificate))
	cipher.NewCBCDecrypter(block, a.IV).CryptBlocks(plain, a.Certificate)
	pad := int(plain[len(plain)-1])
	if pad == 0 || pad > aes.BlockSize {
		return nil, ErrSealed
	}
	return plain[:len(plain)-pad], nil
}

// credentialMagic and credentialVersion are the first 8 bytes of a file that tpm2_makecredential
// writes.
const (
	credentialMagic   = 0xBADCC0DE
	credentialVersion = 1
)

// CredentialFile returns a file in the format that tpm2_makecredential writes and
// tpm2_activatecredential reads: magic and version (4 bytes each), TPM2B_ID_OBJECT,
// TPM2B_ENCRYPTED_SECRET. `blob` and `secret` are the buffers of these two structures.
func CredentialFile(blob, secret []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, credentialMagic)
	b = binary.BigEndian.AppendUint32(b, credentialVersion)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(blob))), blob...)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(secret))), secret...)
}

// ParseCredentialFile parses a file in the format of CredentialFile and returns the buffers of the
// file's two structures.
func ParseCredentialFile(b []byte) (blob, secret []byte, err error) {
	malformed := errors.New("the file does not have the format of tpm2_makecredential")
	sized := func() []byte {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return nil
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		part := b[2:n]
		b = b[n:]
		return part
	}
	if len(b) < 8 || binary.BigEndian.Uint32(b) != credentialMagic || binary.BigEndian.Uint32(b[4:]) != credentialVersion {
		return nil, nil, malformed
	}
	b = b[8:]
	if blob, secret = sized(), sized(); len(blob) == 0 || len(secret) == 0 || len(b) != 0 {
		return nil, nil, malformed
	}
	return blob, secret, nil
}

// registrationSpec names the format of RegistrationRecord.
const registrationSpec = "gangway-two-steps@1"

// RegistrationRecord is a registration in canonical form: it does not depend on how the request
// encoded the values. The hub stores the record for audits, and compares records to detect a
// repeated request.
type RegistrationRecord struct {
	Spec      string   `json:"#spec"`
	CSR       []byte   `json:"csr"`
	AKPub     []byte   `json:"ak-pub"` // TPMT_PUBLIC, as are ek-pub and idevid-pub
	EKPub     []byte   `json:"ek-pub"`
	IDevIDPub []byte   `json:"idevid-pub"`
	EKCert    []byte   `json:"ek-cert"` // DER
	EKChain   [][]byte `json:"ek-chain"`
	Hour      int64    `json:"hour"`               // hour in which the credential was made, counted since 1970
	HubName   string   `json:"hub-name,omitempty"` // the hub name that the proof contains
}

// Encode returns the record's JSON. Equal values give equal bytes.
func (k RegistrationRecord) Encode() ([]byte, error) {
	k.Spec = registrationSpec
	b, err := json.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("encode registration: %w", err)
	}
	if len(b) > tcg.MaxCSR {
		return nil, fmt.Errorf("the registration has %d bytes; at most %d are allowed", len(b), tcg.MaxCSR)
	}
	return b, nil
}
