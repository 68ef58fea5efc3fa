package measure

import (
	"bytes"
	"crypto"
	"debug/pe"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"gangway/wire/manifest"
)

// ErrStub means that PCR 11 of a unified kernel image cannot be known in advance.
var ErrStub = errors.New("measure: PCR 11 of this image cannot be known in advance")

// A section is an entry in systemd's list of sections: the section's name, and the first version of
// systemd that measures it.
type section struct {
	name  string
	since int
}

// sections is systemd's list of sections, in the order in which the stub measures them
// (systemd-stub(7)). The order in the file does not matter. The stub does not measure .pcrsig,
// because .pcrsig is a signature of the result.
var sections = []section{
	{".linux", 252}, {".osrel", 252}, {".cmdline", 252}, {".initrd", 252},
	{".ucode", 256},
	{".splash", 252}, {".dtb", 252},
	{".uname", 254}, {".sbat", 254}, // systemd's pull requests 27358 and 28187
	{".pcrpkey", 252},
	{".profile", 257}, {".hwids", 257},
}

// dependent lists the sections that the stub uses only if they fit the machine's hardware.
var dependent = []string{".dtbauto", ".efifw", ".dtbo"}

// Versions of systemd whose order of sections is known.
const (
	oldestStub = 252
	newestStub = 260
)

// linuxSection is the section with the kernel.
const linuxSection = ".linux"

// stubMagic is the text in a stub's section .sdmagic.
var stubMagic = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^#### LoaderInfo: systemd-stub (\d{1,6})\b[^#]*####\x00*$`)
})

// stubVersion returns the version of systemd to which the stub belongs.
func (p *program) stubVersion() (int, error) {
	magic, err := p.content(".sdmagic")
	if err != nil {
		return 0, err
	}
	found := stubMagic().FindSubmatch(magic)
	if found == nil {
		return 0, fmt.Errorf("%w: the image does not begin with systemd's stub", ErrStub)
	}
	v, err := strconv.Atoi(string(found[1]))
	if err != nil || v < oldestStub || v > newestStub {
		return 0, fmt.Errorf("%w: the image has the stub of systemd %s; use a stub of systemd %d to %d", ErrStub, found[1], oldestStub, newestStub)
	}
	return v, nil
}

// The method `knows` reports whether the image's stub knows a section's name. The stub has the
// names as texts in its own sections. Distributions backport sections to older stubs (RHEL 9 has
// .uname and .sbat in its systemd 252), so the version alone does not tell which sections a stub
// measures.
func (p *program) knows(name string) bool {
	text := []byte(name + "\x00")
	for _, s := range p.file.Sections {
		payload := s.Name == ".pcrsig" || slices.Contains(dependent, s.Name) ||
			slices.ContainsFunc(sections, func(in section) bool { return in.name == s.Name })
		if !payload && bytes.Contains(p.efi[s.Offset:][:s.Size], text) {
			return true
		}
	}
	return false
}

// The method `content` returns the content of a section, as it is in memory, or nil if the file has
// no such section. The stub measures as many bytes as the section has in memory.
func (p *program) content(name string) ([]byte, error) {
	var found *pe.Section
	for _, s := range p.file.Sections {
		switch {
		case s.Name != name:
		case found != nil:
			return nil, fmt.Errorf("%w: the image has the section %s twice", ErrStub, name)
		default:
			found = s
		}
	}
	if found == nil {
		return nil, nil
	}
	if found.VirtualSize > found.Size {
		return nil, fmt.Errorf("%w: the section %s is larger in memory than in the file", ErrStub, name)
	}
	return p.efi[found.Offset:][:found.VirtualSize], nil
}

// A measured is one section that the stub measures.
type measured struct {
	name    string
	content []byte
}

// measuredSections returns the sections that the image's stub measures, in order.
func (p *program) measuredSections() (all []measured, err error) {
	version, err := p.stubVersion()
	if err != nil {
		return nil, err
	}
	if p.file.PointerToSymbolTable != 0 {
		// If a file has a symbol table, a section's header can give the section's name as an offset
		// into the string table, which the stub does not read.
		return nil, fmt.Errorf("%w: it has a symbol table", ErrStub)
	}
	for _, s := range p.file.Sections {
		if slices.Contains(dependent, s.Name) {
			return nil, fmt.Errorf("%w: the stub uses one of the image's sections %s, and the machine's hardware decides which", ErrStub, s.Name)
		}
	}
	for _, s := range sections {
		content, err := p.content(s.name)
		if err != nil {
			return nil, err
		}
		if len(content) == 0 {
			continue
		}
		switch knows := p.knows(s.name); {
		case knows:
			all = append(all, measured{s.name, content})
		case version >= s.since:
			return nil, fmt.Errorf("%w: the stub claims to be from systemd %d but does not contain the section name %s, so it is not systemd's stub", ErrStub, version, s.name)
		}
	}
	if len(all) == 0 || all[0].name != linuxSection {
		return nil, fmt.Errorf("%w: it has no kernel", ErrStub)
	}
	return all, nil
}

// PCR11 returns the value of PCR 11 after a machine has started a unified kernel image with
// systemd's stub, and the system has then extended the boot phases `phases`. `phases` is a text of
// phase names separated by ":", as for `systemd-measure --phase`. The empty text stands for the
// value before the first phase.
func PCR11(uki []byte, bank crypto.Hash, phases string) ([]byte, error) {
	p, err := parse(uki)
	if err != nil {
		return nil, err
	}
	all, err := p.measuredSections()
	if err != nil {
		return nil, err
	}
	return pcr11(all, bank, phases), nil
}

func pcr11(all []measured, bank crypto.Hash, phases string) []byte {
	value := make([]byte, bank.Size())
	for _, s := range all {
		value = extend(bank, value, []byte(s.name+"\x00"))
		value = extend(bank, value, s.content)
	}
	if phases != "" {
		for word := range strings.SplitSeq(phases, ":") {
			value = extend(bank, value, []byte(word))
		}
	}
	return value
}

// extend returns the value of a PCR after TPM2_PCR_Extend with the hash of the data (TPM 2.0
// Library, Part 3, 22.2).
func extend(bank crypto.Hash, value, data []byte) []byte {
	return sum(bank, value, sum(bank, data))
}

// System returns the part of a manifest that describes a unified kernel image. Gangway's init
// extends no boot phases into PCR 11, so the manifest of Gangway's own system needs no phases. For
// a system with another init, `phases` lists the phases of that init.
func System(uki []byte, phases ...string) (*manifest.System, error) {
	p, err := parse(uki)
	if err != nil {
		return nil, err
	}
	all, err := p.measuredSections()
	if err != nil {
		return nil, err
	}
	s := &manifest.System{PCR11: map[string]map[string]string{}}
	if s.Program, err = Program(uki); err != nil {
		return nil, err
	}
	if s.Kernel, err = Program(all[0].content); err != nil {
		return nil, fmt.Errorf("the section %s: %w", linuxSection, err)
	}
	if cmdline, err := p.content(".cmdline"); err == nil {
		s.Cmdline = strings.TrimRight(string(cmdline), "\x00")
	}
	for name, bank := range manifest.Banks() {
		s.PCR11[name] = map[string]string{}
		for _, words := range append([]string{""}, phases...) {
			s.PCR11[name][words] = hex.EncodeToString(pcr11(all, bank, words))
		}
	}
	return s, nil
}
