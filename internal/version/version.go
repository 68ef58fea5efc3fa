// Package version describes the build of the running program: its version, its commit and the
// commit's date.
//
// `make build` and `make release` set these values with the linker (scripts/version.sh). Other
// builds use the values that the go command records in the program: `go build` in a Git checkout
// records the commit, and `go install` records the version.
package version

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
)

// Build describes a build. A field is empty if its value is unknown.
type Build struct {
	Version string // without a leading v: "1.2.0"; "devel" if unknown
	Commit  string // the Git commit's full hash
	Date    string // the commit's date, RFC 3339 in UTC
}

// The linker sets these variables, with -ldflags "-X gangway/internal/version.version=...".
var version, commit, date string

// Current is the build of this program.
var Current = current()

func current() Build {
	b := Build{Version: version, Commit: commit, Date: date}
	if info, ok := debug.ReadBuildInfo(); ok && version == "" {
		b = recorded(info)
	}
	b.Version = cmp.Or(b.Version, "devel")
	return b
}

// The function `recorded` returns the build that the go command recorded in `info`.
func recorded(info *debug.BuildInfo) Build {
	b := Build{Version: strings.TrimPrefix(info.Main.Version, "v")}
	if b.Version == "(devel)" {
		b.Version = ""
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Date = s.Value
		}
	}
	return b
}

// String returns the build and the version of Go in one line:
//
//	1.2.0 (commit 0123456789ab, 2026-11-29T08:00:00Z, go1.26.8)
func (b Build) String() string {
	details := runtime.Version()
	if b.Date != "" {
		details = b.Date + ", " + details
	}
	if b.Commit != "" {
		details = fmt.Sprintf("commit %.12s, %s", b.Commit, details)
	}
	return fmt.Sprintf("%s (%s)", b.Version, details)
}
