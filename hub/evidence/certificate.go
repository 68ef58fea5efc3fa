package evidence

import (
	"gangway/tcg"
)

// VerifyCertificate judges an EK certificate without a request. It adds Verify's checks
// "ek-certificate" and "ek-chain" to the verdict `v`, and adds the check "ek-key" only if that
// check fails. It does not prove that a TPM has the key, but assumes that the EK was made from the
// first template for keys of this type and size, and refuses a key that no template makes. The
// argument `chain` has DER certificates that came with the EK certificate. They may be
// intermediates of a chain, but never its root.
func VerifyCertificate(v *Verdict, e *tcg.EKCertificate, chain [][]byte, in *Input) {
	r := &Request{EKCertificate: e, Chain: chain}
	if may := tcg.FromKey(tcg.EKTemplates, e.PublicKey); len(may) > 0 {
		r.EK = may[0]
	}
	verify(v, r, checks[:2], in)
	if v.Refusal != nil {
		return
	}
	if _, refusal := checkEKKey(v, r, in); refusal != nil {
		v.Fail("ek-key", refusal)
	}
}
