// Package doctor examines a hub on the hub's own machine: the disk, the clock, the keys, the
// database, the backup, and the addresses and URLs at which other machines reach the hub. It
// changes nothing, and works while the hub runs.
//
// The checks form a table. To add a check, write a function that returns findings, each with a
// unique code, and add the function to the table. Then extend TestFaultsAreFound with a fault that
// causes each finding.
package doctor

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"gangway/hub/store/postgres"
	"gangway/hub/store/sqlite"
	"gangway/internal/finding"

	"golang.org/x/sys/unix"
)

// The names of files and folders in a hub's data folder.
const (
	pkiFolder    = "pki"
	databaseFile = "gangway.db"
	objectFolder = "objects"
	serveFile    = "serve.lock"
)

// Config says which hub Examine examines, and how.
type Config struct {
	Data   string // the hub's data folder
	PKI    string // the folder of the hub's keys; empty: pki in the data folder
	Backup string // the folder of the newest backup; empty: unknown
	// CheckTime limits how long the doctor may check the database, and how long it may check the
	// database in the backup. Zero means one minute each.
	CheckTime time.Duration

	// Database is the hub's PostgreSQL database. If its URL is empty, the database is the file in
	// the data folder.
	Database postgres.Config

	// Only tests set the following fields. By default, the doctor uses this machine's time, disk,
	// clock and /proc.
	now   func() time.Time
	disk  func(dir string) (syscall.Statfs_t, error)
	clock func() (state int, t unix.Timex, err error)
	proc  string // /proc
}

// dialTime is the timeout of each connection to the hub.
const dialTime = 5 * time.Second

// exam is one examination. Earlier checks set fields that later checks use.
type exam struct {
	Config
	pid      int  // process id of the running hub; 0: unknown
	served   bool // a hub runs with this data folder
	roots    *x509.CertPool
	name     string // hub name
	database *sqlite.Inspection
	found    []finding.Finding // what the earlier checks found
}

type check struct {
	name string
	run  func(context.Context, *exam) []finding.Finding
}

// checks are in the order in which a person repairs a hub: each check comes before the checks that
// depend on it.
var checks = []check{
	{"data", checkData},
	{"keys", checkKeys},
	{"disk", checkDisk},
	{"database", checkDatabase},
	{"backup", checkBackup},
	{"export", checkExport},
	{"clock", checkClock},
	{"process", checkProcess},
	{"listeners", checkListeners},
	{"url", checkURLs},
	{"alarms", checkAlarms},
}

// Examine runs all checks.
func Examine(ctx context.Context, cfg Config) []finding.Finding {
	e := &exam{Config: cfg}
	if e.now == nil {
		e.now = time.Now
	}
	if e.disk == nil {
		e.disk = func(dir string) (s syscall.Statfs_t, err error) { return s, syscall.Statfs(dir, &s) }
	}
	if e.clock == nil {
		e.clock = func() (state int, t unix.Timex, err error) {
			state, err = unix.Adjtimex(&t) // without a mode, Adjtimex only reads the clock's state
			return state, t, err
		}
	}
	if e.proc == "" {
		e.proc = "/proc"
	}
	if e.CheckTime == 0 {
		e.CheckTime = time.Minute
	}
	for _, c := range checks {
		if ctx.Err() != nil {
			break
		}
		e.found = append(e.found, c.run(ctx, e)...)
	}
	return e.found
}

// keys returns the folder of the hub's keys.
func (e *exam) keys() string { return cmp.Or(e.PKI, filepath.Join(e.Data, pkiFolder)) }

func good(code, format string, args ...any) []finding.Finding {
	return []finding.Finding{{Code: code, Severity: finding.OK, Fact: fmt.Sprintf(format, args...)}}
}

func bad(s finding.Severity, code, fact, cause, remedy string) finding.Finding {
	return finding.Finding{Code: code, Severity: s, Fact: fact, Cause: cause, Remedy: remedy}
}

// checkData examines the permissions of the data folder and of the files and folders in it.
func checkData(_ context.Context, e *exam) (found []finding.Finding) {
	e.pid, e.served = serving(e.proc, filepath.Join(e.Data, serveFile))
	for _, f := range []struct {
		path string
		mask os.FileMode
		mode string
	}{
		{"", 0o077, "700"}, {pkiFolder, 0o077, "700"}, {objectFolder, 0o077, "700"},
		{databaseFile, 0o077, "600"}, {databaseFile + "-wal", 0o077, "600"}, {databaseFile + "-shm", 0o077, "600"},
	} {
		path := filepath.Join(e.Data, f.path)
		info, err := os.Stat(path)
		if err != nil {
			continue // later checks report missing files and folders
		}
		if info.Mode().Perm()&f.mask == 0 {
			continue
		}
		severity, cause := finding.Warning, "The folder has the hub's keys, and its data about devices and accounts."
		if info.Mode().Perm()&0o022 != 0 {
			severity, cause = finding.Problem, "Other users of this machine can change the hub's data."
		}
		found = append(found, bad(severity, "data-mode", fmt.Sprintf("Other users of this machine have access to %s (mode %04o).", path, info.Mode().Perm()), cause,
			fmt.Sprintf("chmod %s %s", f.mode, path)))
	}
	if len(found) == 0 {
		return good("data", "Only the hub's user has access to %s.", e.Data)
	}
	return found
}

// checkDisk examines the free space on the disks that contain the data folder, the objects and the
// keys.
func checkDisk(_ context.Context, e *exam) (found []finding.Finding) {
	seen := map[uint64]bool{} // by the device number of the file system
	for _, dir := range []string{e.Data, filepath.Join(e.Data, objectFolder), e.keys()} {
		info, err := os.Stat(dir)
		if err != nil {
			continue
		}
		device := info.Sys().(*syscall.Stat_t).Dev
		s, err := e.disk(dir)
		if err != nil || seen[device] {
			continue
		}
		seen[device] = true
		found = append(found, room(dir, s)...)
	}
	return found
}

// room judges the free space and the free inodes of a file system. It compares the free space with
// the hub's reserve: below the reserve, the hub refuses uploads, and below half of the reserve, it
// accepts only sign-ins, and requests that end or remove something.
func room(dir string, s syscall.Statfs_t) (found []finding.Finding) {
	free, size := int64(s.Bavail)*s.Bsize, int64(s.Blocks)*s.Bsize
	reserve := min(size/20, 1<<30)
	remedy := "Free disk space: remove files of other programs, delete devices that are not needed, or enlarge the disk. See 'A full disk' in docs/operations.md."
	switch {
	case free < reserve:
		found = append(found, bad(finding.Problem, "disk-full", fmt.Sprintf("%s of %s are free on the disk that contains %s.", bytesOf(free), bytesOf(size), dir),
			fmt.Sprintf("If less than %s is free, the hub refuses uploads. If less than half of this size is free, the hub refuses all new data.", bytesOf(reserve)), remedy))
	case free < 3*reserve:
		found = append(found, bad(finding.Warning, "disk-low", fmt.Sprintf("%s of %s are free on the disk that contains %s.", bytesOf(free), bytesOf(size), dir),
			fmt.Sprintf("If less than %s is free, the hub refuses uploads.", bytesOf(reserve)), remedy))
	}
	// Some file systems create inodes on demand, and report that they have none.
	if s.Files > 0 && s.Ffree < max(s.Files/100, 1000) {
		severity := finding.Warning
		if s.Ffree < 100 {
			severity = finding.Problem
		}
		found = append(found, bad(severity, "disk-inodes", fmt.Sprintf("%d of %d inodes are free on the disk that contains %s.", s.Ffree, s.Files, dir),
			"Without a free inode, no program can create a file, even if disk space is free.", "Remove small files of other programs, or use a file system with more inodes."))
	}
	if len(found) == 0 {
		return good("disk", "%s of %s are free on the disk that contains %s.", bytesOf(free), bytesOf(size), dir)
	}
	return found
}

func bytesOf(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

// checkClock asks the kernel whether a time server sets the clock, and compares the clock with the
// time of the newest event.
func checkClock(_ context.Context, e *exam) (found []finding.Finding) {
	now := e.now().UTC()
	if d := e.database; d != nil && d.Newest.Sub(now) > 2*time.Minute {
		found = append(found, bad(finding.Problem, "clock-back", fmt.Sprintf("The clock says %s, but the hub's newest event is from %s.", now.Format(time.DateTime), d.Newest.UTC().Format(time.DateTime)),
			"The clock was set back after this event, or was wrong at the time of the event. Sessions, join tokens and revocations depend on the clock.", "Set the clock, for example with chrony or systemd-timesyncd."))
	}
	state, t, err := e.clock()
	switch {
	case err != nil:
		found = append(found, bad(finding.Note, "clock-unknown", "The kernel does not say whether the clock is set by a time server.", "", ""))
	case state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0:
		found = append(found, bad(finding.Warning, "clock-unset", fmt.Sprintf("The clock says %s UTC, and no time server sets it.", now.Format(time.DateTime)),
			"The clock decides when join tokens, sessions and certificates expire. If the hub runs in a container, a time server outside the container may set the clock.", "Set up a time server: 'systemctl enable --now systemd-timesyncd', or chrony."))
	}
	if len(found) == 0 {
		return good("clock", "The clock says %s UTC; a time server sets it, to within %s.", now.Format(time.DateTime), (time.Duration(t.Maxerror) * time.Microsecond).Round(time.Millisecond))
	}
	return found
}
