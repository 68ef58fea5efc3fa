package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gangway/hub/api"
	"gangway/hub/onboard"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/store/postgres"
	"gangway/hub/store/sqlite"

	"github.com/spf13/cobra"
)

// engine is a hub's database.
type engine interface {
	api.Store
	onboard.Store
	offlineStore
	store.Consistency
	io.Closer
}

// databaseFlags say where a hub's database and keys are. If `url` is empty, the database is a file
// in the data folder. If `pki` is empty, the keys are in a folder of the data folder.
type databaseFlags struct {
	url, passwordFile, pki string
	password               string // used if passwordFile is empty; if both are empty, the password of the URL or $PGPASSWORD is used
}

type databaseKey struct{}

// addDatabaseFlags adds the flags --database, --database-password-file and --pki to each command
// that has the flag --data and opens the hub's database. The commands read the values from their Go
// contexts.
func addDatabaseFlags(c *cobra.Command) {
	for _, sub := range c.Commands() {
		addDatabaseFlags(sub)
	}
	// The commands 'login', 'ready' and 'db migrate' do not get these flags. 'login' and 'ready' read
	// only the hub's certificate, and 'ready' has a --pki of its own; 'db migrate' always reads the
	// database file. Of the commands below 'ca', only 'ca install' and 'ca issue-server' open the
	// database.
	if c.Flags().Lookup("data") == nil || c.RunE == nil || slices.Contains([]string{"login", "ready", "migrate"}, c.Name()) ||
		c.HasParent() && c.Parent().Name() == "ca" && c.Name() != "install" && c.Name() != "issue-server" {
		return
	}
	var flags databaseFlags
	f := c.Flags()
	f.StringVar(&flags.url, "database", "", "URL of a PostgreSQL database, as in postgres://hub@db.example/gangway; TLS is verified, unless the URL has sslmode (default: the file gangway.db in the data folder)")
	f.StringVar(&flags.passwordFile, "database-password-file", "", "file with the password for --database (default: the password of the URL, or $PGPASSWORD)")
	if c.Name() != "install" && c.Name() != "restore" { // these commands write the keys to the data folder
		f.StringVar(&flags.pki, "pki", "", "folder of the hub's keys, such as a mounted secret (default: pki in the data folder)")
	}
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		c.SetContext(context.WithValue(c.Context(), databaseKey{}, flags))
		return run(c, args)
	}
}

// database returns the configuration of a PostgreSQL database. `ok` is false if the hub's database
// is a file in the data folder.
func database(ctx context.Context) (config postgres.Config, ok bool, err error) {
	flags, _ := ctx.Value(databaseKey{}).(databaseFlags)
	return flags.config()
}

// keysFolder returns the folder of the keys of the hub with the data folder `dir`.
func keysFolder(ctx context.Context, dir string) string {
	flags, _ := ctx.Value(databaseKey{}).(databaseFlags)
	return cmp.Or(flags.pki, filepath.Join(dir, pkiFolder))
}

func (flags databaseFlags) config() (config postgres.Config, ok bool, err error) {
	switch {
	case flags.url == "" && flags.passwordFile != "":
		return config, false, usagef("--database-password-file needs --database")
	case flags.url == "":
		return config, false, nil
	case !postgres.IsURL(flags.url):
		return config, false, usagef("--database must begin with postgres://")
	}
	config.URL, config.Password = flags.url, flags.password
	if flags.passwordFile != "" {
		text, err := os.ReadFile(flags.passwordFile)
		if err != nil {
			return config, false, err
		}
		if config.Password = strings.TrimRight(string(text), "\r\n"); config.Password == "" {
			return config, false, fmt.Errorf("%s is empty: write the password of the database to it", flags.passwordFile)
		}
	}
	return config, true, nil
}

// openEngine opens the database and the keys of the hub in the data folder `dir`, and sets the
// fields of the instance. It returns an error if there are keys but no database, or a database but
// no keys.
func (i *instance) openEngine(ctx context.Context, dir string, o openOptions) (err error) {
	config, shared, err := databaseOf(ctx, dir)
	if err != nil {
		return err
	}
	keys, file := keysFolder(ctx, dir), filepath.Join(dir, databaseFile)
	hasKeys := exists(keys)
	if shared {
		err = i.openShared(ctx, config, keys, hasKeys, o)
	} else {
		err = checkFiles(file, keys, hasKeys, o)
	}
	if err != nil {
		return err
	}
	if i.ca, err = pki.Open(keys, o.Options); err != nil {
		return err
	}
	if shared {
		return i.claim(ctx)
	}
	db, err := sqlite.Open(ctx, file)
	if err != nil {
		return err
	}
	i.engine, i.store = db, db
	return nil
}

// checkFiles returns an error if the database file exists but the keys do not, or the keys exist
// but the database file does not.
func checkFiles(file, keys string, hasKeys bool, o openOptions) error {
	switch hasDatabase := exists(file); {
	case hasDatabase && !hasKeys:
		return fmt.Errorf("%s exists and %s does not: restore %[2]s from its backup; without the keys, the hub recognizes no device of this database", file, keys)
	case hasKeys && !hasDatabase && !o.newDatabase:
		return fmt.Errorf("%s exists and %s does not: restore %[2]s from its backup, or name the hub's PostgreSQL database with --database; to start with an empty database, in which every device must onboard again, use 'gangway serve --new-database'", keys, file)
	}
	return nil
}

// openShared opens a PostgreSQL database. It returns an error in two cases: the database belongs to
// a hub but there are no keys, or there are keys but the database belongs to no hub.
func (i *instance) openShared(ctx context.Context, config postgres.Config, keys string, hasKeys bool, o openOptions) error {
	db, err := postgres.Open(ctx, config)
	if err != nil {
		return err
	}
	i.engine, i.store = db, db
	switch hub, err := db.Hub(ctx); {
	case err != nil:
		return err
	case hub != "" && !hasKeys:
		return fmt.Errorf("the database belongs to the hub %s, and %s does not exist: copy that hub's keys, or restore them from their backup; without the keys, the hub recognizes no device of this database", hub, keys)
	case hub == "" && hasKeys && !o.newDatabase:
		return fmt.Errorf("%s exists, but no hub has used the database: restore the database from its backup, or correct --database; to start with an empty database, in which every device must onboard again, use 'gangway serve --new-database'", keys)
	}
	return nil
}

// claim writes the hub's name into a PostgreSQL database, so that a hub with other keys refuses the
// database.
func (i *instance) claim(ctx context.Context) error {
	name := i.ca.HubName()
	switch hub, err := i.engine.(*postgres.Store).ClaimForHub(ctx, name); {
	case err != nil:
		return err
	case hub != name:
		return fmt.Errorf("the database belongs to the hub %s, but the keys are those of %s: correct --database or --data", hub, name)
	}
	return i.engine.(*postgres.Store).EndTransfer(ctx)
}
