package evidence

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"strings"

	"gangway/tcg"

	"golang.org/x/crypto/cryptobyte"
)

// Mark is a value in an EK certificate that a maker may give to only one TPM. Two certificates of
// different EKs with an equal mark may belong to the same TPM; nothing in a TPM links its EKs.
type Mark struct {
	Value string // to compare
	What  string // for a person, "the same serial number"
}

// minSerial is the length of the shortest serial number that is a mark, in bits. Shorter ones are
// counters, which repeat from CA to CA.
const minSerial = 64

var (
	oidSerialNumber = asn1.ObjectIdentifier{2, 5, 4, 5}
	oidCommonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	// Types of otherNames that identify a device: RFC 4108, 5 and RFC 4043, 3.
	oidHardwareModule = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 4}
	oidPermanentID    = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 3}
	oidUserID         = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}
)

// TPMMarks returns the marks of an EK certificate: its serial number, and the maker's id of the
// device, if the subject or the directory names contain one.
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
				marks = append(marks, Mark{"device\x00" + maker + text, "the same device id of the maker's"})
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
			marks = append(marks, Mark{"device\x00" + maker + hex.EncodeToString(n.content), "the same device id of the maker's"})
		}
	}
	return distinct(marks)
}

// tagOther is the tag of otherName in GeneralName.
const tagOther = 0

func distinct(marks []Mark) (out []Mark) {
	seen := map[string]bool{}
	for _, m := range marks {
		if !seen[m.Value] && len(out) < maxMarks {
			seen[m.Value] = true
			out = append(out, m)
		}
	}
	return out
}

// maxMarks is the largest number of marks that the hub stores of one certificate.
const maxMarks = 8

// hasID reports whether a text contains an id: 12 hexadecimal digits or more, possibly with
// separators between them, as in a UUID. The text "unknown" does not.
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
