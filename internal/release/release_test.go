package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// The function `small` makes a release with very small programs and empty man pages and
// completions, because building and compressing the real programs takes minutes.
func small(t *testing.T) *release {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	r := &release{
		root: root, out: t.TempDir(), work: t.TempDir(), archs: architectures,
		version: "1.2.0-rc.1+3.gabc", commit: "0123456789abcdef0123456789abcdef01234567",
		date: time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC), level: gzip.BestCompression,
	}
	for _, arch := range architectures {
		if err := os.Mkdir(filepath.Join(r.work, arch), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range append(slices.Clone(programs), "gangway-signer") {
			content := []byte(name + " " + arch)
			if name == "gangway-signer" { // a program that uses the C library: see libcOf
				if content, err = os.ReadFile("/bin/sh"); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(r.program(arch, name), content, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"gangway", "gangway-agent", "gangway-signer"} {
		for _, path := range []string{"man/man1/" + name + ".1.gz", "bash-completion/completions/" + name, "zsh/vendor-completions/_" + name, "fish/vendor_completions.d/" + name + ".fish"} {
			path = filepath.Join(r.share(name), path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return r
}

func dpkgDeb(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("dpkg-deb", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("dpkg-deb %v: %v: %s", args, err, out)
	}
	return string(out)
}

func needDpkg(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skipf("%v: this system is not Debian", err)
	}
}

func TestContentOfDebs(t *testing.T) {
	t.Parallel()
	needDpkg(t)
	r := small(t)
	r.signer = true
	if err := r.writeDebs(t.Context()); err != nil {
		t.Fatal(err)
	}
	const version = "1.2.0~rc.1+3.gabc"
	for name, want := range map[string][]string{
		"gangway": {
			"-rw-r--r-- /etc/default/gangway",
			"-rwxr-xr-x /usr/bin/gangway",
			"-rwxr-xr-x /usr/lib/gangway/gangway-agent",
			"-rwxr-xr-x /usr/lib/gangway/gangway-init",
			"-rw-r--r-- /usr/lib/systemd/system/gangway.service",
			"-rw-r--r-- /usr/share/bash-completion/completions/gangway",
			"-rw-r--r-- /usr/share/doc/gangway/changelog.gz",
			"-rw-r--r-- /usr/share/doc/gangway/copyright",
			"-rw-r--r-- /usr/share/fish/vendor_completions.d/gangway.fish",
			"-rw-r--r-- /usr/share/man/man1/gangway.1.gz",
			"-rw-r--r-- /usr/share/zsh/vendor-completions/_gangway",
		},
		"gangway-agent": {
			"-rw-r--r-- /etc/default/gangway-agent",
			"-rwxr-xr-x /usr/bin/gangway-agent",
			"-rw-r--r-- /usr/lib/systemd/system/gangway-agent.service",
			"-rw-r--r-- /usr/lib/systemd/system/gangway-proxy.service",
			"-rw-r--r-- /usr/share/bash-completion/completions/gangway-agent",
			"-rw-r--r-- /usr/share/doc/gangway-agent/changelog.gz",
			"-rw-r--r-- /usr/share/doc/gangway-agent/copyright",
			"-rw-r--r-- /usr/share/fish/vendor_completions.d/gangway-agent.fish",
			"-rw-r--r-- /usr/share/man/man1/gangway-agent.1.gz",
			"-rw-r--r-- /usr/share/zsh/vendor-completions/_gangway-agent",
		},
		"gangway-signer": {
			"-rw-r--r-- /etc/default/gangway-signer",
			"-rwxr-xr-x /usr/bin/gangway-signer",
			"-rw-r--r-- /usr/lib/systemd/system/gangway-signer.service",
			"-rw-r--r-- /usr/share/bash-completion/completions/gangway-signer",
			"-rw-r--r-- /usr/share/doc/gangway-signer/changelog.gz",
			"-rw-r--r-- /usr/share/doc/gangway-signer/copyright",
			"-rw-r--r-- /usr/share/fish/vendor_completions.d/gangway-signer.fish",
			"-rw-r--r-- /usr/share/man/man1/gangway-signer.1.gz",
			"-rw-r--r-- /usr/share/zsh/vendor-completions/_gangway-signer",
		},
	} {
		for _, arch := range architectures {
			if name == "gangway-signer" && arch != signerArch {
				continue
			}
			deb := filepath.Join(r.out, name+"_"+version+"_"+arch+".deb")
			var got []string
			for line := range strings.Lines(dpkgDeb(t, "--contents", deb)) {
				f := strings.Fields(line) // the fields: mode, owner, size, date, time, path
				if f[1] != "root/root" || f[3] != "2026-11-29" {
					t.Errorf("%s: %s", name, line)
				}
				if !strings.HasSuffix(f[5], "/") {
					got = append(got, f[0]+" "+strings.TrimPrefix(f[5], "."))
				}
			}
			slices.SortFunc(got, func(a, b string) int { return strings.Compare(a[11:], b[11:]) })
			if !slices.Equal(got, want) {
				t.Errorf("%s, %s: it has\n%s\nand should have\n%s", name, arch, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			for field, want := range map[string]string{"Package": name, "Version": version, "Architecture": arch} {
				if got := strings.TrimSpace(dpkgDeb(t, "--field", deb, field)); got != want {
					t.Errorf("%s, %s: %s is %q; %q was expected", name, arch, field, got, want)
				}
			}
			if got := dpkgDeb(t, "--field", deb, "Depends"); name == "gangway-signer" && !regexp.MustCompile(`^adduser, gangway, libc6 \(>= 2\.[0-9]+\)\n$`).MatchString(got) {
				t.Errorf("%s, %s: Depends is %q", name, arch, got)
			}
			if got := dpkgDeb(t, "--info", deb, "conffiles"); got != "/etc/default/"+name+"\n" {
				t.Errorf("%s, %s: conffiles: %q", name, arch, got)
			}
			for _, script := range []string{"postinst", "prerm", "postrm"} {
				want, err := os.ReadFile(r.contrib("debian/" + name + "." + script))
				if err != nil {
					t.Fatal(err)
				}
				if got := dpkgDeb(t, "--info", deb, script); got != string(want) {
					t.Errorf("%s, %s: another %s", name, arch, script)
				}
			}
		}
	}
}

// The packaged systemd unit equals the unit in contrib except for the user: the package creates the
// user, but the unit in contrib works without an existing user.
func TestPackagedUnitHasAStaticUser(t *testing.T) {
	t.Parallel()
	r := small(t)
	path, err := r.packagedUnit()
	if err != nil {
		t.Fatal(err)
	}
	packaged, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := os.ReadFile(r.contrib("gangway.service"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(packaged, []byte("DynamicUser")) || !bytes.Contains(packaged, []byte("\nUser=gangway\n")) {
		t.Error("the packaged unit does not run as a static user")
	}
	rest := regexp.MustCompile(`(?m)^(# With DynamicUser=.*\n# creates the user.*|DynamicUser=yes)\n`).ReplaceAll(ours, nil)
	if !bytes.Equal(packaged, rest) {
		t.Errorf("the packaged unit differs in more than its user:\n%s", packaged)
	}
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed: apt-get install systemd")
	}
	out, err := exec.Command(tool, "security", "--offline=yes", "--no-pager", "--threshold=20", path).CombinedOutput()
	if err != nil {
		t.Errorf("the packaged unit's exposure level is above 2.0: %v: %s", err, out[max(0, len(out)-200):])
	}
}

func TestMaintainerScriptsPassShellcheck(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("shellcheck"); err != nil {
		t.Skip("shellcheck is not installed: apt-get install shellcheck")
	}
	scripts, err := filepath.Glob("../../contrib/debian/*.p*")
	if err != nil || len(scripts) != 9 {
		t.Fatalf("%q, %v", scripts, err)
	}
	if out, err := exec.Command("shellcheck", append([]string{"--shell=sh"}, scripts...)...).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// Packaging the same programs gives the same bytes in another folder and at another time.
// scripts/release-test.sh tests the same for whole releases.
func TestPackagingIsReproducible(t *testing.T) {
	t.Parallel()
	var sums [2]string
	for i := range sums {
		r := small(t)
		for _, step := range []func() error{
			func() error { return r.writeDebs(t.Context()) },
			func() error { return r.writeArchives(t.Context()) },
			func() error { return r.writeImage(t.Context()) },
			func() error { return r.writeSums(t.Context()) },
		} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		b, err := os.ReadFile(filepath.Join(r.out, sumsFile))
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = string(b)
	}
	if sums[0] != sums[1] {
		t.Errorf("two releases differ:\n%s\n%s", sums[0], sums[1])
	}
	if n := strings.Count(sums[0], "\n"); n != 7 { // 4 packages, 2 archives and an image
		t.Errorf("%d files:\n%s", n, sums[0])
	}
}

func TestImageIsValid(t *testing.T) {
	t.Parallel()
	r := small(t)
	if err := r.writeImage(t.Context()); err != nil {
		t.Fatal(err)
	}
	folder := unpack(t, filepath.Join(r.out, "gangway-"+r.version+"-oci.tar"))
	at, err := layout.FromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	outer, err := at.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(outer); err != nil {
		t.Fatal(err)
	}
	m, err := outer.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	if got := m.Manifests[0].Annotations["org.opencontainers.image.ref.name"]; got != "1.2.0-rc.1-3.gabc" {
		t.Errorf("the image's name is %q", got)
	}
	index, err := outer.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if m, err = index.IndexManifest(); err != nil || len(m.Manifests) != len(architectures) {
		t.Fatalf("%+v, %v", m, err)
	}
	for i, d := range m.Manifests {
		image, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, image, architectures[i])
	}
}

func checkImage(t *testing.T, image v1.Image, arch string) {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != arch || config.Config.User != "65532:65532" {
		t.Errorf("%s: for %s, as user %q", arch, config.Architecture, config.Config.User)
	}
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	type entry struct {
		mode int64
		uid  int
	}
	got := map[string]entry{}
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = entry{h.Mode, h.Uid}
	}
	for name, want := range map[string]entry{"usr/bin/gangway": {0o755, 0}, "tmp/": {0o1777, 0}, "var/lib/gangway/": {0o700, containerUser}, "etc/passwd": {0o644, 0}} {
		if got[name] != want {
			t.Errorf("%s: %s: %+v; %+v was expected", arch, name, got[name], want)
		}
	}
}

func unpack(t *testing.T, path string) string {
	t.Helper()
	folder := t.TempDir()
	if out, err := exec.Command("tar", "-xf", path, "-C", folder).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return folder
}

// The bill of materials lists every module of the programs once, with its package URL. For each
// program, it lists the modules that the program contains.
func TestBillOfMaterials(t *testing.T) {
	t.Parallel()
	b := billOfMaterials(t)
	if !bytes.Equal(b, billOfMaterials(t)) {
		t.Error("two releases have different bills of materials")
	}
	var bom cdx.BOM
	if err := json.Unmarshal(b, &bom); err != nil {
		t.Fatal(err)
	}
	refs := map[string]bool{bom.Metadata.Component.BOMRef: true}
	for _, c := range *bom.Components {
		if refs[c.BOMRef] {
			t.Errorf("%s is there twice", c.BOMRef)
		}
		refs[c.BOMRef] = true
	}
	for _, d := range *bom.Dependencies {
		for _, ref := range append(*d.Dependencies, d.Ref) {
			if !refs[ref] {
				t.Errorf("%s is named, and is not there", ref)
			}
		}
	}
	if len(*bom.Dependencies) != 1+len(programs)*len(architectures)+1 { // the last one is gangway-signer
		t.Errorf("%d programs", len(*bom.Dependencies)-1)
	}
	nfpm := slices.ContainsFunc(*bom.Components, func(c cdx.Component) bool {
		return c.Name == "github.com/goreleaser/nfpm/v2" && strings.HasPrefix(c.PackageURL, "pkg:golang/github.com/goreleaser/nfpm/v2@v2.")
	})
	if !nfpm {
		t.Error("a module of this program is not there")
	}
}

// billOfMaterials returns the bill of materials of a release whose programs are copies of this
// test's binary.
func billOfMaterials(t *testing.T) []byte {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := small(t)
	r.signer = true
	for _, arch := range architectures {
		for _, name := range append(slices.Clone(programs), "gangway-signer") {
			if err := os.Remove(r.program(arch, name)); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(self, r.program(arch, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.writeSBOM(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(r.out, "gangway-"+r.version+".cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
