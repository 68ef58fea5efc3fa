// Package swtpmtest starts software TPMs for tests.
package swtpmtest

import (
	"os"
	"path/filepath"
	"testing"

	"gangway/internal/swtpm"
)

// Start starts a software TPM, and stops it at the end of the test. If o.Maker is empty, the TPM has
// a maker of its own. If the programs for software TPMs are not installed, Start skips the test.
func Start(t testing.TB, o swtpm.Options) *swtpm.TPM {
	t.Helper()
	if missing := swtpm.Missing(); missing != "" {
		t.Skip(missing)
	}
	dir, err := os.MkdirTemp("", "tpm") // the paths of Unix sockets must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if o.Maker == "" && o.EK != swtpm.None {
		o.Maker = filepath.Join(dir, "ca")
		if err := NewMaker(o.Maker); err != nil {
			t.Fatal(err)
		}
	}
	tpm, err := swtpm.New(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tpm.Stop)
	return tpm
}
