package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/policy"
	"gangway/hub/store"
	"gangway/hub/trust"
	"gangway/internal/fleet"
)

// Judged is the CPU time in microseconds for checking one request's evidence. Plain is the time
// with one maker and no policy rules. Full is the time with a large configuration: the built-in
// certificates and 143 more intermediate CA certificates, a policy of twenty rules, and an EK list
// in the store.
type Judged struct {
	Plain float64 `json:"plain"`
	Full  float64 `json:"full"`
	Ratio float64 `json:"ratio"` // Full / Plain; goal: at most 1.15
}

const manyLinks = 143

// links returns intermediate CA certificates that do not belong to any EK certificate of the
// benchmark.
func links() ([]*x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for i := range manyLinks {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{Organization: []string{"bench"}, CommonName: fmt.Sprint("link ", i)},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		c, err := fleet.Issue(template, template, key.Public(), key)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// judge measures with the plain and with the full configuration (see Judged) in turns, several
// times, so that a change of the machine's speed affects both results.
func judge(maker *fleet.Maker, h *testHub, requests [][]byte) (*Judged, error) {
	lab := evidence.DefaultPolicy()
	lab.Software = []string{"FAKE"}
	plain, err := evidence.NewTrust(maker.Roots(), maker.Intermediates())
	if err != nil {
		return nil, err
	}
	more, err := links()
	if err != nil {
		return nil, err
	}
	all := append(trust.BuiltIn(), trust.FromX509("bench", maker.Roots(), append(maker.Intermediates(), more...))...)
	loaded, err := evidence.NewTrustOf(trust.NewSet(all...).Anchors())
	if err != nil {
		return nil, err
	}
	text := "version: 1\nsoftware_tpms: [FAKE]\nrules:\n"
	for i := range 19 {
		text += fmt.Sprintf("  - {maker: IFX, model: \"SLB96%02d*\", firmware_below: \"7.85\", then: refuse, reason: known weaknesses}\n", i)
	}
	doc, err := policy.Parse([]byte(text + "  - {maker: FAKE, then: accept}\n"))
	if err != nil {
		return nil, err
	}
	rules := policy.Merge(doc, doc).Evidence
	const owner = "bench"
	listed := make([]store.ListedEK, len(requests))
	for i, body := range requests {
		r, err := evidence.Parse(body)
		if err != nil {
			return nil, err
		}
		key := store.Hash(r.EKHash)
		listed[i] = store.ListedEK{Key: &key}
	}
	ctx, now := context.Background(), time.Now()
	if err := h.store.PutEKList(ctx, owner, listed); err != nil {
		return nil, err
	}
	one := func(body []byte, full bool) error {
		r, err := evidence.Parse(body)
		if err != nil {
			return err
		}
		in := &evidence.Input{Trust: plain, Policy: lab, Now: now}
		if full {
			in.Trust, in.Policy = loaded, rules
			if _, err := h.store.ConfigVersion(ctx); err != nil {
				return err
			}
			l, err := h.store.FindEK(ctx, owner, r.EKHash, r.EKCertificate.Certificate.SerialNumber.Bytes())
			if err != nil {
				return err
			}
			in.Listing = evidence.Listing{Kept: true, ByKey: l.Key != nil, BySerial: l.Key == nil}
		}
		v := new(evidence.Verdict)
		if evidence.Verify(v, r, in); !v.Accepted() {
			return errors.New("bench: the hub did not accept the evidence")
		}
		return nil
	}
	var plains, fulls []float64
	for range 7 {
		for _, full := range []bool{false, true} {
			used, _, err := spent(func() error {
				for _, body := range requests {
					if err := one(body, full); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
			if full {
				fulls = append(fulls, micros(used, len(requests)))
			} else {
				plains = append(plains, micros(used, len(requests)))
			}
		}
	}
	j := &Judged{Plain: median(plains), Full: median(fulls)}
	j.Ratio = j.Full / j.Plain
	return j, nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
