package tcg

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/binary"
)

// Template is a public area for TPM2_CreatePrimary. The same template gives the same key in the
// same TPM, as long as the hierarchy's seed does not change.
type Template struct {
	Name   string // the name in the specification: "L-1", "H-3", ...
	Public Public // Raw is set; Modulus, or X and Y, contain the template's unique field

	// The following fields are set only for endorsement keys.
	CertificateIndex uint32   // NV index of the EK certificate
	Handle           uint32   // persistent handle at which makers store the key; 0 means none
	PolicyBranches   [][]byte // branches for TPM2_PolicyOR after policy A; nil if the policy is only policy A
}

// Marshal encodes the public area as a TPMT_PUBLIC.
func (p *Public) Marshal() []byte {
	b := make([]byte, 0, 64+len(p.AuthPolicy)+len(p.Modulus)+len(p.X)+len(p.Y))
	u16 := func(v uint16) { b = binary.BigEndian.AppendUint16(b, v) }
	sized := func(v []byte) { u16(uint16(len(v))); b = append(b, v...) }
	u16(uint16(p.Type))
	u16(uint16(p.NameAlg))
	b = binary.BigEndian.AppendUint32(b, uint32(p.Attributes))
	sized(p.AuthPolicy)
	u16(uint16(p.Symmetric))
	if p.Symmetric != AlgNull {
		u16(p.SymmetricBits)
		u16(uint16(p.SymmetricMode))
	}
	u16(uint16(p.Scheme))
	if p.Scheme != AlgNull {
		u16(uint16(p.SchemeHash))
	}
	if p.Type == AlgRSA {
		u16(p.KeyBits)
		b = binary.BigEndian.AppendUint32(b, p.Exponent)
		sized(p.Modulus)
		return b
	}
	u16(uint16(p.Curve))
	u16(uint16(AlgNull)) // KDF
	sized(p.X)
	sized(p.Y)
	return b
}

// Matches reports whether the public area `p` can come from the template: all fields except the
// unique field are equal.
func (t *Template) Matches(p *Public) bool {
	q := &t.Public
	return p.Type == q.Type && p.NameAlg == q.NameAlg && p.Attributes == q.Attributes &&
		bytes.Equal(p.AuthPolicy, q.AuthPolicy) &&
		p.Symmetric == q.Symmetric && p.SymmetricBits == q.SymmetricBits && p.SymmetricMode == q.SymmetricMode &&
		p.Scheme == q.Scheme && p.SchemeHash == q.SchemeHash &&
		p.KeyBits == q.KeyBits && p.Exponent == q.Exponent && p.Curve == q.Curve
}

// Match returns the template of the public area `p`, or nil if no template matches.
func Match(templates []Template, p *Public) *Template {
	for i := range templates {
		if templates[i].Matches(p) {
			return &templates[i]
		}
	}
	return nil
}

// FromKey returns the public areas that the key `key` may have: one for each template of the key's
// algorithm and size. Use it for keys that come without their TPMT_PUBLIC. FromKey pads the
// coordinates of an ECC key to the size of the curve.
func FromKey(templates []Template, key crypto.PublicKey) []*Public {
	var out []*Public
	for i := range templates {
		p := templates[i].Public
		p.AuthPolicy = bytes.Clone(p.AuthPolicy)
		switch k := key.(type) {
		case *rsa.PublicKey:
			if p.Type != AlgRSA {
				continue
			}
			p.Modulus = k.N.Bytes()
		case *ecdsa.PublicKey:
			point, err := k.Bytes()
			if err != nil || p.Type != AlgECC {
				continue
			}
			size := (len(point) - 1) / 2
			p.X, p.Y = point[1:1+size], point[1+size:]
		}
		if !p.Is(key) {
			continue
		}
		p.Raw = p.Marshal()
		out = append(out, &p)
	}
	return out
}

const (
	ekLow  = FixedTPM | FixedParent | SensitiveDataOrigin | AdminWithPolicy | Restricted | Decrypt
	ekHigh = ekLow | UserWithAuth

	devID = FixedTPM | FixedParent | SensitiveDataOrigin | UserWithAuth | AdminWithPolicy | SignEncrypt
)

// EKTemplates are the default templates of the EK profile (B.3, B.4) in order of preference. A
// device with several EK certificates uses the first template that has a certificate. ECC comes
// before RSA. The high range, which the profile now recommends, comes before the low range: H-2 and
// H-3 before L-2, and H-1 before L-1. P-521 is slow on small TPMs, so H-4 comes last of the ECC
// templates. RSA 3072 and 4096 come last of all.
var EKTemplates = []Template{
	ekECC("H-2", CurveP256, AlgSHA256, 128, 0x01C00014, 0x81010014),
	ekECC("H-3", CurveP384, AlgSHA384, 256, 0x01C00016, 0x81010016),
	ekLowECC(),
	ekECC("H-4", CurveP521, AlgSHA512, 256, 0x01C00018, 0x81010018),
	ekRSA("H-1", 2048, AlgSHA256, 128, 0x01C00012, 0x81010012),
	ekLowRSA(),
	ekRSA("H-6", 3072, AlgSHA384, 256, 0x01C0001C, 0x8101001C),
	ekRSA("H-7", 4096, AlgSHA384, 256, 0x01C0001E, 0x8101001E),
}

// IAKTemplates and IDevIDTemplates are the templates of DevID 7.3.4: RSA 2048, P-256, P-384 and
// P-521, in that order (H-1 to H-4). Their unique field is the ASCII text "IAK" for IAKTemplates
// and "IDEVID" for IDevIDTemplates (DevID, 7.3.1).
var (
	IAKTemplates = []Template{
		devidRSA("IAK", devID|Restricted, AlgRSAPSS, AlgSHA256, IAKPolicyBranches),
		devidECC("H-2", "IAK", devID|Restricted, CurveP256, AlgSHA256, IAKPolicyBranches),
		devidECC("H-3", "IAK", devID|Restricted, CurveP384, AlgSHA384, IAKPolicyBranches),
		devidECC("H-4", "IAK", devID|Restricted, CurveP521, AlgSHA512, IAKPolicyBranches),
	}
	// The RSA IDevID key has no fixed scheme, so that TLS 1.3 can use it with RSA-PSS.
	IDevIDTemplates = []Template{
		devidRSA("IDEVID", devID, AlgNull, 0, IDevIDPolicyBranches),
		devidECC("H-2", "IDEVID", devID, CurveP256, AlgSHA256, IDevIDPolicyBranches),
		devidECC("H-3", "IDEVID", devID, CurveP384, AlgSHA384, IDevIDPolicyBranches),
		devidECC("H-4", "IDEVID", devID, CurveP521, AlgSHA512, IDevIDPolicyBranches),
	}
)

// NV indices that the EK profile assigns (2.2.1.4, 2.2.1.5).
const (
	// ChainFirst to ChainLast may contain the maker's intermediate certificates.
	ChainFirst uint32 = 0x01C00100
	ChainLast  uint32 = 0x01C001FF
	// In some TPMs, RSATemplateIndex and ECCTemplateIndex contain a template that replaces L-1 or
	// L-2. RSANonceIndex and ECCNonceIndex contain the unique field of this template.
	RSANonceIndex    uint32 = 0x01C00003
	RSATemplateIndex uint32 = 0x01C00004
	ECCNonceIndex    uint32 = 0x01C0000B
	ECCTemplateIndex uint32 = 0x01C0000C
)

func ekLowRSA() Template {
	return Template{Name: "L-1", CertificateIndex: 0x01C00002, Handle: 0x81010001, Public: marshalled(Public{
		Type: AlgRSA, NameAlg: AlgSHA256, Attributes: ekLow, AuthPolicy: PolicySecretEndorsement(AlgSHA256),
		Symmetric: AlgAES, SymmetricBits: 128, SymmetricMode: AlgCFB, Scheme: AlgNull,
		KeyBits: 2048, Modulus: make([]byte, 256),
	})}
}

func ekLowECC() Template {
	return Template{Name: "L-2", CertificateIndex: 0x01C0000A, Handle: 0x81010002, Public: marshalled(Public{
		Type: AlgECC, NameAlg: AlgSHA256, Attributes: ekLow, AuthPolicy: PolicySecretEndorsement(AlgSHA256),
		Symmetric: AlgAES, SymmetricBits: 128, SymmetricMode: AlgCFB, Scheme: AlgNull,
		Curve: CurveP256, X: make([]byte, 32), Y: make([]byte, 32),
	})}
}

func ekRSA(n string, bits uint16, h AlgID, aes uint16, nv, handle uint32) Template {
	return Template{Name: n, CertificateIndex: nv, Handle: handle, PolicyBranches: EKPolicyBranches(h), Public: marshalled(Public{
		Type: AlgRSA, NameAlg: h, Attributes: ekHigh, AuthPolicy: policyOR(h, EKPolicyBranches(h)),
		Symmetric: AlgAES, SymmetricBits: aes, SymmetricMode: AlgCFB, Scheme: AlgNull, KeyBits: bits,
	})}
}

func ekECC(n string, curve CurveID, h AlgID, aes uint16, nv, handle uint32) Template {
	return Template{Name: n, CertificateIndex: nv, Handle: handle, PolicyBranches: EKPolicyBranches(h), Public: marshalled(Public{
		Type: AlgECC, NameAlg: h, Attributes: ekHigh, AuthPolicy: policyOR(h, EKPolicyBranches(h)),
		Symmetric: AlgAES, SymmetricBits: aes, SymmetricMode: AlgCFB, Scheme: AlgNull, Curve: curve,
	})}
}

func devidRSA(unique string, attrs Attributes, scheme, schemeHash AlgID, branches func(AlgID) [][]byte) Template {
	b := branches(AlgSHA256)
	return Template{Name: "H-1", PolicyBranches: b, Public: marshalled(Public{
		Type: AlgRSA, NameAlg: AlgSHA256, Attributes: attrs, AuthPolicy: policyOR(AlgSHA256, b),
		Symmetric: AlgNull, Scheme: scheme, SchemeHash: schemeHash, KeyBits: 2048, Modulus: []byte(unique),
	})}
}

func devidECC(n, unique string, attrs Attributes, curve CurveID, h AlgID, branches func(AlgID) [][]byte) Template {
	b := branches(h)
	return Template{Name: n, PolicyBranches: b, Public: marshalled(Public{
		Type: AlgECC, NameAlg: h, Attributes: attrs, AuthPolicy: policyOR(h, b),
		Symmetric: AlgNull, Scheme: AlgECDSA, SchemeHash: h, Curve: curve, X: []byte(unique), Y: []byte(unique),
	})}
}

func marshalled(p Public) Public {
	p.Raw = p.Marshal()
	return p
}
