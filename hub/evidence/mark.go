package evidence

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"slices"
	"strings"

	"gangway/tcg"

	"golang.org/x/crypto/cryptobyte"
)

// Mark is a value in an EK certificate that is probably unique to one TPM, for example a long
// serial number. If the certificates of two EKs have the same mark, both EKs may belong to one TPM.
// The hub compares marks because nothing in a TPM links its EKs.
type Mark struct {
	Value string // compared with the values of other marks
	What  string // the kind of mark, for a person: "the same serial number"
}

// minSerial is the minimum length, in bits, of a serial number that counts as a mark. Shorter
// serial numbers are usually sequence numbers, which different CAs may use too.
const minSerial = 64

var (
	oidSerialNumber = asn1.ObjectIdentifier{2, 5, 4, 5}
	oidCommonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	// OIDs of names that contain the id of a device: two types of otherName (RFC 4108, 5 and RFC
	// 4043, 3), and the attribute uid of a name (RFC 4519, 2.39).
	oidHardwareModule = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 4}
	oidPermanentID    = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 3}
	oidUserID         = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}
)

// markedOIDs has the DER encodings of the attributes whose values can be marks: oidSerialNumber,
// oidCommonName and oidUserID.
var markedOIDs = [][]byte{{0x55, 4, 5}, {0x55, 4, 3}, {0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 1, 1}}

// TPMMarks returns the marks of an EK certificate, at most maxMarks. A mark is the certificate's
// serial number, or an id that the maker gave the device, which is in the subject or in the subject
// alternative names.
func TPMMarks(e *tcg.EKCertificate) (marks []Mark) {
	maker := e.Manufacturer + "\x00"
	if n := e.Certificate.SerialNumber; n.BitLen() >= minSerial {
		marks = append(marks, Mark{"serial\x00" + maker + n.Text(16), "the same serial number"})
	}
	add := func(names []pkix.AttributeTypeAndValue) {
		for _, a := range names {
			text, ok := a.Value.(string)
			text = strings.ToLower(strings.TrimSpace(text))
			switch {
			case !ok:
			case a.Type.Equal(oidSerialNumber) && len(text) >= 6, (a.Type.Equal(oidCommonName) || a.Type.Equal(oidUserID)) && hasID(text):
				marks = append(marks, Mark{"device\x00" + maker + text, "the same device id from the maker"})
			}
		}
	}
	add(e.Certificate.Subject.Names)
	names, err := namesOf(e.Certificate)
	if err != nil {
		return marks
	}
	for _, n := range names {
		var rdns pkix.RDNSequence
		switch n.tag {
		case tagDirectory:
			if !slices.ContainsFunc(markedOIDs, func(oid []byte) bool { return bytes.Contains(n.content, oid) }) {
				continue // nearly all names of TPMs; encoding/asn1 is slow
			}
			if rest, err := asn1.Unmarshal(n.content, &rdns); err == nil && len(rest) == 0 {
				var name pkix.Name
				name.FillFromRDNSequence(&rdns)
				add(name.Names)
			}
		case tagOther:
			s := cryptobyte.String(n.content)
			var form asn1.ObjectIdentifier
			if !s.ReadASN1ObjectIdentifier(&form) || !form.Equal(oidHardwareModule) && !form.Equal(oidPermanentID) {
				continue
			}
			marks = append(marks, Mark{"device\x00" + maker + hex.EncodeToString(n.content), "the same device id from the maker"})
		}
	}
	return distinct(marks)
}

// tagOther is the tag of otherName in GeneralName.
const tagOther = 0

func distinct(marks []Mark) (out []Mark) {
	for _, m := range marks {
		if len(out) < maxMarks && !slices.ContainsFunc(out, func(o Mark) bool { return o.Value == m.Value }) {
			out = append(out, m)
		}
	}
	return out
}

// maxMarks is the maximum number of marks that the hub stores for one certificate.
const maxMarks = 8

// hasID reports whether a text contains an id: 12 or more hexadecimal digits, possibly with
// separators between them, as in a UUID. A word like "unknown" is not an id.
func hasID(text string) bool {
	run, digits := 0, false
	for _, c := range text {
		switch {
		case c >= '0' && c <= '9':
			run, digits = run+1, true
		case c >= 'a' && c <= 'f':
			run++
		case c == '-' || c == ':':
			continue
		default:
			run, digits = 0, false
		}
		if run >= 12 && digits {
			return true
		}
	}
	return false
}
