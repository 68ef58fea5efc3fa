// Package corim writes a reference manifest as a CoRIM, a Concise Reference Integrity Manifest, for
// verifiers of other projects (draft-ietf-rats-corim-11). The CoRIM is not signed: sign it with the
// key that the verifier expects. Gangway itself reads only its own format. Package corim does no
// I/O.
package corim

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"gangway/wire/manifest"

	"github.com/fxamacker/cbor/v2"
)

// Tags of CBOR (draft-ietf-rats-corim-11, 12.1).
const (
	tagUnsigned = 501 // tagged-unsigned-corim-map
	tagMID      = 506 // tagged-concise-mid-tag
	tagBytes    = 560 // tagged-bytes
)

// vendor is the vendor of the environments that the CoRIM describes.
const vendor = "Gangway"

// stubPCR is the number of the register into which systemd's stub measures the system.
const stubPCR = 11

// algorithms are the numbers of the banks' hash algorithms in IANA's Named Information Hash
// Algorithm Registry, in the order in which a CoRIM lists them.
var algorithms = []struct {
	bank   string
	number uint64
}{{"SHA-256", 1}, {"SHA-384", 7}, {"SHA-512", 8}}

// The types below are the maps of the draft's CDDL, with only the members that a manifest needs.

type corimMap struct {
	ID   string     `cbor:"0,keyasint"`
	Tags []cbor.Tag `cbor:"1,keyasint"`
}

type midTag struct {
	Identity tagIdentity `cbor:"1,keyasint"`
	Triples  triples     `cbor:"4,keyasint"`
}

type tagIdentity struct {
	ID      string `cbor:"0,keyasint"`
	Version uint64 `cbor:"1,keyasint"`
}

type triples struct {
	Reference []referenceTriple `cbor:"0,keyasint"`
}

type referenceTriple struct {
	_           struct{} `cbor:",toarray"`
	Environment environment
	Claims      []measurement
}

type environment struct {
	Class class `cbor:"0,keyasint"`
}

type class struct {
	Vendor string `cbor:"1,keyasint"`
	Model  string `cbor:"2,keyasint"`
}

type measurement struct {
	Key    string `cbor:"0,keyasint"`
	Values values `cbor:"1,keyasint"`
}

type values struct {
	Digests   []digest         `cbor:"2,keyasint,omitempty"`
	Raw       *cbor.Tag        `cbor:"4,keyasint,omitempty"`
	Registers map[any][]digest `cbor:"14,keyasint,omitempty"`
}

type digest struct {
	_         struct{} `cbor:",toarray"`
	Algorithm uint64
	Value     []byte
}

// Export returns the manifest as an unsigned CoRIM, in deterministic CBOR (RFC 8949, 4.2.1). The
// CoRIM has one CoMID, whose reference values have these keys:
//
//	boot-manager, system, kernel  the digests that firmware extends into PCR 4
//	system-file, ...              the SHA-256 of each file
//	command-line                  the kernel's command line
//	tpm                           integrity registers: PCR 11, and "11 after WORDS" for each phase
//	PK, KEK, db, dbx, authority   the digests of the events in PCR 7
func Export(m *manifest.Manifest) ([]byte, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	var claims []measurement
	if m.BootManager != nil {
		claims = append(claims, program("boot-manager", m.BootManager)...)
	}
	claims = append(claims, program("system", &m.System.Program)...)
	claims = append(claims, program("kernel", &m.System.Kernel)...)
	claims = append(claims,
		measurement{"command-line", values{Raw: &cbor.Tag{Number: tagBytes, Content: []byte(m.System.Cmdline)}}},
		measurement{"tpm", values{Registers: registers(m.System.PCR11)}})
	if m.SecureBoot != nil {
		for _, v := range m.SecureBoot.Variables {
			claims = append(claims, measurement{v.Name, values{Digests: digests(v.Events)}})
		}
		if m.SecureBoot.Authority != nil {
			claims = append(claims, measurement{"authority", values{Digests: digests(m.SecureBoot.Authority)}})
		}
	}
	id := "gangway-system-" + m.System.SHA256
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, fmt.Errorf("corim: %w", err)
	}
	tag, err := mode.Marshal(midTag{
		Identity: tagIdentity{id, m.Sequence},
		Triples:  triples{[]referenceTriple{{Environment: environment{class{vendor, m.Name}}, Claims: claims}}},
	})
	if err != nil {
		return nil, fmt.Errorf("corim: %w", err)
	}
	out, err := mode.Marshal(cbor.Tag{Number: tagUnsigned, Content: corimMap{ID: id, Tags: []cbor.Tag{{Number: tagMID, Content: tag}}}})
	if err != nil {
		return nil, fmt.Errorf("corim: %w", err)
	}
	return out, nil
}

// program returns the measurements of an EFI program: the digests that firmware measures, and the
// file's hash.
func program(name string, p *manifest.Program) []measurement {
	return []measurement{
		{name, values{Digests: digests(p.Authenticode)}},
		{name + "-file", values{Digests: digests(map[string]string{"SHA-256": p.SHA256})}},
	}
}

// registers returns the integrity registers for the values of PCR 11, by bank and by phase.
func registers(pcr11 map[string]map[string]string) map[any][]digest {
	out := map[any][]digest{}
	for _, a := range algorithms {
		for _, words := range slices.Sorted(maps.Keys(pcr11[a.bank])) {
			var register any = uint64(stubPCR)
			if words != "" {
				register = fmt.Sprintf("%d after %s", stubPCR, words)
			}
			out[register] = append(out[register], digests(map[string]string{a.bank: pcr11[a.bank][words]})...)
		}
	}
	return out
}

// digests returns the digests in all banks that a map has. Manifest.Check has checked that they are
// hexadecimal.
func digests(byBank map[string]string) (out []digest) {
	for _, a := range algorithms {
		if value, err := hex.DecodeString(byBank[a.bank]); err == nil && len(value) > 0 {
			out = append(out, digest{Algorithm: a.number, Value: value})
		}
	}
	return out
}
