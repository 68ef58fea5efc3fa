package pki

import (
	"bytes"
	"encoding/asn1"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
	"pgregory.net/rapid"
)

func TestDERIsWhatCryptobyteWrites(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 127, 128, 255, 256, 65535, 65536, 1 << 17} {
		value := bytes.Repeat([]byte{7}, n)
		var b cryptobyte.Builder
		b.AddASN1OctetString(value)
		if want := b.BytesOrPanic(); !bytes.Equal(der(tagOctetString, value[:n/2], value[n/2:]), want) {
			t.Errorf("%d bytes: the encoding differs", n)
		}
	}
}

func TestOIDIsWhatEncodingASN1Writes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := asn1.ObjectIdentifier{rapid.IntRange(0, 1).Draw(t, "first"), rapid.IntRange(0, 39).Draw(t, "second")}
		if rapid.Bool().Draw(t, "joint") {
			id[0] = 2
		}
		id = append(id, rapid.SliceOfN(rapid.IntRange(0, 1<<31-1), 0, 10).Draw(t, "rest")...)
		want, err := asn1.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		if got := oid(id); !bytes.Equal(got, want) {
			t.Fatalf("%v: %x, want %x", id, got, want)
		}
	})
}

func TestTimeIsUTCTimeUntil2049(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, want string }{
		{"1970-01-01T00:00:00Z", "\x17\x0d700101000000Z"},
		{"2049-12-31T23:59:59.9Z", "\x17\x0d491231235959Z"},
		{"2050-01-01T00:00:00Z", "\x18\x0f20500101000000Z"},
		{"2050-01-01T00:30:00+01:00", "\x17\x0d491231233000Z"}, // the year is 2049 in UTC
		{"9999-12-31T23:59:59Z", "\x18\x0f99991231235959Z"},
	} {
		in, err := time.Parse(time.RFC3339Nano, c.in)
		if err != nil {
			t.Fatal(err)
		}
		if got := timestamp(in); string(got) != c.want {
			t.Errorf("%s: %q, want %q", c.in, got, c.want)
		}
	}
}

func TestTimeIsWhatEncodingASN1Writes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		at := time.Unix(rapid.Int64Range(0, forever.Unix()).Draw(t, "time"), 0).UTC()
		want, err := asn1.Marshal(at)
		if err != nil {
			t.Fatal(err)
		}
		if got := timestamp(at); !bytes.Equal(got, want) {
			t.Fatalf("%v: %q, want %q", at, got, want)
		}
	})
}

// Every serial number is positive and encoded in its shortest form. Of 20000 serial numbers, some
// begin with the bytes that need care: 00, or a byte whose sign bit is set.
func TestSerialNumbersArePositiveAndShort(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	var ones, zeros [16]byte // ones: the bits that were 1 in at least one serial number; zeros: the bits that were 0 in at least one
	for range 20000 {
		content := serialNumber()
		s := cryptobyte.String(der(tagInteger, content))
		var n []byte
		// ReadASN1Integer refuses negative numbers and numbers that are not in their shortest form.
		if !s.ReadASN1Integer(&n) || len(n) == 0 || len(n) > 16 || n[0] == 0 {
			t.Fatalf("%x is not a positive INTEGER of at most 128 bits in DER", content)
		}
		if seen[string(n)] {
			t.Fatalf("%x occurred twice", n)
		}
		seen[string(n)] = true
		full := append(make([]byte, 16-len(n)), n...)
		for i, b := range full {
			ones[i] |= b
			zeros[i] |= ^b
		}
	}
	if all := [16]byte(bytes.Repeat([]byte{0xFF}, 16)); ones != all || zeros != all {
		t.Errorf("not all 128 bits are random: ever set %x, ever clear %x", ones, zeros)
	}
	var peek cryptobyte.String
	s := cryptobyte.String(der(tagInteger, serialNumber()))
	if !s.ReadASN1(&peek, cbasn1.INTEGER) || !s.Empty() {
		t.Fatal("not one INTEGER")
	}
}
