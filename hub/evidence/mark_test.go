package evidence

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"

	"gangway/tcg"
)

// TPMMarks returns a device id in a directory name of the subject alternative names as a mark. Each
// of three attributes can contain the id. A directory name without these attributes gives no mark.
func TestMarksInDirectoryNames(t *testing.T) {
	t.Parallel()
	marksOf := func(oid asn1.ObjectIdentifier) []Mark {
		name, err := asn1.Marshal(pkix.RDNSequence{{{Type: oid, Value: "0123456789abcdef"}}})
		if err != nil {
			t.Fatal(err)
		}
		// GeneralNames: a SEQUENCE of directoryName, which has the explicit tag 4.
		names, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}})
		if err != nil {
			t.Fatal(err)
		}
		return TPMMarks(&tcg.EKCertificate{Manufacturer: "IFX", Certificate: &x509.Certificate{
			SerialNumber: big.NewInt(7), Extensions: []pkix.Extension{{Id: oidSubjectAltName, Value: names}}}})
	}
	for _, oid := range []asn1.ObjectIdentifier{oidSerialNumber, oidCommonName, oidUserID} {
		if marks := marksOf(oid); len(marks) != 1 || marks[0].Value != "device\x00IFX\x000123456789abcdef" {
			t.Errorf("%v: marks %q", oid, marks)
		}
	}
	if marks := marksOf(asn1.ObjectIdentifier{2, 23, 133, 2, 1}); len(marks) != 0 {
		t.Errorf("a maker's name has marks: %q", marks)
	}
}
