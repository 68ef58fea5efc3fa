package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

//go:embed migrations/*.sql
var migrations embed.FS

// ErrNewerSchema means that a newer version of the program has changed the database in such a way
// that this version cannot use it.
var ErrNewerSchema = errors.New("a newer version of gangway has changed the schema of the database: start that version or a later one, or restore a backup that is older than the upgrade")

// migration is an SQL file of the folder migrations.
type migration struct {
	version int
	name    string
	// oldest is the oldest schema version whose program can still use the database after this
	// migration. During an upgrade, hubs of two versions use the same database. A migration that
	// only adds something that older programs ignore therefore has the same `oldest` as the
	// previous migration.
	oldest int
	text   string
}

var oldestLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^-- usable from (\d+)$`) })

// readMigrations returns the migrations in a folder, in the order of their versions. The name of
// each file begins with its version. The file of a migration that older programs tolerate has the
// line "-- usable from N".
func readMigrations(folder fs.FS) (list []migration, err error) {
	names, err := fs.Glob(folder, "*.sql") // sorted
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		text, err := fs.ReadFile(folder, name)
		if err != nil {
			return nil, err
		}
		number, _, _ := strings.Cut(name, "_")
		m := migration{name: name, text: string(text)}
		if m.version, err = strconv.Atoi(number); err != nil || m.version != i+1 {
			return nil, fmt.Errorf("postgres: %s should be migration %d", name, i+1)
		}
		m.oldest = m.version
		if found := oldestLine().FindStringSubmatch(m.text); found != nil {
			m.oldest, _ = strconv.Atoi(found[1])
		}
		list = append(list, m)
	}
	return list, nil
}

const createVersions = `CREATE TABLE IF NOT EXISTS schema_versions (
	version bigint      NOT NULL PRIMARY KEY,
	name    text        NOT NULL,
	oldest  bigint      NOT NULL,
	applied timestamptz NOT NULL DEFAULT clock_timestamp()
)`

// migrationLock is the number of the advisory lock that a transaction holds while it changes the
// schema. Because the lock ends with the transaction, it also works through a pooler.
const migrationLock = 0x67616e67776179 // "gangway"

// migrate updates the schema of the database. All migrations run in one transaction, so that the
// schema stays unchanged if the hub is killed. Hubs that start at the same time wait for each
// other.
func migrate(ctx context.Context, pg *pgconn.PgConn, list []migration) (err error) {
	if is, err := versionOf(ctx, pg, list); err != nil || is >= len(list) {
		return err
	}
	begin := fmt.Sprintf(`BEGIN; SELECT pg_advisory_xact_lock(%d); %s`, migrationLock, createVersions)
	if _, err := pg.Exec(ctx, begin).ReadAll(); err != nil {
		return fmt.Errorf("postgres: lock the schema: %w", err)
	}
	defer func() {
		if err != nil {
			_, _ = pg.Exec(ctx, "ROLLBACK").ReadAll()
		}
	}()
	is, err := versionOf(ctx, pg, list) // another hub may have updated the schema
	if err != nil {
		return err
	}
	for _, m := range list[min(is, len(list)):] {
		if _, err := pg.Exec(ctx, m.text).ReadAll(); err != nil {
			return fmt.Errorf("postgres: migration %s: %w", m.name, err)
		}
		insert := `INSERT INTO schema_versions (version, name, oldest) VALUES ($1::bigint, $2, $3::bigint)`
		args := [][]byte{[]byte(strconv.Itoa(m.version)), []byte(m.name), []byte(strconv.Itoa(m.oldest))}
		if _, err := pg.ExecParams(ctx, insert, args, nil, nil, nil).Close(); err != nil {
			return fmt.Errorf("postgres: migration %s: %w", m.name, err)
		}
	}
	if _, err := pg.Exec(ctx, "COMMIT").ReadAll(); err != nil {
		return fmt.Errorf("postgres: update the schema: %w", err)
	}
	return nil
}

// versionOf returns the version of the database's schema, or 0 if the database is empty. It returns
// ErrNewerSchema if a program that knows only the migrations of `list` cannot use the database.
func versionOf(ctx context.Context, pg *pgconn.PgConn, list []migration) (version int, err error) {
	exists, _, err := firstRow(ctx, pg, `SELECT to_regclass('schema_versions') IS NOT NULL`)
	if err != nil || exists[0] != "t" {
		return 0, err
	}
	row, _, err := firstRow(ctx, pg, `SELECT coalesce(max(version), 0), coalesce(max(oldest), 0) FROM schema_versions`)
	if err != nil {
		return 0, err
	}
	version, _ = strconv.Atoi(row[0])
	oldest, _ := strconv.Atoi(row[1])
	if oldest > len(list) {
		return 0, fmt.Errorf("postgres: the database has schema version %d, so the program must know version %d, but this program knows only versions up to %d: %w", version, oldest, len(list), ErrNewerSchema)
	}
	return version, nil
}

// firstRow returns the first row of a query as text.
func firstRow(ctx context.Context, pg *pgconn.PgConn, sql string) (row []string, ok bool, err error) {
	results, err := pg.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, false, fmt.Errorf("postgres: %w", err)
	}
	last := results[len(results)-1]
	if len(last.Rows) == 0 {
		return nil, false, nil
	}
	for _, v := range last.Rows[0] {
		row = append(row, string(v))
	}
	return row, true, nil
}
