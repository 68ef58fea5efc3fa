package evidence

import (
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

// Trust is a set of TPM makers' certificates: trusted roots, and untrusted intermediates for
// building chains. It never changes, so it can cache the results of verifications. It is safe for
// concurrent use.
type Trust struct {
	roots         *x509.CertPool
	intermediates *x509.CertPool
	bySubject     map[string][]candidate // roots and intermediates, by canonical subject
	// subjects maps the subjects of the roots and intermediates, as they are in the certificates, to
	// canonical subjects. Almost every EK certificate names its issuer as the issuer's certificate
	// does, so the canonical name of its issuer is here.
	subjects map[string]string

	// verified caches CA certificates that chain to a root, so that only one signature must be
	// verified for an EK certificate. The key is the SHA-256 of the CA certificate's DER.
	// Certificates from a request are cached too, because the results do not depend on the sender.
	// Failures are not cached, so that nobody can fill the memory with them.
	mu       sync.Mutex
	verified map[[32]byte][]*verifiedCA

	origins        map[[32]byte]string // as Anchors.Origins
	withDistrusted *Trust              // also accepts the distrusted CAs; nil if no CA is distrusted
}

// candidate is a CA certificate with canonical names that may be the issuer of an EK certificate.
type candidate struct {
	*x509.Certificate
	hash [32]byte // SHA-256 of the DER
}

func newCandidate(c *x509.Certificate) candidate {
	return candidate{canonical(c), sha256.Sum256(c.Raw)}
}

// verifiedCA is a CA certificate with one of its chains.
type verifiedCA struct {
	cert  candidate
	chain []*x509.Certificate // `cert`, then the CA certificates above it, up to the root
	words string              // a sentence that names the issuer and the root
	// The chain is valid from the latest notBefore to the earliest notAfter.
	from, until time.Time
}

// maxVerified is the maximum number of cached CAs. All makers together have a few hundred CAs.
const maxVerified = 4096

func newTrust(a Anchors, bar func([]*x509.Certificate) error) (*Trust, error) {
	t := &Trust{
		origins:       a.Origins,
		roots:         x509.NewCertPool(),
		intermediates: x509.NewCertPool(),
		bySubject:     make(map[string][]candidate),
		subjects:      make(map[string]string),
		verified:      make(map[[32]byte][]*verifiedCA),
	}
	for _, c := range a.Roots {
		if !c.IsCA {
			return nil, fmt.Errorf("evidence: %q cannot be a root: it is not a CA certificate", c.Subject)
		}
		t.roots.AddCertWithConstraint(t.add(c), bar)
	}
	for _, c := range a.Intermediates {
		t.intermediates.AddCert(t.add(c))
	}
	return t, nil
}

// add makes a CA certificate a possible issuer, and returns it with canonical names.
func (t *Trust) add(c *x509.Certificate) *x509.Certificate {
	ca := newCandidate(c)
	name := string(ca.RawSubject)
	t.bySubject[name] = append(slices.Clip(t.bySubject[name]), ca)
	t.subjects[string(c.RawSubject)] = name
	return ca.Certificate
}

var (
	errUntrusted = errors.New("no chain to a trusted root")
	errExpired   = errors.New("a CA certificate of the chain is expired or not yet valid")
)

// chain verifies the signature of the EK certificate `leaf`, and the chain from its issuer up to a
// root, and returns the issuer. The argument `extra` has DER certificates from the device, which
// may be intermediates of the chain, but never its root.
func (t *Trust) chain(leaf *tcg.EKCertificate, extra [][]byte, now time.Time) (*verifiedCA, error) {
	ca, err := t.find(leaf, extra, now)
	if err == nil || t.withDistrusted == nil {
		return ca, err
	}
	_, other := t.withDistrusted.find(leaf, extra, now)
	if errors.Is(other, errExpired) {
		// A CA certificate of the distrusted chain has expired. Verify the chain at the time when
		// the EK certificate was issued. At the present time, the chain would count as unknown, so
		// a person could accept it.
		then := leaf.Certificate.NotBefore
		if _, trusted := t.find(leaf, extra, then); trusted == nil {
			return nil, err
		}
		_, other = t.withDistrusted.find(leaf, extra, then)
	}
	if other == nil {
		err = errDistrusted
	}
	return nil, err
}

func (t *Trust) find(leaf *tcg.EKCertificate, extra [][]byte, now time.Time) (*verifiedCA, error) {
	var sent []candidate
	best := errUntrusted
	issuerName, ok := t.subjects[string(leaf.Certificate.RawIssuer)]
	if !ok {
		issuerName = string(tcg.CanonicalName(leaf.Certificate.RawIssuer))
	}
	try := func(candidates []candidate) *verifiedCA {
		for _, issuer := range candidates {
			if string(issuer.RawSubject) != issuerName {
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
				if err = checkNames(leaf.Certificate, ca.chain); err == nil {
					return ca
				}
			}
			best = err
		}
		return nil
	}
	if c := try(t.bySubject[issuerName]); c != nil {
		return c, nil
	}
	// No known issuer signed the EK certificate. Try the certificates that the device sent, first
	// those with cached results, so that a TPM's own chain is parsed and verified only once.
	t.mu.Lock()
	var known []candidate
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
			sent = append(sent, newCandidate(cert))
		}
	}
	if len(sent) > 0 {
		if c := try(sent); c != nil {
			return c, nil
		}
		// The chain above a known issuer may need a certificate that the device sent.
		if c := try(t.bySubject[issuerName]); c != nil {
			return c, nil
		}
	}
	return nil, best
}

// verifyCA returns the chains from a CA certificate to a root, or an error if there is no chain.
func (t *Trust) verifyCA(ca candidate, sent []candidate, now time.Time) (good []*verifiedCA, err error) {
	t.mu.Lock()
	for _, v := range t.verified[ca.hash] {
		if !now.Before(v.from) && !now.After(v.until) {
			good = append(good, v)
		}
	}
	t.mu.Unlock()
	if len(good) > 0 {
		return good, nil
	}
	if err := mayIssue(ca.Certificate); err != nil {
		return nil, err
	}
	pool := t.intermediates
	if len(sent) > 0 {
		pool = pool.Clone()
		for _, c := range sent {
			pool.AddCert(c.Certificate)
		}
	}
	chains, err := ca.Verify(x509.VerifyOptions{
		Roots:         t.roots,
		Intermediates: pool,
		CurrentTime:   now,
		// crypto/x509 does not support the extended key usage of EK certificates, so chainMayIssue
		// checks it.
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		var invalid x509.CertificateInvalidError
		switch {
		case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
			return nil, errExpired
		case errors.As(err, &invalid) && (invalid.Reason == x509.TooManyIntermediates || invalid.Reason == x509.CANotAuthorizedForThisName):
			return nil, &constraintError{"A CA certificate of the EK certificate's chain does not allow the certificates below it."}
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
	t.verified[ca.hash] = good
	t.mu.Unlock()
	return good, nil
}

// mayIssue checks that `c` is a CA certificate, and that its key may sign certificates. crypto/x509
// does not check this for the issuer of the EK certificate, because it starts from the issuer.
// Without this check, the EK certificate of one device could "issue" the EK certificate of another
// device.
func mayIssue(c *x509.Certificate) error {
	if !c.BasicConstraintsValid || !c.IsCA {
		return errors.New("the issuer is not a CA")
	}
	hasUsage := slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidKeyUsage) })
	if hasUsage && c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("the issuer's key is not for signing certificates")
	}
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return errors.New("the issuer's RSA key has fewer than 2048 bits")
		}
	case *ecdsa.PublicKey:
	default:
		return errors.New("the issuer's key is neither RSA nor ECDSA")
	}
	return nil
}
