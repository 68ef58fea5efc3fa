package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gangway/internal/carry"
)

// programsFolder finds gangway-init and gangway-agent in two places: in the folder of gangway, as
// after `make build`, and in lib/gangway, as after the installation of a package.
func TestProgramsOfImagesAreFound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		there []string
		want  string
	}{
		"built":             {[]string{"bin/gangway-init"}, "bin"},
		"built, package":    {[]string{"bin/gangway-init", "lib/gangway/gangway-init"}, "bin"},
		"package":           {[]string{"lib/gangway/gangway-init"}, "lib/gangway"},
		"an empty package":  {[]string{"lib/gangway/other"}, "lib/gangway"},
		"gangway by itself": {nil, "bin"},
	} {
		dir := t.TempDir()
		for _, path := range c.there {
			path = filepath.Join(dir, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := programsFolder(filepath.Join(dir, "bin/gangway")), filepath.Join(dir, c.want); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

// If gangway is copied without other files, it uses its embedded copies of the programs for images.
// Attack: another user writes files to the cache folder, where gangway unpacks these programs. The
// files must not go into an image.
func TestCopiedProgramCarriesTheProgramsOfImages(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	dir := t.TempDir()
	var files []string
	for _, name := range append([]string{"gangway"}, imagePrograms...) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("content of "+name), 0o755); err != nil {
			t.Fatal(err)
		}
		files = append(files, path)
	}
	if err := carry.Add(files[0], files[1:]...); err != nil {
		t.Fatal(err)
	}
	alone := filepath.Join(t.TempDir(), "renamed")
	if err := os.Rename(files[0], alone); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		unpacked := programsFolder(alone)
		for _, name := range imagePrograms {
			path := filepath.Join(unpacked, name)
			if b, err := os.ReadFile(path); err != nil || string(b) != "content of "+name {
				t.Errorf("%s is %q, %v", path, b, err)
			}
			if err := os.WriteFile(path, []byte("a stranger's"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if info, err := os.Stat(unpacked); err != nil || info.Mode().Perm() != 0o700 || !strings.HasPrefix(unpacked, cache) {
			t.Errorf("%s: %v %v", unpacked, info, err)
		}
	}
}

// 'gangway image parts' lists the missing parts, with the commands that install them.
func TestImageParts(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", dir)
	code, out, stderr := typed(t, "image", "parts", "--programs", dir, "--boot", dir)
	if code != exitFailed || !strings.Contains(stderr, "parts are missing") {
		t.Errorf("ends with %d: %s", code, stderr)
	}
	for _, want := range []string{"kernel ", "busybox ", "EFI stub ", "gangway-init ", "missing", "gangway image fetch", "apt-get install systemd-boot-efi", "make build"} {
		if !strings.Contains(out, want) {
			t.Errorf("there is no %q in\n%s", want, out)
		}
	}
	// 'gangway image parts' reports a program that cannot run in an image.
	for _, name := range imagePrograms {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, out, _ := typed(t, "image", "parts", "--programs", dir); !strings.Contains(out, "unfit") || !strings.Contains(out, "not a program for Linux") {
		t.Errorf("a script is taken for a program:\n%s", out)
	}
	code, out, _ = typed(t, "image", "parts", "--programs", dir, "--output", "json")
	var list []partView
	if json.Unmarshal([]byte(out), &list) != nil || len(list) < 8 || code != exitFailed {
		t.Errorf("%d %s", code, out)
	}
}

// 'make install' puts each file where Linux distributions expect it, and starts no program.
func TestMakeInstall(t *testing.T) {
	make, err := exec.LookPath("make")
	if err != nil {
		t.Skip(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	build := t.TempDir()
	install := func(prefix string) (string, string, error) {
		to := t.TempDir()
		c := exec.Command(make, "-C", "../..", "install", "BUILD="+build, "DESTDIR="+to, "PREFIX="+prefix)
		out, err := c.CombinedOutput()
		return to, string(out), err
	}
	if _, out, err := install("/usr/local"); err == nil || !strings.Contains(out, "make build") {
		t.Errorf("without programs: %v %s", err, out)
	}
	// The test binary acts as gangway if it has that name: see TestMain.
	for _, name := range []string{"gangway", "gangway-agent", "gangway-init"} {
		if err := os.Symlink(self, filepath.Join(build, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(build, "gangway-agent")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(build, "gangway-agent"), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for prefix, zsh := range map[string]string{"/usr": "/usr/share/zsh/vendor-completions/_gangway", "/opt/g": "/opt/g/share/zsh/site-functions/_gangway"} {
		to, out, err := install(prefix)
		if err != nil {
			t.Fatal(err, out)
		}
		for path, mode := range map[string]os.FileMode{prefix + "/bin/gangway": 0o755, prefix + "/bin/gangway-agent": 0o755, prefix + "/lib/gangway/gangway-init": 0o755,
			prefix + "/lib/gangway/gangway-agent": 0o755, prefix + "/lib/systemd/system/gangway.service": 0o644, prefix + "/share/man/man1/gangway-device-logs.1": 0o644,
			prefix + "/share/bash-completion/completions/gangway": 0o644, prefix + "/share/fish/vendor_completions.d/gangway.fish": 0o644, zsh: 0o644} {
			if info, err := os.Stat(filepath.Join(to, path)); err != nil || info.Mode() != mode {
				t.Errorf("%s: %v %v", path, info, err)
			}
		}
	}
	if _, out, err := install("usr"); err == nil || !strings.Contains(out, "absolute path") {
		t.Errorf("a relative prefix: %v %s", err, out)
	}
}
