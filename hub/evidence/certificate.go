package evidence

import (
	"gangway/tcg"
)

// VerifyCertificate judges an EK certificate without a request. It adds Verify's checks
// "ek-certificate" and "ek-chain" to v. It runs the check "ek-key" too, but adds it only if it
// fails. VerifyCertificate does not show who holds the key. It assumes that the EK was made from
// the first template that makes keys of its kind, and refuses a key that no template makes. chain
// holds DER certificates that came with the EK certificate: they are untrusted, but may be its
// intermediates.
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
