package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"sync/atomic"
	"time"

	"gangway/hub/store/sqlstore"
)

// Pair is a store whose operations alternate between the connections of two hubs to the same
// database, as if the hubs were behind a load balancer.
type Pair struct {
	*sqlstore.Store
	a, b *Store
}

// NewPair opens a pair.
func NewPair(ctx context.Context, config Config) (*Pair, error) {
	a, err := Open(ctx, config)
	if err != nil {
		return nil, err
	}
	b, err := Open(ctx, config)
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return &Pair{Store: sqlstore.New(&alternating{of: [2]database{{a}, {b}}}), a: a, b: b}, nil
}

// Close closes both stores.
func (p *Pair) Close() error { return errors.Join(p.Store.Close(), p.a.Close(), p.b.Close()) }

type alternating struct {
	of [2]database
	n  atomic.Uint32
}

func (d *alternating) next() database { return d.of[d.n.Add(1)%2] }

func (d *alternating) Write(ctx context.Context, run func(sqlstore.Conn) error) error {
	return d.next().Write(ctx, run)
}

func (d *alternating) Read(ctx context.Context, run func(sqlstore.Conn) error) error {
	return d.next().Read(ctx, run)
}

func (d *alternating) Snapshot(ctx context.Context, run func(sqlstore.Conn) error) error {
	return d.next().Snapshot(ctx, run)
}

func (d *alternating) Search(ctx context.Context, run func(sqlstore.Conn) error) error {
	return d.next().Search(ctx, run)
}

func (d *alternating) Shared() bool { return true }

func (d *alternating) LastText() any { return lastText }

// OpenWith opens a database with the migrations from a folder.
func OpenWith(ctx context.Context, config Config, folder fs.FS) (*Store, error) {
	list, err := readMigrations(folder)
	if err != nil {
		return nil, err
	}
	return open(ctx, config, list)
}

// Migrations is the folder of this version's migrations.
func Migrations() fs.FS {
	folder, _ := fs.Sub(migrations, "migrations")
	return folder
}

// NewExplaining opens a store that runs EXPLAIN for each statement of a search before the statement
// itself, and calls `f` with the number of rows that the statement's scans read.
func NewExplaining(ctx context.Context, config Config, f func(s *sqlstore.Statement, rows float64)) (_ *sqlstore.Store, stop func() error, err error) {
	a, err := Open(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	s := sqlstore.New(explaining{database{a}, f})
	return s, func() error { return errors.Join(s.Close(), a.Close()) }, nil
}

type explaining struct {
	database
	f func(s *sqlstore.Statement, rows float64)
}

func (d explaining) Search(ctx context.Context, run func(sqlstore.Conn) error) error {
	return d.database.Search(ctx, func(c sqlstore.Conn) error { return run(&explainingConn{c.(*conn), d.f}) })
}

type explainingConn struct {
	*conn
	f func(s *sqlstore.Statement, rows float64)
}

func (c *explainingConn) One(s *sqlstore.Statement, args ...any) (sqlstore.Row, bool, error) {
	if err := c.explain(s, args); err != nil {
		return sqlstore.Row{}, false, err
	}
	return c.conn.One(s, args...)
}

func (c *explainingConn) Each(s *sqlstore.Statement, f func(sqlstore.Row) (bool, error), args ...any) error {
	if err := c.explain(s, args); err != nil {
		return err
	}
	return c.conn.Each(s, f, args...)
}

func (c *explainingConn) EachColumns(s *sqlstore.Statement, f func(sqlstore.Columns) (bool, error), args ...any) error {
	if err := c.explain(s, args); err != nil {
		return err
	}
	return c.conn.EachColumns(s, f, args...)
}

func (c *explainingConn) explain(s *sqlstore.Statement, args []any) error {
	if err := c.encode(args); err != nil {
		return err
	}
	r := c.pg.ExecParams(c.ctx, "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) "+s.Postgres(), c.params, c.oids, c.formats, nil).Read()
	if r.Err != nil {
		return r.Err
	}
	var plans []struct{ Plan step }
	if err := json.Unmarshal(r.Rows[0][0], &plans); err != nil {
		return err
	}
	c.f(s, plans[0].Plan.scanned())
	return nil
}

// step is one step of a query plan.
type step struct {
	Type    string  `json:"Node Type"`
	Rows    float64 `json:"Actual Rows"`
	Loops   float64 `json:"Actual Loops"`
	Removed float64 `json:"Rows Removed by Filter"`
	Again   float64 `json:"Rows Removed by Index Recheck"`
	Plans   []step
}

// scanned returns the number of rows that the step and the steps below it read in scans of tables
// and indexes.
func (s step) scanned() (rows float64) {
	switch s.Type {
	case "Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Bitmap Index Scan":
		rows = (s.Rows + s.Removed + s.Again) * s.Loops
	}
	for _, one := range s.Plans {
		rows += one.scanned()
	}
	return rows
}

// BeginSearch is the SQL that begins the transaction of a search.
const BeginSearch = beginSearch

// Storable converts a text to the form in which the database stores it, and Original converts it
// back.
var Storable, Original = storable, original

// Parse returns the configuration of a store's connections.
var Parse = Config.parse

// ResolveFor sets how long a writer tries to find out whether a commit happened. It must be called
// before the first write.
func (s *Store) ResolveFor(d time.Duration) { s.writers.resolveFor = d }

// WritesWaiting implements store.Health. It returns the sum for both hubs.
func (p *Pair) WritesWaiting() int { return p.a.WritesWaiting() + p.b.WritesWaiting() }
