package boot

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"gangway/tcg"
	"gangway/tcg/eventlog"
)

// Bounds of the stored content of the Secure Boot variables. A machine has four such variables,
// with about ten certificates in all.
const (
	maxKeyCertificates = 64
	maxSubject         = 200 // characters
)

// KeyVariable is the content of a Secure Boot variable: PK, KEK, db or dbx. The digest of an event
// in PCR 7 proves the content.
type KeyVariable struct {
	Name         string           `json:"name"`
	Certificates []KeyCertificate `json:"certificates,omitempty"`
	Hashes       int              `json:"hashes,omitempty"` // number of entries that are hashes of programs
}

// KeyCertificate is a certificate in a Secure Boot variable.
type KeyCertificate struct {
	Subject string `json:"subject"`         // for a person; anyone can make a certificate with any subject
	SHA256  string `json:"sha256"`          // hash of the DER encoding
	Known   string `json:"known,omitempty"` // the publisher's name for the certificate, if the hub knows the hash
}

// published has the names of the certificates that Microsoft uses before and after its change of
// certificates in 2026 (the roll-over). The key of the map is the SHA-256 of the certificate in
// DER. Source: github.com/microsoft/secureboot_objects, folder PreSignedObjects, revision 06fe58a3.
var published = map[string]string{
	"48e99b991f57fc52f76149599bff0a58c47154229b9f8d603ac40d3500248507": "Microsoft Corporation UEFI CA 2011",
	"e8e95f0733a55e8bad7be0a1413ee23c51fcea64b3c8fa6a786935fddcc71961": "Microsoft Windows Production PCA 2011",
	"a1117f516a32cefcba3f2d1ace10a87972fd6bbe8fe0d0b996e09e65d802a503": "Microsoft Corporation KEK CA 2011",
	"e5be3e64c6e66a281457ecdece0d6d0787577aad2a3a0144262c10c14ba8d8f1": "Microsoft Option ROM UEFI CA 2023",
	"f6124e34125bee3fe6d79a574eaa7b91c0e7bd9d929c1a321178efd611dad901": "Microsoft UEFI CA 2023",
	"076f1fea90ac29155ebf77c17682f75f1fdd1be196da302dc8461e350a9ae330": "Windows UEFI CA 2023",
	"3cd3f0309edae228767a976dd40d9f4affc4fbd5218f2e8cc3c9dd97e8ac6f9d": "Microsoft Corporation KEK 2K CA 2023",
}

// rollOver has the names of the new certificates of Microsoft's roll-over.
var rollOver = []string{"Microsoft Option ROM UEFI CA 2023", "Microsoft UEFI CA 2023", "Windows UEFI CA 2023", "Microsoft Corporation KEK 2K CA 2023"}

// GUIDs that say what a signature list contains (UEFI 32.4.1): X.509 certificates, or SHA-256
// hashes of programs. They are in their memory layout.
var (
	certX509   = guid{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	certSHA256 = guid{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28}
)

// keyVariables returns the Secure Boot variables that the events of PCR 7 measured. The log must
// explain PCR 7. Only the events before the separator count, because only the firmware made these.
// Later programs can also extend PCR 7.
func keyVariables(events []logEvent, bank crypto.Hash) (all []KeyVariable) {
	n := &namer{pcr: secureBootPCR, bank: bank}
	room := maxKeyCertificates
	for _, e := range events {
		if _, ok := n.separator(e); ok {
			break
		}
		data, measured := n.measured(e)
		v, ok := eventlog.ParseVariable(data)
		if !measured || !ok || slices.ContainsFunc(all, func(k KeyVariable) bool { return k.Name == v.Name }) {
			continue
		}
		switch {
		case v.Vendor == globalVariable && (v.Name == "PK" || v.Name == "KEK"), v.Vendor == imageSecurity && (v.Name == "db" || v.Name == "dbx"):
			k := KeyVariable{Name: v.Name}
			k.readLists(v.Value, &room)
			all = append(all, k)
		}
	}
	return all
}

// readLists reads EFI_SIGNATURE_LISTs, and stops at the first list that is not valid. It keeps at
// most `room` certificates, and decreases `room` by the number of kept certificates.
func (k *KeyVariable) readLists(b []byte, room *int) {
	const head, owner = 16 + 4 + 4 + 4, 16
	for len(b) >= head {
		le := binary.LittleEndian
		list, header, entry := uint64(le.Uint32(b[16:])), uint64(le.Uint32(b[20:])), uint64(le.Uint32(b[24:]))
		if list < head+header || list > uint64(len(b)) || entry <= owner {
			return
		}
		kind, entries := guid(b[:16]), b[head+header:list]
		b = b[list:]
		for ; uint64(len(entries)) >= entry; entries = entries[entry:] {
			content := entries[owner:entry]
			switch {
			case kind == certX509 && *room > 0:
				k.Certificates = append(k.Certificates, keyCertificate(content))
				*room--
			case kind == certSHA256:
				k.Hashes++
			}
		}
	}
}

func keyCertificate(der []byte) KeyCertificate {
	sum := sha256.Sum256(der)
	k := KeyCertificate{Subject: "a certificate that cannot be read", SHA256: hex.EncodeToString(sum[:])}
	if c, err := x509.ParseCertificate(der); err == nil {
		k.Subject = c.Subject.CommonName
		if k.Subject == "" {
			k.Subject = c.Subject.String()
		}
		k.Subject = tcg.Printable(k.Subject)
		if r := []rune(k.Subject); len(r) > maxSubject {
			k.Subject = string(r[:maxSubject]) + "…"
		}
	}
	k.Known = published[k.SHA256]
	return k
}

// Causes of a change in a part of the boot, for example in its firmware. The hub groups the devices
// with such a change by the cause.
const (
	CauseRollOver    = "microsoft-roll-over" // db or KEK gained certificates of Microsoft's roll-over, and nothing else
	CauseRevocations = "revocations"         // only dbx changed
	CauseSecureBoot  = "secure-boot"         // Secure Boot was switched on or off
	CauseFirmware    = "firmware-update"     // the firmware's version changed
	CauseRolledBack  = "rolled-back"         // a system started that is older than the previous system, and no revision asks for the older system
	CauseUnwanted    = "another-system"      // the started system is one of the owner's, but is not meant to run
	CauseNoManifest  = "not-in-any-manifest" // no manifest names the system that started
	CauseOtherBank   = "another-bank"        // the boot was measured in another PCR bank
	CauseNoReference = "no-reference"        // the first boot was not accepted
)

// keyChanges returns a sentence for each difference between the Secure Boot variables of two boots.
// The result `cause` is empty if several causes are possible.
func keyChanges(before, after []KeyVariable) (words []string, cause string) {
	causes := make(map[string]bool)
	for _, now := range after {
		i := slices.IndexFunc(before, func(k KeyVariable) bool { return k.Name == now.Name })
		if i < 0 {
			continue
		}
		was := before[i]
		for _, c := range certificatesWithout(now, was) {
			words = append(words, fmt.Sprintf("%s gained the certificate %s.", now.Name, c.words()))
			causes[c.cause(now.Name)] = true
		}
		for _, c := range certificatesWithout(was, now) {
			words = append(words, fmt.Sprintf("%s lost the certificate %s.", now.Name, c.words()))
			causes[""] = true
		}
		if now.Hashes != was.Hashes {
			words = append(words, fmt.Sprintf("The number of hashes in %s changed from %d to %d.", now.Name, was.Hashes, now.Hashes))
			causes[hashCause(now, was)] = true
		}
	}
	if len(causes) == 1 {
		for c := range causes {
			return words, c
		}
	}
	return words, ""
}

func hashCause(now, was KeyVariable) string {
	if now.Name == "dbx" && now.Hashes > was.Hashes {
		return CauseRevocations
	}
	return ""
}

// The method `words` returns the name of a certificate, for a person. If the hub does not know the
// certificate, the text also has the certificate's hash, because anyone can make a certificate with
// the same subject.
func (c KeyCertificate) words() string {
	if c.Known != "" {
		return fmt.Sprintf("%q, which Microsoft published", c.Known)
	}
	return fmt.Sprintf("%q (SHA-256 %s), which this hub does not know", c.Subject, c.SHA256)
}

func (c KeyCertificate) cause(variable string) string {
	if slices.Contains(rollOver, c.Known) && variable != "dbx" && (variable == "KEK") == strings.Contains(c.Known, "KEK") {
		return CauseRollOver
	}
	return ""
}

// certificatesWithout returns the certificates in `a` that are not in `b`.
func certificatesWithout(a, b KeyVariable) (out []KeyCertificate) {
	for _, c := range a.Certificates {
		if !slices.ContainsFunc(b.Certificates, func(o KeyCertificate) bool { return o.SHA256 == c.SHA256 }) {
			out = append(out, c)
		}
	}
	return out
}
