package main

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"gangway/fleet"
)

func sum(b []byte) [32]byte { return sha256.Sum256(b) }

// crypto measures the unavoidable operations, one after the other.
func (k *Kind) crypto(maker *fleet.Maker, d *fleet.Device) error {
	leaf, err := x509.ParseCertificate(d.EKCert)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	digest := sum([]byte("message"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return err
	}
	ed, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	edSig := ed25519.Sign(edKey, digest[:])
	var encapsulate func() error
	switch pub := d.EK.Private.Public().(type) {
	case *rsa.PublicKey:
		encapsulate = func() error {
			_, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, pub, digest[:], []byte("IDENTITY\x00"))
			return err
		}
	case *ecdsa.PublicKey:
		peer, err := pub.ECDH()
		if err != nil {
			return err
		}
		curve := ecdh.P256()
		if pub.Curve == elliptic.P384() {
			curve = ecdh.P384()
		}
		encapsulate = func() error {
			e, err := curve.GenerateKey(rand.Reader)
			if err == nil {
				_, err = e.ECDH(peer)
			}
			return err
		}
	}
	check := func(ok bool) error {
		if !ok {
			return fmt.Errorf("a good signature does not verify")
		}
		return nil
	}
	verify := func() error { return check(ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig)) }
	sign := func() error { _, err := ecdsa.SignASN1(rand.Reader, key, digest[:]); return err }
	tbs := sum(leaf.RawTBSCertificate)
	maker.Intermediate.CheckSignatureFrom(maker.Root) // warms what is cached in keys
	issuer := maker.Intermediate.PublicKey.(*rsa.PublicKey)

	k.Crypto = map[string]float64{}
	for _, op := range []struct {
		name  string
		times float64
		f     func() error
	}{
		{"ek_leaf_verification", 1, func() error { return rsa.VerifyPKCS1v15(issuer, crypto.SHA256, tbs[:], leaf.Signature) }},
		{"make_credential_public_key", 1, encapsulate},
		{"certify_verification", 1, verify},
		{"request_verification", 1, verify},
		{"certificate_signatures", 2, sign},
		{"", 1, func() error { return check(ed25519.Verify(ed, digest[:], edSig)) }},
	} {
		each, err := timeOf(op.f)
		if err != nil {
			return err
		}
		if op.name == "" { // needed by the protocol, but not counted as unavoidable
			k.Ownership = each
			continue
		}
		k.Crypto[op.name] = each * op.times
		k.CryptoSum += each * op.times
	}
	return nil
}

// timeOf is the CPU time of f in microseconds, over half a second, with all
// cores at it, as they are when enrolments are measured: cores that share
// their units are slower together than alone.
func timeOf(f func() error) (float64, error) {
	var n atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, runtime.NumCPU())
	start, deadline := cpu(), time.Now().Add(500*time.Millisecond)
	for range runtime.NumCPU() {
		wg.Go(func() {
			for time.Now().Before(deadline) {
				for range 50 {
					if err := f(); err != nil {
						errs <- err
						return
					}
					n.Add(1)
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return 0, err
	default:
	}
	return float64((cpu() - start).Nanoseconds()) / float64(n.Load()) / 1000, nil
}
