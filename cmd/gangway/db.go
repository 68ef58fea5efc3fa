package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"gangway/hub/pki"
	"gangway/hub/store/postgres"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/transfer"

	"github.com/spf13/cobra"
)

func (a *app) dbCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "db", Short: "Move a hub's database",
		Long:    "Db has commands for the database of a hub, on the hub's machine.",
		Example: "  gangway db migrate --data /var/lib/gangway --to postgres://hub@db.example/gangway",
	}
	c.AddCommand(a.dbMigrateCommand())
	return c
}

func (a *app) dbMigrateCommand() *cobra.Command {
	var data string
	var to databaseFlags
	c := &cobra.Command{
		Use: "migrate --data DIR --to URL", Short: "Move a hub's database from its file to PostgreSQL", Args: args(),
		Long: `Migrate copies the database DIR/gangway.db to an empty PostgreSQL database, and then
compares every row. Stop the hub first. If the command is interrupted, run it again: it
continues where it stopped.

At the end, the file becomes DIR/gangway.db.moved, so that no hub uses it by mistake.
Start the hub with --database and the same URL. Devices and people notice only that the
hub did not answer for a while.`,
		Example: `  gangway db migrate --data /var/lib/gangway --to postgres://hub@db.example/gangway --to-password-file /etc/gangway/database-password`,
		RunE: func(c *cobra.Command, _ []string) error {
			if data == "" || to.url == "" {
				return usagef("--data and --to are needed")
			}
			config, _, err := to.config()
			if err != nil {
				return err
			}
			return a.moveDatabase(c.Context(), data, config)
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", "the hub's data folder (required)")
	f.StringVar(&to.url, "to", "", "URL of the PostgreSQL database, as in 'gangway serve --database' (required)")
	f.StringVar(&to.passwordFile, "to-password-file", "", "file with the password for --to (default: the password of the URL, or $PGPASSWORD)")
	return c
}

// movedFile is the name of the database file after its move.
const movedFile = databaseFile + ".moved"

// moveDatabase moves the database of the data folder `dir` to PostgreSQL.
func (a *app) moveDatabase(ctx context.Context, dir string, to postgres.Config) error {
	file, keys := filepath.Join(dir, databaseFile), filepath.Join(dir, pkiFolder)
	if !exists(file) || !exists(keys) {
		return fmt.Errorf("%q is not the data folder of a hub with a database file", dir)
	}
	lock, err := serveAlone(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	ca, err := pki.Open(keys, pki.Options{})
	if err != nil {
		return err
	}
	// This updates the schema of the file, and writes the file's log into the file.
	old, err := sqlite.Open(ctx, file)
	if err != nil {
		return err
	}
	if err := old.Close(); err != nil {
		return err
	}
	table := ""
	err = transfer.Run(ctx, transfer.Options{File: file, To: to, Hub: ca.HubName(), Progress: func(name string, rows int64) {
		if name != table || rows%100_000 == 0 {
			a.note("Copied %d rows of %s.", rows, name)
		}
		table = name
	}})
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted: run the command again to continue")
	case err != nil:
		return err
	}
	if err := os.Rename(file, filepath.Join(dir, movedFile)); err != nil {
		return err
	}
	a.note("PostgreSQL has the same rows as the file. The file has the new name %s.", filepath.Join(dir, movedFile))
	a.note("Start the hub with the same URL: gangway serve --data %s --database URL", dir)
	return nil
}
