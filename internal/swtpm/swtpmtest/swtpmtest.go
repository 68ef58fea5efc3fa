// Package swtpmtest starts software TPMs for tests.
package swtpmtest

import (
	"os"
	"testing"

	"gangway/internal/swtpm"
)

// Start starts a software TPM, and stops it at the end of the test. If the programs for software
// TPMs are not installed, Start skips the test.
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
	tpm, err := swtpm.New(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tpm.Stop)
	return tpm
}
