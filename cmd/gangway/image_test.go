package main

import (
	"os"
	"path/filepath"
	"testing"
)

// programsFolder finds gangway-init and gangway-agent in the folder of gangway, where `make build`
// writes them, and in lib/gangway, where packages install them.
func TestProgramsOfImagesAreFound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		there []string
		want  string
	}{
		"built":             {[]string{"bin/gangway-init"}, "bin"},
		"built, package":    {[]string{"bin/gangway-init", "lib/gangway/gangway-init"}, "bin"},
		"package":           {[]string{"lib/gangway/gangway-init"}, "lib/gangway"},
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
