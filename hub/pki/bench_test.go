package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"testing"
)

// BenchmarkSignP256 measures only the signing of a prepared digest, which is the minimum time that
// issuing a certificate takes.
func BenchmarkSignP256(b *testing.B) {
	key := generate(b, elliptic.P256())
	digest := make([]byte, 32)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ecdsa.SignASN1(rand.Reader, key, digest); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIssueIDevID(b *testing.B) {
	h := openNew(b, Options{})
	r := idevidRequest(generate(b, elliptic.P256()).Public())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.IssueIDevID(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIssueIAK(b *testing.B) {
	h := openNew(b, Options{})
	r := iakRequest(generate(b, elliptic.P256()).Public())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.IssueIAK(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkX509CreateCertificate(b *testing.B) {
	h := openNew(b, Options{})
	r := idevidRequest(generate(b, elliptic.P256()).Public())
	template := idevidTemplate(b, r)
	b.ReportAllocs()
	for b.Loop() {
		template.SerialNumber = new(big.Int).SetBytes(serialNumber())
		if _, err := x509.CreateCertificate(rand.Reader, template, h.device.cert, r.PublicKey, h.device.key); err != nil {
			b.Fatal(err)
		}
	}
}
