// Package contrib_test checks the unit files with systemd's own tools.
package contrib_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// limits has the highest accepted exposure level (systemd-analyze security) of each unit, from 0
// (best) to 10.
var limits = map[string]float64{
	"gangway.service":        2.0,
	"gangway-proxy.service":  2.0,
	"gangway-signer.service": 1.2,
	"gangway-agent.service":  2.5, // comments in the unit list the permissions that hooks need
}

func analyzer(t *testing.T) string {
	t.Helper()
	tool, err := exec.LookPath("systemd-analyze")
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("systemd-analyze is not installed: apt-get install systemd")
	}
	if err != nil {
		t.Fatal(err)
	}
	return tool
}

func TestUnitsAreHardened(t *testing.T) {
	t.Parallel()
	tool := analyzer(t)
	level := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)
	units, err := filepath.Glob("*.service")
	if err != nil || len(units) != len(limits) {
		t.Fatalf("%d unit files and %d limits, %v", len(units), len(limits), err)
	}
	for _, unit := range units {
		out, err := exec.Command(tool, "security", "--offline=yes", "--no-pager", unit).CombinedOutput()
		m := level.FindSubmatch(out)
		if err != nil || m == nil {
			t.Errorf("%s: %v: no exposure level in the output of systemd-analyze security", unit, err)
			continue
		}
		exposure, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil || exposure > limits[unit] {
			t.Errorf("%s: exposure level %s; at most %.1f is accepted", unit, m[1], limits[unit])
		}
		t.Logf("%s: exposure level %s", unit, m[1])
	}
}

// documented returns the units in docs/operations.md, by their names.
func documented(t *testing.T) map[string][]byte {
	t.Helper()
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	units := map[string][]byte{}
	for _, m := range regexp.MustCompile("(?s)```ini\n# (gangway-[a-z]+\\.(?:service|timer))\n(.*?)```").FindAllSubmatch(page, -1) {
		units[string(m[1])] = m[2]
	}
	return units
}

// Gangway's units, and those in the docs, have no setting that is unknown to systemd, which would
// ignore such a setting and only log a message.
func TestUnitsHaveNoUnknownSettings(t *testing.T) {
	t.Parallel()
	tool := analyzer(t)
	files, err := filepath.Glob("*.service")
	if err != nil {
		t.Fatal(err)
	}
	units := documented(t)
	if len(units) != 4 {
		t.Errorf("docs/operations.md has %d units, and 4 were expected", len(units))
	}
	for _, unit := range files {
		if units[unit], err = os.ReadFile(unit); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	program := regexp.MustCompile(`(?m)^ExecStart=\S+`)
	for unit, b := range units {
		// The test replaces the unit's program with a shell, because Gangway may not be installed
		// on this machine.
		b = program.ReplaceAll(b, []byte("ExecStart=/bin/sh"))
		if err := os.WriteFile(filepath.Join(dir, unit), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for unit := range units {
		out, err := exec.Command(tool, "verify", "--man=no", filepath.Join(dir, unit)).CombinedOutput()
		var complaints []string
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, dir) { // a line without the path `dir` is about another unit of this machine
				complaints = append(complaints, strings.TrimSpace(line))
			}
		}
		if len(complaints) > 0 {
			t.Errorf("%s: %v: %q", unit, err, complaints)
		}
	}
}
