package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewerSchema means that a newer version of the program made the database.
var ErrNewerSchema = errors.New("the database was made by a newer version of gangway: start that version or a later one, or restore a backup that is older than the upgrade")

// migrate brings the schema up to date. It uses its own connection, and closes it before the store
// opens others. It does not change a database with a newer schema and returns ErrNewerSchema.
//
// Migrations may run out of order: 0009 landed after 0010, so the databases of the commits between
// them have only 0010. New ones always come last (TestLandedMigrationsStay).
func migrate(ctx context.Context, path string) (err error) {
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return fmt.Errorf("sqlite: %w", err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	// This statement is the first that makes SQLite read the file, so a file of another format
	// fails here.
	if _, err := db.ExecContext(ctx, "PRAGMA journal_mode = WAL"); err != nil {
		return fmt.Errorf("sqlite: open %s: %w", path, err)
	}
	folder, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("sqlite: %w", err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, folder,
		goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true), goose.WithAllowOutofOrder(true))
	if err != nil {
		return fmt.Errorf("sqlite: migrations: %w", err)
	}
	is, want, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("sqlite: schema version: %w", err)
	}
	if is > want {
		return fmt.Errorf("sqlite: %s has schema %d, this program knows %d: %w", path, is, want, ErrNewerSchema)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("sqlite: bring the schema up to date: %w", err)
	}
	return nil
}
