package image

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// stub makes the smallest EFI program that UKI.Build accepts. `room` is the number of section
// headers that it has space for.
func stub(room int) []byte {
	le := binary.LittleEndian
	headers := 0x80 + 4 + coffHeader + 240 + sectionHeader + room*sectionHeader
	size := (headers + 511) / 512 * 512
	b := make([]byte, size+512)
	copy(b, "MZ")
	le.PutUint32(b[peOffsetAt:], 0x80)
	copy(b[0x80:], "PE\x00\x00")
	coff := b[0x84:]
	le.PutUint16(coff, pe.IMAGE_FILE_MACHINE_AMD64)
	le.PutUint16(coff[2:], 1)
	le.PutUint16(coff[16:], 240)
	opt := coff[coffHeader:]
	le.PutUint16(opt, 0x20B)
	le.PutUint32(opt[32:], 512) // section alignment
	le.PutUint32(opt[36:], 512) // file alignment
	le.PutUint32(opt[optSizeOfImage:], 0x3300)
	le.PutUint32(opt[60:], uint32(headers)) // size of headers
	le.PutUint16(opt[68:], pe.IMAGE_SUBSYSTEM_EFI_APPLICATION)
	le.PutUint32(opt[108:], 16)
	s := opt[240:]
	copy(s, ".text")
	le.PutUint32(s[8:], 0x300)
	le.PutUint32(s[12:], 0x3000)
	le.PutUint32(s[16:], 512)
	le.PutUint32(s[20:], uint32(size))
	return b
}

func kernel() []byte {
	k := bytes.Repeat([]byte("kernel"), 500)
	copy(k[0x202:], "HdrS")
	return k
}

func sample() UKI {
	return UKI{Stub: stub(4), Kernel: kernel(), Initrd: bytes.Repeat([]byte{7}, 1000), Cmdline: "console=ttyS0 quiet", OSRelease: "ID=test\n"}
}

func TestUKIHoldsItsParts(t *testing.T) {
	t.Parallel()
	u := sample()
	b, err := u.Build()
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{".osrel": []byte(u.OSRelease), ".cmdline": []byte(u.Cmdline), ".initrd": u.Initrd, ".linux": u.Kernel}
	end := uint32(0)
	for _, s := range f.Sections {
		if s.VirtualAddress < end {
			t.Errorf("%s begins at %#x, before the end of the one before, %#x", s.Name, s.VirtualAddress, end)
		}
		end = s.VirtualAddress + s.VirtualSize
		w, ok := want[s.Name]
		if !ok {
			continue
		}
		delete(want, s.Name)
		data, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data[:s.VirtualSize], w) || s.VirtualAddress%pageSize != 0 || s.Offset%512 != 0 {
			t.Errorf("%s has other data, or is not aligned: %+v", s.Name, s.SectionHeader)
		}
	}
	if len(want) != 0 {
		t.Errorf("%d sections are missing", len(want))
	}
	if size := f.OptionalHeader.(*pe.OptionalHeader64).SizeOfImage; size < end {
		t.Errorf("the image's size is %#x, its sections end at %#x", size, end)
	}
}

// GNU objcopy must find in the unified kernel image (UKI) exactly the sections that Build put
// there.
func TestObjcopyReadsTheUKI(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("objcopy"); err != nil {
		t.Skip("objcopy is not installed: apt-get install binutils")
	}
	const path = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
	real, err := os.ReadFile(path)
	if err != nil {
		t.Skip("systemd's stub is not installed: apt-get install systemd-boot-efi")
	}
	u := sample()
	u.Stub = real
	b, err := u.Build()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, part := filepath.Join(dir, "uki.efi"), filepath.Join(dir, "part")
	write(t, file, b)
	for _, s := range u.sections() {
		if out, err := exec.Command("objcopy", "--dump-section", s.name+"="+part, file, filepath.Join(dir, "copy")).CombinedOutput(); err != nil {
			t.Fatalf("objcopy: %v: %.500s", err, out)
		}
		got, err := os.ReadFile(part)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(bytes.TrimRight(got, "\x00"), bytes.TrimRight(s.data, "\x00")) {
			t.Errorf("objcopy extracts a different %s, of %d bytes", s.name, len(got))
		}
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestUKIRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*UKI)
		want   string
	}{
		"no stub":              {func(u *UKI) { u.Stub = nil }, "needs systemd's stub"},
		"a stub of nothing":    {func(u *UKI) { u.Stub = make([]byte, 4096) }, "needs systemd's stub"},
		"only a stub's magic":  {func(u *UKI) { u.Stub = append([]byte("MZ"), make([]byte, 4096)...) }, "not an EFI program"},
		"a truncated stub":     {func(u *UKI) { u.Stub = u.Stub[:0x90] }, "not an EFI program"},
		"a stub without room":  {func(u *UKI) { u.Stub = stub(0) }, "has room for"},
		"a signed stub":        {func(u *UKI) { u.Stub[0x84+coffHeader+optCertificates+4] = 1 }, "is signed"},
		"a stub for ARM":       {func(u *UKI) { u.Stub[0x84], u.Stub[0x85] = 0x64, 0xAA }, "x86-64"},
		"strange alignment":    {func(u *UKI) { u.Stub[0x84+coffHeader+36] = 7 }, "alignment"},
		"headers past the end": {func(u *UKI) { u.Stub = stub(0); binary.LittleEndian.PutUint32(u.Stub[0x84+coffHeader+60:], 1<<30) }, "has room for"},
		"no kernel":            {func(u *UKI) { u.Kernel = []byte("#!/bin/sh") }, "not a bzImage"},
		"two lines":            {func(u *UKI) { u.Cmdline = "a\nb" }, "one line"},
	} {
		t.Run(name, func(t *testing.T) {
			u := sample()
			c.change(&u)
			if _, err := u.Build(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v; want %q", err, c.want)
			}
		})
	}
}

func files() []File {
	return []File{
		{Path: "init", Data: []byte("#!"), Mode: 0o755},
		{Path: "etc/gangway/token.json", Data: []byte("{}"), Mode: 0o600},
		{Path: "etc/hosts", Data: []byte("127.0.0.1 localhost")},
		{Path: "dev/null.txt", Data: []byte("0")},
	}
}

// GNU cpio must extract exactly the files that Initramfs put into the archive.
func TestCpioReadsTheInitramfs(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("cpio is not installed: apt-get install cpio")
	}
	b, err := Initramfs(files())
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	list := exec.Command("cpio", "-itv", "--numeric-uid-gid", "--quiet")
	list.Stdin = bytes.NewReader(raw)
	list.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"drwxr-xr-x dev", "crw------- dev/console", "-rw-r--r-- dev/null.txt", "drwxr-xr-x etc", "drwxr-xr-x etc/gangway",
		"-rw------- etc/gangway/token.json", "-rw-r--r-- etc/hosts", "-rwxr-xr-x init",
	}
	var got []string
	for l := range strings.Lines(string(out)) {
		f := strings.Fields(l)
		got = append(got, f[0]+" "+f[len(f)-1])
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("cpio lists\n%.1000s", out)
	}
	read := exec.Command("cpio", "-i", "--to-stdout", "--quiet", "etc/hosts")
	read.Stdin = bytes.NewReader(raw)
	if out, err := read.Output(); err != nil || string(out) != "127.0.0.1 localhost" {
		t.Errorf("cpio reads %q, %v", out, err)
	}
}

func TestJoinedPartsBeginAtMultiplesOfFour(t *testing.T) {
	t.Parallel()
	if got := string(Join([]byte("abcde"), []byte("fg"), nil, []byte("h"))); got != "abcde\x00\x00\x00fg\x00\x00h" {
		t.Errorf("got %q", got)
	}
}

func TestRefusesPaths(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"", ".", "/init", "../init", "a//b", "a/", "a\x00b"} {
		if _, err := Initramfs([]File{{Path: p}}); err == nil {
			t.Errorf("Initramfs accepts the path %q", p)
		}
		if err := (Disk{ESP: []File{{Path: p, Data: []byte("x")}}}).Write(filepath.Join(t.TempDir(), "disk")); err == nil {
			t.Errorf("Disk accepts the path %q", p)
		}
	}
	for _, two := range [][2]string{{"a", "a"}, {"a", "a/b"}} {
		if _, err := Initramfs([]File{{Path: two[0]}, {Path: two[1]}}); err == nil {
			t.Errorf("Initramfs accepts the paths %q", two)
		}
	}
}

// sgdisk and fsck.fat must find no error in the disk image, and mcopy must read exactly the files
// that Write put there.
func TestOthersReadTheDisk(t *testing.T) {
	t.Parallel()
	sgdisk, fsck, mcopy := "/usr/sbin/sgdisk", "/usr/sbin/fsck.fat", "/usr/bin/mcopy"
	for _, p := range []string{sgdisk, fsck, mcopy} {
		if _, err := os.Stat(p); err != nil {
			t.Skipf("%s is not installed: apt-get install gdisk dosfstools mtools", p)
		}
	}
	big := bytes.Repeat([]byte("0123456789abcde\n"), 3<<16) // 3 MiB
	dir := t.TempDir()
	img := filepath.Join(dir, "disk.img")
	d := Disk{ESP: []File{{Path: "EFI/BOOT/BOOTX64.EFI", Data: big}, {Path: "loader/loader.conf", Data: []byte("timeout 3\n")}, {Path: "a file with a long name.txt", Data: []byte("x")}}}
	for i := range 40 { // so many that the root folder needs more than one cluster
		d.ESP = append(d.ESP, File{Path: fmt.Sprintf("folder number %d/file", i), Data: []byte{byte(i)}})
	}
	if err := d.Write(img); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(sgdisk, "--verify", "--print", img).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("No problems found")) || !bytes.Contains(out, []byte("EF00")) {
		t.Errorf("sgdisk: %v: %.500s", err, out)
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	esp := filepath.Join(dir, "esp")
	write(t, esp, b[mib:len(b)-mib])
	if out, err := exec.Command(fsck, "-n", esp).CombinedOutput(); err != nil {
		t.Errorf("fsck.fat: %v: %.500s", err, out)
	}
	for _, f := range d.ESP {
		out, err := exec.Command(mcopy, "-i", esp, "::/"+f.Path, "-").Output()
		if err != nil || !bytes.Equal(out, f.Data) {
			t.Errorf("mcopy reads %d bytes of %s, %v", len(out), f.Path, err)
		}
	}
	if info, err := os.Stat(img); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the image may hold a join token, but its mode is %v (%v); want 0600", info.Mode(), err)
	}
}

// fatSize must choose a size at which each cluster has an entry in the FAT. Without it, go-diskfs
// would make a FAT with too few entries for the sizes in this test, and for many others above 260
// MiB.
func TestEachClusterHasAnEntryInTheTables(t *testing.T) {
	t.Parallel()
	const fsck = "/usr/sbin/fsck.fat"
	if _, err := os.Stat(fsck); err != nil {
		t.Skipf("%s is not installed: apt-get install dosfstools", fsck)
	}
	for _, size := range []int64{64 * mib, 129 * mib, 264 * mib} {
		fat, err := Disk{ESPSize: size, ESP: []File{{Path: "a", Data: []byte("x")}}}.FAT()
		if err != nil {
			t.Fatal(err)
		}
		esp := filepath.Join(t.TempDir(), "esp")
		write(t, esp, fat)
		if out, err := exec.Command(fsck, "-n", esp).CombinedOutput(); err != nil {
			t.Errorf("%d MiB, fsck.fat: %v: %.500s", size/mib, err, out)
		}
	}
}

func TestDiskRefuses(t *testing.T) {
	t.Parallel()
	for name, d := range map[string]Disk{
		"a label that is too long":  {Label: "ABCDEFGHIJKL"},
		"a label in small letters":  {Label: "gangway"},
		"an empty file":             {ESP: []File{{Path: "a"}}},
		"a small partition":         {ESPSize: 1 << 20},
		"an odd size":               {ESPSize: 40<<20 + 1},
		"more than it can hold":     {ESPSize: 34 << 20, ESP: []File{{Path: "a", Data: make([]byte, 35<<20)}}},
		"a file that is in another": {ESP: []File{{Path: "a", Data: []byte("a")}, {Path: "a/b", Data: []byte("b")}}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk")
			if err := d.Write(path); err == nil {
				t.Error("accepted")
			}
			if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
				t.Errorf("files were written: %v, %v", left, err)
			}
		})
	}
}

// The same input must give the same bytes, in any order of the files and at any time.
func TestSameInputGivesTheSameBytes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	build := func(name string, files []File) [32]byte {
		t.Helper()
		initrd, err := Initramfs(files)
		if err != nil {
			t.Fatal(err)
		}
		u := sample()
		u.Initrd = initrd
		uki, err := u.Build()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := (Disk{ESP: append(files, File{Path: "EFI/BOOT/BOOTX64.EFI", Data: uki})}).Write(path); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(b)
	}
	one := build("one", files())
	if !testing.Short() { // without this wait, the test covers only the order of the files
		time.Sleep(2100 * time.Millisecond) // FAT's times have a resolution of 2 s
	}
	other := files()
	other[0], other[3] = other[3], other[0]
	if two := build("two", other); one != two {
		t.Error("two builds differ")
	}
	// If only a file changes, the partition table must stay the same, because firmware measures it.
	table := func(name string) []byte {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, mib)
		if _, err := io.ReadFull(f, b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	changed := files()
	changed[0].Data = []byte("#?")
	if build("three", changed) == one {
		t.Error("a changed file does not change the image")
	}
	if !bytes.Equal(table("one"), table("three")) {
		t.Error("a changed file changes the partition table")
	}
}

// Modules must list each kernel module after the modules that it depends on.
func TestModulesComeBehindWhatTheyNeed(t *testing.T) {
	t.Parallel()
	dir := fstest.MapFS{
		"modules.builtin":     {Data: []byte("kernel/drivers/nvme/host/nvme-core.ko\n")},
		"kernel/net/a-b.ko":   {Data: module("c,d")},
		"kernel/lib/c.ko":     {Data: module("d,nvme-core")},
		"kernel/lib/d.ko":     {Data: module("")},
		"kernel/lib/loop1.ko": {Data: module("loop2")},
		"kernel/lib/loop2.ko": {Data: module("loop1")},
		"kernel/lib/not.ko":   {Data: []byte("not a module")},
		"kernel/lib/lost.ko":  {Data: module("nowhere")},
		"kernel/lib/other.ko": {Data: module("")},
	}
	got, err := Modules(dir, "a_b", "nvme_core", "a-b")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range got {
		paths = append(paths, f.Path)
	}
	if s := strings.Join(paths, " "); s != "lib/modules/d.ko lib/modules/c.ko lib/modules/a_b.ko lib/modules/order" {
		t.Errorf("files: %s", s)
	}
	if s := string(got[len(got)-1].Data); s != "d.ko\nc.ko\na_b.ko\n" {
		t.Errorf("order: %q", s)
	}
	if none, err := Modules(dir, "nvme_core"); err != nil || len(none) != 0 {
		t.Errorf("a built-in module: %v, %v", none, err)
	}
	for _, bad := range []string{"loop1", "not", "lost", "absent"} {
		if _, err := Modules(dir, bad); err == nil {
			t.Errorf("the module %s is accepted", bad)
		}
	}
	if _, err := Modules(fstest.MapFS{}, "a"); err == nil {
		t.Error("an empty folder is accepted")
	}
}

// module makes the smallest ELF file that has a section .modinfo.
func module(depends string) []byte {
	le := binary.LittleEndian
	info := []byte("license=GPL\x00depends=" + depends + "\x00name=x\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	b := make([]byte, 64)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 1)  // relocatable
	le.PutUint16(b[18:], 62) // x86-64
	le.PutUint32(b[20:], 1)
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[58:], 64)
	le.PutUint16(b[60:], 3) // number of sections
	le.PutUint16(b[62:], 2) // index of the section that contains the section names
	infoAt := len(b)
	b = append(b, info...)
	namesAt := len(b)
	b = append(b, names...)
	le.PutUint64(b[40:], uint64(len(b)))
	header := func(name, kind uint32, at, size int) {
		h := make([]byte, 64)
		le.PutUint32(h, name)
		le.PutUint32(h[4:], kind)
		le.PutUint64(h[24:], uint64(at))
		le.PutUint64(h[32:], uint64(size))
		b = append(b, h...)
	}
	header(0, 0, 0, 0)
	header(1, 1, infoAt, len(info))
	header(10, 3, namesAt, len(names))
	return b
}

// Build must not write any bytes between or after the sections, because firmware hashes a signed
// program section by section, so such bytes would make a signature invalid.
func TestUKIHasNothingBesidesItsSections(t *testing.T) {
	t.Parallel()
	u := sample()
	u.Stub = append(u.Stub, bytes.Repeat([]byte("symbol"), 2000)...)
	b, err := u.Build()
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	end := f.Sections[0].Offset
	for _, s := range f.Sections {
		if s.Size > 0 && s.Offset != end {
			t.Errorf("%s begins at %#x, the section before it ends at %#x", s.Name, s.Offset, end)
		}
		end = s.Offset + s.Size
	}
	if int(end) != len(b) {
		t.Errorf("the sections end at %#x, the file at %#x", end, len(b))
	}
}
