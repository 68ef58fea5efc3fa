package browser_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// The vendored files are unchanged: the hash of each file from an npm package equals the hash in
// the table of the README.md beside the file.
func TestVendoredFilesAreUnchanged(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"axe", filepath.Join("..", "..", "hub", "ui", "vendor")} {
		table, err := os.ReadFile(filepath.Join(dir, "README.md"))
		if err != nil {
			t.Fatal(err)
		}
		listed := map[string]string{}
		for _, m := range regexp.MustCompile(`(?m)^\| (\S+) \| (\S+) \| (\S+) \| (\S+) \| ([0-9a-f]{64}) \|$`).FindAllStringSubmatch(string(table), -1) {
			listed[m[1]] = m[5]
		}
		err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "README.md" {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(content)
			if got := hex.EncodeToString(sum[:]); listed[name] != got {
				t.Errorf("%s has the SHA-256 %s, and the table has %q", path, got, listed[name])
			}
			delete(listed, name)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for name := range listed {
			t.Errorf("%s: %s is missing", dir, name)
		}
	}
}
