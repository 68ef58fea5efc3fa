package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"gangway/hub/evidence"
	"gangway/tcg"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// CRLMode is what to do about revocation lists.
type CRLMode int

const (
	CRLsOff  CRLMode = iota // none is looked up
	CRLsSoft                // one that cannot be had is a note
	CRLsHard                // one that cannot be had is a refusal
)

// Codes of refusals made here.
const (
	CodeRevoked   = "ek-certificate-revoked"
	CodeCARevoked = "ek-chain-revoked"
)

const (
	clockSkew = 5 * time.Minute
	maxKeep   = 7 * 24 * time.Hour // a list is fetched again after this, whatever its nextUpdate
)

// ChecksCRLs reports whether Revocation does anything.
func (f *Fetcher) ChecksCRLs() bool { return f.crls != CRLsOff }

// Revocation looks for the leaf and the CAs above it in the lists that they
// name (distribution points), up to the root, which is not in any. chain is
// the leaf's issuer, then its issuer, and so on up to the root. It returns
// notes for the verdict, and a refusal if one is revoked or, in mode hard, if
// it cannot be known. A certificate that names no list cannot be revoked in
// one: that is a note, in both modes.
func (f *Fetcher) Revocation(ctx context.Context, leaf *x509.Certificate, chain []*x509.Certificate) (notes []string, refusal *evidence.Refusal) {
	if f.crls == CRLsOff {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, waitTimeout)
	defer cancel()
	for i, issuer := range chain {
		c, what := leaf, "the EK certificate"
		if i > 0 {
			c, what = chain[i-1], fmt.Sprintf("the CA certificate of %q", chain[i-1].Subject)
		}
		if len(c.CRLDistributionPoints) == 0 {
			notes = append(notes, fmt.Sprintf("%s names no revocation list", what))
			continue
		}
		revoked, err := f.revoked(ctx, c, issuer)
		switch {
		case err != nil && f.crls == CRLsHard:
			return notes, &evidence.Refusal{Code: evidence.CodeRevocationUnknown, Reason: fmt.Sprintf("Whether %s is revoked cannot be known: %v.", what, err), Hint: "Try again later, let the hub reach the maker's host, or check revocation softly."}
		case err != nil:
			notes = append(notes, fmt.Sprintf("whether %s is revoked is not known: %v", what, err))
		case revoked && i == 0:
			return notes, &evidence.Refusal{Code: CodeRevoked, Reason: "The TPM's maker has revoked its EK certificate.", Hint: "Do not use this machine; ask its maker why."}
		case revoked:
			return notes, &evidence.Refusal{Code: CodeCARevoked, Reason: fmt.Sprintf("The TPM's maker has revoked %s, which stands above the EK certificate.", what), Hint: "Ask the machine's maker why."}
		}
	}
	return notes, nil
}

// revoked looks for c in the first list of its distribution points that can be
// had and is good.
func (f *Fetcher) revoked(ctx context.Context, c, issuer *x509.Certificate) (bool, error) {
	var last error
	for _, raw := range c.CRLDistributionPoints[:min(len(c.CRLDistributionPoints), maxURLs)] {
		u, err := f.target(raw, f.crlHosts)
		if err != nil {
			last = err
			continue
		}
		a := f.get(ctx, u, maxCRL, func(a *answer) time.Duration { return a.crlKeep(f.now()) })
		l, err := a.list()
		if err == nil {
			err = l.good(c, issuer, f.now())
		}
		if err != nil {
			last = fmt.Errorf("%s: %w", u.Hostname(), err)
			continue
		}
		return l.has(c.SerialNumber), nil
	}
	return false, last
}

// list is a parsed revocation list.
type list struct {
	crl     *x509.RevocationList
	serials map[string]bool // as unsigned numbers, in bytes
	scope   scope
	fault   error // why it says nothing of anybody

	mu sync.Mutex
	by map[[32]byte]bool // issuers whose signature it has, or not
}

// list parses an answer once.
func (a *answer) list() (*list, error) {
	if a.err != nil {
		return nil, a.err
	}
	a.parse.Do(func() {
		crl, err := x509.ParseRevocationList(a.body)
		if err != nil {
			a.fault = errors.New("the answer is no revocation list")
			return
		}
		l := &list{crl: crl, serials: make(map[string]bool, len(crl.RevokedCertificateEntries)), by: map[[32]byte]bool{}}
		for _, e := range crl.RevokedCertificateEntries {
			l.serials[string(unsigned(e.SerialNumber).Bytes())] = true
		}
		l.scope, l.fault = scopeOf(crl)
		crl.RevokedCertificateEntries = nil
		//lint:ignore SA1019 it is another copy of them
		crl.RevokedCertificates = nil
		a.made = l
	})
	l, _ := a.made.(*list)
	return l, a.fault
}

// crlKeep says how long a list is kept: until its nextUpdate.
func (a *answer) crlKeep(now time.Time) time.Duration {
	l, err := a.list()
	if err != nil || l.crl.NextUpdate.IsZero() {
		return keepFailure
	}
	return max(keepFailure, min(l.crl.NextUpdate.Sub(now), maxKeep))
}

// good reports why a list cannot be asked about a certificate; nil if it can.
func (l *list) good(c, issuer *x509.Certificate, now time.Time) error {
	switch {
	case l.fault != nil:
		return l.fault
	case now.Add(clockSkew).Before(l.crl.ThisUpdate):
		return errors.New("its revocation list is of the future")
	case l.crl.NextUpdate.IsZero() || now.After(l.crl.NextUpdate):
		return fmt.Errorf("its revocation list ended on %s", l.crl.NextUpdate.Format(time.DateOnly))
	case !bytes.Equal(tcg.CanonicalName(l.crl.RawIssuer), tcg.CanonicalName(issuer.RawSubject)):
		return errors.New("its revocation list is another CA's")
	case c.IsCA && l.scope == scopeUser || !c.IsCA && l.scope == scopeCA:
		return errors.New("its revocation list is for other certificates")
	}
	if !l.signedBy(issuer) {
		return errors.New("its revocation list is not signed by the CA")
	}
	return nil
}

func (l *list) signedBy(issuer *x509.Certificate) bool {
	key := sha256.Sum256(issuer.Raw)
	l.mu.Lock()
	ok, known := l.by[key]
	l.mu.Unlock()
	if known {
		return ok
	}
	ok = l.crl.CheckSignatureFrom(issuer) == nil
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.by) < 16 {
		l.by[key] = ok
	}
	return ok
}

func (l *list) has(serial *big.Int) bool { return l.serials[string(unsigned(serial).Bytes())] }

// unsigned is the number that a serial's bytes are without a sign, which is
// how a certificate's negative serial is read.
func unsigned(n *big.Int) *big.Int {
	if n.Sign() >= 0 {
		return n
	}
	size := new(big.Int).Not(n).BitLen()/8 + 1
	return new(big.Int).Add(n, new(big.Int).Lsh(big.NewInt(1), uint(8*size)))
}

// scope is which certificates a list is for (RFC 5280, 5.2.5).
type scope int

const (
	scopeAll scope = iota
	scopeUser
	scopeCA
)

var oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}

// scopeOf reads a list's issuing distribution point. Lists that need more to
// be understood (indirect, delta, for some reasons only) are an error.
func scopeOf(crl *x509.RevocationList) (s scope, err error) {
	for _, ext := range crl.Extensions {
		if !ext.Id.Equal(oidIssuingDistributionPoint) {
			if ext.Critical {
				return 0, errors.New("its revocation list is of a kind that is not understood")
			}
			continue
		}
		der := cryptobyte.String(ext.Value)
		var fields cryptobyte.String
		if !der.ReadASN1(&fields, casn1.SEQUENCE) {
			return 0, errors.New("its revocation list cannot be read")
		}
		for !fields.Empty() {
			var value cryptobyte.String
			var tag casn1.Tag
			if !fields.ReadAnyASN1(&value, &tag) {
				return 0, errors.New("its revocation list cannot be read")
			}
			set := len(value) == 1 && value[0] != 0
			switch {
			case tag == casn1.Tag(0).Constructed().ContextSpecific(): // where it is published
			case tag == casn1.Tag(1).ContextSpecific() && set:
				s = scopeUser
			case tag == casn1.Tag(2).ContextSpecific() && set:
				s = scopeCA
			case !set && len(value) == 1:
			default:
				return 0, errors.New("its revocation list is of a kind that is not understood")
			}
		}
	}
	return s, nil
}
