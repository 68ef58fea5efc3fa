package manifest

import (
	"crypto"
	_ "crypto/sha256" // the banks
	_ "crypto/sha512"
	"encoding/hex"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"gangway/tcg"
)

// MaxName is the maximum size of a manifest's name, in bytes.
const MaxName = 100

// MaxSequence is the largest sequence: the largest integer that every JSON parser reads exactly
// (RFC 8259, 6).
const MaxSequence = 1<<53 - 1

const (
	maxCmdline = 4096 // bytes
	maxPhases  = 16   // values of PCR 11 in one bank

	maxInstallers = 8
	lastYear      = 9999
)

// banks are the hash algorithms of PCR banks. SHA-1 is left out: it is broken, so equal digests do
// not prove equal boots.
var banks = map[string]crypto.Hash{"SHA-256": crypto.SHA256, "SHA-384": crypto.SHA384, "SHA-512": crypto.SHA512}

// Banks returns the names of the banks that a manifest can have, and their hash algorithms.
func Banks() map[string]crypto.Hash { return maps.Clone(banks) }

// phases matches the names of the boot phases that a running system extends into PCR 11, joined by
// ":".
var phases = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^$|^[a-z0-9]([a-z0-9-]{0,31})(:[a-z0-9]([a-z0-9-]{0,31})){0,15}$`)
})

// variables are the names that a Variable can have.
var variables = []string{"PK", "KEK", "db", "dbx"}

// Check returns an error that wraps ErrForm if a value of the manifest is missing or out of bounds.
// All maps of digests must have the same banks.
func (m *Manifest) Check() error {
	if err := m.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrForm, err)
	}
	return nil
}

func (m *Manifest) check() error {
	switch {
	case m.Format != Format:
		return fmt.Errorf("the manifest has the format %d, but this version reads only format %d: use a newer version", m.Format, Format)
	case m.Name == "" || len(m.Name) > MaxName || tcg.Printable(m.Name) != m.Name:
		return fmt.Errorf("the name must have 1 to %d bytes, all of them printable", MaxName)
	case m.Made.IsZero() || m.Made.Year() < 1970 || m.Made.Year() > lastYear:
		return fmt.Errorf("the time %q is not between the years 1970 and %d", m.Made, lastYear)
	case m.Sequence > MaxSequence:
		return fmt.Errorf("the sequence %d is larger than %d", m.Sequence, uint64(MaxSequence))
	}
	own := slices.Sorted(maps.Keys(m.System.Authenticode))
	if len(own) == 0 {
		return fmt.Errorf("the system has no Authenticode digest")
	}
	if m.BootManager != nil {
		if err := m.BootManager.check(own); err != nil {
			return fmt.Errorf("the boot manager: %w", err)
		}
	}
	if err := m.System.check(own); err != nil {
		return fmt.Errorf("the system: %w", err)
	}
	if len(m.Installers) > maxInstallers || len(m.Installers) > 0 && m.BootManager == nil {
		return fmt.Errorf("a manifest with installers must have a boot manager, and at most %d installers", maxInstallers)
	}
	for i := range m.Installers {
		if err := m.Installers[i].check(own); err != nil {
			return fmt.Errorf("installer %d: %w", i+1, err)
		}
	}
	return m.SecureBoot.check(own)
}

func (p *Program) check(own []string) error {
	if !isDigest(p.SHA256, crypto.SHA256) {
		return fmt.Errorf("sha256 is not a SHA-256 in lower-case hexadecimal")
	}
	return checkDigests("authenticode", p.Authenticode, own)
}

func (s *System) check(own []string) error {
	if err := s.Program.check(own); err != nil {
		return err
	}
	if err := s.Kernel.check(own); err != nil {
		return fmt.Errorf("the kernel: %w", err)
	}
	if len(s.Cmdline) > maxCmdline || tcg.Printable(s.Cmdline) != s.Cmdline {
		return fmt.Errorf("the command line must have at most %d bytes, all of them printable", maxCmdline)
	}
	if !slices.Equal(slices.Sorted(maps.Keys(s.PCR11)), own) {
		return fmt.Errorf("pcr11 must have the banks %s", strings.Join(own, ", "))
	}
	for bank, values := range s.PCR11 {
		if _, ok := values[""]; !ok || len(values) > maxPhases {
			return fmt.Errorf("pcr11 of bank %s must have 1 to %d values, and one of them must have an empty key (no boot phase)", bank, maxPhases)
		}
		for words, value := range values {
			if !phases().MatchString(words) || !isDigest(value, banks[bank]) {
				return fmt.Errorf("pcr11 of bank %s: the boot phases %.40q or their value are not valid", bank, words)
			}
		}
	}
	return nil
}

func (s *SecureBoot) check(own []string) error {
	if s == nil {
		return nil
	}
	var seen []string
	for _, v := range s.Variables {
		if !slices.Contains(variables, v.Name) || slices.Contains(seen, v.Name) {
			return fmt.Errorf("the Secure Boot variable %.40q is unknown, or occurs twice", v.Name)
		}
		seen = append(seen, v.Name)
		if err := checkDigests("events of "+v.Name, v.Events, own); err != nil {
			return err
		}
	}
	if len(seen) == 0 {
		return fmt.Errorf("secure-boot has no variables")
	}
	if s.Authority == nil {
		return nil
	}
	return checkDigests("the authority", s.Authority, own)
}

// checkDigests checks that `digests` has exactly the banks `own`, each with a digest of its size.
func checkDigests(what string, digests map[string]string, own []string) error {
	if !slices.Equal(slices.Sorted(maps.Keys(digests)), own) {
		return fmt.Errorf("%s must have the banks %s", what, strings.Join(own, ", "))
	}
	for bank, digest := range digests {
		h, known := banks[bank]
		if !known {
			return fmt.Errorf("%s: the bank %.40q is not known", what, bank)
		}
		if !isDigest(digest, h) {
			return fmt.Errorf("%s: the digest of bank %s is not a digest of %d bytes in lower-case hexadecimal", what, bank, h.Size())
		}
	}
	return nil
}

// isDigest reports whether the text is a digest of this hash algorithm, in lower-case hexadecimal.
func isDigest(text string, h crypto.Hash) bool {
	if !h.Available() || len(text) != 2*h.Size() {
		return false
	}
	b, err := hex.DecodeString(text)
	return err == nil && hex.EncodeToString(b) == text
}
