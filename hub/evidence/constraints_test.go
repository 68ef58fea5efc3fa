package evidence_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"strings"
	"testing"

	"gangway/hub/evidence"
	"gangway/internal/fleet"
	"gangway/tcg"
)

// subtree returns a GeneralSubtree (RFC 5280, 4.2.1.10). The argument `tag` is the tag of the
// GeneralName, and `content` is its value.
func subtree(t testing.TB, tag int, content []byte) []byte {
	return must(asn1.Marshal(struct{ Base asn1.RawValue }{asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: tag == 4 || tag == 0, Bytes: content}}))(t)
}

// constrain returns a function that adds a name constraints extension to a template.
func constrain(t testing.TB, critical bool, permitted, excluded []byte) func(*x509.Certificate) {
	var list []asn1.RawValue
	for i, trees := range [][]byte{permitted, excluded} {
		if trees != nil {
			list = append(list, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: i, IsCompound: true, Bytes: trees})
		}
	}
	value := must(asn1.Marshal(list))(t)
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 30}, Critical: critical, Value: value})
	}
}

func dn(t testing.TB, names ...pkix.AttributeTypeAndValue) []byte {
	var rdns pkix.RDNSequence
	for _, n := range names {
		rdns = append(rdns, pkix.RelativeDistinguishedNameSET{n})
	}
	return must(asn1.Marshal(rdns))(t)
}

func attribute(value string, id ...int) pkix.AttributeTypeAndValue {
	return pkix.AttributeTypeAndValue{Type: id, Value: value}
}

// constrained returns a copy of the maker `m` whose intermediate CA certificate was altered by the
// function `change`. If `change` is nil, it returns `m` itself.
func constrained(t testing.TB, m *fleet.Maker, change func(*x509.Certificate)) *fleet.Maker {
	t.Helper()
	if change == nil {
		return m
	}
	n := *m
	n.Intermediate = must(m.CrossSign(m.Intermediate, change))(t)
	return &n
}

// The constraints of every CA certificate above an EK certificate are enforced, up to the root, so
// a CA below a maker's root that is meant for another purpose cannot issue EK certificates.
func TestCAConstraintsHoldOnTheWholePath(t *testing.T) {
	t.Parallel()
	usage := func(known []x509.ExtKeyUsage, other ...asn1.ObjectIdentifier) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage, c.UnknownExtKeyUsage = known, other }
	}
	clientAuth, any := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	base := must(goodMaker())(t)
	organization := attribute("Gangway fleet", 2, 5, 4, 10)
	elsewhere := attribute("Elsewhere", 2, 5, 4, 10)
	maker := attribute("id:46414B45", 2, 23, 133, 2, 1)
	otherMaker := attribute("id:49465800", 2, 23, 133, 2, 1)
	for name, c := range map[string]struct {
		root, intermediate, leaf func(*x509.Certificate)
		good                     bool
		says                     string
	}{
		"none": {good: true},

		"CA for TLS clients":               {intermediate: usage(clientAuth), says: "extended key usage"},
		"CA for attestation keys":          {intermediate: usage(nil, tcg.OIDAIKCertificate), says: "extended key usage"},
		"root for TLS clients":             {root: usage(clientAuth), says: "extended key usage"},
		"root for TLS clients, CA for EKs": {root: usage(clientAuth), intermediate: usage(nil, tcg.OIDEKCertificate), says: "extended key usage"},
		"CA for EKs":                       {intermediate: usage(nil, tcg.OIDEKCertificate), good: true},
		"CA for EKs and TLS clients":       {intermediate: usage(clientAuth, tcg.OIDEKCertificate), good: true},
		"CA for anything":                  {intermediate: usage(any), good: true},
		"CA without certificate signing":   {intermediate: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }},
		"root without a path":              {root: func(c *x509.Certificate) { c.MaxPathLenZero = true }, says: "allows 0 CA certificates below"},
		"root with a path of one":          {root: func(c *x509.Certificate) { c.MaxPathLen = 1 }, good: true},
		"CA without a path":                {intermediate: func(c *x509.Certificate) { c.MaxPathLenZero = true }, good: true},

		"another maker's names only":  {intermediate: constrain(t, true, subtree(t, 4, dn(t, otherMaker)), nil), says: "name"},
		"this maker's names only":     {intermediate: constrain(t, true, subtree(t, 4, dn(t, maker)), nil), good: true},
		"this maker, not critical":    {intermediate: constrain(t, false, subtree(t, 4, dn(t, maker)), nil), good: true},
		"another, not critical":       {intermediate: constrain(t, false, subtree(t, 4, dn(t, otherMaker)), nil), says: "name"},
		"this maker's names excluded": {intermediate: constrain(t, true, nil, subtree(t, 4, dn(t, maker))), says: "name"},
		"this maker's, in other case": {intermediate: constrain(t, true, nil, subtree(t, 4, dn(t, attribute("ID:46414b45", 2, 23, 133, 2, 1)))), says: "name"},
		"all names excluded":          {intermediate: constrain(t, true, nil, subtree(t, 4, dn(t))), says: "name"},
		"root: another organization":  {root: constrain(t, true, subtree(t, 4, dn(t, elsewhere)), nil), says: "name"},
		"root: the CA's name excluded": {root: constrain(t, true, nil, subtree(t, 4, dn(t, organization))),
			says: "name"},
		"a subject elsewhere": {intermediate: constrain(t, true, nil, subtree(t, 4, dn(t, elsewhere))),
			leaf: func(c *x509.Certificate) { c.Subject.Organization = []string{"Elsewhere"} }, says: "name"},
		"a bound that is not used": {intermediate: constrain(t, true, nil, must(asn1.Marshal(struct {
			Base    asn1.RawValue
			Minimum int `asn1:"tag:0"`
		}{asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: dn(t, otherMaker)}, 3}))(t)), says: "name"},

		// A constraint on a form of name has no effect if the certificate has no name of that form.
		"DNS names":   {intermediate: constrain(t, true, subtree(t, 2, []byte("maker.example")), nil), good: true},
		"other names": {intermediate: constrain(t, true, subtree(t, 8, []byte{42}), nil), good: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := base
			if c.root != nil {
				m = must(m.WithRoot(c.root))(t)
			}
			m = constrained(t, m, c.intermediate)
			d := must(fleet.New(m, "H-2"))(t)
			if c.leaf != nil {
				template := must(fleet.EKTemplate(d.EK.Private.Public()))(t)
				c.leaf(template)
				d.EKCert = must(m.Sign(template, d.EK.Private.Public()))(t).Raw
			}
			for where, trust := range map[string]*evidence.Trust{
				"known":    must(evidence.NewTrust(m.Roots(), m.Intermediates()))(t),
				"sent":     must(evidence.NewTrust(m.Roots(), nil))(t),
				"imported": must(evidence.NewTrust(m.Roots(), nil))(t).WithIntermediates(m.Intermediates()),
			} {
				s := &scene{trust: trust, token: aToken()}
				d.Chain = nil
				if where == "sent" {
					d.Chain = [][]byte{m.Intermediate.Raw}
				}
				v := s.judge(s.request(t, d, fleet.RequestChange{}))
				if c.good != v.Accepted() || !c.good && (v.Refusal.Code != evidence.CodeUntrusted || !strings.Contains(v.Refusal.Reason, c.says)) {
					t.Errorf("%s: %+v", where, v.Refusal)
				}
			}
		})
	}
}

// Names of each form are compared as RFC 5280, 4.2.1.10 says.
func TestNameConstraintsOfEachForm(t *testing.T) {
	t.Parallel()
	base := must(goodMaker())(t)
	type name = func(*x509.Certificate)
	san := func(tag int, content string) name {
		return func(c *x509.Certificate) {
			var list []asn1.RawValue
			must(asn1.Unmarshal(c.ExtraExtensions[0].Value, &list))(t)
			list = append(list, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: []byte(content)})
			c.ExtraExtensions[0].Value = must(asn1.Marshal(list))(t)
		}
	}
	cidr := func(s string) string {
		_, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(n.IP) + string(n.Mask)
	}
	for _, c := range []struct {
		name   string
		tag    int
		limit  string
		names  map[string]bool // key: a name; value: is the name in the subtree?
		always bool            // the form is not supported, so a constraint on the form refuses both names
	}{
		{"DNS", 2, "maker.example", map[string]bool{"maker.example": true, "TPM.Maker.Example": true, "notmaker.example": false, "example": false}, false},
		{"e-mail, host", 1, "maker.example", map[string]bool{"tpm@maker.example": true, "tpm@a.maker.example": false}, false},
		{"e-mail, domain", 1, ".maker.example", map[string]bool{"tpm@maker.example": false, "tpm@a.maker.example": true}, false},
		{"e-mail, mailbox", 1, "tpm@maker.example", map[string]bool{"tpm@maker.example": true, "ek@maker.example": false}, false},
		{"URI, host", 6, "maker.example", map[string]bool{"https://maker.example/tpm": true, "https://a.maker.example/": false}, false},
		{"URI, domain", 6, ".maker.example", map[string]bool{"https://a.maker.example:8/": true, "https://maker.example/": false}, false},
		{"address", 7, cidr("192.0.2.0/24"), map[string]bool{"\xc0\x00\x02\x07": true, "\xc0\x00\x03\x07": false}, false},
		{"registered id", 8, "\x2a\x03", map[string]bool{"\x2a\x03": true, "\x2a\x04": false}, true},
	} {
		for value, inside := range c.names {
			for _, excluded := range []bool{false, true} {
				permitted, not := subtree(t, c.tag, []byte(c.limit)), []byte(nil)
				if excluded {
					permitted, not = nil, permitted
				}
				m := constrained(t, base, constrain(t, true, permitted, not))
				d := must(fleet.New(m, "H-2"))(t)
				template := must(fleet.EKTemplate(d.EK.Private.Public()))(t)
				san(c.tag, value)(template)
				d.EKCert = must(m.Sign(template, d.EK.Private.Public()))(t).Raw
				s := &scene{trust: must(evidence.NewTrust(m.Roots(), m.Intermediates()))(t), token: aToken()}
				good := inside != excluded && !c.always
				if v := s.judge(s.request(t, d, fleet.RequestChange{})); v.Accepted() != good {
					t.Errorf("%s %q, %q, excluded %v: %+v", c.name, c.limit, value, excluded, v.Refusal)
				}
			}
		}
	}
}

// A CA has two chains: one whose name constraints exclude the EK certificate, and one without
// constraints. The EK certificate is accepted through the second chain.
func TestUnconstrainedChainBesideAConstrainedOneCounts(t *testing.T) {
	t.Parallel()
	m := must(goodMaker())(t)
	narrow := constrain(t, true, nil, subtree(t, 4, dn(t)))
	for range 4 { // whichever chain x509 finds first, the result must be the same
		other := must(fleet.NewMaker("good", fleet.MakerOptions{}))(t)
		cross := must(other.CrossSign(m.Intermediate, narrow))(t)
		d := must(fleet.New(m, "H-2"))(t)
		s := &scene{trust: must(evidence.NewTrust(append(other.Roots(), m.Roots()...), []*x509.Certificate{cross, m.Intermediate}))(t), token: aToken()}
		if v := s.judge(s.request(t, d, fleet.RequestChange{})); !v.Accepted() {
			t.Errorf("%+v", v.Refusal)
		}
	}
}
