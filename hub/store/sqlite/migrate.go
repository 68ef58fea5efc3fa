package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewerSchema means that a newer version of the program has changed the schema of the database.
var ErrNewerSchema = errors.New("a newer version of gangway has changed the schema of the database: start that version or a later one, or restore a backup that is older than the upgrade")

// migrate updates the schema of the database to this version. It uses a connection of its own,
// which it closes before the store opens others. If the schema is newer than this program, migrate
// changes nothing and returns ErrNewerSchema.
//
// Migrations may run out of order: 0009 was merged after 0010, so a database from a commit between
// these two merges has only 0010. All later migrations are in order (TestLandedMigrationsStay).
func migrate(ctx context.Context, path string) (err error) {
	db, p, err := openToMigrate(ctx, path)
	if err != nil {
		return err
	}
	defer db.Close()
	is, want, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("sqlite: schema version: %w", err)
	}
	if is > want {
		return fmt.Errorf("sqlite: %s has schema version %d, but this program knows only versions up to %d: %w", path, is, want, ErrNewerSchema)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("sqlite: update the schema: %w", err)
	}
	return nil
}

// openToMigrate opens the database for its migrations, with a single connection. The caller must
// close it.
func openToMigrate(ctx context.Context, path string) (*sql.DB, *goose.Provider, error) {
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return nil, nil, fmt.Errorf("sqlite: %w", err)
	}
	db.SetMaxOpenConns(1)
	// This is the first statement for which SQLite reads the file, so it fails if the file is not
	// an SQLite database.
	if _, err := db.ExecContext(ctx, "PRAGMA journal_mode = WAL"); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("sqlite: open %s: %w", path, err), db.Close())
	}
	p, err := provider(db)
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return db, p, nil
}

// provider returns a goose.Provider for `db` with all migrations in this program.
func provider(db *sql.DB) (*goose.Provider, error) {
	folder, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, folder,
		goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true), goose.WithAllowOutofOrder(true))
	if err != nil {
		return nil, fmt.Errorf("sqlite: migrations: %w", err)
	}
	return p, nil
}

// Create makes a new database file with the schema of the given version, or of the newest version
// if `version` is 0, and without any data of a hub. The file must not exist yet. If this program
// does not know the version, Create returns ErrNewerSchema. Open updates the schema later.
func Create(ctx context.Context, path string, version int64) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("sqlite: %s exists already", path)
	}
	if path, err = prepareFile(path); err != nil {
		return err
	}
	db, p, err := openToMigrate(ctx, path)
	if err != nil {
		return err
	}
	defer db.Close()
	sources := p.ListSources()
	last := sources[len(sources)-1].Version
	if version == 0 {
		version = last
	}
	if version < 0 || version > last {
		return fmt.Errorf("sqlite: the database has schema version %d, but this program knows only versions up to %d: %w", version, last, ErrNewerSchema)
	}
	if _, err := p.UpTo(ctx, version); err != nil {
		return fmt.Errorf("sqlite: make the schema: %w", err)
	}
	return nil
}
