package tcg

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func sampleCSR() *CSR {
	return &CSR{
		ProdModel: []byte("model"), ProdSerial: []byte("serial"), CAData: []byte("ca"), EKCert: []byte("cert"),
		AttestPub: []byte("iak"), SigningPub: []byte("idevid"), SgnCertifyInfo: []byte("info"), SgnCertifySig: []byte("sig"),
	}
}

func encode(t testing.TB, r *CSR, alg AlgID) []byte {
	t.Helper()
	b, err := r.Encode(alg, func([]byte) ([]byte, error) { return []byte("signature"), nil })
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCSRRoundTrips(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		in := new(CSR)
		for _, f := range in.fields() {
			*f.p = rapid.SliceOfN(rapid.Byte(), f.min, min(f.max, f.min+300)).Draw(r, f.name)
		}
		alg := rapid.SampledFrom([]AlgID{AlgSHA256, AlgSHA384, AlgSHA512}).Draw(r, "alg")
		b := encode(t, in, alg)
		out, err := ParseCSR(b)
		if err != nil {
			r.Fatal(err)
		}
		if len(out.Contents)%16 != 0 {
			r.Fatalf("contents of %d bytes are not padded to 16", len(out.Contents))
		}
		want, got := in.fields(), out.fields()
		for i := range want {
			if !bytes.Equal(*want[i].p, *got[i].p) {
				r.Fatalf("%s: %.100x became %.100x", want[i].name, *want[i].p, *got[i].p)
			}
		}
	})
}

func TestRejectsCSRWithAnyByteMissingOrAdded(t *testing.T) {
	t.Parallel()
	b := encode(t, sampleCSR(), AlgSHA256)
	for n := range b {
		if _, err := ParseCSR(b[:n]); err == nil {
			t.Fatalf("accepted with %d of %d bytes", n, len(b))
		}
	}
	if _, err := ParseCSR(append(bytes.Clone(b), 0)); err == nil {
		t.Fatal("accepted with a byte after it")
	}
}

// The test changes each size field of a valid TCG-CSR-IDEVID. ParseCSR refuses every changed
// request.
func TestRejectsCSRSizesThatLie(t *testing.T) {
	t.Parallel()
	good := encode(t, sampleCSR(), AlgSHA256)
	for at := 0; at < 12+12+32+13*4; at += 4 {
		for _, v := range []uint32{0, 1, 15, 16, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF} {
			b := bytes.Clone(good)
			if binary.BigEndian.Uint32(b[at:]) == v {
				continue
			}
			binary.BigEndian.PutUint32(b[at:], v)
			if _, err := ParseCSR(b); err == nil {
				t.Fatalf("the number at %d was set to %#x and accepted", at, v)
			}
		}
	}
}

func TestRejectsOversizedCSR(t *testing.T) {
	t.Parallel()
	if _, err := ParseCSR(make([]byte, 64<<20)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Fatalf("got %v", err)
	}
}

// Each public area has only one encoding: if the parser accepts an input, encoding the result gives
// the same bytes again.
func FuzzParsePublic(f *testing.F) {
	for _, set := range [][]Template{EKTemplates, IAKTemplates, IDevIDTemplates} {
		for _, t := range set {
			f.Add(t.Public.Raw)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePublic(b)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Marshal(), b) {
			t.Fatalf("%.100x marshals to %.100x", b, p.Marshal())
		}
		p.Name()
		p.Key()
		p.Algorithm()
	})
}

func FuzzParseCSR(f *testing.F) {
	f.Add(encode(f, sampleCSR(), AlgSHA256))
	f.Add(encode(f, sampleCSR(), AlgSHA512))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseCSR(b)
		if err != nil {
			return
		}
		again, err := r.Encode(r.HashAlg, func([]byte) ([]byte, error) { return r.Signature, nil })
		if err == nil && !bytes.Equal(again[12:12+len(r.Contents)-16], b[12:12+len(r.Contents)-16]) && len(again) == len(b) {
			t.Fatal("two encodings of the same contents")
		}
	})
}

func FuzzParseCertify(f *testing.F) {
	b := binary.BigEndian.AppendUint32(nil, GeneratedValue)
	b = binary.BigEndian.AppendUint16(b, uint16(AttestCertify))
	b = append(b, make([]byte, 2+2+17+8+2+2)...)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := ParseCertify(b); err == nil && (a.Magic != GeneratedValue || a.Type != AttestCertify) {
			t.Fatal("accepted another structure")
		}
	})
}

func FuzzParseSignature(f *testing.F) {
	f.Add([]byte{0, 0x18, 0, 0x0B, 0, 1, 1, 0, 1, 1})
	f.Add([]byte{0, 0x14, 0, 0x0B, 0, 1, 1})
	p := &IAKTemplates[1].Public
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseSignature(b); err == nil && p.Verify(nil, s) == nil {
			t.Fatal("a signature by no key verified")
		}
	})
}

func FuzzParseQuote(f *testing.F) {
	f.Add([]byte("\xff\x54\x43\x47\x80\x18"))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := ParseQuote(b)
		if err == nil && (len(q.Selection) > 16 || len(q.PCRDigest) > 64) {
			t.Fatalf("%+v", q)
		}
	})
}
