package tcg

import "encoding/binary"

// Codes of TPM commands in policies (Part 2, 6.5.2).
const (
	ccActivateCredential = 0x00000147
	ccCertify            = 0x00000148
	ccPolicySecret       = 0x00000151
	ccPolicyCommandCode  = 0x0000016C
	ccPolicyOR           = 0x00000171
	ccPolicyPCR          = 0x0000017F
	ccPolicyAuthorizeNV  = 0x00000192

	rhEndorsement = 0x4000000B

	// delegationAttributes is the TPMA_NV of the NV indices to which a policy may delegate. These
	// bits are set: written, policy write and read, owner read, no dictionary attack protection.
	delegationAttributes = 0x220F1008
)

// delegationIndex maps a name algorithm to the NV indices in policies. `idevid` and `iak` are the
// indices in the fourth branch of the DevID policy (DevID, 7.3.6.4). `ek` is the index in the EK
// profile's policy C.
var delegationIndex = map[AlgID]struct{ idevid, iak, ek uint32 }{
	AlgSHA256: {0x01C90010, 0x01C90018, 0x01C07F01},
	AlgSHA384: {0x01C90011, 0x01C90019, 0x01C07F02},
	AlgSHA512: {0x01C90012, 0x01C9001A, 0x01C07F03},
}

func digest(alg AlgID, data ...[]byte) []byte {
	n, err := name(alg, data...)
	if err != nil {
		panic(err) // cannot happen: `alg` comes from this package's tables
	}
	return n[2:]
}

func zero(alg AlgID) []byte {
	h, err := alg.Hash()
	if err != nil {
		panic(err) // cannot happen: `alg` comes from this package's tables
	}
	return make([]byte, h.Size())
}

func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// PolicySecretEndorsement is the digest of TPM2_PolicySecret(TPM_RH_ENDORSEMENT). The EK profile
// calls it "policy A", and DevID 7.3.6.1 "PolicyUser".
func PolicySecretEndorsement(alg AlgID) []byte {
	d := digest(alg, zero(alg), be32(ccPolicySecret), be32(rhEndorsement))
	return digest(alg, d) // second hash of TPM2_PolicySecret, over an empty policyRef
}

func policyCommandCode(alg AlgID, policy []byte, cc uint32) []byte {
	return digest(alg, policy, be32(ccPolicyCommandCode), be32(cc))
}

// policyDelegation is the digest of TPM2_PolicyAuthorizeNV for an NV index that is written and
// contains policy A: "policy C" of the EK profile.
func policyDelegation(alg AlgID, index uint32) []byte {
	a := PolicySecretEndorsement(alg)
	pub := be32(index)
	pub = binary.BigEndian.AppendUint16(pub, uint16(alg))
	pub = binary.BigEndian.AppendUint32(pub, delegationAttributes)
	pub = binary.BigEndian.AppendUint16(pub, uint16(len(a)))
	pub = append(pub, a...)
	pub = binary.BigEndian.AppendUint16(pub, uint16(2+len(a))) // contains a TPMT_HA
	n, err := name(alg, pub)
	if err != nil {
		panic(err) // cannot happen: `alg` comes from this package's tables
	}
	return digest(alg, zero(alg), be32(ccPolicyAuthorizeNV), n)
}

func policyOR(alg AlgID, branches [][]byte) []byte {
	parts := append([][]byte{zero(alg), be32(ccPolicyOR)}, branches...)
	return digest(alg, parts...)
}

// EKPolicyBranches are the two branches of "policy B" of the EK profile
// (B.6.3), in the order for TPM2_PolicyOR: policy A, policy C.
func EKPolicyBranches(alg AlgID) [][]byte {
	return [][]byte{PolicySecretEndorsement(alg), policyDelegation(alg, delegationIndex[alg].ek)}
}

// IAKPolicyBranches are the four branches of an IAK's policy (DevID 7.3.6), in
// the order for TPM2_PolicyOR: user, certify, activate credential, delegation.
func IAKPolicyBranches(alg AlgID) [][]byte { return devidBranches(alg, delegationIndex[alg].iak) }

// IDevIDPolicyBranches are the four branches of an IDevID key's policy, in the same order as in
// IAKPolicyBranches.
func IDevIDPolicyBranches(alg AlgID) [][]byte { return devidBranches(alg, delegationIndex[alg].idevid) }

func devidBranches(alg AlgID, index uint32) [][]byte {
	a := PolicySecretEndorsement(alg)
	return [][]byte{
		a,
		policyCommandCode(alg, a, ccCertify),
		policyCommandCode(alg, a, ccActivateCredential),
		policyDelegation(alg, index),
	}
}

// PolicyPCR is the digest of TPM2_PolicyPCR (Part 3, 23.7) in a new policy session whose hash
// algorithm is `alg`. It covers the PCRs 0 to 23 in `values`, of the bank of the same algorithm.
func PolicyPCR(alg AlgID, values map[int][]byte) []byte {
	var selected [3]byte
	var all []byte
	for pcr := range 8 * len(selected) {
		if v, ok := values[pcr]; ok {
			selected[pcr/8] |= 1 << (pcr % 8)
			all = append(all, v...)
		}
	}
	selection := binary.BigEndian.AppendUint16(be32(1), uint16(alg)) // TPML_PCR_SELECTION with one TPMS_PCR_SELECTION
	selection = append(selection, byte(len(selected)))
	selection = append(selection, selected[:]...)
	return digest(alg, zero(alg), be32(ccPolicyPCR), selection, digest(alg, all))
}
