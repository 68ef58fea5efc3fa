package evidence

import (
	"gangway/tcg"
)

// VerifyCertificate judges an EK certificate by itself: the checks
// "ek-certificate" and "ek-chain" of Verify, added to v, and where it fails
// "ek-key"; nothing of who has the key. The EK is taken for one of the first
// template that makes such a key; a key that no template makes is refused as a
// request with it is. chain are DER certificates that came with it: untrusted,
// but possible links.
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
