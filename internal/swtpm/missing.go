package swtpm

import (
	"fmt"
	"os/exec"
	"strings"
)

// programs lists the programs that make and run a TPM, each with its Debian package.
var programs = []struct{ name, deb string }{
	{"swtpm", "swtpm"},
	{"swtpm_setup", "swtpm-tools"},
	{"swtpm_localca", "swtpm-tools"},
	{"certtool", "gnutls-bin"}, // swtpm_localca needs it to make its CA
}

// Missing returns one sentence that names the missing programs and how to install them, or "" if
// nothing is missing.
func Missing() string {
	var names, debs []string
	for _, p := range programs {
		if _, err := exec.LookPath(p.name); err == nil {
			continue
		}
		names = append(names, p.name)
		if len(debs) == 0 || debs[len(debs)-1] != p.deb {
			debs = append(debs, p.deb)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("software TPMs need %s: install them with `apt-get install %s`, or with your system's package manager",
		strings.Join(names, ", "), strings.Join(debs, " "))
}
