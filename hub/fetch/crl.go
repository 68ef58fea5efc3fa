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

// CRLMode says how the hub uses certificate revocation lists (CRLs).
type CRLMode int

const (
	CRLsOff  CRLMode = iota // no CRL is fetched
	CRLsSoft                // an unavailable CRL adds a note to the verdict, and the check goes on
	CRLsHard                // an unavailable CRL is a refusal
)

// Codes of refusals for revoked certificates.
const (
	CodeRevoked   = "ek-certificate-revoked"
	CodeCARevoked = "ek-chain-revoked"
)

const (
	clockSkew = 5 * time.Minute
	maxKeep   = 7 * 24 * time.Hour // a CRL is fetched again after this time, even before its nextUpdate
)

// ChecksCRLs reports whether Revocation checks anything.
func (f *Fetcher) ChecksCRLs() bool { return f.crls != CRLsOff }

// Revocation checks whether the EK certificate `leaf` and the CA certificates above it are revoked,
// by the revocation lists at the URLs that each certificate names (CRL distribution points).
// `chain` has the issuer of `leaf` first, then the issuer's issuer, and so on up to the root, which
// is not checked. Revocation returns a refusal if a certificate is revoked or, in mode CRLsHard, if
// the status of a certificate is not known. A certificate that names no revocation list counts as
// not revoked, but gets a note. `notes` are notes for the verdict.
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
			notes = append(notes, fmt.Sprintf("%s names no revocation list, so it was not checked for revocation", what))
			continue
		}
		revoked, err := f.revoked(ctx, c, issuer)
		switch {
		case err != nil && f.crls == CRLsHard:
			return notes, &evidence.Refusal{Code: evidence.CodeRevocationUnknown, Reason: fmt.Sprintf("The hub could not check whether %s is revoked: %v.", what, err), Hint: "Retry later, allow the hub to reach the maker's host, or set the hub's revocation check to soft."}
		case err != nil:
			notes = append(notes, fmt.Sprintf("the hub could not check whether %s is revoked: %v", what, err))
		case revoked && i == 0:
			return notes, &evidence.Refusal{Code: CodeRevoked, Reason: "The maker of the TPM has revoked the TPM's EK certificate.", Hint: "Do not use this machine. Ask its maker for the reason."}
		case revoked:
			return notes, &evidence.Refusal{Code: CodeCARevoked, Reason: fmt.Sprintf("The TPM's maker has revoked %s, which is in the chain of the EK certificate.", what), Hint: "Ask the machine's maker for the reason."}
		}
	}
	return notes, nil
}

// revoked reports whether the certificate `c` is on the first valid revocation list of its
// distribution points. If no list is valid, it returns the last error.
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
			err = l.check(c, issuer, f.now())
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
	serials map[string]bool // the revoked serial numbers, each as the big-endian bytes of an unsigned number
	scope   scope
	fault   error // why the list cannot be used; nil if the list can be used

	mu sync.Mutex
	by map[[32]byte]bool // whether an issuer signed the list; the key is the SHA-256 of the issuer's DER
}

// list returns the revocation list of an answer. It parses the body only once.
func (a *answer) list() (*list, error) {
	if a.err != nil {
		return nil, a.err
	}
	a.parse.Do(func() {
		crl, err := x509.ParseRevocationList(a.body)
		if err != nil {
			a.parseErr = errors.New("the response is not a revocation list")
			return
		}
		l := &list{crl: crl, serials: make(map[string]bool, len(crl.RevokedCertificateEntries)), by: map[[32]byte]bool{}}
		for _, e := range crl.RevokedCertificateEntries {
			l.serials[string(unsigned(e.SerialNumber).Bytes())] = true
		}
		l.scope, l.fault = scopeOf(crl)
		crl.RevokedCertificateEntries = nil
		//lint:ignore SA1019 this deprecated field has a second copy of the entries
		crl.RevokedCertificates = nil
		a.parsed = l
	})
	l, _ := a.parsed.(*list)
	return l, a.parseErr
}

// crlKeep returns how long to cache a revocation list: until the list's nextUpdate, but at least
// keepFailure and at most maxKeep.
func (a *answer) crlKeep(now time.Time) time.Duration {
	l, err := a.list()
	if err != nil || l.crl.NextUpdate.IsZero() {
		return keepFailure
	}
	return max(keepFailure, min(l.crl.NextUpdate.Sub(now), maxKeep))
}

// check returns an error if the list does not apply to the certificate `c`, is not signed by the CA
// `issuer`, or is not valid at the time `now`.
func (l *list) check(c, issuer *x509.Certificate, now time.Time) error {
	switch {
	case l.fault != nil:
		return l.fault
	case now.Add(clockSkew).Before(l.crl.ThisUpdate):
		return errors.New("the revocation list is not valid yet")
	case l.crl.NextUpdate.IsZero() || now.After(l.crl.NextUpdate):
		return fmt.Errorf("the revocation list expired on %s", l.crl.NextUpdate.Format(time.DateOnly))
	case !bytes.Equal(tcg.CanonicalName(l.crl.RawIssuer), tcg.CanonicalName(issuer.RawSubject)):
		return errors.New("the revocation list was issued by another CA")
	case c.IsCA && l.scope == scopeUser || !c.IsCA && l.scope == scopeCA:
		return errors.New("the revocation list covers another kind of certificate")
	}
	if !l.signedBy(issuer) {
		return errors.New("the revocation list is not signed by the certificate's issuer")
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

// unsigned returns the number that the bytes of `n` (two's complement) encode without a sign. It
// makes serial numbers comparable, because some makers encode them as negative numbers by mistake.
func unsigned(n *big.Int) *big.Int {
	if n.Sign() >= 0 {
		return n
	}
	size := new(big.Int).Not(n).BitLen()/8 + 1
	return new(big.Int).Add(n, new(big.Int).Lsh(big.NewInt(1), uint(8*size)))
}

// scope says which certificates a revocation list covers, for example only those of CAs (RFC 5280,
// 5.2.5).
type scope int

const (
	scopeAll scope = iota
	scopeUser
	scopeCA
)

var oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}

// scopeOf returns the scope from a list's issuing distribution point. It returns an error for an
// indirect list, a delta list, or a list that covers only some reasons for revocation.
func scopeOf(crl *x509.RevocationList) (s scope, err error) {
	for _, ext := range crl.Extensions {
		if !ext.Id.Equal(oidIssuingDistributionPoint) {
			if ext.Critical {
				return 0, errors.New("the revocation list is of an unsupported kind")
			}
			continue
		}
		der := cryptobyte.String(ext.Value)
		var fields cryptobyte.String
		if !der.ReadASN1(&fields, casn1.SEQUENCE) {
			return 0, errors.New("the revocation list is malformed")
		}
		for !fields.Empty() {
			var value cryptobyte.String
			var tag casn1.Tag
			if !fields.ReadAnyASN1(&value, &tag) {
				return 0, errors.New("the revocation list is malformed")
			}
			set := len(value) == 1 && value[0] != 0
			switch {
			case tag == casn1.Tag(0).Constructed().ContextSpecific(): // the distribution point's name, which is not needed
			case tag == casn1.Tag(1).ContextSpecific() && set:
				s = scopeUser
			case tag == casn1.Tag(2).ContextSpecific() && set:
				s = scopeCA
			case !set && len(value) == 1:
			default:
				return 0, errors.New("the revocation list is of an unsupported kind")
			}
		}
	}
	return s, nil
}
