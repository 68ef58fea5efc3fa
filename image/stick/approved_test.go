package stick

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"debug/pe"
	"encoding/binary"
	"testing"

	"gangway/device/console/access"
	"gangway/device/install/diskkey"
)

// efiKernel makes an EFI program without sections that has the magic number of a Linux kernel.
func efiKernel() []byte {
	const header, optional = 0x240, 240 // offset of the PE header, and size of the optional header
	le := binary.LittleEndian
	b := make([]byte, 0x800)
	copy(b, "MZ")
	le.PutUint32(b[0x3C:], header)
	copy(b[0x202:], "HdrS")
	copy(b[header:], "PE\x00\x00")
	le.PutUint16(b[header+4:], pe.IMAGE_FILE_MACHINE_AMD64)
	le.PutUint16(b[header+20:], optional)
	o := b[header+24:]
	le.PutUint16(o, 0x20B)      // 64 bits
	le.PutUint32(o[36:], 512)   // file alignment
	le.PutUint32(o[60:], 0x400) // size of the headers
	le.PutUint16(o[68:], pe.IMAGE_SUBSYSTEM_EFI_APPLICATION)
	le.PutUint32(o[108:], 16) // number of data directories
	return b
}

// An approved system contains the owner's approval of its own content, so with another command
// line, it must not count as approved. The same input must give the same bytes.
func TestSystemCarriesItsOwnersApproval(t *testing.T) {
	t.Parallel()
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := parts(t)
	p.Kernel = efiKernel()
	for _, key := range []crypto.Signer{p256, rsaKey} {
		p.Owner = key
		b, err := System(p, nil, access.Full)
		if err != nil {
			t.Fatal(err)
		}
		again, err := System(p, nil, access.Full)
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("%T: the same input gives another system (%v)", key, err)
		}
		s, err := diskkey.ReadSystem(b)
		if err != nil || !s.ApprovedBy(key.Public()) {
			t.Errorf("%T: the system is not approved (%v)", key, err)
		}
		altered := bytes.Replace(b, []byte("gangway.mode=system"), []byte("gangway.mode=shell!"), 1)
		if s, err := diskkey.ReadSystem(altered); err != nil || s.ApprovedBy(key.Public()) {
			t.Errorf("%T: a system with another command line is approved (%v)", key, err)
		}
	}
	p.Owner = nil
	b, err := System(p, nil, access.Full)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := diskkey.ReadSystem(b); err != nil || len(s.Approvals) > 0 {
		t.Errorf("a system without an owner's key has %d approvals (%v)", len(s.Approvals), err)
	}
}
