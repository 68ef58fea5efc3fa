package evidence

import (
	"crypto/rsa"

	"gangway/tcg"
)

// VerifyCertificate judges an EK certificate by itself: the checks
// "ek-certificate" and "ek-chain" of Verify, and whether anybody can compute
// its private key, added to v, and nothing of who has that key. chain are DER
// certificates that came with it: untrusted, but possible links.
func VerifyCertificate(v *Verdict, e *tcg.EKCertificate, chain [][]byte, in *Input) {
	verify(v, &Request{EKCertificate: e, Chain: chain}, checks[:2], in)
	if k, ok := e.PublicKey.(*rsa.PublicKey); ok && v.Refusal == nil && isROCA(k.N) {
		v.Fail("ek-key", errROCA("EK", "ek"))
	}
}
