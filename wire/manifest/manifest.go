// Package manifest signs and verifies reference manifests. With a reference manifest, the owner of
// a fleet states what a machine measures when it starts one of the owner's systems (reference
// values, RFC 9334, 3). The image builder makes the manifest together with the system, and the hub
// compares boot measurements with the manifest.
//
// A signed manifest is a JWS in compact serialization (RFC 7515) whose payload is the JSON of a
// Manifest. Sign makes the text. Parse verifies a text with the owner's keys before it returns
// anything from it. Unverified is only for showing a text to a person.
//
// Package manifest does no I/O.
package manifest

import "time"

// Format is the version of the manifest's format.
const Format = 1

// MaxSize is the maximum size of a signed manifest, in bytes.
const MaxSize = 256 << 10

// A Manifest describes one system. All digests are in lower-case hexadecimal. In a map of digests
// by bank, the keys are "SHA-256", "SHA-384" and "SHA-512", as in a boot measurement.
type Manifest struct {
	Format int       `json:"format"`
	Name   string    `json:"name"` // for a person: "shop floor 1.4"
	Made   time.Time `json:"made"`
	// Sequence orders the owner's systems. If a machine starts a system with a lower sequence than
	// its previous system, the machine was rolled back.
	Sequence uint64 `json:"sequence"`
	// BootManager is the program that firmware starts. It is nil in the manifest of an update,
	// because an update leaves the boot manager unchanged.
	BootManager *Program `json:"boot-manager,omitempty"`
	System      System   `json:"system"`
	// SecureBoot lists the variables that an image with the owner's Secure Boot keys enrols. It is
	// nil if the image enrols no keys.
	SecureBoot *SecureBoot `json:"secure-boot,omitempty"`
	// Installers are the systems on the installation image that install this system automatically.
	// BootManager starts them. An installer reports the partition table that it has written
	// (wire.InstallReport), and the report counts only if one of these systems made it. The
	// installer for manual installations is not in the list, because it has a shell.
	Installers []System `json:"installers,omitempty"`
}

// A Program is an EFI program. Firmware measures its Authenticode digest into PCR 4 before it
// starts the program (PC Client Platform Firmware Profile, 3.3.4.5).
type Program struct {
	SHA256       string            `json:"sha256"`       // of the whole file
	Authenticode map[string]string `json:"authenticode"` // bank -> digest
}

// A System is a unified kernel image.
type System struct {
	Program
	// Kernel is the EFI program inside the image. With Secure Boot off, the image's stub starts the
	// kernel through firmware, which measures the kernel into PCR 4. With Secure Boot on, systemd's
	// stub starts the kernel itself, and PCR 4 has no digest of the kernel.
	Kernel  Program `json:"kernel"`
	Cmdline string  `json:"cmdline"`
	// PCR11 contains values of PCR 11, by bank and then by the boot phases that the running system
	// has extended so far, joined by ":". The key "" stands for the value that systemd's stub
	// leaves, before the first boot phase.
	PCR11 map[string]map[string]string `json:"pcr11"`
}

// SecureBoot lists the Secure Boot variables that an image enrols.
type SecureBoot struct {
	Variables []Variable `json:"variables"`
	// Authority is the digest, by bank, of an event in PCR 7 (EV_EFI_VARIABLE_AUTHORITY): firmware
	// measures the entry of db that allowed the boot manager. Nil means unknown.
	Authority map[string]string `json:"authority,omitempty"`
}

// A Variable is a firmware variable that firmware measures into PCR 7, as UEFI_VARIABLE_DATA.
type Variable struct {
	Name   string            `json:"name"`   // "PK", "KEK", "db" or "dbx"
	Events map[string]string `json:"events"` // bank -> digest of the event
}
