package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/sqlstore"

	"github.com/jackc/pgx/v5/pgconn"
)

// Inspection is the result of Inspect.
type Inspection struct {
	Server string    // the version of the server
	Hub    string    // name of the hub to which the database belongs
	URLs   []string  // URLs of the hub
	Newest time.Time // time of the newest event; zero: there is no event
	Backup time.Time // time of the newest recorded backup; zero: none is recorded
	Alarms []store.Alarm
	Size   int64    // in bytes
	Behind bool     // the schema is older than this program
	Unsafe []string // settings of the server with which a crash loses acknowledged writes
}

// Inspect reads a database without changing it.
func Inspect(ctx context.Context, config Config) (in Inspection, err error) {
	parsed, _, err := config.parse()
	if err != nil {
		return in, err
	}
	folder, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return in, fmt.Errorf("postgres: %w", err)
	}
	list, err := readMigrations(folder)
	if err != nil {
		return in, err
	}
	pg, err := pgconn.ConnectConfig(ctx, parsed)
	if err != nil {
		return in, fmt.Errorf("postgres: %w", err)
	}
	defer pg.Close(context.Background())
	version, err := versionOf(ctx, pg, list)
	if err != nil {
		return in, err
	}
	in.Behind = version < len(list)
	row, _, err := firstRow(ctx, pg, `SELECT current_setting('server_version'), pg_database_size(current_database()),
		current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit')`)
	if err != nil {
		return in, err
	}
	in.Server = row[0]
	in.Size, _ = strconv.ParseInt(row[1], 10, 64)
	for i, name := range []string{"fsync", "full_page_writes", "synchronous_commit"} {
		if row[2+i] == "off" {
			in.Unsafe = append(in.Unsafe, name+" = off")
		}
	}
	if version == 0 {
		return in, nil
	}
	row, _, err = firstRow(ctx, pg, fmt.Sprintf(`SELECT coalesce((SELECT value FROM settings WHERE name = '%s'), ''),
		coalesce((SELECT value FROM settings WHERE name = '%s'), ''), coalesce((SELECT time FROM events ORDER BY seq DESC LIMIT 1), 0)`,
		sqlstore.SettingURLs, sqlstore.SettingHub))
	if err != nil {
		return in, err
	}
	in.URLs, in.Hub = strings.Fields(original(row[0])), row[1]
	if newest, _ := strconv.ParseInt(row[2], 10, 64); newest != 0 {
		in.Newest = time.UnixMicro(newest)
	}
	if in.Behind {
		return in, nil
	}
	return in, in.readUpkeep(ctx, pg)
}

// readUpkeep reads the time of the newest backup, and the alarms.
func (in *Inspection) readUpkeep(ctx context.Context, pg *pgconn.PgConn) error {
	row, _, err := firstRow(ctx, pg, fmt.Sprintf(`SELECT coalesce((SELECT value FROM settings WHERE name = '%s'), ''),
		coalesce((SELECT json_agg(json_build_object('name', name, 'since', since, 'fact', fact) ORDER BY name) FROM alarms)::text, '[]')`, sqlstore.SettingBackup))
	if err != nil {
		return err
	}
	in.Backup, _ = time.Parse(time.RFC3339, row[0]) // a text that is not a time counts as no backup
	var list []struct {
		Name, Fact string
		Since      int64
	}
	if err := json.Unmarshal([]byte(row[1]), &list); err != nil {
		return fmt.Errorf("postgres: alarms: %w", err)
	}
	for _, a := range list {
		in.Alarms = append(in.Alarms, store.Alarm{Name: a.Name, Since: time.UnixMicro(a.Since), Fact: original(a.Fact)})
	}
	return nil
}
