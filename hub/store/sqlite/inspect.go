package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/sqlstore"
)

// ErrUnclean is the error for a database that was not closed, for example because the hub crashed,
// and whose write-ahead log therefore still exists. Inspect does not read such a database, because
// reading it would change it.
var ErrUnclean = errors.New("sqlite: the database was not closed")

// Inspection is the result of Inspect.
type Inspection struct {
	Faults   []string  // the faults that SQLite's quick check found; empty: no faults
	Finished bool      // the quick check examined the whole database in time
	URLs     []string  // of the hub
	Newest   time.Time // time of the newest event; zero: there is no event
	Backup   time.Time // time of the newest recorded backup; zero: none is recorded
	Alarms   []store.Alarm
}

// maxFaults is the maximum number of faults that Inspect lists.
const maxFaults = 5

// Inspect reads a database without changing it: it neither updates the schema nor creates any file.
// `served` means that a hub has the database open. The quick check takes at most `checkTime`.
func Inspect(ctx context.Context, path string, served bool, checkTime time.Duration) (in Inspection, err error) {
	if path, err = filepath.Abs(path); err != nil {
		return in, fmt.Errorf("sqlite: %w", err)
	}
	query := "?mode=ro"
	if !served {
		if wal, err := os.Stat(path + "-wal"); err == nil && wal.Size() > 0 {
			return in, ErrUnclean
		}
		// No process has the database open, and there is no write-ahead log, so SQLite needs no
		// other file to read the database.
		query += "&immutable=1"
	}
	db, err := sql.Open("sqlite", dsn(path)+query)
	if err != nil {
		return in, fmt.Errorf("sqlite: %w", err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	var urls string
	if err := db.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = ?`, sqlstore.SettingURLs).Scan(&urls); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return in, fmt.Errorf("sqlite: read %s: %w", path, err)
	}
	in.URLs = strings.Fields(urls)
	var newest int64
	if err := db.QueryRowContext(ctx, `SELECT time FROM events ORDER BY seq DESC LIMIT 1`).Scan(&newest); err == nil {
		in.Newest = time.UnixMicro(newest)
	} else if !errors.Is(err, sql.ErrNoRows) {
		return in, fmt.Errorf("sqlite: read %s: %w", path, err)
	}
	if err := in.readUpkeep(ctx, db); err != nil {
		return in, fmt.Errorf("sqlite: read %s: %w", path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	rows, err := db.QueryContext(ctx, fmt.Sprintf(`PRAGMA quick_check(%d)`, maxFaults))
	if err != nil {
		return in, unlessEnded(ctx, err)
	}
	defer rows.Close()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return in, fmt.Errorf("sqlite: %w", err)
		}
		if line != "ok" {
			in.Faults = append(in.Faults, line)
		}
	}
	if err := rows.Err(); err != nil {
		return in, unlessEnded(ctx, err)
	}
	in.Finished = true
	return in, nil
}

// readUpkeep reads the time of the newest backup, and the alarms. The database of an older version
// has no table of alarms.
func (in *Inspection) readUpkeep(ctx context.Context, db *sql.DB) error {
	var backup string
	if err := db.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = ?`, sqlstore.SettingBackup).Scan(&backup); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	in.Backup, _ = time.Parse(time.RFC3339, backup) // a text that is not a time counts as no backup
	var tables int
	if err := db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'alarms'`).Scan(&tables); err != nil || tables == 0 {
		return err
	}
	rows, err := db.QueryContext(ctx, `SELECT name, since, fact FROM alarms ORDER BY name`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var a store.Alarm
		var since int64
		if err := rows.Scan(&a.Name, &since, &a.Fact); err != nil {
			return err
		}
		a.Since = time.UnixMicro(since)
		in.Alarms = append(in.Alarms, a)
	}
	return rows.Err()
}

// unlessEnded returns the error of the quick check, unless the check failed only because ctx ended.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("sqlite: check the database: %w", err)
}
