package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gangway/hub/backup"
	"gangway/internal/finding"
)

// hasBackupFiles reports whether the backup folder has backups made by 'gangway backup'.
func (e *exam) hasBackupFiles() bool {
	path, err := backup.Newest(e.Backup)
	return err == nil && path != ""
}

// checkBackupFiles examines the newest backup made by 'gangway backup'. The doctor has no age
// identity, so it cannot decrypt the backup. Instead, it compares the backup with the description
// that the hub signed.
func (e *exam) checkBackupFiles(ctx context.Context) []finding.Finding {
	ctx, cancel := context.WithTimeout(ctx, e.CheckTime)
	defer cancel()
	c, err := backup.CheckNewest(ctx, e.Backup, e.name)
	var refusal *backup.Refusal
	switch {
	case errors.As(err, &refusal) && refusal.Code == backup.CodeOtherHub:
		return []finding.Finding{bad(finding.Problem, "backup-other", refusal.Fact, "", "Name the folder of this hub's backups: --backup FOLDER")}
	case errors.As(err, &refusal):
		return []finding.Finding{bad(finding.Problem, "backup-damaged", refusal.Fact, "If the hub's disk is lost now, only an older backup can be restored.", refusal.Remedy)}
	case err != nil:
		return []finding.Finding{bad(finding.Problem, "backup-unreadable", fmt.Sprintf("The backup cannot be read: %v.", err), "", "Run the doctor as a user who may read the backup.")}
	}
	days, found := e.ageOfBackup(c.Begun)
	name := filepath.Base(c.File)
	// The database records the time of a backup in whole seconds.
	if e.database != nil && e.database.Backup.Sub(c.Begun) > time.Second {
		found = append(found, bad(finding.Warning, "backup-missing", fmt.Sprintf("The hub has recorded a backup from %s UTC, but the newest backup in %s is from %s UTC.", e.database.Backup.UTC().Format(time.DateTime), e.Backup, c.Begun.UTC().Format(time.DateTime)),
			"The newer backup is elsewhere, or somebody has removed it.", "Name the folder of the newest backup: --backup FOLDER"))
	}
	d := c.Description
	switch {
	case d == nil:
		return append(found, bad(finding.Note, "backup-undescribed", fmt.Sprintf("The newest backup, %s, is %s old. An earlier version of Gangway made this backup without a description, so the doctor cannot check the backup.", name, days), "",
			"Make a new backup, or check this one with 'gangway backup verify' and the age identity."))
	case c.Unfinished:
		return append(found, bad(finding.Note, "backup-unchecked", fmt.Sprintf("The newest backup, %s, is %s old. The check of this backup did not end within %s, and had found no fault by then.", name, days, e.CheckTime), "",
			"Give the check more time: --check-time 30m"))
	case len(found) > 0:
		return found
	}
	objects := fmt.Sprintf("and has %d objects", d.Count)
	if !d.Objects {
		objects = "and has no objects"
	}
	return good("backup", "The newest backup, %s, is %s old. It is unchanged, %s. The age identity of %s can restore it. To decrypt the backup as a test, use 'gangway backup verify'.", name, days, objects, strings.Join(d.Recipients, " or "))
}

// exportFile is the export of the events that docs/operations.md puts beside the backups. A restore
// reads the deletions and revocations since the backup from this file.
const exportFile = "since.jsonl"

// If the export of the events is older than oldExport, it was not made for some time, because
// docs/operations.md says that it is made every few minutes.
const oldExport = time.Hour

// checkExport examines the export of the events beside the backups.
func checkExport(_ context.Context, e *exam) []finding.Finding {
	if e.Backup == "" || e.name == "" || !e.hasBackupFiles() {
		return nil
	}
	const cause = "After a restore, devices, accounts and tokens that were deleted, disabled or revoked meanwhile may work again."
	path := filepath.Join(e.Backup, exportFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return []finding.Finding{bad(finding.Note, "export-missing", fmt.Sprintf("There is no export of the events %s.", path), cause, "Export the events every few minutes: see 'Timers' in docs/operations.md.")}
	}
	var trails []backup.Trail
	if err == nil {
		defer f.Close()
		trails, err = backup.ReadTrail(f, e.name, false, func([]byte) error { return nil })
	}
	var refusal *backup.Refusal
	switch {
	case errors.As(err, &refusal):
		return []finding.Finding{bad(finding.Problem, "export-damaged", refusal.Fact, cause, refusal.Remedy)}
	case err != nil:
		return []finding.Finding{bad(finding.Problem, "export-unreadable", fmt.Sprintf("The export of the events cannot be read: %v.", err), "", "Run the doctor as a user who may read the export.")}
	}
	var until time.Time // zero if the file is empty
	for _, t := range trails {
		if t.Until.After(until) {
			until = t.Until
		}
	}
	last := until.UTC().Format(time.DateTime)
	fact := fmt.Sprintf("The export %s ends at %s UTC.", path, last)
	if until.IsZero() {
		fact = fmt.Sprintf("The export %s is empty.", path)
	}
	if e.now().Sub(until) > oldExport {
		return []finding.Finding{bad(finding.Problem, "export-old", fact, cause, "Find out why no new export was made: see 'Timers' in docs/operations.md.")}
	}
	return good("export", "The export %s has the events until %s UTC.", path, last)
}
