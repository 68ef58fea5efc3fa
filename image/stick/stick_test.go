package stick

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/pe"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"crypto/ecdsa"
	"crypto/elliptic"

	"gangway/device/console/access"
	"gangway/device/install"
	"gangway/image"
	"gangway/image/factory"
	"gangway/internal/race"
	"gangway/wire"
	"gangway/wire/trail/sig"
	"gangway/wire/trail/sig/sigtest"
)

// The function `parts` returns Parts with real EFI programs, a fake kernel and no modules.
func parts(t testing.TB) *Parts {
	t.Helper()
	for _, need := range []string{BootDir + "/linuxx64.efi.stub", "/usr/sbin/mke2fs"} {
		if _, err := os.Stat(need); err != nil {
			t.Skip("not installed: " + need)
		}
	}
	p := &Parts{Release: "linux-image-test", Init: []byte("#!init"), Agent: []byte("#!agent"), Busybox: []byte("#!busybox")}
	p.Kernel = bytes.Repeat([]byte("kernel"), 500)
	copy(p.Kernel[0x202:], "HdrS")
	var builtin bytes.Buffer
	for _, m := range Modules {
		builtin.WriteString("kernel/" + m + ".ko\n")
	}
	p.Modules = fstest.MapFS{"modules.builtin": {Data: builtin.Bytes()}}
	for path, to := range map[string]*[]byte{"linuxx64.efi.stub": &p.Stub, "systemd-bootx64.efi": &p.BootManager} {
		b, err := os.ReadFile(filepath.Join(BootDir, path))
		if err != nil {
			t.Fatal(err)
		}
		*to = b
	}
	return p
}

const secret = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"

func token(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hub"}, IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(wire.TokenFile{
		ID: strings.Repeat("a", 24), PRN: wire.TokenPRN + strings.Repeat("a", 24), Owner: wire.AccountPRN + strings.Repeat("b", 24),
		Token: secret, Hub: "https://hub.example:12443", HubName: strings.Repeat("c", 64),
		HubCA: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func build(t testing.TB, p *Parts, cfg Config) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "installer.img")
	if _, err := Build(p, cfg, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func sum(t testing.TB, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

func TestSameInputGivesTheSameImage(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	p, cfg := parts(t), Config{Token: token(t)}
	one := build(t, p, cfg)
	if !testing.Short() { // without this wait, the test does not cover different build times
		time.Sleep(2100 * time.Millisecond) // FAT's times have a resolution of 2 s
	}
	if sum(t, one) != sum(t, build(t, p, cfg)) {
		t.Error("two builds differ")
	}
	cfg.Disk = "serial:1"
	if sum(t, one) == sum(t, build(t, p, cfg)) {
		t.Error("another disk rule does not change the image")
	}
}

func TestInspectShowsEverythingButTheSecret(t *testing.T) {
	t.Parallel()
	c, err := Inspect(build(t, parts(t), Config{Token: token(t), Disk: "model:Fast*"}), "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), secret) {
		t.Errorf("Inspect shows the token's secret: %.300s", b)
	}
	if c.Token["token"] != "********" || c.Token["hub"] != "https://hub.example:12443" {
		t.Errorf("token: %v", c.Token)
	}
	if m := c.Manifest; m.Hub != "https://hub.example:12443" || m.Disk != "model:Fast*" || m.Kernel != "linux-image-test" {
		t.Errorf("manifest: %+v", m)
	}
	var titles []string
	for _, e := range c.Entries {
		titles = append(titles, e.Title)
	}
	if s := strings.Join(titles, ", "); s != "Install Gangway (auto), Install Gangway (auto TPM), Install Gangway (manual)" {
		t.Errorf("entries: %s", s)
	}
}

// An image without a join token contains no secret, and no shell: the shell's password would be
// derived from the token's secret.
func TestImageWithoutATokenHoldsNoSecret(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	p := parts(t)
	tok, err := wire.ParseTokenFile(token(t))
	if err != nil {
		t.Fatal(err)
	}
	hub, err := json.Marshal(wire.HubFile{Hub: tok.Hub, HubName: tok.HubName, HubCA: tok.HubCA})
	if err != nil {
		t.Fatal(err)
	}
	path := build(t, p, Config{Hub: hub})
	c, err := Inspect(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Token != nil || c.Manifest.Token != "" || c.Manifest.Owner != "" || c.Manifest.Hub != tok.Hub {
		t.Errorf("inspect shows %+v, token %v", c.Manifest, c.Token)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte(secret)) || bytes.Contains(b, []byte(`"token":"`)) {
		t.Error("the image holds a secret")
	}
	for name, cfg := range map[string]Config{
		"a shell":                   {Hub: hub, Debug: true},
		"a token in the hub's file": {Hub: token(t)},
		"nothing":                   {},
	} {
		if _, err := Build(p, cfg, filepath.Join(t.TempDir(), "x.img")); err == nil {
			t.Errorf("%s: an image is built", name)
		}
	}
	// Inspect refuses an image with a join token that the manifest does not name.
	esp, err := p.systemESP(nil, tok, Config{Token: token(t)})
	if err != nil {
		t.Fatal(err)
	}
	extents, packed := install.Pack(esp)
	fat, err := openFAT(install.Part{Name: install.ESP, Size: int64(len(esp)), Extents: extents}, packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := maskedToken(fat, false); err == nil {
		t.Error("a token that the manifest does not name is not detected")
	}
}

// Inspect refuses an image in which any part was changed.
func TestInspectRefusesAlteredImages(t *testing.T) {
	t.Parallel()
	path := build(t, parts(t), Config{Token: token(t)})
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"what is installed":  {"gangway.mode=system", "gangway.mode=sYstem", "damaged"},
		"the token":          {secret[:20], "AAAAAAAAAAAAAAAAAAAA", "damaged"},
		"the manifest":       {`"disk": "largest"`, `"disk": "model:*"`, "damaged"},
		"the entry's target": {"gangway.manifest=", "gangway.nanifest=", "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			if !bytes.Contains(whole, []byte(c.old)) {
				t.Fatalf("the image does not contain %q", c.old)
			}
			altered := bytes.Replace(whole, []byte(c.old), []byte(c.new), 1)
			file := filepath.Join(t.TempDir(), "altered.img")
			if err := os.WriteFile(file, altered, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Inspect(file, ""); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v; want %q", err, c.want)
			}
		})
	}
	if _, err := Inspect(os.Args[0], ""); err == nil {
		t.Error("a program passes as an image")
	}
}

// fsck finds no errors in the file systems that the installer writes to the disk.
func TestPartsAreSound(t *testing.T) {
	t.Parallel()
	path := build(t, parts(t), Config{Token: token(t)})
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c, err := Inspect(path, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range c.Manifest.Parts {
		at := find(t, whole, p)
		file := filepath.Join(dir, p.Name)
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(p.Size); err != nil {
			t.Fatal(err)
		}
		if err := p.Unpack(whole[at:at+int(p.Packed())], f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		check := exec.Command("/usr/sbin/fsck.fat", "-n", file)
		if p.Name == install.Data {
			check = exec.Command("/usr/sbin/e2fsck", "-fn", file)
		}
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s: fsck: %v: %.500s", p.Name, err, out)
		}
	}
}

// find returns the offset in bytes of a part's file in the image. In these images, the file is not
// fragmented.
func find(t *testing.T, whole []byte, p install.Part) int {
	t.Helper()
	for at := 0; at+int(p.Packed()) <= len(whole); at += 512 {
		if digest(whole[at:at+int(p.Packed())]) == p.SHA256 {
			return at
		}
		if p.Name == install.Data { // an ext4 file system begins with 1024 zeros
			continue
		}
		if next := bytes.Index(whole[at+512:], []byte("\xeb\x58\x90")); next >= 0 {
			at += next / 512 * 512
		}
	}
	t.Fatalf("%s is not in the image", p.Name)
	return 0
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	p := parts(t)
	for name, c := range map[string]struct {
		change func(*Parts, *Config)
		want   string
	}{
		"no token":         {func(_ *Parts, c *Config) { c.Token = nil }, "join token file"},
		"a broken token":   {func(_ *Parts, c *Config) { c.Token = []byte("{}") }, "join token file"},
		"a module missing": {func(p *Parts, _ *Config) { p.Modules = fstest.MapFS{"modules.builtin": {}} }, "gangway image fetch"},
		"no kernel":        {func(p *Parts, _ *Config) { p.Kernel = []byte("MZ") }, "not a bzImage"},
	} {
		t.Run(name, func(t *testing.T) {
			parts, cfg := *p, Config{Token: token(t)}
			c.change(&parts, &cfg)
			path := filepath.Join(t.TempDir(), "x.img")
			if _, err := Build(&parts, cfg, path); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v; want %q", err, c.want)
			}
			if _, err := os.Stat(path); err == nil {
				t.Error("an image was written")
			}
		})
	}
}

// Without Debug, the installed system has no shell. With Debug, it has a shell behind a password,
// and the image does not contain the password.
func TestSystemHasAShellOnlyForDebugging(t *testing.T) {
	t.Parallel()
	p := parts(t)
	tok, err := wire.ParseTokenFile(token(t))
	if err != nil {
		t.Fatal(err)
	}
	files, err := p.systemFiles(tok, false)
	if len(files) != 2 || files[0].Path != "bin/gangway-agent" || files[1].Path != install.HookPath || err != nil {
		t.Errorf("files: %v, %v", files, err)
	}
	password, err := ConsolePassword(tok)
	if err != nil || len(password) != 20 {
		t.Fatalf("password %q, %v", password, err)
	}
	files, err = p.systemFiles(tok, true)
	if err != nil {
		t.Fatal(err)
	}
	hash := false
	for _, f := range files {
		if bytes.Contains(f.Data, []byte(password)) {
			t.Errorf("%s holds the password in plain text", f.Path)
		}
		hash = hash || f.Path == install.ConsolePath && strings.TrimSpace(string(f.Data)) == digest([]byte(password))
	}
	if !hash {
		t.Error("the image has no password hash")
	}
	tok.Token = "AAAA" + tok.Token[4:]
	if other, err := ConsolePassword(tok); other == password || err != nil {
		t.Errorf("another token has the same password, %v", err)
	}
}

// The file that System makes for updates equals the file in the image, whichever join token the
// image contains. The file contains nothing that belongs to one machine or owner.
func TestUpdateIsWhatIsInstalled(t *testing.T) {
	t.Parallel()
	p := parts(t)
	update, err := System(p, nil, access.Full)
	if err != nil {
		t.Fatal(err)
	}
	again, err := System(p, nil, access.Full)
	if err != nil || !bytes.Equal(update, again) {
		t.Errorf("two builds differ, %v", err)
	}
	tok, err := wire.ParseTokenFile(token(t))
	if err != nil {
		t.Fatal(err)
	}
	base, err := p.base()
	if err != nil {
		t.Fatal(err)
	}
	if installed, err := p.system(base, tok, false, access.Full); err != nil || !bytes.Equal(update, installed) {
		t.Errorf("the installed system differs from the update, %v", err)
	}
	if debug, err := System(p, token(t), access.Full); err != nil || bytes.Equal(update, debug) || bytes.Contains(debug, []byte(secret)) {
		t.Errorf("a debug system equals the update or holds the secret: %v", err)
	}
}

// The system pins the owner's keys in its initial file system, which firmware measures, and the
// manifest names them. A first revision that these keys did not sign is refused when the image is
// built, because the devices would not use it.
func TestPinnedRevisionKeys(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	plain := parts(t)
	pinned := *plain
	pinned.RevisionKeys = sigtest.Keys(t, key)
	files, err := pinned.systemFiles(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(files, func(f image.File) bool { return f.Path == install.RevisionKeyPath })
	if i < 0 || !bytes.Equal(files[i].Data, pinned.RevisionKeys.PEM()) {
		t.Error("the system does not have the key file")
	}
	without, err := System(plain, nil, access.Full)
	if err != nil {
		t.Fatal(err)
	}
	if with, err := System(&pinned, nil, access.Full); err != nil || bytes.Equal(with, without) {
		t.Errorf("the update is the same with and without keys, %v", err)
	}
	state := sigtest.State{sig.SequencePath: map[string]any{"sequence": 1}}
	signed := sigtest.Sign(t, state, "owner", key, sigtest.All())
	for name, c := range map[string]struct {
		parts *Parts
		state sigtest.State
		good  bool
	}{
		"no keys":                 {plain, state, true},
		"signed":                  {&pinned, signed, true},
		"unsigned":                {&pinned, state, false},
		"signed by another owner": {&pinned, sigtest.Sign(t, state, "owner", sigtest.NewKey(t), sigtest.All()), false},
	} {
		if err := c.parts.checkFirst(&factory.Revision{State: c.state.Text(t)}); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
	out := filepath.Join(t.TempDir(), "installer.img")
	m, err := Build(&pinned, Config{Token: token(t)}, out)
	if err != nil || m.RevisionKeys != pinned.RevisionKeys.Name() || m.Approved {
		t.Errorf("the manifest names the keys %q, approved %v, %v", m.RevisionKeys, m.Approved, err)
	}
}

// Copies of Parts share the cache. A build from a copy whose files were changed must not use the
// initial file system that the cache has for the original.
func TestChangedPartsAreNotTakenFromTheCache(t *testing.T) {
	t.Parallel()
	original := parts(t)
	original.cache = new(packedCache)
	first, err := original.base()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := original.base(); err != nil || &again[0] != &first[0] {
		t.Errorf("the same parts are compressed twice (%v)", err)
	}
	for name, change := range map[string]func(*Parts){
		"another init":   func(p *Parts) { p.Init = []byte("#!other") },
		"another module": func(p *Parts) { p.Modules = fstest.MapFS{"modules.builtin": {}} },
	} {
		changed := *original
		change(&changed)
		got, err := changed.base()
		changed.cache = nil
		want, wantErr := changed.base()
		if (err == nil) != (wantErr == nil) || !bytes.Equal(got, want) || bytes.Equal(got, first) {
			t.Errorf("%s: the cache gives another initial file system than the parts (%v, %v)", name, err, wantErr)
		}
	}
}

// systemWords builds a system, and returns the words of its kernel's command line.
func systemWords(t *testing.T, p *Parts, limit access.Level) []string {
	t.Helper()
	b, err := System(p, nil, limit)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	cmdline, err := f.Section(".cmdline").Data()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(strings.TrimRight(string(cmdline), "\x00"))
}

// A word on the kernel's command line says whether a disk may get a PIN. Firmware measures the
// command line, so nobody at the machine can allow a PIN unnoticed.
func TestDiskPINIsMeasured(t *testing.T) {
	t.Parallel()
	for _, allowed := range []bool{true, false} {
		p := parts(t)
		p.DiskPIN = allowed
		words := systemWords(t, p, access.Full)
		if slices.Contains(words, "gangway.disk-pin=allow") != allowed {
			t.Errorf("allowed %v: %q", allowed, words)
		}
	}
}

// A person at the machine cannot raise the console's access level unnoticed: the image's limit is a
// word on the kernel's command line. Firmware measures the command line, and a signature covers it.
// If an image has no limit, its command line lacks this word.
func TestConsoleLimitIsMeasured(t *testing.T) {
	t.Parallel()
	p := parts(t)
	for limit, want := range map[access.Level]string{access.Full: "", access.On: "gangway.console=on", access.Read: "gangway.console=read", access.Off: "gangway.console=off"} {
		found := ""
		for _, word := range systemWords(t, p, limit) {
			if strings.HasPrefix(word, "gangway.console") {
				found += word
			}
		}
		if found != want {
			t.Errorf("limit %s: %q, want %q", limit, found, want)
		}
	}
}
