package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"gangway/hub/store/postgres/pgtest"
)

// startServer is the value of -database for a PostgreSQL server that this program starts.
const startServer = "start"

// engines makes the fleets' databases in PostgreSQL. It is not used for fleets in SQLite.
type engines struct {
	// `url` is the URL of an empty PostgreSQL database for the fleets. If `url` is empty, the
	// fleets are on `server`, or in SQLite if `server` is nil.
	url    string
	server *pgtest.Server // started by this program; nil: it has started no server
}

// serverSettings has the settings that docs/scale.md recommends for a server with 16 GB of memory.
// All other settings have the defaults of PostgreSQL or of package pgtest.
var serverSettings = []string{"shared_buffers = 4GB", "max_wal_size = 16GB", "checkpoint_timeout = 30min", "wal_compression = lz4"}

func newEngines(database string) (*engines, error) {
	if database != startServer {
		return &engines{url: database}, nil
	}
	server, err := pgtest.Start(true, serverSettings...)
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

// The method `made` returns the URL of an empty database: either the database that `url` names or,
// on `server`, a new database with the name `name`. It replaces a database that it has made before.
func (e *engines) made(ctx context.Context, name string) (string, error) {
	if e.server == nil {
		return e.url, nil
	}
	if _, err := e.server.Query(ctx, "postgres", "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
		return "", err
	}
	_, err := e.server.Query(ctx, "postgres", "CREATE DATABASE "+name)
	return e.server.URL(name), err
}

// The method `filled` makes a fleet of n devices in PostgreSQL, and returns the URL of its database.
func (e *engines) filled(ctx context.Context, owner string, n int) (url string, err error) {
	if url, err = e.made(ctx, fmt.Sprintf("fleet%d", n)); err != nil {
		return "", err
	}
	if n > 0 {
		if err := pgtest.FillFleet(ctx, url, owner, n); err != nil {
			return "", err
		}
	}
	return url, e.warm(ctx, fmt.Sprintf("fleet%d", n))
}

// The method `warm` prepares the server so that it behaves like a server that has run for some
// time. It reads the indexes of the database into memory, because the method `filled` does not
// leave them there. It also makes a checkpoint; after this, the first change of a page writes the
// whole page to the log.
func (e *engines) warm(ctx context.Context, database string) error {
	if e.server == nil {
		return nil
	}
	for _, sql := range []string{
		"CREATE EXTENSION pg_prewarm",
		"CHECKPOINT",
		"SELECT count(pg_prewarm(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'i' AND n.nspname = 'public'",
	} {
		if _, err := e.server.Query(ctx, database, sql); err != nil {
			return fmt.Errorf("read the indexes: %w", err)
		}
	}
	return nil
}

// cpu returns the CPU time of the server's processes that answer clients.
func (e *engines) cpu() time.Duration {
	if e.server == nil {
		return 0
	}
	return e.server.CPU()
}

// wal returns how many bytes the server has written to its write-ahead log.
func (e *engines) wal() float64 {
	if e.server == nil {
		return 0
	}
	text, err := e.server.Query(context.Background(), "postgres", "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseFloat(text, 64)
	return n
}
