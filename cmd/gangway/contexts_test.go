package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gangway/internal/fleet"
)

// Other users cannot read the file of a sign-in, whatever the umask is, and even if they could read
// an older version of the file.
func TestSignInIsForItsUserOnly(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	defer syscall.Umask(syscall.Umask(0))
	for _, name := range []string{defaultContext, "oslo"} {
		path, err := contextPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := (&signIn{context: name, Token: "secret"}).save(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
		}
	}
}

// Attack: a flag, a variable or a file gives the context a name such as "../evil". No command may
// read or remove a file outside the folder of the contexts.
func TestContextNameIsNoPath(t *testing.T) {
	config := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", config)
	outside := filepath.Join(config, "evil.json")
	if err := os.WriteFile(outside, []byte(`{"hub":"https://evil.example","token":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&signIn{context: defaultContext, Hub: "https://hub.example", Token: "x"}).save(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../../evil", "../evil", "/etc/passwd", ".hidden", "a/b", "a\x00b", strings.Repeat("x", 65), "-x", "a\nb"} {
		for _, line := range [][]string{{"context", "show", name}, {"context", "use", name}, {"context", "rm", name}, {"context", "rename", "default", name}, {"whoami", "--context=" + name}} {
			if code, out, _ := typed(t, line...); code == 0 || strings.Contains(out, "evil.example") {
				t.Errorf("%q ends with %d: %s", line, code, out)
			}
		}
		if err := os.WriteFile(filepath.Join(config, "gangway", currentFile), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := loadSignIn(context.Background()); err == nil {
			t.Errorf("the current context %q is %s", name, s.Hub)
		}
		if err := os.Remove(filepath.Join(config, "gangway", currentFile)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error("a file outside was removed: ", err)
	}
}

// If a person once set an environment variable for --yes and has forgotten it, the variable must
// not confirm a deletion.
func TestNoVariableConfirms(t *testing.T) {
	h, run := onboarded(t, func(d *fleet.Device) { d.Serial = "kept" })
	d := only(t, h)
	t.Setenv("GANGWAY_YES", "true")
	if _, _, err := run("", "device", "delete", d.Nick); err == nil || !strings.Contains(err.Error(), "not confirmed") {
		t.Errorf("got %v", err)
	}
	only(t, h)
}
