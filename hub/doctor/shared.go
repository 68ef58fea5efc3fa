package doctor

import (
	"context"
	"fmt"
	"strings"

	"gangway/hub/store/postgres"
	"gangway/hub/store/sqlite"
	"gangway/internal/finding"
)

// checkShared examines a database in PostgreSQL. Hubs may use the database at the same time.
func (e *exam) checkShared(ctx context.Context) (found []finding.Finding) {
	ctx, cancel := context.WithTimeout(ctx, e.CheckTime)
	defer cancel()
	in, err := postgres.Inspect(ctx, e.Database)
	if err != nil {
		return []finding.Finding{bad(finding.Problem, "database-unreadable", fmt.Sprintf("The PostgreSQL database cannot be read: %s.", strings.TrimPrefix(err.Error(), "postgres: ")),
			"The server does not run or cannot be reached, or the user or the password is wrong.", "Correct --database and the password, or start the server.")}
	}
	e.database = &sqlite.Inspection{Finished: true, URLs: in.URLs, Newest: in.Newest, Backup: in.Backup, Alarms: in.Alarms}
	if in.Hub != "" && e.name != "" && in.Hub != e.name {
		found = append(found, bad(finding.Problem, "database-other", fmt.Sprintf("The database belongs to the hub %s.", in.Hub),
			"The keys in the data folder are those of another hub.", "Correct --database or --data."))
	}
	if in.Behind {
		found = append(found, bad(finding.Note, "database-behind", "The schema of the database is older than this program.", "", "Start the hub with this version: it updates the schema."))
	}
	for _, setting := range in.Unsafe {
		found = append(found, bad(finding.Problem, "database-not-durable", fmt.Sprintf("The database server has the setting %s.", setting),
			"After a crash, devices may be missing from the database, although the hub has told them that they are onboarded.", fmt.Sprintf("Remove the setting %s from the server's configuration, and restart the server.", setting)))
	}
	if len(found) > 0 {
		return found
	}
	return good("database", "The database in PostgreSQL %s answers; its size is %s.", in.Server, bytesOf(in.Size))
}

// checkKeysBackup examines the backup of a hub whose database is in PostgreSQL.
func (e *exam) checkKeysBackup() (found []finding.Finding) {
	if e.Backup != "" {
		found = e.backupKeys()
	}
	if e.database != nil && !e.database.Backup.IsZero() {
		return append(found, e.recordedBackup()...)
	}
	return append(found, bad(finding.Note, "backup-unknown", "The doctor does not know the backups of the PostgreSQL database.",
		"If the database is lost without a backup, every device must onboard again.", "Examine the backups with the tools of PostgreSQL: see 'PostgreSQL' in docs/operations.md."))
}
