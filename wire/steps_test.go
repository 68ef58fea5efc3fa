package wire

import (
	"bytes"
	"errors"
	"testing"
)

func TestCertificateOfTheFirstStepOpensForItsTPMAlone(t *testing.T) {
	t.Parallel()
	keys, err := DeriveStepKeys(bytes.Repeat([]byte{1}, 32), []byte("name"))
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 15, 16, 17, 5000} {
		content := bytes.Repeat([]byte{7}, size)
		var a EnrollAnswer
		if err := a.SealCertificate(keys, content); err != nil {
			t.Fatal(err)
		}
		if got, err := a.OpenCertificate(keys); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: %d, %v", size, len(got), err)
		}
		for _, other := range [][2]string{{"another secret, of thirty-two byte", "name"}, {string(bytes.Repeat([]byte{1}, 32)), "other"}} {
			wrong, err := DeriveStepKeys([]byte(other[0]), []byte(other[1]))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := a.OpenCertificate(wrong); !errors.Is(err, ErrSealed) {
				t.Errorf("other keys opened it: %v", err)
			}
		}
		for _, part := range []*[]byte{&a.Certificate, &a.IV, &a.MAC} {
			(*part)[0] ^= 1
			if _, err := a.OpenCertificate(keys); !errors.Is(err, ErrSealed) {
				t.Errorf("altered, it opened: %v", err)
			}
			(*part)[0] ^= 1
		}
	}
}

func FuzzParseCredentialFile(f *testing.F) {
	f.Add(CredentialFile([]byte("blob"), []byte("secret")))
	f.Add([]byte{0xBA, 0xDC, 0xC0, 0xDE, 0, 0, 0, 1, 0xFF, 0xFF})
	f.Fuzz(func(t *testing.T, b []byte) {
		blob, secret, err := ParseCredentialFile(b)
		if err == nil && !bytes.Equal(CredentialFile(blob, secret), b) {
			t.Errorf("%.100x is read as %.100x, %.100x", b, blob, secret)
		}
	})
}
