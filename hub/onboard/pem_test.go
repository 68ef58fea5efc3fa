package onboard

import (
	"bytes"
	"encoding/pem"
	"testing"
)

func TestPEMIsThatOfTheStandardLibrary(t *testing.T) {
	for n := range 300 {
		der := bytes.Repeat([]byte{0x30, 0xFB, 0x07}, n)[:n]
		want := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if got := appendPEM([]byte("before"), der); string(got) != "before"+string(want) {
			t.Fatalf("%d bytes:\n%s", n, got)
		}
	}
}
