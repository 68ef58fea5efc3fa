package tcg

import (
	"bytes"
	"crypto/x509"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// MaxIntermediates is the largest number of certificates in a chain that a device sends. Known TPMs
// store at most four certificates.
const MaxIntermediates = 8

// maxSplit is the largest number of certificates that SplitCertificates returns. It bounds the work
// that an attacker can cause by filling the NV indices with many tiny sequences. A real chain has
// far fewer certificates.
const maxSplit = 64

// SplitCertificates finds the certificates of the chain that a maker stored in a TPM. Each part is
// the content of one NV index, from ChainFirst on, in order (EK profile 2.2.1.5). The parts form
// one stream. A certificate may continue in the next index (Intel's layout). An index may contain
// several certificates, with padding (0x00 or 0xFF) after each certificate. If any other byte
// follows, the rest of this index is skipped. An empty part means an index that could not be read;
// no certificate continues across such an index.
//
// `lost` is the number of bytes that belong to no certificate and no padding. SplitCertificates
// checks only the outer DER structure of a certificate (see IsCertificate) and returns equal
// certificates once. The result does not alias the parts.
func SplitCertificates(parts ...[]byte) (certs [][]byte, lost int) {
	for len(parts) > 0 {
		n := slices.IndexFunc(parts, func(p []byte) bool { return len(p) == 0 })
		if n < 0 {
			n = len(parts)
		}
		more, l := splitRun(parts[:n])
		for _, c := range more {
			if len(certs) < maxSplit && !slices.ContainsFunc(certs, func(have []byte) bool { return bytes.Equal(have, c) }) {
				certs = append(certs, c)
			}
		}
		lost += l
		parts = parts[min(n+1, len(parts)):]
	}
	return certs, lost
}

// splitRun does the work of SplitCertificates for parts that are all readable.
func splitRun(parts [][]byte) (certs [][]byte, lost int) {
	stream := slices.Concat(parts...)
	var starts []int // offsets in `stream` at which the parts begin, then the stream's length
	for i, at := 0, 0; i <= len(parts); i++ {
		starts = append(starts, at)
		if i < len(parts) {
			at += len(parts[i])
		}
	}
	for at := 0; at < len(stream); {
		if stream[at] == 0x00 || stream[at] == 0xFF {
			at++
			continue
		}
		if size := certificateSize(stream[at:]); size > 0 {
			certs = append(certs, bytes.Clone(stream[at:at+size]))
			at += size
			continue
		}
		next, exact := slices.BinarySearch(starts, at)
		if exact {
			next++
		}
		lost += starts[next] - at
		at = starts[next]
	}
	return certs, lost
}

// certificateSize returns the size in bytes of the certificate at the start of `b`, or 0 if `b`
// does not begin with a certificate. It checks only the outer structure: a sequence of exactly
// three elements (RFC 5280, 4.1). Without this check, a wrong length would make the caller skip
// valid data.
func certificateSize(b []byte) int {
	s := cryptobyte.String(b)
	var cert, body, tbs, algorithm, signature cryptobyte.String
	if !s.ReadASN1Element(&cert, casn1.SEQUENCE) || len(cert) > MaxCertificate {
		return 0
	}
	outer := cert
	if !outer.ReadASN1(&body, casn1.SEQUENCE) || !body.ReadASN1(&tbs, casn1.SEQUENCE) || tbs.Empty() ||
		!body.ReadASN1(&algorithm, casn1.SEQUENCE) || !body.ReadASN1(&signature, casn1.BIT_STRING) || !body.Empty() {
		return 0
	}
	return len(cert)
}

// IsCertificate reports whether `b` has the outer DER structure of exactly one certificate (RFC
// 5280, 4.1), with nothing after it. A parser may still refuse `b`.
func IsCertificate(b []byte) bool { return len(b) > 0 && certificateSize(b) == len(b) }

// PickChain returns at most MaxIntermediates of the certificates `certs`. The issuers of the
// certificate `leaf`, found by name, come first, beginning with the direct issuer. The other
// certificates follow in their order. `leaf` may be nil.
func PickChain(leaf []byte, certs [][]byte) [][]byte {
	type link struct {
		der             []byte
		subject, issuer string
	}
	var links []link
	read := func(der []byte) (l link, ok bool) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return link{der: der}, false
		}
		return link{der, string(CanonicalName(c.RawSubject)), string(CanonicalName(c.RawIssuer))}, true
	}
	for _, der := range certs {
		l, _ := read(der)
		links = append(links, l)
	}
	var picked [][]byte
	used := make([]bool, len(links))
	wanted := []string{}
	if l, ok := read(leaf); ok {
		wanted = append(wanted, l.issuer)
	}
	for len(wanted) > 0 && len(picked) < MaxIntermediates {
		name := wanted[0]
		wanted = wanted[1:]
		for i, l := range links {
			if !used[i] && l.subject != "" && l.subject == name && len(picked) < MaxIntermediates {
				used[i] = true
				picked = append(picked, l.der)
				wanted = append(wanted, l.issuer)
			}
		}
	}
	for i, l := range links {
		if !used[i] && len(picked) < MaxIntermediates {
			picked = append(picked, l.der)
		}
	}
	return picked
}
