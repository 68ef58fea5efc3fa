package main

import (
	"context"
	"fmt"
	"time"

	"gangway/hub/store/postgres"
	"gangway/hub/store/postgres/pgtest"
)

// startServer is the value of -database for a PostgreSQL server that this program starts.
const startServer = "start"

// engines makes the databases of fleets in PostgreSQL, if they are not measured in SQLite.
type engines struct {
	url    string         // of the database; empty: SQLite, or the server has one for each fleet
	server *pgtest.Server // nil: this program has started none
}

// fleetServer has settings of a server with 4 GB of memory; all others are PostgreSQL's or pgtest's.
var fleetServer = []string{"shared_buffers = 1GB", "max_wal_size = 4GB"}

func newEngines(database string) (*engines, error) {
	if database != startServer {
		return &engines{url: database}, nil
	}
	server, err := pgtest.Start(true, fleetServer...)
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

// made makes an empty database with the name `name`, or uses the one of the URL, and returns its address.
func (e *engines) made(ctx context.Context, name string) (string, error) {
	if e.server == nil {
		return e.url, nil
	}
	_, err := e.server.Query(ctx, "postgres", "CREATE DATABASE "+name)
	return e.server.URL(name), err
}

// filled makes a fleet of n devices in PostgreSQL.
func (e *engines) filled(ctx context.Context, owner string, n int) (*postgres.Store, error) {
	url, err := e.made(ctx, fmt.Sprintf("fleet%d", n))
	if err != nil {
		return nil, err
	}
	if err := pgtest.FillFleet(ctx, url, owner, n); err != nil {
		return nil, err
	}
	return postgres.Open(ctx, postgres.Config{URL: url})
}

// cpu returns the CPU time of the server's processes that answer clients.
func (e *engines) cpu() time.Duration {
	if e.server == nil {
		return 0
	}
	return e.server.CPU()
}
