package secureboot

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"testing"
	"time"
)

// The events that Manifest computes for PCR 7 must have the same form as in the event log of a real
// machine.
func TestSecureBootEvents(t *testing.T) {
	dir := t.TempDir()
	if err := New(dir, "owner", nil, time.Date(2026, 11, 29, 15, 0, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	set, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	leaf := set.Certificates[DB][0]
	s, err := set.Manifest(leaf)
	if err != nil {
		t.Fatal(err)
	}
	event, err := set.Event(DB)
	if err != nil {
		t.Fatal(err)
	}
	// The GUID of db, then the lengths of the name and the content, then the name in UTF-16.
	head, _ := hex.DecodeString("cbb219d73a3d9645a3bcdad00e67656f" + "0200000000000000")
	head = binary.LittleEndian.AppendUint64(head, uint64(len(event)-36))
	head = append(head, 'd', 0, 'b', 0)
	if !bytes.HasPrefix(event, head) || !bytes.HasSuffix(event, leaf.Raw) {
		t.Errorf("the event of db is %x", event)
	}
	if got := fmt.Sprintf("%x", sha512.Sum384(event)); s.Variables[2].Name != "db" || s.Variables[2].Events["SHA-384"] != got {
		t.Errorf("the manifest has another event of db: %+v", s.Variables[2])
	}
	authority, err := set.Authority(leaf)
	if err != nil {
		t.Fatal(err)
	}
	// The authority must contain the owner's GUID and the certificate, without the header of the
	// list.
	if len(authority) != len(event)-28 || !bytes.HasSuffix(authority, event[36+28:]) || s.Authority["SHA-256"] != fmt.Sprintf("%x", sha256.Sum256(authority)) {
		t.Errorf("the authority is %x", authority)
	}
	if s, err := set.Manifest(set.Certificates[PK][0]); err != nil || s.Authority != nil {
		t.Errorf("a certificate that db does not allow has the authority %v, %v", s.Authority, err)
	}
}
