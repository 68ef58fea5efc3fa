package ekcerts

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"gangway/hub/evidence"
	"gangway/internal/makercerts"
)

var dir = flag.String("ekcerts", "", "folder of more EK certificates to try, with its index.tsv")

// triedOn is the date of the table in docs/trust.md. A certificate that had expired on this date is
// expired in the table.
var triedOn = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

// makers returns the collection of CA certificates from which the table in docs/trust.md was made:
// 26 roots and 143 intermediate certificates. The collection is not part of this project.
func makers(t *testing.T) *evidence.Trust {
	t.Helper()
	trust, err := evidence.NewTrust(makercerts.Read(t, makercerts.Roots), makercerts.Read(t, makercerts.Intermediates))
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

func index(t *testing.T, dir string) (fingerprints []string, found map[string]string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "index.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	found = map[string]string{}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) < 2 {
			t.Fatalf("%s: index.tsv has a malformed line: %q", dir, line)
		}
		fingerprints = append(fingerprints, f[0])
		found[f[0]] = f[1]
	}
	return fingerprints, found
}

// table returns the rows of the table in docs/trust.md, by the fingerprint of the certificate.
func table(t *testing.T) map[string]Row {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "trust.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]Row{}
	_, section, ok := strings.Cut(string(doc), "\n## Certificates tried\n")
	if !ok {
		t.Fatal("docs/trust.md has no section 'Certificates tried'")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		c := strings.Split(strings.TrimSpace(line), " | ")
		if len(c) != 6 || !strings.HasPrefix(c[2], "`") {
			continue
		}
		r := Row{strings.TrimPrefix(c[0], "| "), c[1], strings.Trim(c[2], "`"), c[3], c[4], strings.TrimSpace(strings.TrimSuffix(c[5], "|"))}
		if rows[r.Fingerprint] != (Row{}) {
			t.Errorf("%s is in the table twice", r.Fingerprint)
		}
		rows[r.Fingerprint] = r
	}
	return rows
}

// The table in docs/trust.md says correctly what each certificate in testdata contains.
func TestCertificatesTriedAreReadAsTheTableSays(t *testing.T) {
	t.Parallel()
	empty, err := evidence.NewTrust(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	rows := table(t)
	if len(rows) < 30 {
		t.Errorf("the table has only %d certificates, at least 30 are required", len(rows))
	}
	fingerprints, found := index(t, "testdata")
	files, err := filepath.Glob(filepath.Join("testdata", "*.der"))
	if err != nil || len(files) != len(fingerprints) || len(files) < 5 {
		t.Fatalf("%d files, %d of them in the index: %v", len(files), len(fingerprints), err)
	}
	for _, name := range fingerprints {
		raw, err := os.ReadFile(filepath.Join("testdata", name+".der"))
		if err != nil {
			t.Fatal(err)
		}
		got, want := Try(raw, empty, triedOn), rows[name]
		if got.Fingerprint != name {
			t.Errorf("%s.der has the fingerprint %s", name, got.Fingerprint)
		}
		got.Found, got.Verdict = found[name], want.Verdict // not compared here: the next test checks the verdicts
		if got != want {
			t.Errorf("docs/trust.md says\n%s\nbut it is\n%s", want, got)
		}
	}
}

// The table in docs/trust.md gives the hub's verdict on each certificate in testdata correctly. The
// verdicts depend on the collection of CA certificates from which the table was made.
func TestCertificatesTriedAreJudgedAsTheTableSays(t *testing.T) {
	t.Parallel()
	trust, rows := makers(t), table(t)
	fingerprints, _ := index(t, "testdata")
	for _, name := range fingerprints {
		raw, err := os.ReadFile(filepath.Join("testdata", name+".der"))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := Try(raw, trust, triedOn).Verdict, rows[name].Verdict; got != want {
			t.Errorf("%s: docs/trust.md says %q, but it is %q", name, want, got)
		}
	}
}

// TestTable prints the table's rows for the certificates in the folder of the flag -ekcerts. It
// checks nothing.
func TestTable(t *testing.T) {
	t.Parallel()
	if *dir == "" {
		t.Skip("the flag -ekcerts names no folder")
	}
	trust := makers(t)
	var rows []Row
	fingerprints, found := index(t, *dir)
	for _, name := range fingerprints {
		raw, err := os.ReadFile(filepath.Join(*dir, name+".bin"))
		if err != nil {
			t.Fatal(err)
		}
		r := Try(raw, trust, triedOn)
		r.Found = found[name]
		rows = append(rows, r)
	}
	sort.Slice(rows, func(i, j int) bool {
		return rows[i].Maker+rows[i].Model+rows[i].Fingerprint < rows[j].Maker+rows[j].Model+rows[j].Fingerprint
	})
	for _, r := range rows {
		fmt.Println(r)
	}
}
