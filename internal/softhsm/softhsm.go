// Package softhsm makes tokens of SoftHSM, an HSM in software, for tests.
package softhsm

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Module is the path of SoftHSM's PKCS #11 module on Debian.
const Module = "/usr/lib/softhsm/libsofthsm2.so"

// Label is the label of each token.
const Label = "gangway"

// Token is a token with a user PIN and no keys.
type Token struct {
	Config  string // the value of the environment variable SOFTHSM2_CONF for programs that use the token
	PINFile string
}

// New makes a token in a temporary folder. If SoftHSM is not installed, New skips the test.
func New(t testing.TB) *Token {
	t.Helper()
	util, err := exec.LookPath("softhsm2-util")
	if err != nil {
		t.Skip("softhsm2-util is not installed: apt-get install softhsm2")
	}
	dir := t.TempDir()
	k := &Token{filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "pin")}
	store := filepath.Join(dir, "tokens")
	if err := os.Mkdir(store, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{k.Config: "directories.tokendir = " + store + "\nlog.level = ERROR\n", k.PINFile: "648219\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command(util, "--init-token", "--free", "--label", Label, "--so-pin", "73918264", "--pin", "648219")
	c.Env = append(os.Environ(), "SOFTHSM2_CONF="+k.Config)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("softhsm2-util: %v: %s", err, out)
	}
	return k
}

// Flags returns the flags of gangway-signer for the token.
func (k *Token) Flags() []string {
	return []string{"--module", Module, "--token", Label, "--pin-file", k.PINFile}
}
