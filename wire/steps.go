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

// Pantacor's two steps: first the attestation key, then the identity. Where
// Pantacor's own documents are silent, docs/protocol.md#9-pantacors-two-steps says what was
// chosen.

// MaxStepBody is the largest body of either step, in bytes.
const MaxStepBody = 64 << 10

// TPMKeys is a TPM's keys as both steps carry them: texts, each read by
// DecodeBinary. EKCert is empty for a TPM that has none.
type TPMKeys struct {
	AKPub   string   `json:"ak-pub"`             // TPM2B_PUBLIC, TPMT_PUBLIC, or PEM of the key
	EKPub   string   `json:"ek-pub"`             // the same
	EKCert  string   `json:"ek-cert"`            // X.509, DER or PEM
	EKChain []string `json:"ek-chain,omitempty"` // what the chip has of its maker's chain, at most MaxIntermediates
}

// EnrollRequest is the body of the first step.
type EnrollRequest struct {
	TPMKeys
	AKName string `json:"ak-name"` // hexadecimal: nameAlg, digest
}

// EnrollAnswer is the answer to it, in standard base64.
type EnrollAnswer struct {
	// Certificate is AES-256-CBC (PKCS #7 padding) of the AK's certificate and
	// its issuer's in PEM; empty while a person has to decide about the TPM.
	Certificate []byte `json:"certificate"`
	// Credential is a file of tpm2_makecredential, see CredentialFile.
	Credential []byte `json:"credential"`
	IV         []byte `json:"iv"`  // 16 bytes
	MAC        []byte `json:"mac"` // HMAC-SHA256 over iv and certificate
}

// Registration is the body of the second step. What Pantacor's has not is
// Gangway's own: the keys again, because the hub keeps nothing between the
// steps, and the proof.
type Registration struct {
	CSR        []byte `json:"csr"`                   // PKCS #10, DER
	Name       string `json:"name"`                  // lower-case hexadecimal of the TPM name of the CSR's key
	DeviceName string `json:"device-name,omitempty"` // empty, or the device's id
	TPMKeys
	// IDevIDPub is the public area of the CSR's key; empty: as its template
	// makes it.
	IDevIDPub string `json:"idevid-pub,omitempty"`
	// HubName is the hub that Proof names, as TokenFile.RootName gives it.
	// Empty: Proof is of the old form, which names none.
	HubName string `json:"hub-name,omitempty"`
	Proof   []byte `json:"proof"` // see StepKeys.Prove and ProveUnbound
}

// DecodeBinary reads a structure that travels as text: PEM, or standard base64
// of its bytes or of PEM. White space around and in it does not matter. PEM is
// returned as it is.
func DecodeBinary(text string) ([]byte, error) {
	if strings.HasPrefix(strings.TrimSpace(text), "-----BEGIN") {
		return []byte(strings.TrimSpace(text)), nil
	}
	b, err := base64.StdEncoding.Strict().DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		return nil, errors.New("it is neither PEM nor standard base64")
	}
	return b, nil
}

// DecodePEM returns the content of a DecodePEM block, if b is DecodePEM, and what follows the
// block, without white space.
func DecodePEM(b []byte) (der []byte, kind string, rest []byte, ok bool) {
	block, rest := pem.Decode(b)
	if block == nil || !bytes.HasPrefix(b, []byte("-----BEGIN")) {
		return nil, "", nil, false
	}
	return block.Bytes, block.Type, bytes.TrimSpace(rest), true
}

// extensionArc is Pantacor's 1.3.6.1.4.1.54621.100, under which a CSR's
// extensions are. Their values are raw bytes, without a DER type around them.
var extensionArc = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 54621, 100}

// The extensions of a CSR, by their last arc.
const (
	ExtAKName      = 0 // hexadecimal text
	ExtOwner       = 1 // prn
	ExtOwnership   = 2 // OwnershipMAC; or Ed25519 over OwnershipMessage, 64 bytes
	ExtToken       = 3 // id
	ExtCertify     = 4 // TPMS_ATTEST of TPM2_Certify: the CSR's key, by the AK
	ExtCertifySig  = 5 // TPMT_SIGNATURE of it
	ExtQuote       = 6 // TPMS_ATTEST of TPM2_Quote by the AK
	ExtQuoteSig    = 7 // TPMT_SIGNATURE of it
	ExtPCRs        = 8
	ExtDevice      = 9 // prn
	extensionCount = 10
)

// ExtensionOID is the object identifier of a CSR's extension.
func ExtensionOID(last int) asn1.ObjectIdentifier {
	return append(append(asn1.ObjectIdentifier(nil), extensionArc...), last)
}

// ExtensionOf returns the last arc of an extension of Pantacor's; ok: it is one.
// known: its meaning is.
func ExtensionOf(id asn1.ObjectIdentifier) (last int, known, ok bool) {
	if len(id) != len(extensionArc)+1 || !id[:len(extensionArc)].Equal(extensionArc) {
		return 0, false, false
	}
	last = id[len(extensionArc)]
	return last, last < extensionCount, true
}

// OwnershipMAC is Pantacor's proof of ownership: HMAC-SHA256 under key, the
// SHA-256 of the join token's secret, over the hexadecimal text of the bytes of
// name, which is text already. By itself it says nothing of a key.
func OwnershipMAC(key [32]byte, name string) []byte {
	m := hmac.New(sha256.New, key[:])
	m.Write([]byte(hex.EncodeToString([]byte(name))))
	return m.Sum(nil)
}

// StepKeys are what both sides derive from the secret of the first step.
type StepKeys struct {
	Encryption []byte // AES-256
	MAC        []byte // HMAC-SHA256
	Register   []byte // HMAC-SHA256: the key of the second step's proof
}

// DeriveStepKeys derives them:
//
//	PRK        = HKDF-Extract(SHA-256, salt = TPM name of the AK, IKM = secret)
//	encryption = HKDF-Expand(PRK, "gangway enroll encryption v1", 32)
//	mac        = HKDF-Expand(PRK, "gangway enroll mac v1", 32)
//	register   = HKDF-Expand(PRK, "gangway register v1", 32)
func DeriveStepKeys(secret, akName []byte) (k StepKeys, err error) {
	for info, key := range map[string]*[]byte{"gangway enroll encryption v1": &k.Encryption, "gangway enroll mac v1": &k.MAC, "gangway register v1": &k.Register} {
		if *key, err = hkdf.Key(sha256.New, secret, akName, info, 32); err != nil {
			return StepKeys{}, fmt.Errorf("join: %w", err)
		}
	}
	return k, nil
}

// Prove proves that the TPM opened the first step's answer, for one hub and one
// CSR and no other:
//
//	HMAC-SHA256(register, "gangway register v2" 00 || len(hub name) hub name || CSR in DER)
//
// with the length in one byte. A hub that passes both steps on to another one
// gets a proof that names the wrong hub.
func (k StepKeys) Prove(hubName string, csr []byte) []byte {
	m := hmac.New(sha256.New, k.Register)
	m.Write([]byte("gangway register v2\x00"))
	m.Write([]byte{byte(len(hubName))})
	m.Write([]byte(hubName))
	m.Write(csr)
	return m.Sum(nil)
}

// ProveUnbound is the old form, which names no hub: HMAC-SHA256(register, CSR in
// DER). Hubs take it only with an ownership proof of Pantacor's form.
func (k StepKeys) ProveUnbound(csr []byte) []byte {
	m := hmac.New(sha256.New, k.Register)
	m.Write(csr)
	return m.Sum(nil)
}

// VerifyProof checks a proof for a hub in constant time; with an empty hubName, one
// of the old form.
func (k StepKeys) VerifyProof(hubName string, csr, proof []byte) bool {
	if hubName == "" {
		return hmac.Equal(k.ProveUnbound(csr), proof)
	}
	return hmac.Equal(k.Prove(hubName, csr), proof)
}

// SealCertificate fills Certificate, IV and MAC: encrypted, then
// authenticated, by what `openssl enc` and `openssl dgst` can undo.
func (a *EnrollAnswer) SealCertificate(k StepKeys, content []byte) error {
	block, err := aes.NewCipher(k.Encryption)
	if err != nil {
		return fmt.Errorf("join: %w", err)
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

// OpenCertificate undoes SealCertificate. ErrSealed: it is for another TPM, or
// was altered.
func (a *EnrollAnswer) OpenCertificate(k StepKeys) ([]byte, error) {
	if len(a.IV) != aes.BlockSize || len(a.Certificate) == 0 || len(a.Certificate)%aes.BlockSize != 0 || !hmac.Equal(a.mac(k), a.MAC) {
		return nil, ErrSealed
	}
	block, err := aes.NewCipher(k.Encryption)
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	plain := make([]byte, len(a.Certificate))
	cipher.NewCBCDecrypter(block, a.IV).CryptBlocks(plain, a.Certificate)
	pad := int(plain[len(plain)-1])
	if pad == 0 || pad > aes.BlockSize {
		return nil, ErrSealed
	}
	return plain[:len(plain)-pad], nil
}

// credentialMagic and credentialVersion begin a file of tpm2_makecredential.
const (
	credentialMagic   = 0xBADCC0DE
	credentialVersion = 1
)

// CredentialFile is what tpm2_makecredential writes and tpm2_activatecredential
// reads: magic, version (4 bytes each), TPM2B_ID_OBJECT,
// TPM2B_ENCRYPTED_SECRET. The arguments are the contents of the two.
func CredentialFile(blob, secret []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, credentialMagic)
	b = binary.BigEndian.AppendUint32(b, credentialVersion)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(blob))), blob...)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(secret))), secret...)
}

// ParseCredentialFile undoes CredentialFile.
func ParseCredentialFile(b []byte) (blob, secret []byte, err error) {
	malformed := errors.New("join: this is no file of tpm2_makecredential")
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

// Spec names the format of what the hub keeps of a registration.
const registrationSpec = "gangway-two-steps@1"

// RegistrationRecord is a registration in the one form that it has however it was written:
// what the hub keeps for the auditor, and what a request is known again by.
type RegistrationRecord struct {
	Spec      string   `json:"#spec"`
	CSR       []byte   `json:"csr"`
	AKPub     []byte   `json:"ak-pub"` // TPMT_PUBLIC, as the next two
	EKPub     []byte   `json:"ek-pub"`
	IDevIDPub []byte   `json:"idevid-pub"`
	EKCert    []byte   `json:"ek-cert"` // DER
	EKChain   [][]byte `json:"ek-chain"`
	Hour      int64    `json:"hour"`               // of the credential, since 1970
	HubName   string   `json:"hub-name,omitempty"` // that the proof named
}

// Encode makes its JSON: the same for the same values.
func (k RegistrationRecord) Encode() ([]byte, error) {
	k.Spec = registrationSpec
	b, err := json.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	if len(b) > tcg.MaxCSR {
		return nil, errors.New("join: the registration is too large")
	}
	return b, nil
}
