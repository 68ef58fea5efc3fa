package main

import (
	"context"
	"fmt"

	"gangway/hub/store/postgres"
	"gangway/hub/store/postgres/pgtest"
	"gangway/hub/store/transfer"
)

// startServer is the value of -database for a PostgreSQL server that this program starts.
const startServer = "start"

// engines makes the databases of fleets in PostgreSQL, if they are not measured in SQLite.
type engines struct {
	url    string         // of the database; empty: SQLite, or the server has one for each fleet
	server *pgtest.Server // nil: this program has started none
}

func newEngines(database string) (*engines, error) {
	if database != startServer {
		return &engines{url: database}, nil
	}
	server, err := pgtest.Start(true)
	if err != nil {
		return nil, err
	}
	return &engines{server: server}, nil
}

func (e *engines) stop() {
	if e.server != nil {
		e.server.Stop()
	}
}

func (e *engines) postgres() bool { return e.url != "" || e.server != nil }

// moved moves a fleet of n devices from a file to PostgreSQL, and opens the new database.
func (e *engines) moved(ctx context.Context, file string, n int) (*postgres.Store, error) {
	to := postgres.Config{URL: e.url}
	if e.server != nil {
		name := fmt.Sprintf("fleet%d", n)
		if _, err := e.server.Query(ctx, "postgres", "CREATE DATABASE "+name); err != nil {
			return nil, err
		}
		to.URL = e.server.URL(name)
	}
	// A move closes its file. So the move is given up, to use the file again.
	err := transfer.Run(ctx, transfer.Options{File: file, To: to, Hub: "bench"})
	if err == nil {
		_, err = transfer.Stop(ctx, file, 0)
	}
	if err != nil {
		return nil, err
	}
	return postgres.Open(ctx, to)
}
