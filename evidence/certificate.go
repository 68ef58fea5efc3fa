package evidence

import (
	"time"

	"gangway/tcg"
	"gangway/tcg/join"
)

// VerifyCertificate judges an EK certificate by itself: the checks
// "ek-certificate" and "ek-chain" of Verify, added to v, and nothing of who
// has its key. chain are DER certificates that came with it: untrusted, but
// possible links.
func VerifyCertificate(v *Verdict, e *tcg.EKCertificate, chain [][]byte, trust *Trust, policy Policy, now time.Time) {
	verify(v, &Request{EKCertificate: e, CAData: &join.CAData{Chain: chain}}, checks[:2], trust, policy, now)
}
