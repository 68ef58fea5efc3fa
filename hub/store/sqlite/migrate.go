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

// ErrNewerSchema means that a newer version of the program has changed the database.
var ErrNewerSchema = errors.New("a newer version of gangway has changed the schema of the database: start that version or a later one, or restore a backup that is older than the upgrade")

// migrate updates the schema of the database to this version. It uses its own connection, and
// closes this connection before the store opens other connections. If the database has a newer
// schema, migrate changes nothing and returns ErrNewerSchema.
//
// Migrations may run out of order: 0009 was merged after 0010, so a database from a commit between
// these two merges has only 0010. All later migrations are in order (TestLandedMigrationsStay).
func migrate(ctx context.Context, path string) (err error) {
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return fmt.Errorf("sqlite: %w", err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	// With this statement, SQLite reads the file for the first time. So the statement fails if the
	// file is not an SQLite database.
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
		return fmt.Errorf("sqlite: %s has schema version %d, but this program knows only versions up to %d: %w", path, is, want, ErrNewerSchema)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("sqlite: update the schema: %w", err)
	}
	return nil
}
