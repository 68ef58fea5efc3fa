package evidence

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"gangway/tcg"
)

// Trust is a set of makers' certificates: the roots, which alone are trusted,
// and intermediates to build chains with. It is safe for concurrent use and
// never changes; what it remembers are results that follow from it.
type Trust struct {
	roots         *x509.CertPool
	intermediates *x509.CertPool
	bySubject     map[string][]*x509.Certificate // all of both, by canonical subject

	// verified remembers CA certificates that chain to a root, by the SHA-256
	// of their DER: an EK leaf then costs one signature. Results of
	// certificates that a request brought are remembered too, since they are
	// true of the certificate whoever brought it; failures are not, so that
	// nobody can fill the memory with them.
	mu       sync.Mutex
	verified map[[32]byte][]*verifiedCA

	origins  map[[32]byte]string // as in Anchors
	unbarred *Trust              // nil where nothing is distrusted
}

// verifiedCA is a CA certificate with one of its chains.
type verifiedCA struct {
	cert  *x509.Certificate
	chain []*x509.Certificate // cert, and above it up to the root
	words string              // who signed, up to whom: a sentence
	// The chain holds from the latest notBefore to the earliest notAfter.
	from, until time.Time
}

// maxVerified bounds the memory; makers have a few hundred CAs altogether.
const maxVerified = 4096

func newTrust(a Anchors, bar func([]*x509.Certificate) error) (*Trust, error) {
	t := &Trust{
		origins:       a.Origins,
		roots:         x509.NewCertPool(),
		intermediates: x509.NewCertPool(),
		bySubject:     make(map[string][]*x509.Certificate),
		verified:      make(map[[32]byte][]*verifiedCA),
	}
	for _, c := range a.Roots {
		if !c.IsCA {
			return nil, fmt.Errorf("evidence: %q is no CA certificate and cannot be a root", c.Subject)
		}
		c = canonical(c)
		t.roots.AddCertWithConstraint(c, bar)
		t.bySubject[string(c.RawSubject)] = append(t.bySubject[string(c.RawSubject)], c)
	}
	for _, c := range a.Intermediates {
		c = canonical(c)
		t.intermediates.AddCert(c)
		t.bySubject[string(c.RawSubject)] = append(t.bySubject[string(c.RawSubject)], c)
	}
	return t, nil
}

var (
	errUntrusted = errors.New("no chain to a trusted root")
	errExpired   = errors.New("a CA certificate of the chain is expired or not yet valid")
)

// chain returns the issuer of the EK certificate, after checking the leaf's
// signature and everything above it up to a root. extra are DER certificates
// that the device sent: untrusted, but possible links.
func (t *Trust) chain(leaf *tcg.EKCertificate, extra [][]byte, now time.Time) (*verifiedCA, error) {
	ca, err := t.find(leaf, extra, now)
	if err == nil || t.unbarred == nil {
		return ca, err
	}
	_, other := t.unbarred.find(leaf, extra, now)
	if errors.Is(other, errExpired) {
		// That a CA has expired makes it neither unknown nor trusted.
		then := leaf.Certificate.NotBefore
		if _, trusted := t.find(leaf, extra, then); trusted == nil {
			return nil, err
		}
		_, other = t.unbarred.find(leaf, extra, then)
	}
	if other == nil {
		err = errDistrusted
	}
	return nil, err
}

func (t *Trust) find(leaf *tcg.EKCertificate, extra [][]byte, now time.Time) (*verifiedCA, error) {
	var sent []*x509.Certificate
	best := errUntrusted
	issuerName := tcg.CanonicalName(leaf.Certificate.RawIssuer)
	try := func(candidates []*x509.Certificate) *verifiedCA {
		for _, issuer := range candidates {
			if !bytes.Equal(issuer.RawSubject, issuerName) {
				continue
			}
			chains, err := t.verifyCA(issuer, sent, now)
			var constrained *constraintError
			if errors.Is(err, errExpired) || errors.As(err, &constrained) {
				best = err
			}
			if err != nil || issuer.CheckSignature(leaf.Certificate.SignatureAlgorithm, leaf.Certificate.RawTBSCertificate, leaf.Certificate.Signature) != nil {
				continue
			}
			for _, ca := range chains {
				if err = namesHold(leaf.Certificate, ca.chain); err == nil {
					return ca
				}
			}
			best = err
		}
		return nil
	}
	if c := try(t.bySubject[string(issuerName)]); c != nil {
		return c, nil
	}
	// Known ones did not do: look at what the device sent, remembered results
	// first, so that a chip's own chain is parsed and verified once.
	t.mu.Lock()
	var known []*x509.Certificate
	for _, der := range extra {
		if chains := t.verified[sha256.Sum256(der)]; len(chains) > 0 {
			known = append(known, chains[0].cert)
		}
	}
	t.mu.Unlock()
	if c := try(known); c != nil {
		return c, nil
	}
	for _, der := range extra {
		if cert, err := x509.ParseCertificate(der); err == nil {
			sent = append(sent, canonical(cert))
		}
	}
	if len(sent) > 0 {
		if c := try(sent); c != nil {
			return c, nil
		}
		// A known issuer may need one of the sent certificates above it.
		if c := try(t.bySubject[string(issuerName)]); c != nil {
			return c, nil
		}
	}
	return nil, best
}

// verifyCA returns the chains of a CA certificate to a root, at least one, or
// an error.
func (t *Trust) verifyCA(ca *x509.Certificate, sent []*x509.Certificate, now time.Time) (good []*verifiedCA, err error) {
	key := sha256.Sum256(ca.Raw)
	t.mu.Lock()
	for _, v := range t.verified[key] {
		if !now.Before(v.from) && !now.After(v.until) {
			good = append(good, v)
		}
	}
	t.mu.Unlock()
	if len(good) > 0 {
		return good, nil
	}
	if err := mayIssue(ca); err != nil {
		return nil, err
	}
	pool := t.intermediates
	if len(sent) > 0 {
		pool = pool.Clone()
		for _, c := range sent {
			pool.AddCert(c)
		}
	}
	chains, err := ca.Verify(x509.VerifyOptions{
		Roots:         t.roots,
		Intermediates: pool,
		CurrentTime:   now,
		// The usage of an EK certificate is none that crypto/x509 knows; see
		// chainMayIssue.
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		var invalid x509.CertificateInvalidError
		switch {
		case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
			return nil, errExpired
		case errors.As(err, &invalid) && (invalid.Reason == x509.TooManyIntermediates || invalid.Reason == x509.CANotAuthorizedForThisName):
			return nil, &constraintError{"A CA certificate above it does not allow the ones below it."}
		}
		return nil, errUntrusted
	}
	err = errUntrusted
	for _, chain := range chains {
		if broken := chainMayIssue(chain); broken != nil {
			err = broken
			continue
		}
		v := &verifiedCA{cert: ca, chain: chain, from: ca.NotBefore, until: ca.NotAfter,
			words: fmt.Sprintf("Signed by %q, up to the trusted root %q.", ca.Subject, chain[len(chain)-1].Subject)}
		for _, c := range chain {
			if c.NotBefore.After(v.from) {
				v.from = c.NotBefore
			}
			if c.NotAfter.Before(v.until) {
				v.until = c.NotAfter
			}
		}
		v.words += t.origin(chain[len(chain)-1])
		good = append(good, v)
	}
	if len(good) == 0 {
		return nil, err
	}
	t.mu.Lock()
	if len(t.verified) >= maxVerified {
		clear(t.verified)
	}
	t.verified[key] = good
	t.mu.Unlock()
	return good, nil
}

// mayIssue checks that a certificate is a CA's. x509.Verify does not ask this
// of the certificate that it starts from, which here is the leaf's issuer:
// without it, one device's EK certificate could "issue" another's.
func mayIssue(c *x509.Certificate) error {
	if !c.BasicConstraintsValid || !c.IsCA {
		return errors.New("the issuer is no CA")
	}
	said := slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidKeyUsage) })
	if said && c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("the issuer's key is not for signing certificates")
	}
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return errors.New("the issuer's RSA key has less than 2048 bits")
		}
	case *ecdsa.PublicKey:
	default:
		return errors.New("the issuer's key is neither RSA nor ECDSA")
	}
	return nil
}
