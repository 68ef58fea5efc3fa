package slots

import (
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// MaxSystem bounds a system's file, in bytes.
const MaxSystem = 1 << 30

// maxCmdline is more than Linux takes on x86-64 (COMMAND_LINE_SIZE is 2048),
// in bytes.
const maxCmdline = 8 << 10

var errNoSystem = errors.New("it is no system of Gangway; `gangway image system` makes one")

// Check reads a file of size bytes and says whether it may be started: an EFI
// program for x86-64 with the sections of a unified kernel image, whole, whose
// command line starts an installed system and lets a panic restart the machine.
// Whether it comes up is for the trial to show.
func Check(r io.ReaderAt, size int64) error {
	if size > MaxSystem {
		return fmt.Errorf("it has %d bytes, at most %d are taken: %w", size, int64(MaxSystem), errNoSystem)
	}
	f, err := pe.NewFile(io.NewSectionReader(r, 0, size))
	if err != nil {
		return fmt.Errorf("it is no EFI program (%w): %w", err, errNoSystem)
	}
	opt, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || f.Machine != pe.IMAGE_FILE_MACHINE_AMD64 || opt.Subsystem != pe.IMAGE_SUBSYSTEM_EFI_APPLICATION {
		return fmt.Errorf("it is no EFI program for x86-64: %w", errNoSystem)
	}
	found := map[string]*pe.Section{}
	for _, s := range f.Sections {
		if end := int64(s.Offset) + int64(s.Size); s.Size > 0 && end > size {
			return fmt.Errorf("it is cut short: its section %.8q ends at byte %d of %d: %w", s.Name, end, size, errNoSystem)
		}
		if found[s.Name] != nil {
			return fmt.Errorf("it has two sections %.8q: %w", s.Name, errNoSystem)
		}
		found[s.Name] = s
	}
	for _, name := range []string{".linux", ".initrd", ".cmdline"} {
		if s := found[name]; s == nil || s.VirtualSize == 0 || s.VirtualSize > s.Size {
			return fmt.Errorf("it has no whole section %s: %w", name, errNoSystem)
		}
	}
	if err := checkKernel(found[".linux"]); err != nil {
		return err
	}
	return checkCmdline(found[".cmdline"])
}

// checkKernel looks for the boot protocol's magic (Documentation/arch/x86/boot.rst).
func checkKernel(s *pe.Section) error {
	magic := make([]byte, 4)
	if _, err := s.ReadAt(magic, 0x202); err != nil || string(magic) != "HdrS" {
		return fmt.Errorf("its section .linux is no kernel: %w", errNoSystem)
	}
	return nil
}

func checkCmdline(s *pe.Section) error {
	if s.VirtualSize > maxCmdline {
		return fmt.Errorf("its command line has %d bytes: %w", s.VirtualSize, errNoSystem)
	}
	b := make([]byte, s.VirtualSize)
	if _, err := s.ReadAt(b, 0); err != nil {
		return fmt.Errorf("its command line cannot be read: %w", err)
	}
	mode, panics := "", 0
	for w := range strings.FieldsSeq(strings.TrimRight(string(b), "\x00")) {
		switch k, v, _ := strings.Cut(w, "="); k {
		case "gangway.mode":
			mode = v
		case "panic":
			panics, _ = strconv.Atoi(v) // what is no number is 0 to the kernel
		}
	}
	switch {
	case mode != "system":
		return fmt.Errorf("its command line has gangway.mode=%s where an installed system has gangway.mode=system: %w", mode, errNoSystem)
	case panics == 0:
		return fmt.Errorf("its command line has no panic=SECONDS: a kernel that panics would stand still: %w", errNoSystem)
	}
	return nil
}
