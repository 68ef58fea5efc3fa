package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gangway/wire/trail/sig"
	"gangway/wire/trail/sig/sigtest"
)

// --revision-key takes public keys. A private key must not be copied into an image by mistake.
func TestRevisionKeyFiles(t *testing.T) {
	t.Parallel()
	public := sigtest.PEM(t, sigtest.NewKey(t))
	for name, c := range map[string]struct{ text, fails string }{
		"a public key":  {public, ""},
		"a private key": {"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "PRIVATE KEY"},
		"not a key":     {"hello", "not PEM"},
		"huge":          {strings.Repeat(public, sig.MaxKeys/len(public)+1), "more than"},
	} {
		file := filepath.Join(t.TempDir(), "owner.pem")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := readRevisionKeys(file)
		switch {
		case c.fails == "" && (err != nil || keys.Len() != 1):
			t.Errorf("%s: %v", name, err)
		case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails) || !strings.Contains(err.Error(), "openssl pkey")):
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := readRevisionKeys("/nowhere"); err == nil {
		t.Error("a missing file is accepted")
	}
}
