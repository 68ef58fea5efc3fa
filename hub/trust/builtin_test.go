package trust_test

import (
	"crypto/sha256"
	"encoding/pem"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gangway/hub/trust"
)

var update = flag.Bool("update", false, "write roots/README.md again")

const tablePath = "roots/README.md"

const tableHead = `# TPM makers' certificates

These CA certificates of TPM makers are built into Gangway. ` + "`make vendor-roots`" + ` copies them from Debian's package ` + "`ruby-tpm-key-attestation`" + `
(Apache-2.0; see ` + "`COPYRIGHT`" + ` and ` + "`LICENSE`" + ` in this folder) and writes this table. The test ` + "`TestTableIsTrue`" + ` compares the table with the files.
A *root* is signed by its own key, and the hub trusts it. A *link* is a CA certificate that another CA signed: the hub uses it to build chains, and
does not trust it by itself. Some files that the package calls roots are links. The columns *from* and *until* are the dates between which a
certificate is valid.

| maker | subject | kind | SHA-256 | from | until | file | source |
|---|---|---|---|---|---|---|---|
`

// row returns the row that the table in roots/README.md must have for a certificate.
func row(name string, c trust.Certificate) string {
	kind := "link"
	if c.Root {
		kind = "root"
	}
	return fmt.Sprintf("| %s | %s | %s | `%x` | %s | %s | %s | %s |\n", c.Maker, strings.ReplaceAll(c.Cert.Subject.String(), "|", "/"), kind, c.Fingerprint,
		c.Cert.NotBefore.UTC().Format(time.DateOnly), c.Cert.NotAfter.UTC().Format(time.DateOnly), strings.TrimPrefix(name, "roots/"), trust.Origin(name))
}

// The table in roots/README.md has exactly one correct row for each certificate file.
func TestTableIsTrue(t *testing.T) {
	names, err := filepath.Glob("roots/*/*")
	if err != nil {
		t.Fatal(err)
	}
	certs := trust.BuiltIn()
	if len(names) != len(certs) {
		t.Fatalf("%d files, %d built-in certificates", len(names), len(certs))
	}
	want := tableHead
	for i, name := range names { // both are in the order of names
		want += row(filepath.ToSlash(name), certs[i])
	}
	if *update {
		if err := os.WriteFile(tablePath, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(tablePath)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the files say: run 'make vendor-roots', or 'go test ./hub/trust -run TestTableIsTrue -update' if the files are right", tablePath)
	}
	// As an independent check, compare the fingerprints in the table with those of the files.
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("`([0-9a-f]{64})`").FindAllStringSubmatch(string(got), -1) {
		listed[m[1]] = true
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		block, rest := pem.Decode(text)
		if block == nil || strings.TrimSpace(string(rest)) != "" {
			t.Fatalf("%s is not one certificate", name)
		}
		print := fmt.Sprintf("%x", sha256.Sum256(block.Bytes))
		if !listed[print] {
			t.Errorf("%s (%s) is not in the table", name, print)
		}
		delete(listed, print)
	}
	for print := range listed {
		t.Errorf("the table has %s, and there is no such file", print)
	}
}

// Every built-in root must be self-signed, must not have expired, and must occur only once.
func TestBuiltInRootsSignThemselves(t *testing.T) {
	t.Parallel()
	roots, links := 0, 0
	seen := map[[32]byte]bool{}
	for _, c := range trust.BuiltIn() {
		if seen[c.Fingerprint] {
			t.Errorf("%s is there twice", c.Name())
		}
		seen[c.Fingerprint] = true
		if !c.Root {
			links++
			continue
		}
		roots++
		if string(c.Cert.RawSubject) != string(c.Cert.RawIssuer) {
			t.Errorf("%s is called a root and was issued by %s", c.Name(), c.Cert.Issuer)
		}
		if c.Cert.NotAfter.Before(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)) {
			t.Errorf("%s expired on %s", c.Name(), c.Cert.NotAfter)
		}
	}
	if roots != 22 || links != 3 {
		t.Errorf("%d roots and %d links; the package that they are from had 22 and 3", roots, links)
	}
}

// The folder of the built-in certificates must contain their licence, because Gangway distributes
// them.
func TestLicenceLiesBesideTheRoots(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"COPYRIGHT", "LICENSE"} {
		text, err := os.ReadFile(filepath.Join("roots", name))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "Apache") {
			t.Errorf("%s does not name the Apache licence", name)
		}
	}
	if _, err := fs.Stat(os.DirFS("roots"), "README.md"); err != nil {
		t.Error(err)
	}
}
