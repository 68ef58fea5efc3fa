package measure

import (
	"bytes"
	"crypto"
	"debug/pe"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"gangway/image"
	"gangway/image/authenticode"
	"gangway/wire/manifest"
)

// The variable `made` is the time in the tests' manifests.
var made = time.Date(2026, 11, 29, 15, 0, 0, 0, time.UTC)

const bootDir = "/usr/lib/systemd/boot/efi"

// systemdFile reads one of systemd's EFI programs.
func systemdFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(bootDir, name))
	if err != nil {
		t.Skip(err)
	}
	return b
}

// part is a section of a test program.
type part struct {
	name string
	data []byte
}

// Sizes of a test program, in bytes. The text "HdrS" of a kernel is at 0x202, before the PE header.
const (
	testHeader = 0x300
	testPage   = 512
)

// efi makes an EFI program with these sections. The program has the magic of a Linux kernel, so it
// can also be the kernel of a unified kernel image.
func efi(parts ...part) []byte {
	le := binary.LittleEndian
	size := testHeader + 4 + coffHeader + 240 + 40*len(parts)
	size += -size & (testPage - 1)
	b := make([]byte, size)
	copy(b, "MZ")
	copy(b[0x202:], "HdrS")
	le.PutUint32(b[peOffsetAt:], testHeader)
	copy(b[testHeader:], "PE\x00\x00")
	coff := b[testHeader+4:]
	le.PutUint16(coff, pe.IMAGE_FILE_MACHINE_AMD64)
	le.PutUint16(coff[2:], uint16(len(parts)))
	le.PutUint16(coff[16:], 240)
	opt := coff[coffHeader:]
	le.PutUint16(opt, 0x20B)
	le.PutUint32(opt[32:], 4096)         // section alignment
	le.PutUint32(opt[36:], testPage)     // file alignment
	le.PutUint32(opt[60:], uint32(size)) // size of headers
	le.PutUint16(opt[68:], pe.IMAGE_SUBSYSTEM_EFI_APPLICATION)
	le.PutUint32(opt[108:], 16)
	for i, s := range parts {
		h := b[testHeader+4+coffHeader+240+40*i:][:40]
		copy(h[:8], s.name)
		padded := len(s.data) + -len(s.data)&(testPage-1)
		le.PutUint32(h[8:], uint32(len(s.data)))
		le.PutUint32(h[12:], uint32(4096*(i+1)))
		le.PutUint32(h[16:], uint32(padded))
		le.PutUint32(h[20:], uint32(len(b)))
		b = append(append(b, s.data...), make([]byte, padded-len(s.data))...)
	}
	return b
}

func magic(version string) part {
	return part{".sdmagic", []byte("#### LoaderInfo: systemd-stub " + version + " ####\x00")}
}

// names returns a section for a stub that contains the given section names as text.
func names(names ...string) part {
	return part{".rodata", []byte(strings.Join(append(names, ".pcrsig"), "\x00") + "\x00")}
}

// The names that the stubs of systemd 252, 254, 256 and 257 measure.
var (
	names252 = []string{".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey"}
	names254 = append(slices.Clone(names252), ".uname", ".sbat")
	names256 = append(slices.Clone(names254), ".ucode")
	names257 = append(slices.Clone(names256), ".profile", ".dtbauto", ".hwids")
)

// The function `real` returns a unified kernel image with Debian's stub.
func real(t testing.TB) ([]byte, image.UKI) {
	t.Helper()
	u := image.UKI{
		Stub: systemdFile(t, "linuxx64.efi.stub"), Kernel: efi(part{".text", []byte("kernel")}), Initrd: bytes.Repeat([]byte{7}, 5000),
		Cmdline: "console=ttyS0 quiet", OSRelease: "ID=test\n",
	}
	b, err := u.Build()
	if err != nil {
		t.Fatal(err)
	}
	return b, u
}

// systemdMeasure runs systemd's tool, and returns the values by bank and phase.
func systemdMeasure(t *testing.T, u image.UKI, args ...string) map[string]map[string]string {
	t.Helper()
	const tool = "/usr/lib/systemd/systemd-measure"
	if _, err := os.Stat(tool); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	args = append([]string{"calculate", "--json=short"}, args...)
	for name, data := range map[string][]byte{"linux": u.Kernel, "initrd": u.Initrd, "cmdline": []byte(u.Cmdline), "osrel": []byte(u.OSRelease)} {
		if len(data) == 0 {
			continue
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--"+name+"="+path)
	}
	out, err := exec.Command(tool, args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var parsed map[string][]struct{ Phase, Hash string }
	if err := json.Unmarshal(out, &parsed); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	values := map[string]map[string]string{}
	for bank, all := range parsed {
		bank = strings.Replace(strings.ToUpper(bank), "SHA", "SHA-", 1)
		values[bank] = map[string]string{}
		for _, v := range all {
			values[bank][strings.Trim(v.Phase, ":")] = v.Hash
		}
	}
	return values
}

// PCR11 returns exactly the value that systemd's own tool computes: in each bank, before the first
// phase and in each of the tool's phases.
func TestPCR11EqualsSystemdMeasure(t *testing.T) {
	phases := []string{"enter-initrd", "enter-initrd:leave-initrd", "enter-initrd:leave-initrd:sysinit", "enter-initrd:leave-initrd:sysinit:ready"}
	for _, without := range []string{"", "initrd", "osrel"} {
		_, u := real(t)
		switch without {
		case "initrd":
			u.Initrd = nil
		case "osrel":
			u.OSRelease = ""
		}
		uki, err := u.Build()
		if err != nil {
			t.Fatal(err)
		}
		s, err := System(uki, phases...)
		if err != nil {
			t.Fatal(err)
		}
		first, later := systemdMeasure(t, u, "--phase="), systemdMeasure(t, u)
		for bank := range manifest.Banks() {
			if got := s.PCR11[bank][""]; got == "" || got != first[bank][""] {
				t.Errorf("without %q, %s: %s, systemd-measure says %s", without, bank, got, first[bank][""])
			}
			for _, words := range phases {
				if got := s.PCR11[bank][words]; got == "" || got != later[bank][words] {
					t.Errorf("without %q, %s, %s: %s, systemd-measure says %s", without, bank, words, got, later[bank][words])
				}
			}
		}
	}
}

// Each version of the stub measures a different set of sections. The expected values were computed
// with Python's hashlib (SHA-256) from systemd's list of sections.
func TestPCR11OfEachStub(t *testing.T) {
	all := []part{
		{".pcrpkey", []byte("pcrpkey")}, {".hwids", []byte("hwids")}, {".profile", []byte("profile")}, {".pcrsig", []byte("pcrsig")},
		{".sbat", []byte("sbat")}, {".uname", []byte("uname")}, {".dtb", []byte("dtb")}, {".splash", []byte("splash")}, {".ucode", []byte("ucode")},
		{".initrd", []byte("initrd")}, {".cmdline", []byte("cmdline")}, {".osrel", []byte("osrel")}, {".linux", []byte("linux")}, {".text", []byte("text")},
	}
	const (
		value252 = "b3a6b850ae09c645a0b9c541d9ee2815f3abc253377ea37fb99bbe070ca03c21"
		value254 = "d320aa94a1d04c2c67aad62bd81b89cb77590e5922a1c05beabc29c185001721"
		value256 = "af6e47d54eebf81d6cc7f778564e755ff9cef40a8d4c27dad334aac435b1c10b"
		value257 = "5810a3da798eea63c9ae2c5abe694f604156d9505778d30ca55a04ec96039716"
	)
	for _, c := range []struct {
		version string
		names   []string
		want    string
	}{
		{"252.39-1~deb12u2", names252, value252},
		{"252-46.el9", names254, value254}, // RHEL 9 has backported two sections
		{"253.1", names252, value252},
		{"254.5", names254, value254},
		{"255", names254, value254},
		{"256.7-1", names256, value256},
		{"257.8-1~deb13u1", names257, value257},
		{"258", names257, value257},
		{"259.1", names257, value257},
		{"260.2-1-arch", names257, value257},
	} {
		got, err := PCR11(efi(append(all, magic(c.version), names(c.names...))...), crypto.SHA256, "")
		if err != nil {
			t.Errorf("%s: %v", c.version, err)
		} else if hex.EncodeToString(got) != c.want {
			t.Errorf("%s: %x, want %s", c.version, got, c.want)
		}
	}
}

// If PCR 11 depends on more than the image, PCR11 refuses the image and does not guess a value.
func TestPCR11IsNotGuessed(t *testing.T) {
	linux, stub, known := part{".linux", []byte("linux")}, magic("257.8"), names(names257...)
	if _, err := PCR11(efi(linux, stub, known), crypto.SHA256, ""); err != nil {
		t.Fatal(err)
	}
	large := efi(linux, stub, known)
	le := binary.LittleEndian
	le.PutUint32(large[testHeader+4+coffHeader+240+8:], 5000) // VirtualSize of the first section
	symbols := efi(linux, stub, known)
	le.PutUint32(symbols[testHeader+4+8:], uint32(len(symbols)))
	symbols = append(symbols, 4, 0, 0, 0)
	for name, uki := range map[string][]byte{
		"no stub":                 efi(linux, known),
		"another stub":            efi(linux, known, part{".sdmagic", []byte("#### LoaderInfo: systemd-boot 257 ####")}),
		"systemd 251":             efi(linux, known, magic("251")),
		"a future systemd":        efi(linux, known, magic("261")),
		"a very long number":      efi(linux, known, magic("2570000000000000000000")),
		"a stub without a name":   efi(linux, part{".uname", []byte("6.1")}, magic("254"), names(names252...)),
		"no kernel":               efi(stub, known),
		"a section twice":         efi(linux, stub, known, linux),
		"two profiles":            efi(linux, stub, known, part{".profile", []byte("a")}, part{".profile", []byte("b")}),
		"device trees to choose":  efi(linux, stub, known, part{".dtbauto", []byte("a")}),
		"firmware to choose":      efi(linux, stub, known, part{".efifw", []byte("a")}),
		"a section beyond itself": large,
		"a symbol table":          symbols,
	} {
		if _, err := PCR11(uki, crypto.SHA256, ""); !errors.Is(err, ErrStub) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

var calculated = regexp.MustCompile(`Calculated message digest\s*: ([0-9A-F]+)`)

// Authenticode returns the digest that osslsigncode signs and verifies.
func TestAuthenticodeEqualsOsslsigncode(t *testing.T) {
	if m := authenticode.Missing(); m != "" {
		t.Skip(m)
	}
	key, cert := opensslKeys(t)
	uki, _ := real(t)
	for name, program := range map[string][]byte{
		"unified kernel image": uki,
		"boot manager":         systemdFile(t, "systemd-bootx64.efi"), // has data after its sections, and an odd size
		"kernel":               efi(part{".text", []byte("kernel")}),
	} {
		for option, bank := range map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512} {
			dir := t.TempDir()
			in, out := filepath.Join(dir, "in.efi"), filepath.Join(dir, "out.efi")
			if err := os.WriteFile(in, program, 0o600); err != nil {
				t.Fatal(err)
			}
			if text, err := exec.Command("osslsigncode", "sign", "-h", option, "-certs", cert, "-key", key, "-in", in, "-out", out).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			signed, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Authenticode(signed, bank)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := exec.Command("osslsigncode", "verify", "-in", out, "-CAfile", cert).CombinedOutput()
			want := calculated.FindSubmatch(text)
			if want == nil {
				t.Fatalf("osslsigncode prints no digest: %s", text)
			}
			if !strings.EqualFold(hex.EncodeToString(got), string(want[1])) {
				t.Errorf("%s, %s: %x, osslsigncode says %s", name, option, got, want[1])
			}
			padded := append(bytes.Clone(program), make([]byte, -len(program)&7)...)
			if unsigned, err := Authenticode(padded, bank); err != nil || !bytes.Equal(unsigned, got) {
				t.Errorf("%s, %s: the signature changed the digest: %v", name, option, err)
			}
		}
	}
}

func opensslKeys(t *testing.T) (key, cert string) {
	t.Helper()
	dir := t.TempDir()
	key, cert = filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	out, err := exec.Command("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-subj", "/CN=test/").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return key, cert
}

// The test changes each byte of an EFI program. Each change changes the digest, except a change of
// the checksum or of the offset of the signatures.
func TestAuthenticodeCoversEachByte(t *testing.T) {
	program := append(efi(part{".text", []byte("text")}, part{".data", []byte("data")}), "after the sections"...)
	want, err := Authenticode(program, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	optional := testHeader + 4 + coffHeader
	for at := range program {
		inChecksum := at >= optional+checkSumAt && at < optional+checkSumAt+checkSumSize
		inEntry := at >= optional+certificatesAt && at < optional+certificatesAt+directoryEntry
		changed := bytes.Clone(program)
		changed[at] ^= 1
		got, err := Authenticode(changed, crypto.SHA256)
		if err == nil && bytes.Equal(got, want) != (inChecksum || inEntry && at < optional+certificatesAt+4) {
			t.Errorf("byte %#x: the digest stays the same: %t", at, bytes.Equal(got, want))
		}
	}
}

// If the headers of a file give wrong sizes or offsets, the result is an error and not a panic.
func TestRejectsProgramThatLies(t *testing.T) {
	program := efi(part{".text", []byte("text")})
	optional := testHeader + 4 + coffHeader
	put := func(at int, v uint32) []byte {
		b := bytes.Clone(program)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	section := optional + 240
	for name, b := range map[string][]byte{
		"empty":                         nil,
		"no header":                     []byte("MZ"),
		"text":                          bytes.Repeat([]byte("text"), 1000),
		"a PE header outside":           put(peOffsetAt, 0xFFFFFFF0),
		"no headers":                    put(optional+60, 0),
		"headers larger than the file":  put(optional+60, 0xFFFFFFFF),
		"signatures larger":             put(optional+certificatesAt+4, 0xFFFFFFFF),
		"signatures as large":           put(optional+certificatesAt+4, uint32(len(program))),
		"a section that ends outside":   put(section+16, 0xFFFFFFFF),
		"a section that begins outside": put(section+20, 0xFFFFFFFF),
	} {
		if _, err := Authenticode(b, crypto.SHA256); !errors.Is(err, ErrProgram) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// A program whose sections overlap is accepted, because firmware hashes such sections too.
	twice := efi(part{".a", bytes.Repeat([]byte("a"), 2000)}, part{".b", bytes.Repeat([]byte("b"), 2000)})
	copy(twice[section+40+16:section+40+24], twice[section+16:section+24])
	if _, err := Authenticode(twice, crypto.SHA256); err != nil {
		t.Errorf("overlapping sections: %v", err)
	}
}

// No file makes System panic, and every result of System fits into a manifest.
func FuzzSystem(f *testing.F) {
	kernel := efi(part{".text", []byte("kernel")})
	f.Add(efi(part{".linux", kernel}, magic("252"), names(names252...), part{".cmdline", []byte("quiet")}))
	f.Add(efi(part{".linux", kernel}))
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := System(b)
		if (s == nil) != (err != nil) {
			t.Fatalf("%v, %v", s, err)
		}
		if _, err := Program(b); s != nil && err != nil {
			t.Fatal(err)
		}
	})
}

// System returns the same digests as Authenticode, in every bank.
func TestSystemHasEveryBank(t *testing.T) {
	uki, u := real(t)
	s, err := System(uki, "enter-initrd")
	if err != nil {
		t.Fatal(err)
	}
	if s.Cmdline != u.Cmdline {
		t.Errorf("the command line is %q", s.Cmdline)
	}
	for name, bank := range manifest.Banks() {
		for what, c := range map[string]struct {
			in  []byte
			got string
		}{"system": {uki, s.Authenticode[name]}, "kernel": {u.Kernel, s.Kernel.Authenticode[name]}} {
			want, err := Authenticode(c.in, bank)
			if err != nil || hex.EncodeToString(want) != c.got {
				t.Errorf("%s, %s: %s, want %x, %v", what, name, c.got, want, err)
			}
		}
	}
	m := &manifest.Manifest{Format: manifest.Format, Name: "test", Made: made, Sequence: 1, System: *s}
	if err := m.Check(); err != nil {
		t.Error(err)
	}
}

// Two different lists of sections never have the same PCR 11, even if the concatenated bytes of
// both lists are equal.
func TestPCR11SeparatesNameAndContent(t *testing.T) {
	same := func(cmdline, initrd []byte) bool {
		if len(cmdline) == 0 || len(initrd) == 0 {
			return true
		}
		one := []measured{{".linux", []byte("k")}, {".cmdline", cmdline}, {".initrd", initrd}}
		two := []measured{{".linux", []byte("k")}, {".cmdline", append(bytes.Clone(cmdline), initrd[0])}, {".initrd", initrd[1:]}}
		return !bytes.Equal(pcr11(one, crypto.SHA256, ""), pcr11(two, crypto.SHA256, ""))
	}
	if err := quick.Check(same, nil); err != nil {
		t.Error(err)
	}
}
