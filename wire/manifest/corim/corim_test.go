package corim

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
	"time"

	"gangway/wire/manifest"

	"github.com/fxamacker/cbor/v2"
)

func hexOf(b byte, size int) string { return hex.EncodeToString(bytes.Repeat([]byte{b}, size)) }

func banks(b byte) map[string]string {
	return map[string]string{"SHA-256": hexOf(b, 32), "SHA-384": hexOf(b, 48), "SHA-512": hexOf(b, 64)}
}

func example() *manifest.Manifest {
	m := &manifest.Manifest{
		Format: manifest.Format, Name: "shop floor 1.4", Made: time.Date(2026, 11, 29, 15, 0, 0, 0, time.UTC), Sequence: 7,
		BootManager: &manifest.Program{SHA256: hexOf(1, 32), Authenticode: banks(2)},
		System: manifest.System{
			Program: manifest.Program{SHA256: hexOf(3, 32), Authenticode: banks(4)},
			Kernel:  manifest.Program{SHA256: hexOf(5, 32), Authenticode: banks(6)},
			Cmdline: "quiet", PCR11: map[string]map[string]string{},
		},
		SecureBoot: &manifest.SecureBoot{Variables: []manifest.Variable{{Name: "PK", Events: banks(9)}}, Authority: banks(10)},
	}
	for bank, value := range banks(7) {
		m.System.PCR11[bank] = map[string]string{"": value, "enter-initrd": banks(8)[bank]}
	}
	return m
}

// algorithmsAndDigests returns a list of digests in all banks as a CBOR decoder returns it.
func algorithmsAndDigests(b byte) []any {
	return []any{
		[]any{uint64(1), bytes.Repeat([]byte{b}, 32)}, []any{uint64(7), bytes.Repeat([]byte{b}, 48)}, []any{uint64(8), bytes.Repeat([]byte{b}, 64)},
	}
}

type object = map[any]any

// The CoRIM has the structure of the draft's CDDL, and every value of the manifest.
func TestExportHasEveryValue(t *testing.T) {
	out, err := Export(example())
	if err != nil {
		t.Fatal(err)
	}
	var got cbor.Tag
	if err := cbor.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	id := "gangway-system-" + hexOf(3, 32)
	rim, ok := got.Content.(object)
	if got.Number != 501 || !ok || rim[uint64(0)] != id {
		t.Fatalf("the CoRIM is %+v", got)
	}
	tag := rim[uint64(1)].([]any)[0].(cbor.Tag)
	var mid any
	if err := cbor.Unmarshal(tag.Content.([]byte), &mid); err != nil || tag.Number != 506 {
		t.Fatalf("the tag %d: %v", tag.Number, err)
	}
	digests := func(name string, b byte) object {
		return object{uint64(0): name, uint64(1): object{uint64(2): algorithmsAndDigests(b)}}
	}
	file := func(name string, b byte) object {
		return object{uint64(0): name, uint64(1): object{uint64(2): algorithmsAndDigests(b)[:1]}}
	}
	want := object{
		uint64(1): object{uint64(0): id, uint64(1): uint64(7)},
		uint64(4): object{uint64(0): []any{[]any{
			object{uint64(0): object{uint64(1): "Gangway", uint64(2): "shop floor 1.4"}},
			[]any{
				digests("boot-manager", 2), file("boot-manager-file", 1), digests("system", 4), file("system-file", 3), digests("kernel", 6), file("kernel-file", 5),
				object{uint64(0): "command-line", uint64(1): object{uint64(4): cbor.Tag{Number: 560, Content: []byte("quiet")}}},
				object{uint64(0): "tpm", uint64(1): object{uint64(14): object{uint64(11): algorithmsAndDigests(7), "11 after enter-initrd": algorithmsAndDigests(8)}}},
				digests("PK", 9), digests("authority", 10),
			},
		}}},
	}
	if !reflect.DeepEqual(mid, want) {
		t.Errorf("the CoMID is\n%v\nwant\n%v", mid, want)
	}
}

func TestExportIsDeterministic(t *testing.T) {
	first, err := Export(example())
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if again, err := Export(example()); err != nil || !bytes.Equal(again, first) {
			t.Fatalf("two exports of one manifest differ: %v", err)
		}
	}
}

// The manifest of an update has no boot manager and no keys, and may have only one bank.
func TestExportOfASmallManifest(t *testing.T) {
	m := example()
	m.BootManager, m.SecureBoot = nil, nil
	for _, digests := range []map[string]string{m.System.Authenticode, m.System.Kernel.Authenticode} {
		delete(digests, "SHA-384")
		delete(digests, "SHA-512")
	}
	m.System.PCR11 = map[string]map[string]string{"SHA-256": {"": hexOf(7, 32)}}
	out, err := Export(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"boot-manager", "authority"} {
		if bytes.Contains(out, []byte(name)) {
			t.Errorf("the CoRIM has a %s", name)
		}
	}
	m.Name = strings.Repeat("x", manifest.MaxName+1)
	if _, err := Export(m); err == nil {
		t.Error("exported a manifest that is not valid")
	}
}
