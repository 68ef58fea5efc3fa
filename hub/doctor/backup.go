package doctor

import (
	"context"
	"errors"
	"fmt"
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
