package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadsPasswordsFromFiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, content string
		mode          os.FileMode
		want, fails   string
	}{
		{"one line", "secret\n", 0o600, "secret", ""},
		{"no line end", "secret", 0o400, "secret", ""},
		{"DOS line end", "secret\r\n", 0o640, "secret", ""},
		{"blanks are part of it", " a b \n\n", 0o600, " a b \n", ""},
		{"hexadecimal", "hex:00ff0A\n", 0o600, "\x00\xff\n", ""},
		{"empty", "", 0o600, "", ""},
		{"longest", strings.Repeat("a", 64) + "\n", 0o600, strings.Repeat("a", 64), ""},
		{"too long", strings.Repeat("a", 65), 0o600, "", "at most 64 bytes"},
		{"bad digits", "hex:zecret", 0o600, "", "hexadecimal"},
		{"readable by everybody", "secret", 0o644, "", "chmod 600"},
	} {
		file := filepath.Join(t.TempDir(), "auth")
		if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, c.mode); err != nil {
			t.Fatal(err)
		}
		got, err := readAuth(file)
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) || strings.Contains(err.Error(), "zecret") {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	if b, err := readAuth(""); b != nil || err != nil {
		t.Errorf("no file: %q, %v", b, err)
	}
	if _, err := readAuth(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there is an empty password")
	}
}
