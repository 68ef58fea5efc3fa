package seal

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"gangway/device/identity/tpmrc"
	"gangway/device/install/approval"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// BoundType is the type of a LUKS2 token whose passphrase only approved systems get.
// systemd-cryptsetup cannot use this LUKS2 token, because systemd's policies have no counter.
const BoundType = "gangway-tpm2"

// Binding says which boots get the passphrase. All three conditions must hold.
type Binding struct {
	// Owner is the owner's public key. The owner must have approved the value of PCR 11.
	Owner crypto.PublicKey
	// PCRs are the values that the PCRs in Required must have, in the SHA-256 bank, by number.
	PCRs map[int][]byte
	// Limit is the last value of the counter for which the passphrase is released. When the counter
	// exceeds the limit, this LUKS2 token is worthless, even in an old copy of the disk's header.
	Limit uint64
}

// Required are the PCRs whose values a Binding needs. The owner's approval is not enough, because
// any program can extend PCR 11 to an approved value:
//
//	PCR 4   the programs that the firmware started
//	PCR 7   the state of Secure Boot
//	PCR 12  the command line, and credentials: while Secure Boot is off, systemd's stub accepts
//	        another command line than the system's own
//	PCR 13  system extensions from the EFI system partition
var Required = []int{4, pcr, 12, 13}

// bound is the JSON of the LUKS2 token, without the list of key slots.
type bound struct {
	Type    string            `json:"type"`
	Blob    []byte            `json:"blob"`  // TPM2B_PRIVATE and TPM2B_PUBLIC
	PCRs    map[string]string `json:"pcrs"`  // number -> value, hexadecimal, for a person; the policy decides
	Owner   []byte            `json:"owner"` // the owner's public key, PKIX in DER
	Limit   uint64            `json:"limit"`
	Counter uint32            `json:"counter"` // NV index
	Key     []byte            `json:"key"`     // name of the storage key; empty in headers from before 30 November 2026
}

// Bind seals a passphrase that New made, and returns a LUKS2 token for each binding. A binding may
// be for a boot other than the present one. If `key` is not empty, the TPM's storage key must have
// this name. The TPM makes its storage key only once, because this takes some TPMs seconds.
func Bind(t transport.TPM, key, passphrase []byte, bindings ...Binding) (toks []map[string]any, err error) {
	secret, err := base64.StdEncoding.DecodeString(string(passphrase))
	if err != nil || len(secret) != secretSize {
		return nil, errors.New("seal: the passphrase was not made by New")
	}
	s, err := load(t, key)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	counter, err := counterName(t)
	if err != nil {
		return nil, err
	}
	for _, b := range bindings {
		tok, err := s.bind(secret, b, counter)
		if err != nil {
			return nil, err
		}
		toks = append(toks, tok)
	}
	return toks, nil
}

func (s *storage) bind(secret []byte, b Binding, counter tpm2.TPM2BName) (tok map[string]any, err error) {
	for _, n := range Required {
		if len(b.PCRs[n]) != sha256.Size {
			return nil, fmt.Errorf("seal: the binding has no value of PCR %d", n)
		}
	}
	owner, err := x509.MarshalPKIXPublicKey(b.Owner)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	key, name, err := loadOwner(s.tpm, b.Owner) // only to learn that this TPM can use the owner's key
	if err != nil {
		return nil, err
	}
	flush(s.tpm, key)
	digest, err := s.digest(func(session tpm2.TPMISHPolicy) []tpm2.PolicyCommand {
		return b.policy(session, name, tpm2.TPM2BDigest{}, nullTicket, counter)
	})
	if err != nil {
		return nil, err
	}
	blob, err := s.seal(secret, digest)
	if err != nil {
		return nil, err
	}
	raw := bound{Type: BoundType, Blob: blob, PCRs: map[string]string{}, Owner: owner, Limit: b.Limit, Counter: counterIndex, Key: s.Name.Buffer}
	for _, n := range Required {
		raw.PCRs[fmt.Sprint(n)] = hex.EncodeToString(b.PCRs[n])
	}
	text, err := json.Marshal(raw)
	if err == nil {
		err = json.Unmarshal(text, &tok)
	}
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return tok, nil
}

// nullTicket is the ticket of a trial session, in which the TPM does not check tickets.
var nullTicket = tpm2.TPMTTKVerified{Tag: tpm2.TPMSTVerified, Hierarchy: tpm2.TPMRHNull}

// policy returns the policy's commands. The order matters: TPM2_PolicyAuthorize discards the
// session's earlier policy.
func (b *Binding) policy(session tpm2.TPMISHPolicy, owner tpm2.TPM2BName, approved tpm2.TPM2BDigest, ticket tpm2.TPMTTKVerified, counter tpm2.TPM2BName) []tpm2.PolicyCommand {
	var values [][]byte
	for _, n := range Required {
		values = append(values, b.PCRs[n])
	}
	return []tpm2.PolicyCommand{
		tpm2.PolicyAuthorize{PolicySession: session, ApprovedPolicy: approved, KeySign: owner, CheckTicket: ticket},
		policyPCR(session, Required, values),
		policyCounter(session, counter, b.Limit),
	}
}

// policyCounter requires that the counter does not exceed the limit.
func policyCounter(session tpm2.TPMISHPolicy, counter tpm2.TPM2BName, limit uint64) tpm2.PolicyNV {
	return tpm2.PolicyNV{
		AuthHandle:    tpm2.AuthHandle{Handle: counterIndex, Name: counter, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:       tpm2.NamedHandle{Handle: counterIndex, Name: counter},
		PolicySession: session,
		OperandB:      tpm2.TPM2BOperand{Buffer: binary.BigEndian.AppendUint64(nil, limit)}, Operation: tpm2.TPMEOUnsignedLE,
	}
}

// loadOwner loads the owner's public key into the TPM, and computes its name.
func loadOwner(t transport.TPM, key crypto.PublicKey) (handle tpm2.TPMHandle, name tpm2.TPM2BName, err error) {
	if err := approval.CheckKey(key); err != nil {
		return 0, name, err
	}
	public := tpm2.TPMTPublic{NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: tpm2.TPMAObject{Decrypt: true, SignEncrypt: true, UserWithAuth: true}}
	switch k := key.(type) {
	case *rsa.PublicKey:
		public.Type = tpm2.TPMAlgRSA
		exponent := uint32(k.E)
		if exponent == 65537 {
			exponent = 0 // the TPM's name for the usual exponent
		}
		public.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: tpm2.TPMKeyBits(k.N.BitLen()), Exponent: exponent})
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()})
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 4, x, y
		if err != nil {
			return 0, name, fmt.Errorf("seal: %w", err)
		}
		public.Type = tpm2.TPMAlgECC
		public.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})
	}
	if name, err = nameOf(&public); err != nil {
		return 0, name, err
	}
	rsp, err := tpm2.LoadExternal{InPublic: tpm2.New2B(public), Hierarchy: tpm2.TPMRHOwner}.Execute(t)
	if err != nil {
		return 0, name, fmt.Errorf("seal: the TPM cannot use the owner's key: %w", tpmrc.Explain(err, tpmrc.None))
	}
	return rsp.ObjectHandle, name, nil
}

// signature returns an approval's signature in the TPM's format.
func signature(key crypto.PublicKey, sig []byte) (tpm2.TPMTSignature, error) {
	if _, ok := key.(*rsa.PublicKey); ok {
		return tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA,
			&tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: sig}})}, nil
	}
	var point struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(sig, &point); err != nil || len(rest) > 0 || point.R.Sign() <= 0 || point.S.Sign() <= 0 || point.R.BitLen() > 256 || point.S.BitLen() > 256 {
		return tpm2.TPMTSignature{}, errors.New("seal: an approval's signature is damaged")
	}
	number := func(n *big.Int) tpm2.TPM2BECCParameter {
		return tpm2.TPM2BECCParameter{Buffer: n.FillBytes(make([]byte, 32))}
	}
	return tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA,
		&tpm2.TPMSSignatureECC{Hash: tpm2.TPMAlgSHA256, SignatureR: number(point.R), SignatureS: number(point.S)})}, nil
}

// ErrNotApproved means that the owner, to whose key the disk is bound, has not approved the running
// system.
var ErrNotApproved = errors.New("the disk's owner has not approved the running system.\nStart a system that the owner signed, or use the recovery key.") //lint:ignore ST1005 shown to a person

// OpenBound returns the passphrase that Bind sealed. `approvals` are the running system's
// approvals. If the TPM does not release the passphrase to the present boot, the error is
// ErrNotReleased.
func OpenBound(t transport.TPM, raw json.RawMessage, approvals []approval.Approval) ([]byte, error) {
	tok, binding, err := readBound(raw)
	if err != nil {
		return nil, err
	}
	fingerprint, err := approval.Fingerprint(binding.Owner)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(approvals, func(a approval.Approval) bool {
		return a.Key == fingerprint && slices.Equal(a.PCRs, []int{approval.PCR})
	})
	if i < 0 {
		return nil, errors.Join(ErrNotReleased, ErrNotApproved)
	}
	s, err := load(t, tok.Key)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var secret []byte
	for _, a := range approvals[i:] {
		if a.Key != fingerprint {
			continue
		}
		if secret, err = s.openBound(tok, binding, a); err == nil {
			return encode(secret), nil
		}
	}
	return nil, err
}

var errDamaged = errors.New("seal: the LUKS2 token in the disk's header is damaged, so the TPM cannot release the disk's key; use the recovery key")

func readBound(raw json.RawMessage) (*bound, *Binding, error) {
	var tok bound
	if err := json.Unmarshal(raw, &tok); err != nil {
		return nil, nil, fmt.Errorf("seal: the LUKS2 token in the disk's header: %w", err)
	}
	if tok.Type != BoundType || tok.Counter != counterIndex || len(tok.Blob) > 4096 {
		return nil, nil, errDamaged
	}
	b := &Binding{Limit: tok.Limit, PCRs: map[int][]byte{}}
	var err error
	if b.Owner, err = x509.ParsePKIXPublicKey(tok.Owner); err != nil {
		return nil, nil, errors.Join(errDamaged, err)
	}
	for _, n := range Required {
		v, err := hex.DecodeString(tok.PCRs[fmt.Sprint(n)])
		if err != nil || len(v) != sha256.Size {
			return nil, nil, errDamaged
		}
		b.PCRs[n] = v
	}
	return &tok, b, nil
}

// Made reports whether the LUKS2 token was made for this Binding. It compares only the values that
// the LUKS2 token itself states. For a LUKS2 token that does not record the storage key's name, it
// returns false, so that the token is made again.
func (b Binding) Made(raw json.RawMessage) bool {
	tok, is, err := readBound(raw)
	if err != nil || is.Limit != b.Limit || len(tok.Key) == 0 {
		return false
	}
	key, ok := is.Owner.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !key.Equal(b.Owner) {
		return false
	}
	for _, n := range Required {
		if !bytes.Equal(is.PCRs[n], b.PCRs[n]) {
			return false
		}
	}
	return true
}

// openBound unseals with one approval.
func (s *storage) openBound(tok *bound, b *Binding, a approval.Approval) ([]byte, error) {
	approved, err := hex.DecodeString(a.Policy)
	if err != nil || len(approved) != sha256.Size {
		return nil, errors.Join(ErrNotReleased, ErrNotApproved)
	}
	private, public, err := split(tok.Blob)
	if err != nil {
		return nil, err
	}
	counter, err := counterName(s.tpm)
	if err != nil {
		return nil, errors.Join(ErrNotReleased, err)
	}
	owner, name, err := loadOwner(s.tpm, b.Owner)
	if err != nil {
		return nil, err
	}
	sig, err := signature(b.Owner, a.Signature)
	if err != nil {
		flush(s.tpm, owner)
		return nil, errors.Join(ErrNotReleased, err)
	}
	sum := sha256.Sum256(approved)
	verified, err := tpm2.VerifySignature{KeyHandle: owner, Digest: tpm2.TPM2BDigest{Buffer: sum[:]}, Signature: sig}.Execute(s.tpm)
	flush(s.tpm, owner) // before the next load: a TPM may have room for only three objects
	if err != nil {
		return nil, errors.Join(ErrNotReleased, ErrNotApproved, err)
	}
	return s.unseal(private, public, func(session tpm2.TPMISHPolicy) []tpm2.PolicyCommand {
		// TPM2_PolicyAuthorize checks that the session has the approved policy now.
		commands := []tpm2.PolicyCommand{policyPCR(session, []int{approval.PCR}, nil)}
		return append(commands, b.policy(session, name, tpm2.TPM2BDigest{Buffer: approved}, verified.Validation, counter)...)
	})
}
