package cabinet_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gangway/hub/trust/cabinet"
)

// contents are the files that the test cabinets contain.
var contents = []cabinet.File{
	{Name: "version.txt", Content: []byte("3\n")},
	{Name: "Maker/RootCA/root.cer", Content: bytes.Repeat([]byte("root "), 300)},
	{Name: "Maker/IntermediateCA/empty.cer", Content: nil},
	{Name: "Maker/IntermediateCA/large.crt", Content: bytes.Repeat([]byte{7, 0, 0xFF, 3, 5, 8}, 20_000)},
	{Name: "Maker/IntermediateCA/noise.crt", Content: noise(3001)}, // not compressible
}

// noise returns n pseudo-random bytes.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

// packed makes a cabinet with Debian's gcab. `flags` are options of gcab: "-z" compresses.
func packed(t testing.TB, files []cabinet.File, flags ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	args := append(append([]string{"-c"}, flags...), "out.cab")
	for _, f := range files {
		name := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Content, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, f.Name)
	}
	cmd := exec.Command("gcab", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcab: %v %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "out.cab"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// lzx returns a cabinet in the LZX format. Debian has no tool that compresses with LZX, so lzx
// writes uncompressed LZX blocks (MS-PATCH 2.3.1.1), which every reader of LZX must support. The
// other structures follow MS-CAB 2.
func lzx(files []cabinet.File) []byte {
	le := binary.LittleEndian
	var data, list bytes.Buffer
	for _, f := range files {
		list.Write(le.AppendUint32(nil, uint32(len(f.Content))))
		list.Write(le.AppendUint32(nil, uint32(data.Len())))
		list.Write([]byte{0, 0, 0x21, 0x3A, 0, 0, 0x20, 0}) // folder, date, time, attributes
		list.WriteString(strings.ReplaceAll(f.Name, "/", `\`) + "\x00")
		data.Write(f.Content)
	}
	var blocks bytes.Buffer
	count := 0
	for first := true; data.Len() > 0; first = false {
		part := data.Next(32 << 10)
		// Bits are packed into 16-bit little-endian words, the highest bit first. The first bit is
		// 0 (no translation of x86 calls). Then come the block's type in 3 bits (3 is
		// uncompressed), its size in 24 bits, and padding to the next word.
		bits, n := uint64(3)<<24|uint64(len(part)), 27
		if first {
			n++
		}
		bits <<= 32 - n
		block := le.AppendUint16(le.AppendUint16(nil, uint16(bits>>16)), uint16(bits))
		for range 3 { // the repeated offsets R0, R1 and R2
			block = le.AppendUint32(block, 1)
		}
		block = append(block, part...)
		if len(part)%2 == 1 {
			block = append(block, 0)
		}
		blocks.Write(make([]byte, 4)) // no checksum
		blocks.Write(le.AppendUint16(le.AppendUint16(nil, uint16(len(block))), uint16(len(part))))
		blocks.Write(block)
		count++
	}
	const head = 36 + 8
	b := []byte("MSCF\x00\x00\x00\x00")
	b = le.AppendUint32(b, uint32(head+list.Len()+blocks.Len()))
	b = append(b, 0, 0, 0, 0)
	b = le.AppendUint32(b, head)
	b = append(b, 0, 0, 0, 0, 3, 1, 1, 0)
	b = le.AppendUint16(b, uint16(len(files)))
	b = append(b, 0, 0, 0, 0, 0, 0)
	b = le.AppendUint32(b, uint32(head+list.Len()))
	b = le.AppendUint16(le.AppendUint16(b, uint16(count)), 3|15<<8) // LZX, window of 2^15
	return append(append(b, list.Bytes()...), blocks.Bytes()...)
}

func TestReadsEachPacking(t *testing.T) {
	for name, b := range map[string][]byte{
		"none":  packed(t, contents),
		"MSZIP": packed(t, contents, "-z"),
		"LZX":   lzx(contents),
		// Microsoft's cabinet is signed: the signature follows the cabinet and is not part of it.
		"signed": append(packed(t, contents, "-z"), packed(t, contents)...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			files, err := cabinet.Read(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			if len(files) != len(contents) {
				t.Fatalf("%d files", len(files))
			}
			for i, f := range files {
				if f.Name != contents[i].Name || !bytes.Equal(f.Content, contents[i].Content) {
					t.Errorf("%q of %d bytes, want %q of %d", f.Name, len(f.Content), contents[i].Name, len(contents[i].Content))
				}
			}
			left, err := os.ReadDir(os.Getenv("TMPDIR"))
			if err != nil || len(left) > 0 {
				t.Errorf("temporary files remain: %v %v", left, err)
			}
		})
	}
}

// No file in a cabinet may be created on disk, whatever its name.
func TestNamesInACabinetLeadNowhere(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", filepath.Join(tmp, "a", "b"))
	if err := os.MkdirAll(os.Getenv("TMPDIR"), 0o700); err != nil {
		t.Fatal(err)
	}
	names := []string{"../../escaped.crt", filepath.Join(tmp, "absolute.crt"), "--directory=" + tmp, "a.crt", "a.crt"}
	var files []cabinet.File
	for _, name := range names {
		files = append(files, cabinet.File{Name: name, Content: []byte("content of " + name)})
	}
	got, err := cabinet.Read(t.Context(), lzx(files))
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range got {
		if f.Name != names[i] || string(f.Content) != "content of "+names[i] {
			t.Errorf("%q: %q", f.Name, f.Content)
		}
	}
	made := 0
	if err := filepath.WalkDir(tmp, func(string, os.DirEntry, error) error { made++; return nil }); err != nil {
		t.Fatal(err)
	}
	if made != 3 { // the folders tmp, a and b
		t.Errorf("%d files and folders under %s", made, tmp)
	}
}

// Read must refuse a cabinet whose headers are wrong, for example because of a wrong size, offset
// or number of files. If only the size of one file is too small, Read must still return the other
// files correctly.
func TestRefusesCabinetsThatLie(t *testing.T) {
	t.Parallel()
	good := packed(t, contents, "-z")
	le := binary.LittleEndian
	with := func(change func(b []byte)) []byte {
		b := bytes.Clone(good)
		change(b)
		return b
	}
	list := int(le.Uint32(good[16:])) // the first CFFILE
	many := lzx(make([]cabinet.File, 0))
	many = append(many, bytes.Repeat([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 'x', 0}, cabinet.MaxFiles+1)...)
	le.PutUint16(many[28:], cabinet.MaxFiles+1)
	le.PutUint32(many[8:], uint32(len(many)))
	for _, c := range []struct {
		name, says string
		b          []byte
	}{
		{"too large", "at most", append([]byte("MSCF"), make([]byte, cabinet.MaxSize)...)},
		{"cut in its header", "not a cabinet", good[:20]},
		{"cut in its list", "ends inside", with(func(b []byte) { le.PutUint32(b[8:], uint32(list+10)) })},
		{"cut in its files", "", good[:len(good)-100]},
		{"larger than it is", "ends inside", with(func(b []byte) { le.PutUint32(b[8:], uint32(len(b)+1)) })},
		{"its list in its header", "ends inside", with(func(b []byte) { le.PutUint32(b[16:], 4) })},
		{"its list after its end", "ends inside", with(func(b []byte) { le.PutUint32(b[16:], 1<<31) })},
		{"one of several", "a part of a cabinet set", with(func(b []byte) { b[30] |= 2 })},
		{"too many files", "files; at most", many},
		{"files of the largest size", "in total", with(func(b []byte) { le.PutUint32(b[list:], 1<<32-1) })},
		{"a file larger than it is", "sizes", with(func(b []byte) { le.PutUint32(b[list:], 1<<20) })},
		{"a file smaller than it is", "", with(func(b []byte) { le.PutUint32(b[list:], 1) })},
		{"a folder that is not there", "damaged", with(func(b []byte) { le.PutUint16(b[list+8:], 9) })},
		{"no name", "damaged", with(func(b []byte) { b[list+16] = 0 })},
		{"data altered", "", with(func(b []byte) { b[len(b)-200] ^= 0xFF })},
		{"data gone", "", with(func(b []byte) { clear(b[len(b)-600:]) })},
	} {
		t.Run(c.name, func(t *testing.T) {
			files, err := cabinet.Read(t.Context(), c.b)
			if c.name == "a file smaller than it is" {
				// The first file must have the size that the list says, and the other files must be
				// complete.
				if err != nil || len(files[0].Content) != 1 || !bytes.Equal(files[1].Content, contents[1].Content) {
					t.Errorf("%v %v", files, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// If cabextract is not installed, the error names the package that the operator must install.
func TestNamesThePackageThatIsMissing(t *testing.T) {
	b := packed(t, contents)
	t.Setenv("PATH", t.TempDir())
	_, err := cabinet.Read(t.Context(), b)
	if !errors.Is(err, cabinet.ErrNoTool) || !strings.Contains(err.Error(), "apt-get install cabextract") {
		t.Errorf("the error is %v", err)
	}
}

func FuzzCabinet(f *testing.F) {
	small := contents[:2]
	f.Add(packed(f, small))
	f.Add(packed(f, small, "-z"))
	f.Add(lzx(small))
	f.Fuzz(func(t *testing.T, b []byte) {
		files, err := cabinet.Read(t.Context(), b)
		if err != nil {
			return
		}
		sum := 0
		for _, file := range files {
			if file.Name == "" {
				t.Fatal("a file without a name")
			}
			sum += len(file.Content)
		}
		if sum > cabinet.MaxTotal || len(files) > cabinet.MaxFiles {
			t.Fatal(fmt.Sprint(sum, " bytes in ", len(files), " files"))
		}
	})
}
