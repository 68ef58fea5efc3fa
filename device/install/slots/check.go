package slots

import (
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// MaxSystem is the maximum size of a system's file, in bytes.
const MaxSystem = 1 << 30

// maxCmdline is the maximum size of the section .cmdline, in bytes. It serves only to bound the
// memory that Check uses: Linux on x86-64 uses at most the first 2048 bytes (COMMAND_LINE_SIZE).
const maxCmdline = 8 << 10

var errNotSystem = errors.New("this is not a Gangway system; make one with `gangway image system`")

// Check reads a file of `size` bytes and checks that a machine can try to boot the file. The file
// must be a complete EFI program for x86-64 with the sections of a unified kernel image. The
// command line in the file must be that of an installed system and make the kernel restart after a
// panic. Check cannot see whether the system works: only a trial shows that.
func Check(r io.ReaderAt, size int64) error {
	if size > MaxSystem {
		return fmt.Errorf("the file has %d bytes; at most %d are allowed: %w", size, int64(MaxSystem), errNotSystem)
	}
	f, err := pe.NewFile(io.NewSectionReader(r, 0, size))
	if err != nil {
		return fmt.Errorf("the file is not an EFI program (%w): %w", err, errNotSystem)
	}
	opt, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || f.Machine != pe.IMAGE_FILE_MACHINE_AMD64 || opt.Subsystem != pe.IMAGE_SUBSYSTEM_EFI_APPLICATION {
		return fmt.Errorf("the file is not an EFI program for x86-64: %w", errNotSystem)
	}
	found := map[string]*pe.Section{}
	for _, s := range f.Sections {
		if end := int64(s.Offset) + int64(s.Size); s.Size > 0 && end > size {
			return fmt.Errorf("the file is truncated: its section %.8q should end at byte %d, but the file has only %d bytes: %w", s.Name, end, size, errNotSystem)
		}
		if found[s.Name] != nil {
			return fmt.Errorf("the file has the section %.8q twice: %w", s.Name, errNotSystem)
		}
		found[s.Name] = s
	}
	for _, name := range []string{".linux", ".initrd", ".cmdline"} {
		if s := found[name]; s == nil || s.VirtualSize == 0 || s.VirtualSize > s.Size {
			return fmt.Errorf("the file has no complete section %s: %w", name, errNotSystem)
		}
	}
	if err := checkKernel(found[".linux"]); err != nil {
		return err
	}
	return checkCmdline(found[".cmdline"])
}

// checkKernel checks that the section .linux has the magic of the Linux boot protocol
// (Documentation/arch/x86/boot.rst).
func checkKernel(s *pe.Section) error {
	magic := make([]byte, 4)
	if _, err := s.ReadAt(magic, 0x202); err != nil || string(magic) != "HdrS" {
		return fmt.Errorf("the section .linux is not a kernel: %w", errNotSystem)
	}
	return nil
}

func checkCmdline(s *pe.Section) error {
	if s.VirtualSize > maxCmdline {
		return fmt.Errorf("the command line has %d bytes; at most %d are allowed: %w", s.VirtualSize, maxCmdline, errNotSystem)
	}
	b := make([]byte, s.VirtualSize)
	if _, err := s.ReadAt(b, 0); err != nil {
		return fmt.Errorf("reading the command line: %w", err)
	}
	mode, panics := "", 0
	for w := range strings.FieldsSeq(strings.TrimRight(string(b), "\x00")) {
		switch k, v, _ := strings.Cut(w, "="); k {
		case "gangway.mode":
			mode = v
		case "panic":
			panics, _ = strconv.Atoi(v) // the kernel also reads an invalid number as 0
		}
	}
	switch {
	case mode != "system":
		return fmt.Errorf("the command line has gangway.mode=%s; an installed system needs gangway.mode=system: %w", mode, errNotSystem)
	case panics == 0:
		return fmt.Errorf("the command line has no panic=SECONDS, so the machine would hang after a kernel panic: %w", errNotSystem)
	}
	return nil
}
