package evidence

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"gangway/tcg"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// constraintError is the error for a chain that ends at a trusted root, but contains a CA that was
// not allowed to issue the certificate below it. `reason` says which constraint of the CA is
// violated.
type constraintError struct{ reason string }

func (e *constraintError) Error() string { return e.reason }

func violates(c *x509.Certificate, format string, a ...any) error {
	return &constraintError{fmt.Sprintf("The CA %q ", c.Subject) + fmt.Sprintf(format, a...)}
}

var (
	oidKeyUsage        = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidSubjectAltName  = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}
	oidEmailAddress    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}
)

// chainMayIssue checks that each CA in a chain allows the certificates below it. The first element
// of `chain` is the EK certificate's issuer. chainMayIssue checks path lengths (RFC 5280, 4.2.1.9),
// the names of the CAs (4.2.1.10), and that an extended key usage, if a CA has one, includes EK
// certificates. It does not check the names of the EK certificate itself; see checkNames.
func chainMayIssue(chain []*x509.Certificate) error {
	below := 0 // number of CA certificates below `c`, without self-issued certificates
	for i, c := range chain {
		if err := mayIssue(c); err != nil {
			return err
		}
		if (c.MaxPathLen > 0 || c.MaxPathLenZero) && c.MaxPathLen < below {
			return violates(c, "allows %d CA certificates below it, but there are %d.", c.MaxPathLen, below)
		}
		if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) &&
			!slices.ContainsFunc(c.UnknownExtKeyUsage, tcg.OIDEKCertificate.Equal) {
			return violates(c, "may not issue EK certificates: its extended key usage does not include them.")
		}
		selfIssued := bytes.Equal(c.RawSubject, c.RawIssuer)
		if !selfIssued {
			below++
			if err := checkNames(c, chain[i+1:]); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkNames checks the names of a certificate against the name constraints of the CAs above it.
func checkNames(c *x509.Certificate, above []*x509.Certificate) error {
	var names []generalName
	for _, ca := range above {
		limits, critical, err := nameConstraints(ca)
		if err != nil {
			return violates(ca, "has name constraints that cannot be read.")
		}
		if limits == nil {
			continue
		}
		if names == nil {
			if names, err = namesOf(c); err != nil {
				return violates(ca, "has name constraints, but the names of a certificate below it cannot be read.")
			}
		}
		for _, n := range names {
			if !limits.allow(n, critical) {
				return violates(ca, "does not allow a certificate below it to have the name %s.", n)
			}
		}
	}
	return nil
}

// generalName is a GeneralName (RFC 5280, 4.2.1.6), with its tag and its DER value. For a
// directoryName, the value is a DER Name.
type generalName struct {
	tag     uint8
	content []byte
}

// Tags of GeneralName.
const (
	tagEmail     = 1
	tagDNS       = 2
	tagDirectory = 4
	tagURI       = 6
	tagIP        = 7
)

func (n generalName) String() string {
	switch n.tag {
	case tagEmail, tagDNS, tagURI:
		return fmt.Sprintf("%q", tcg.Printable(string(n.content)))
	case tagDirectory:
		return "in its subject or its directory names"
	}
	return fmt.Sprintf("of type %d", n.tag)
}

// namesOf returns a certificate's names: the subject (if it is not empty), the subject alternative
// names, and the subject's e-mail addresses.
func namesOf(c *x509.Certificate) (names []generalName, err error) {
	if len(c.RawSubject) > 2 {
		names = append(names, generalName{tagDirectory, c.RawSubject})
	}
	for _, a := range c.Subject.Names {
		if text, ok := a.Value.(string); ok && a.Type.Equal(oidEmailAddress) {
			names = append(names, generalName{tagEmail, []byte(text)})
		}
	}
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidSubjectAltName) {
			continue
		}
		s := cryptobyte.String(e.Value)
		var list cryptobyte.String
		if !s.ReadASN1(&list, casn1.SEQUENCE) || !s.Empty() {
			return nil, errNames
		}
		for !list.Empty() {
			n, ok := readGeneralName(&list)
			if !ok {
				return nil, errNames
			}
			names = append(names, n)
		}
	}
	return names, nil
}

var errNames = errors.New("evidence: unreadable names")

func readGeneralName(s *cryptobyte.String) (n generalName, ok bool) {
	var content cryptobyte.String
	var tag casn1.Tag
	if !s.ReadAnyASN1(&content, &tag) {
		return n, false
	}
	return generalName{uint8(tag) & 0x1F, content}, uint8(tag)&0xC0 == 0x80
}

// constraints is a NameConstraints (RFC 5280, 4.2.1.10). `partly[tag]` is true if a subtree with
// names of the form `tag` has a minimum or maximum, which RFC 5280 does not allow and this package
// does not evaluate.
type constraints struct {
	permitted, excluded []generalName
	partly              map[uint8]bool
}

// nameConstraints returns the name constraints of a CA, or nil if it has none, and reports whether
// they are critical.
func nameConstraints(ca *x509.Certificate) (*constraints, bool, error) {
	for _, e := range ca.Extensions {
		if !e.Id.Equal(oidNameConstraints) {
			continue
		}
		s := cryptobyte.String(e.Value)
		var list cryptobyte.String
		if !s.ReadASN1(&list, casn1.SEQUENCE) || !s.Empty() {
			return nil, e.Critical, errNames
		}
		limits := &constraints{partly: make(map[uint8]bool)}
		for tag, to := range map[uint8]*[]generalName{0: &limits.permitted, 1: &limits.excluded} {
			rest := list
			for !rest.Empty() {
				var trees cryptobyte.String
				var got casn1.Tag
				if !rest.ReadAnyASN1(&trees, &got) {
					return nil, e.Critical, errNames
				}
				if got != casn1.Tag(tag).ContextSpecific().Constructed() {
					continue
				}
				if err := limits.read(trees, to); err != nil {
					return nil, e.Critical, err
				}
			}
		}
		return limits, e.Critical, nil
	}
	return nil, false, nil
}

func (l *constraints) read(trees cryptobyte.String, to *[]generalName) error {
	for !trees.Empty() {
		var tree cryptobyte.String
		if !trees.ReadASN1(&tree, casn1.SEQUENCE) {
			return errNames
		}
		base, ok := readGeneralName(&tree)
		if !ok {
			return errNames
		}
		if !tree.Empty() {
			l.partly[base.tag] = true
		}
		*to = append(*to, base)
	}
	return nil
}

// allow reports whether the constraints allow a name. The name must not be in an excluded subtree
// and, if there are permitted subtrees of the name's form, must be in one of them. A name of a form
// that this package does not support is allowed only if the constraints are not critical.
func (l *constraints) allow(n generalName, critical bool) bool {
	limited := false
	for _, base := range l.excluded {
		if base.tag != n.tag {
			continue
		}
		inside, known := n.within(base)
		if !known || l.partly[n.tag] {
			return !critical
		}
		if inside {
			return false
		}
	}
	for _, base := range l.permitted {
		if base.tag != n.tag {
			continue
		}
		limited = true
		inside, known := n.within(base)
		if !known || l.partly[n.tag] {
			return !critical
		}
		if inside {
			return true
		}
	}
	return !limited
}

// within reports whether a name is in the subtree of `base`, which is a name of the same form. The
// result `known` is false if this package does not support the form.
func (n generalName) within(base generalName) (inside, known bool) {
	name, limit := strings.ToLower(string(n.content)), strings.ToLower(string(base.content))
	switch n.tag {
	case tagDirectory:
		return tcg.WithinName(n.content, base.content), true
	case tagDNS:
		return limit == "" || name == limit || strings.HasSuffix(name, "."+strings.TrimPrefix(limit, ".")), true
	case tagEmail:
		_, host, _ := strings.Cut(name, "@")
		if strings.Contains(limit, "@") {
			return name == limit, true
		}
		return hostWithin(host, limit), true
	case tagURI:
		u, err := url.Parse(name)
		if err != nil || u.Hostname() == "" {
			return false, false
		}
		return hostWithin(u.Hostname(), limit), true
	case tagIP:
		ip, net := n.content, base.content
		if len(net) != 2*len(ip) {
			return false, len(net) == 8 || len(net) == 32
		}
		for i := range ip {
			if ip[i]&net[len(ip)+i] != net[i]&net[len(ip)+i] {
				return false, true
			}
		}
		return true, true
	}
	return false, false
}

// hostWithin reports whether `limit`, a DNS name in a name constraint, covers `host`. A limit that
// begins with a dot covers all hosts of the domain. Any other limit covers only the host that it
// names.
func hostWithin(host, limit string) bool {
	if strings.HasPrefix(limit, ".") {
		return strings.HasSuffix(host, limit)
	}
	return host == limit
}
