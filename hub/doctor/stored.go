package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gangway/hub/alarm"
	"gangway/hub/pki"
	"gangway/hub/store/sqlite"
	"gangway/internal/finding"
)

// checkKeys examines the hub's keys and certificates.
func checkKeys(_ context.Context, e *exam) []finding.Finding {
	dir := e.keys()
	// If the folder does not exist, pki.Open would make new keys in it, but the doctor must not
	// change anything.
	if _, err := os.Stat(dir); err != nil {
		return []finding.Finding{bad(finding.Problem, "keys-missing", fmt.Sprintf("The hub's keys are not in %s.", dir),
			"Without these keys, the hub recognizes no device.", "Restore the folder from its backup, or mount the disk that has the folder.")}
	}
	ca, err := pki.Open(dir, pki.Options{})
	if err != nil {
		return []finding.Finding{bad(finding.Problem, "keys-unusable", fmt.Sprintf("The hub's keys cannot be used: %s.", strings.TrimPrefix(err.Error(), "pki: ")),
			"", "Correct the reported fault, or restore the keys from the newest backup. Do not make new keys: the devices would not trust them.")}
	}
	e.roots, e.name = x509.NewCertPool(), ca.HubName()
	e.roots.AddCert(ca.Root())
	if err := ca.Prove(); err != nil {
		return []finding.Finding{bad(finding.Problem, "keys-unreachable", fmt.Sprintf("The key of a CA cannot be used: %s.", strings.TrimPrefix(err.Error(), "pki: ")),
			"The hub cannot onboard devices, and cannot start again.", "Start the signer or the TPM that has the key, and give the hub's user access to it.")}
	}
	if c := ca.TLSCA(); c != nil && c.NotAfter.Sub(e.now()) < pki.TLSCAWarning {
		return []finding.Finding{tlsCAExpires(c, e.now())}
	}
	for _, c := range ca.All() {
		if left := c.NotAfter.Sub(e.now()); c != ca.TLSCA() && left < 365*24*time.Hour {
			return []finding.Finding{bad(finding.Problem, "ca-expires", fmt.Sprintf("The hub's CA %q expires on %s.", c.Subject.CommonName, c.NotAfter.Format(time.DateOnly)),
				"The CAs that a hub makes never expire, so another program made this CA.", "Plan a new hub, and onboard the devices there before this date.")}
		}
	}
	if c := ca.TLSCA(); c != nil {
		where := "is on this machine"
		if ca.RootOffline() {
			where = "is offline"
		}
		return good("keys", "The hub's keys are complete and private. The root's key %s. The TLS CA expires on %s, and the other CAs do not expire. The hub name is %s.", where, c.NotAfter.Format(time.DateOnly), e.name)
	}
	return good("keys", "The hub's keys are complete and private, and its CAs do not expire. The hub name is %s.", e.name)
}

// tlsCAExpires returns the finding about a TLS CA that expires soon or has expired.
func tlsCAExpires(c *x509.Certificate, now time.Time) finding.Finding {
	severity, verb := finding.Warning, "expires"
	if !now.Before(c.NotAfter) {
		severity, verb = finding.Problem, "expired"
	}
	return bad(severity, "tls-ca-expires", fmt.Sprintf("The hub's TLS CA %s on %s.", verb, c.NotAfter.Format(time.DateOnly)),
		"After this date, no device and no person can connect to the hub.", "Renew the TLS CA with the root: gangway ca request --ca tls-ca. See 'Keys of the CAs' in docs/operations.md.")
}

// checkDatabase examines the database. The hub may use the database at the same time.
func checkDatabase(ctx context.Context, e *exam) []finding.Finding {
	if e.Database.URL != "" {
		return e.checkShared(ctx)
	}
	path := filepath.Join(e.Data, databaseFile)
	info, err := os.Stat(path)
	if err != nil {
		return []finding.Finding{bad(finding.Problem, "database-missing", fmt.Sprintf("There is no database %s.", path),
			"", "Restore the database from the newest backup. If this is a new hub, start the hub once: gangway serve --data "+e.Data)}
	}
	in, err := e.inspect(ctx, path, e.served)
	size := bytesOf(info.Size())
	switch {
	case errors.Is(err, sqlite.ErrUnclean):
		return []finding.Finding{bad(finding.Warning, "database-unclean", "The database was not closed, and no hub is running.", "The hub was killed, or the machine lost power.",
			"Start the hub: it recovers the last changes. Then run the doctor again.")}
	case err != nil:
		return []finding.Finding{bad(finding.Problem, "database-unreadable", fmt.Sprintf("The database %s cannot be read: %v.", path, err),
			"The file is damaged, or another program made it.", "Stop the hub, keep the file, and restore the newest backup.")}
	}
	e.database = &in
	if len(in.Faults) > 0 {
		return []finding.Finding{bad(finding.Problem, "database-damaged", fmt.Sprintf("The database %s is damaged: %s.", path, strings.Join(in.Faults, "; ")),
			"The disk, its controller or the memory is failing, or another program wrote to the file.", "Stop the hub, keep the file, restore the newest backup, and examine the machine.")}
	}
	if !in.Finished {
		return []finding.Finding{bad(finding.Note, "database-unchecked", fmt.Sprintf("The check of the database (%s) did not end within %s, and had found no fault by then.", size, e.CheckTime),
			"", "Give the check more time, at a time when the hub has little load: --check-time 30m")}
	}
	return good("database", "The database is intact; its size is %s.", size)
}

func (e *exam) inspect(ctx context.Context, path string, served bool) (sqlite.Inspection, error) {
	return sqlite.Inspect(ctx, path, served, e.CheckTime)
}

// If the newest backup is older than oldBackup, the doctor reports a warning. If the newest backup
// is older than uselessAfter, the doctor reports a problem.
const (
	oldBackup    = alarm.BackupOld
	uselessAfter = 60 * 24 * time.Hour
)

// checkBackup examines the folder of the newest backup, which has either backups made by 'gangway
// backup', or copied files.
func checkBackup(ctx context.Context, e *exam) []finding.Finding {
	if e.Backup != "" && e.hasBackupFiles() {
		return e.checkBackupFiles(ctx)
	}
	if e.Database.URL != "" {
		return e.checkKeysBackup()
	}
	if e.Backup == "" && e.database != nil && !e.database.Backup.IsZero() {
		return e.recordedBackup()
	}
	if e.Backup == "" {
		return []finding.Finding{bad(finding.Note, "backup-unknown", "The doctor does not know the folder of the hub's backups.", "If the hub's keys are lost without a backup, they cannot be made again.",
			"Name the newest backup: --backup FOLDER. If there is no backup, see 'Backup' in docs/operations.md.")}
	}
	path := filepath.Join(e.Backup, databaseFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return []finding.Finding{bad(finding.Problem, "backup-missing", fmt.Sprintf("There is no backup %s.", path), "", "Make a backup: see 'Backup' in docs/operations.md.")}
	}
	if err != nil {
		return []finding.Finding{bad(finding.Problem, "backup-unreadable", fmt.Sprintf("The backup cannot be read: %v.", err), "", "Run the doctor as a user who may read the backup.")}
	}
	days, found := e.ageOfBackup(info.ModTime())
	found = append(found, e.backupKeys()...)
	in, err := e.inspect(ctx, path, false)
	switch {
	case err != nil:
		found = append(found, bad(finding.Problem, "backup-damaged", fmt.Sprintf("The backup's database cannot be used: %v.", err),
			"A copy that is made while the hub writes to the file cannot be used.", `Copy the database with SQLite's backup: sqlite3 `+filepath.Join(e.Data, databaseFile)+` ".backup '`+path+`'"`))
	case len(in.Faults) > 0:
		found = append(found, bad(finding.Problem, "backup-damaged", fmt.Sprintf("The backup's database is damaged: %s.", strings.Join(in.Faults, "; ")), "", "Make a new backup, and examine the disk of the backup."))
	}
	if len(found) == 0 {
		return good("backup", "The newest backup is %s old, and its database and keys are intact.", days)
	}
	return found
}

// recordedBackup examines the age of the backup that the database records. The doctor does not know
// the files of this backup.
func (e *exam) recordedBackup() []finding.Finding {
	days, found := e.ageOfBackup(e.database.Backup)
	if len(found) == 0 {
		return good("backup", "The newest recorded backup is %s old. To check its files too, use --backup FOLDER.", days)
	}
	return found
}

// ageOfBackup returns the age of a backup that was made at the time `at`, in words. If the backup
// is too old, it also returns a finding.
func (e *exam) ageOfBackup(at time.Time) (days string, found []finding.Finding) {
	const cause = "After a restore of this backup, devices that onboarded later must onboard again."
	age := e.now().Sub(at)
	days = fmt.Sprintf("%d day(s)", int(age.Hours()/24))
	switch {
	case age > uselessAfter:
		found = append(found, bad(finding.Problem, "backup-old", fmt.Sprintf("The newest backup is %s old.", days), cause, "Find out why no new backup was made, and make a backup."))
	case age > oldBackup:
		found = append(found, bad(finding.Warning, "backup-old", fmt.Sprintf("The newest backup is %s old.", days), cause, "Make a backup each day."))
	}
	return days, found
}

// backupKeys checks that the backup has the keys of this hub.
func (e *exam) backupKeys() []finding.Finding {
	dir := filepath.Join(e.Backup, pkiFolder)
	if _, err := os.Stat(dir); err != nil {
		return []finding.Finding{bad(finding.Problem, "backup-keys", fmt.Sprintf("The backup has no keys: there is no %s.", dir),
			"A hub without its keys recognizes no device.", fmt.Sprintf("cp -a %s %s", e.keys(), e.Backup))}
	}
	ca, err := pki.Open(dir, pki.Options{})
	switch {
	case err != nil:
		return []finding.Finding{bad(finding.Problem, "backup-keys", fmt.Sprintf("The backup's keys cannot be used: %s.", strings.TrimPrefix(err.Error(), "pki: ")), "",
			fmt.Sprintf("Copy the hub's keys with their modes: cp -a %s %s", e.keys(), e.Backup))}
	case e.name != "" && ca.HubName() != e.name:
		return []finding.Finding{bad(finding.Problem, "backup-other", fmt.Sprintf("The backup is of another hub, with the hub name %s.", ca.HubName()), "", "Name the folder of this hub's backup: --backup FOLDER")}
	}
	return nil
}
