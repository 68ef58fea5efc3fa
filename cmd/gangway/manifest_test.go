package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gangway/hub/pki"
	"gangway/hub/pki/signer"
	"gangway/image/authenticode"
	"gangway/image/stick"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"
	"gangway/wire"
	"gangway/wire/manifest"
	"gangway/wire/manifest/measure"
)

// fakeParts makes the folders for --kernel and --programs: an EFI program that looks like a kernel,
// no modules, and programs that are only text. The stub and the boot manager are Debian's.
func fakeParts(t *testing.T) (kernel, programs string) {
	t.Helper()
	boot, err := os.ReadFile(filepath.Join(stick.BootDir, "systemd-bootx64.efi"))
	if err != nil {
		t.Skip(err)
	}
	kernel, programs = t.TempDir(), t.TempDir()
	var builtin bytes.Buffer
	for _, m := range stick.Modules {
		builtin.WriteString("kernel/" + m + ".ko\n")
	}
	for path, b := range map[string][]byte{
		kernel + "/vmlinuz": asKernel(boot), kernel + "/busybox": []byte("#!busybox"), kernel + "/package": []byte("linux-image-test\n"),
		kernel + "/modules/modules.builtin": builtin.Bytes(), programs + "/gangway-init": []byte("#!init"), programs + "/gangway-agent": []byte("#!agent"),
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return kernel, programs
}

// asKernel moves the PE header of an EFI program so that the magic number of a kernel fits at 0x202
// (Documentation/arch/x86/boot.rst).
func asKernel(efi []byte) []byte {
	const at, moved, room = 0x3C, 0x210, 0x400
	old := binary.LittleEndian.Uint32(efi[at:])
	b := append(make([]byte, room), efi[room:]...)
	copy(b, "MZ")
	copy(b[0x202:], "HdrS")
	copy(b[moved:], efi[old:old+24+240])
	binary.LittleEndian.PutUint32(b[at:], moved)
	binary.LittleEndian.PutUint16(b[moved+4+2:], 1) // the header has space for one section
	copy(b[moved+24+240:], efi[old+24+240:][:40])
	return b
}

// The function `succeeds` runs a command line that must succeed, and returns its output.
func succeeds(t *testing.T, words ...string) string {
	t.Helper()
	code, out, notes := typed(t, words...)
	if code != 0 {
		t.Fatalf("%q: exit code %d: %s", words, code, notes)
	}
	return out
}

// namesInstallersWithoutAShell checks that a manifest names exactly two of the image's installers:
// those that never give a person a shell.
func namesInstallersWithoutAShell(t *testing.T, m *manifest.Manifest) {
	t.Helper()
	var modes []string
	for _, i := range m.Installers {
		for _, word := range strings.Fields(i.Cmdline) {
			if mode, ok := strings.CutPrefix(word, "gangway.mode="); ok {
				modes = append(modes, mode)
			}
		}
		if i.SHA256 == m.System.SHA256 || len(i.PCR11) != len(m.System.PCR11) {
			t.Errorf("the installer is %+v", i)
		}
	}
	if !slices.Equal(modes, []string{"auto", "tpm"}) {
		t.Errorf("the manifest names the installers %q; want auto and tpm", modes)
	}
}

// An owner builds a system with its manifest, and verifies both with only the public key. The
// command refuses a system that differs in one byte, and a manifest that another owner's key
// signed.
func TestSystemWithManifest(t *testing.T) {
	kernel, programs := fakeParts(t)
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("SOURCE_DATE_EPOCH", "1795964400")
	key, system := filepath.Join(dir, "manifest.key"), filepath.Join(dir, "system.efi")
	run := func(words ...string) string { return succeeds(t, words...) }
	refused := func(because string, words ...string) {
		t.Helper()
		if code, _, notes := typed(t, words...); code != exitFailed || !strings.Contains(notes, because) {
			t.Errorf("%q: exit code %d, %s", words, code, notes)
		}
	}
	run("manifest", "key", "create", key)
	run("manifest", "key", "create", key+"2")
	run("image", "system", "-o", system, "--kernel", kernel, "--programs", programs, "--manifest-key", key)

	var shown shownManifest
	if err := json.Unmarshal([]byte(run("manifest", "verify", system+".manifest", "--key", key+".pub", "--system", system, "--output", "json")), &shown); err != nil {
		t.Fatal(err)
	}
	m := shown.Manifest
	if !shown.Verified || m.Sequence != 1795964400 || m.Made.Unix() != 1795964400 || m.BootManager != nil || m.SecureBoot != nil {
		t.Errorf("the manifest is %+v", m)
	}
	if !strings.Contains(m.Name, "linux-image-test") || !strings.Contains(m.System.Cmdline, "gangway.mode=system") {
		t.Errorf("the manifest has the name %q and the command line %q", m.Name, m.System.Cmdline)
	}
	if got := len(m.System.PCR11); got != len(manifest.Banks()) {
		t.Errorf("the manifest has %d banks", got)
	}
	refused("names a key that is not trusted", "manifest", "verify", system+".manifest", "--key", key+"2.pub")
	run("manifest", "export", system+".manifest", "--key", key+".pub", "-o", filepath.Join(dir, "system.corim"))
	if b, err := os.ReadFile(filepath.Join(dir, "system.corim")); err != nil || !bytes.Contains(b, []byte("gangway-system-"+m.System.SHA256)) {
		t.Errorf("the CoRIM has %d bytes, and not the system's id: %v", len(b), err)
	}
	refused("names a key that is not trusted", "manifest", "export", system+".manifest", "--key", key+"2.pub", "-o", filepath.Join(dir, "other.corim"))
	if exists(filepath.Join(dir, "other.corim")) {
		t.Error("a manifest that is not verified was exported")
	}
	refused("an update, which does not replace the boot manager", "manifest", "verify", system+".manifest", "--key", key+".pub", "--boot-manager", system)

	b, err := os.ReadFile(system)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(system, b, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("is not the system that the manifest describes", "manifest", "verify", system+".manifest", "--key", key+".pub", "--system", system)

	if out := run("manifest", "show", system+".manifest"); !strings.Contains(out, "NOT VERIFIED") || !strings.Contains(out, m.System.PCR11["SHA-384"][""]) {
		t.Errorf("show without a key: %s", out)
	}
	if out := run("manifest", "show", system+".manifest", "--key", key+".pub"); strings.Contains(out, "NOT VERIFIED") || !strings.Contains(out, shown.Key) {
		t.Errorf("show with the key: %s", out)
	}
}

// The manifest of an image names the boot manager and the system as they are installed, with their
// signatures for Secure Boot. It also has the owner's Secure Boot variables, if the folder of the
// keys has them.
func TestImageWithManifest(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a signed image; TestSystemWithManifest builds a system")
	}
	if m := authenticode.Missing(); m != "" {
		t.Skip(m)
	}
	kernel, programs := fakeParts(t)
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Chdir(dir)
	ca, err := pki.Open(filepath.Join(dir, "pki"), pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	hub, err := json.Marshal(wire.HubFile{Hub: "https://hub.example:12443", HubName: ca.HubName(), HubCA: string(ca.RootPEM())})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("hub.json", hub, 0o600); err != nil {
		t.Fatal(err)
	}
	succeeds(t, "manifest", "key", "create", "manifest.key", "--rsa")
	succeeds(t, "image", "keys", "secure-boot")
	build := func(more ...string) *manifest.Manifest {
		t.Helper()
		succeeds(t, append([]string{"image", "build", "x64-uefi-installer", "--claim", "--hub-file", "hub.json", "--kernel", kernel, "--programs", programs,
			"--manifest-key", "manifest.key", "--manifest-name", "shop floor", "--sequence", "7", "-o", "installer.img"}, more...)...)
		var shown shownManifest
		if err := json.Unmarshal([]byte(succeeds(t, "manifest", "show", "installer.img.manifest", "--key", "manifest.key.pub", "--output", "json")), &shown); err != nil {
			t.Fatal(err)
		}
		return shown.Manifest
	}
	m := build("--secure-boot-keys", "secure-boot")
	if m.Name != "shop floor" || m.Sequence != 7 {
		t.Errorf("the manifest has the name %q and the sequence %d", m.Name, m.Sequence)
	}
	if m.SecureBoot == nil || len(m.SecureBoot.Variables) != 3 || m.SecureBoot.Authority == nil {
		t.Errorf("the manifest has the Secure Boot variables %+v", m.SecureBoot)
	}
	namesInstallersWithoutAShell(t, m)
	if shown := succeeds(t, "image", "inspect", "installer.img"); !strings.Contains(shown, "opens      the TPM opens an encrypted disk only for systems that the owner's key approved") {
		t.Errorf("the stick does not say that the owner's key approved the system: %s", shown)
	}
	boot, err := os.ReadFile(filepath.Join(stick.BootDir, "systemd-bootx64.efi"))
	if err != nil {
		t.Fatal(err)
	}
	if unsigned, err := measure.Program(boot); err != nil || m.BootManager == nil || m.BootManager.SHA256 == unsigned.SHA256 {
		t.Errorf("the manifest has the boot manager without its signature: %v", err)
	}
	signer, err := authenticode.New("secure-boot/db.key", "secure-boot/db.pem")
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(boot)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("BOOTX64.EFI", signed, 0o600); err != nil {
		t.Fatal(err)
	}
	succeeds(t, "manifest", "verify", "installer.img.manifest", "--key", "manifest.key.pub", "--boot-manager", "BOOTX64.EFI")

	// If the builder's folder has only db's key, the manifest has no variables.
	for _, name := range []string{"PK", "KEK", "db"} {
		if err := os.Remove("secure-boot/" + name + ".auth"); err != nil {
			t.Fatal(err)
		}
	}
	if m := build("--secure-boot-keys", "secure-boot"); m.SecureBoot != nil {
		t.Errorf("without the signed variables, the manifest has %+v", m.SecureBoot)
	}
}

// A key in a TPM signs the manifest of a system. No file contains the key.
func TestSystemWithManifestKeyInATPM(t *testing.T) {
	kernel, programs := fakeParts(t)
	tpm := swtpmtest.Start(t, swtpm.Options{}).Address()
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Chdir(dir)
	succeeds(t, "manifest", "key", "create", "tpm:0x81010050", "--public", "manifest.pub", "--tpm", tpm)
	succeeds(t, "image", "system", "--kernel", kernel, "--programs", programs, "--manifest-key", "tpm:0x81010050", "--tpm", tpm)
	succeeds(t, "manifest", "verify", "system.efi.manifest", "--key", "manifest.pub", "--system", "system.efi")
	succeeds(t, "manifest", "key", "public", "tpm:0x81010050?device="+tpm, "-o", "again.pub")
	equalFiles(t, "manifest.pub", "again.pub")

	for _, c := range []struct {
		because string
		words   []string
	}{
		{"manifest.pub exists already", []string{"manifest", "key", "create", "tpm:0x81010051", "--public", "manifest.pub", "--tpm", tpm}},
		{"the TPM already has an object at 0x81010050", []string{"manifest", "key", "create", "tpm:0x81010050", "--public", "other.pub", "--tpm", tpm}},
		{"the TPM has no key at 0x81010051", []string{"image", "system", "--kernel", kernel, "--programs", programs, "--manifest-key", "tpm:0x81010051", "--tpm", tpm}},
		{"open the TPM: stat nothing", []string{"image", "system", "--kernel", kernel, "--programs", programs, "--manifest-key", "tpm:0x81010050", "--tpm", "unix:nothing"}},
	} {
		if code, _, notes := typed(t, c.words...); code != exitFailed || !strings.Contains(notes, c.because) {
			t.Errorf("%q: exit code %d, %s", c.words, code, notes)
		}
	}
	for _, words := range [][]string{
		{"manifest", "key", "create", "tpm:0x81010051"}, {"manifest", "key", "create", "tpm:1", "--public", "x"}, {"manifest", "key", "create", "x", "--public", "y"},
		{"manifest", "key", "create", "tpm:0x81010051", "--public", "x", "--rsa"}, {"image", "system", "--manifest-key", "tpm:key"},
		{"manifest", "key", "create", "signer:/s?key=a", "--public", "x"}, {"manifest", "key", "create", "file:/x", "--public", "x"}, {"manifest", "key", "public", "tpm:0x81010050"},
	} {
		if code, _, notes := typed(t, words...); code != exitUsage {
			t.Errorf("%q: exit code %d, %s", words, code, notes)
		}
	}
}

func equalFiles(t *testing.T, a, b string) {
	t.Helper()
	one, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	two, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Errorf("%s and %s differ", a, b)
	}
}

// gangway-signer can sign the manifest of a system, and the approval with which the system opens
// encrypted disks. The key's curve must be one that TPMs support. If the signer is not running, the
// command builds nothing. This test serves the signer itself; 'make hsm' runs the program
// gangway-signer.
func TestSystemWithManifestKeyOfASigner(t *testing.T) {
	kernel, programs := fakeParts(t)
	short, err := os.MkdirTemp("", "signer") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	keys := map[string]crypto.Signer{}
	for name, curve := range map[string]elliptic.Curve{"manifest": elliptic.P256(), "p384": elliptic.P384()} {
		if keys[name], err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(short, "s")
	log := slog.New(slog.DiscardHandler)
	l, err := signer.Listen(socket, signer.ListenOptions{Users: []int{os.Getuid()}, Group: -1, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	h, err := signer.NewHandler(keys, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, l) }()
	t.Cleanup(stop)

	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Chdir(dir)
	at := "signer:" + socket + "?key="
	build := []string{"image", "system", "--kernel", kernel, "--programs", programs, "--manifest-key"}
	succeeds(t, "manifest", "key", "public", at+"manifest", "-o", "manifest.pub")
	succeeds(t, append(build, at+"manifest")...)
	succeeds(t, "manifest", "verify", "system.efi.manifest", "--key", "manifest.pub", "--system", "system.efi")
	b, err := os.ReadFile("system.efi")
	if err != nil {
		t.Fatal(err)
	}
	// The system's file must contain the approval. These texts are parts of the approval.
	for _, part := range []string{`"pcrs":[11]`, "BEGIN PUBLIC KEY"} {
		if !bytes.Contains(b, []byte(part)) {
			t.Errorf("the system does not contain %s", part)
		}
	}
	refused := func(because string, words ...string) {
		t.Helper()
		if code, _, notes := typed(t, words...); code != exitFailed || !strings.Contains(notes, because) {
			t.Errorf("%q: exit code %d, %s", words, code, notes)
		}
	}
	if err := os.Remove("system.efi"); err != nil {
		t.Fatal(err)
	}
	refused("many TPMs support only the curve P-256", append(build, at+"p384")...)
	refused("no such key", append(build, at+"other")...)
	refused("manifest.pub", "manifest", "key", "public", at+"manifest", "-o", "manifest.pub") // never overwritten
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	refused("is gangway-signer running", append(build, at+"manifest")...)
	if exists("system.efi") {
		t.Error("a system was built without its key")
	}
}
