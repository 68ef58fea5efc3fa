package evidence

import (
	"gangway/tcg"
)

// certificateChecks are those of Verify's that need nothing but an EK
// certificate.
var certificateChecks = only("ek-certificate", "ek-chain", "ek-key")

// VerifyCertificate judges an EK certificate by itself: the checks
// "ek-certificate", "ek-chain" and "ek-key" of Verify, added to v, and nothing
// of who has the key. The EK is taken for one of the first template that makes
// such a key; a key that no template makes is refused as a request with it is.
// chain are DER certificates that came with it: untrusted, but possible links.
func VerifyCertificate(v *Verdict, e *tcg.EKCertificate, chain [][]byte, in *Input) {
	r := &Request{EKCertificate: e, Chain: chain}
	if may := tcg.FromKey(tcg.EKTemplates, e.PublicKey); len(may) > 0 {
		r.EK = may[0]
	}
	verify(v, r, certificateChecks, in)
}
