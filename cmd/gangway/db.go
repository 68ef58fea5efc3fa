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
	var stop bool
	c := &cobra.Command{
		Use: "migrate --data DIR --to URL", Short: "Move a hub's database from its file to PostgreSQL", Args: args(),
		Long: `Migrate copies the database DIR/gangway.db to an empty PostgreSQL database, and
compares every row. The hub may be running: it continues to serve, and the command also
copies its later changes. If the command is interrupted, run it again: it continues where
it stopped.

At the end, the hub finishes the running requests, copies the last changes, and serves
with PostgreSQL. That takes a few seconds, in which new connections wait. The file gets
the name DIR/gangway.db.moved, so that no hub uses it by mistake. The hub finds the new
database by DIR/database.json, also after a restart.

If the hub is stopped, start it afterwards with --database and the same URL.

--stop cancels a move that is not complete. The rows in PostgreSQL stay.`,
		Example: `  gangway db migrate --data /var/lib/gangway --to postgres://hub@db.example/gangway --to-password-file /etc/gangway/database-password
  gangway db migrate --data /var/lib/gangway --stop`,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case data == "":
				return usagef("--data is needed")
			case stop && to.url != "":
				return usagef("--stop and --to are mutually exclusive")
			case stop:
				return a.stopMove(c.Context(), data)
			case to.url == "":
				return usagef("--to is needed, or --stop")
			}
			config, _, err := to.config()
			if err != nil {
				return err
			}
			return a.moveDatabase(c.Context(), data, to, config)
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", "the hub's data folder (required)")
	f.StringVar(&to.url, "to", "", "URL of the PostgreSQL database, as in 'gangway serve --database'")
	f.StringVar(&to.passwordFile, "to-password-file", "", "file with the password for --to; a running hub must be able to read it (default: the password of the URL, or $PGPASSWORD)")
	f.BoolVar(&stop, "stop", false, "cancel an earlier, incomplete move of the database")
	return c
}

// movedFile is the name of the database file after its move.
const movedFile = databaseFile + ".moved"

// moveDatabase moves the database of the data folder `dir` to PostgreSQL.
func (a *app) moveDatabase(ctx context.Context, dir string, flags databaseFlags, to postgres.Config) error {
	file, keys := filepath.Join(dir, databaseFile), filepath.Join(dir, pkiFolder)
	if !exists(file) || !exists(keys) {
		return fmt.Errorf("%q is not the data folder of a hub with a database file", dir)
	}
	served, err := isServed(dir)
	if err != nil {
		return err
	}
	if served {
		return a.moveRunning(ctx, dir, flags, to)
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
	// Opening and closing the file updates its schema and checkpoints its write-ahead log.
	old, err := sqlite.Open(ctx, file)
	if err != nil {
		return err
	}
	if err := old.Close(); err != nil {
		return err
	}
	err = transfer.Run(ctx, transfer.Options{File: file, To: to, Hub: ca.HubName(), Progress: a.copyProgress()})
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted: run the command again to continue")
	case err != nil:
		return err
	}
	if err := os.Rename(file, filepath.Join(dir, movedFile)); err != nil {
		return err
	}
	a.note("PostgreSQL has the same rows as the file. The file is now named %s.", filepath.Join(dir, movedFile))
	a.note("Start the hub with the same URL: gangway serve --data %s --database URL", dir)
	return nil
}

// copyProgress returns a function that reports the progress of a copy.
func (a *app) copyProgress() func(table string, rows int64) {
	table := ""
	return func(name string, rows int64) {
		if name != table || rows%100_000 == 0 {
			a.note("Copied %d rows of %s.", rows, name)
		}
		table = name
	}
}

// stopMove cancels a move of the database.
func (a *app) stopMove(ctx context.Context, dir string) error {
	file := filepath.Join(dir, databaseFile)
	if !exists(file) {
		return fmt.Errorf("%s does not exist: the hub in %s has no database file, or the move is complete", file, dir)
	}
	if closed, err := transfer.Closed(ctx, file); err != nil {
		return err
	} else if closed {
		return errors.New("the move is almost complete: start the hub, which completes it")
	}
	if err := os.Remove(filepath.Join(dir, moveFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	stopped, err := transfer.Stop(ctx, file, 0)
	if err != nil {
		return err
	}
	if !stopped {
		return errors.New("there is no move to cancel")
	}
	a.note("The move of the database is cancelled, and the hub continues to use the file. Before you move it again, make an empty PostgreSQL database.")
	return nil
}
