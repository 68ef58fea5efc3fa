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

// CRLMode says how revocation lists (CRLs) are used.
type CRLMode int

const (
	CRLsOff  CRLMode = iota // no list is fetched
	CRLsSoft                // an unavailable list is a note
	CRLsHard                // an unavailable list is a refusal
)

// Codes of refusals made here.
const (
	CodeRevoked   = "ek-certificate-revoked"
	CodeCARevoked = "ek-chain-revoked"
)

const (
	clockSkew = 5 * time.Minute
	maxKeep   = 7 * 24 * time.Hour // a list is fetched again after this time, even before its nextUpdate
)

// ChecksCRLs reports whether Revocation checks anything.
func (f *Fetcher) ChecksCRLs() bool { return f.crls != CRLsOff }

// Revocation checks the leaf and the CAs above it against the revocation lists that they name
// (distribution points). The root is not checked. chain is the leaf's issuer, then its issuer, and
// so on up to the root. It returns notes for the verdict, and a refusal if a certificate is revoked
// or, in mode CRLsHard, if its status is not known. A certificate that names no list cannot be
// revoked: that is a note in both modes.
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
			return notes, &evidence.Refusal{Code: evidence.CodeRevocationUnknown, Reason: fmt.Sprintf("The hub cannot find out whether %s is revoked: %v.", what, err), Hint: "Retry later, allow the hub to reach the maker's host, or set the hub's revocation check to soft."}
		case err != nil:
			notes = append(notes, fmt.Sprintf("it is not known whether %s is revoked: %v", what, err))
		case revoked && i == 0:
			return notes, &evidence.Refusal{Code: CodeRevoked, Reason: "The TPM's maker has revoked its EK certificate.", Hint: "Do not use this machine. Ask its maker for the reason."}
		case revoked:
			return notes, &evidence.Refusal{Code: CodeCARevoked, Reason: fmt.Sprintf("The TPM's maker has revoked %s, which is above the EK certificate.", what), Hint: "Ask the machine's maker for the reason."}
		}
	}
	return notes, nil
}

// revoked looks for c in the first valid list that is available from its distribution points.
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
	serials map[string]bool // the serial numbers, as the bytes of unsigned numbers
	scope   scope
	fault   error // the reason if the list is not usable

	mu sync.Mutex
	by map[[32]byte]bool // issuer: whether it signed the list
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
		//lint:ignore SA1019 it is a copy of them
		crl.RevokedCertificates = nil
		a.parsed = l
	})
	l, _ := a.parsed.(*list)
	return l, a.parseErr
}

// crlKeep returns how long to cache a list: until its nextUpdate, within bounds.
func (a *answer) crlKeep(now time.Time) time.Duration {
	l, err := a.list()
	if err != nil || l.crl.NextUpdate.IsZero() {
		return keepFailure
	}
	return max(keepFailure, min(l.crl.NextUpdate.Sub(now), maxKeep))
}

// check returns an error if the list is not valid for the certificate c.
func (l *list) check(c, issuer *x509.Certificate, now time.Time) error {
	switch {
	case l.fault != nil:
		return l.fault
	case now.Add(clockSkew).Before(l.crl.ThisUpdate):
		return errors.New("its revocation list is not yet valid")
	case l.crl.NextUpdate.IsZero() || now.After(l.crl.NextUpdate):
		return fmt.Errorf("its revocation list expired on %s", l.crl.NextUpdate.Format(time.DateOnly))
	case !bytes.Equal(tcg.CanonicalName(l.crl.RawIssuer), tcg.CanonicalName(issuer.RawSubject)):
		return errors.New("its revocation list was issued by another CA")
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

// unsigned returns the number that has the same bytes without a sign. So a negative serial number
// of a certificate is compared as the unsigned number that its bytes encode.
func unsigned(n *big.Int) *big.Int {
	if n.Sign() >= 0 {
		return n
	}
	size := new(big.Int).Not(n).BitLen()/8 + 1
	return new(big.Int).Add(n, new(big.Int).Lsh(big.NewInt(1), uint(8*size)))
}

// scope is the kind of certificates that a list covers (RFC 5280, 5.2.5).
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
				return 0, errors.New("its revocation list is of an unsupported kind")
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
			case tag == casn1.Tag(0).Constructed().ContextSpecific(): // the distribution point's name
			case tag == casn1.Tag(1).ContextSpecific() && set:
				s = scopeUser
			case tag == casn1.Tag(2).ContextSpecific() && set:
				s = scopeCA
			case !set && len(value) == 1:
			default:
				return 0, errors.New("its revocation list is of an unsupported kind")
			}
		}
	}
	return s, nil
}
