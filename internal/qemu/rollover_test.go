package qemu_test

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/image/authenticode"
	"gangway/image/stick"
	"gangway/internal/carry"
)

// While the system runs, a program adds a certificate to the Secure Boot variable db. The owner's
// KEK signs this change, and the certificate's name is that of Microsoft's CA of 2023. At the next
// start, the firmware measures the new db into PCR 7. Then the TPM does not release a key that is
// bound to the old value of PCR 7. To show this, Debian's systemd-cryptenroll has bound a control
// disk to PCR 7: this disk opens before the restart, and does not open after it. The machine's own
// disk still opens, because the running system binds the disk's key again before the restart. The
// hub names the certificate, and says that it does not know the certificate.
func TestDiskOpensAfterDBGainsACertificate(t *testing.T) {
	t.Parallel()
	long(t)
	if m := authenticode.Missing(); m != "" {
		t.Skip(m)
	}
	if _, err := exec.LookPath("sign-efi-sig-list"); err != nil {
		t.Skip("sign-efi-sig-list is not installed: apt-get install efitools")
	}
	owner, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys, set, signer := ownersKeys(t)
	certificate := caNamed(t, "Windows UEFI CA 2023")
	const controlOpens = `addkey: the control disk opens`
	s := newSiteOf(t, func(p *stick.Parts) {
		p.Owner, p.Signer = owner, signer
		p.Agent = agentThatAddsToDB(t, p.Agent, keys, certificate)
	}, func(*site) stick.Config { return stick.Config{Enrol: set, EnrolUnasked: true} })
	s.cfg.SecureBoot = true

	m, ctx := boot(t, s.with(true))
	waitFor(t, ctx, m, `Enrolling secure boot keys from directory: .*auto`)
	chooseAutoTPM(t, ctx, m)
	const bound = `gangway-init .*: the disk's key is bound to the owner's systems`
	waitFor(t, ctx, m, bound)
	waitFor(t, ctx, m, `addkey: the control disk is bound to PCR 7`)
	waitFor(t, ctx, m, controlOpens)
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	m.Stop()
	s.listed(t)
	_, before, _ := latestBoot(t, s.hub)

	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, controlOpens)
	added, _ := waitFor(t, ctx, m, `addkey: added the certificate to db`)
	after(t, ctx, m, added.At, `gangway-init .*: the keys of Secure Boot have changed`)
	after(t, ctx, m, added.At, bound)
	m.Stop()

	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: the disk's key came from the TPM`)
	waitFor(t, ctx, m, `addkey: the control disk does not open: .*Current policy digest does not match`)
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	m.Stop()
	_, now, _ := latestBoot(t, s.hub)
	if before.SecureBoot != "on" || before.PCRs[7] == now.PCRs[7] {
		t.Errorf("Secure Boot is %s, PCR 7 was %s and is %s; want another value", before.SecureBoot, before.PCRs[7], now.PCRs[7])
	}
	want := fmt.Sprintf("db gained the certificate %q (SHA-256 %x), which this hub does not know.", "Windows UEFI CA 2023", sha256.Sum256(certificate))
	if words := s.words(t, "keys"); !strings.Contains(words, want) {
		t.Errorf("the hub says %q about the keys; want %q", words, want)
	}
}

// words returns the hub's text about a part of the last boot.
func (s *site) words(t *testing.T, part string) string {
	t.Helper()
	o := s.signIn(t)
	var boot struct {
		Parts []struct{ Part, Words string }
	}
	o.call(t.Context(), "GET", "/devices/"+o.device+"/boot", nil, &boot)
	for _, p := range boot.Parts {
		if p.Part == part {
			return p.Words
		}
	}
	t.Fatalf("the boot has no part %s", part)
	return ""
}

// caNamed returns a self-signed CA certificate with this common name.
func caNamed(t *testing.T, name string) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now(), NotAfter: time.Now().AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// agentThatAddsToDB returns the program addkey, which carries the agent, an addition of the
// certificate to db, and the files for the control disk. The KEK in the folder `keys` signs the
// addition.
func agentThatAddsToDB(t *testing.T, agent []byte, keys string, certificate []byte) []byte {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	run := func(program string, args ...string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), program, args...)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %.500s", program, err, out)
		}
	}
	for name, b := range map[string][]byte{"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), "gangway-agent": agent} {
		if err := os.WriteFile(in(name), b, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	run("cert-to-efi-sig-list", "-g", "77fa9abd-0359-4d32-bd60-28f4e78f784b", in("cert.pem"), in("cert.esl"))
	run("sign-efi-sig-list", "-a", "-k", filepath.Join(keys, "KEK.key"), "-c", filepath.Join(keys, "KEK.pem"), "db", in("cert.esl"), in("db.auth"))
	if !bytes.Contains(read(t, in("db.auth")), certificate) {
		t.Fatal("the addition has no certificate")
	}
	run("go", "build", "-trimpath", "-o", in("addkey"), "./addkey")
	writeControl(t, in("control.tar"))
	if err := carry.Add(in("addkey"), in("gangway-agent"), in("db.auth"), in("control.tar")); err != nil {
		t.Fatal(err)
	}
	return read(t, in("addkey"))
}

// Debian's programs for the control disk, and the libraries that they load while they run.
var (
	controlPrograms = []string{"/usr/bin/systemd-cryptenroll", "/usr/sbin/cryptsetup"}
	controlLibs     = []string{
		"libcryptsetup.so.12", "libtss2-esys.so.0", "libtss2-rc.so.0", "libtss2-mu.so.0", "libtss2-tcti-device.so.0",
		"cryptsetup/libcryptsetup-token-systemd-tpm2.so",
	}
)

// libFolder is the folder in which libcryptsetup looks for its plugins. On this computer, /lib is
// the folder /usr/lib.
const libFolder = "/lib/x86_64-linux-gnu/"

var libPath = regexp.MustCompile(`(/\S+) \(0x`)

// writeControl writes a TAR archive with Debian's programs for the control disk, all libraries that
// they use, and the file volume.img: an empty LUKS2 volume that the password "control" opens.
func writeControl(t *testing.T, name string) {
	t.Helper()
	content := map[string]string{} // from the path in the archive to the path on this computer
	var all []string
	for _, p := range controlPrograms {
		content["bin/"+filepath.Base(p)] = p
		all = append(all, p)
	}
	for _, l := range controlLibs {
		content[libFolder[1:]+l] = libFolder + l
		all = append(all, libFolder+l)
	}
	for _, path := range all {
		out, err := exec.CommandContext(t.Context(), "ldd", path).Output()
		if err != nil {
			t.Skipf("%s is not installed: %v", path, err)
		}
		for _, m := range libPath.FindAllSubmatch(out, -1) {
			content[strings.TrimPrefix(string(m[1]), "/")] = string(m[1])
		}
	}
	dir := t.TempDir()
	volume, password := filepath.Join(dir, "volume.img"), filepath.Join(dir, "password")
	for path, size := range map[string]int64{volume: 4 << 20, password: 0} {
		if err := os.WriteFile(path, []byte("control"), 0o600); err != nil {
			t.Fatal(err)
		}
		if size > 0 {
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
		}
	}
	format := exec.CommandContext(t.Context(), "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--luks2-metadata-size", "16k", "--luks2-keyslots-size", "1m", volume, password)
	if out, err := format.CombinedOutput(); err != nil {
		t.Fatalf("cryptsetup: %v: %s", err, out)
	}
	content["volume.img"] = volume

	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, path := range slices.Sorted(maps.Keys(content)) {
		file := read(t, content[path])
		err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(file))})
		if err == nil {
			_, err = w.Write(file)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
