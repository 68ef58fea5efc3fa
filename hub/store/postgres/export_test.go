package postgres

import (
	"context"
	"errors"
	"io/fs"
	"sync/atomic"
	"time"

	"gangway/hub/store/sqlstore"
)

// Pair is one store that uses the connections of two hubs to one database. Its operations alternate
// between the two hubs, as behind a load balancer.
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

func (d *alternating) LastText() any { return lastText }

// OpenWith opens a database with the migrations of a folder.
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

// Storable and Original are the conversions of texts.
var Storable, Original = storable, original

// Parse returns the connections' configuration.
var Parse = Config.parse

// ResolveFor sets how long a writer tries to find out whether a commit happened. Call it before the
// first write.
func (s *Store) ResolveFor(d time.Duration) { s.writers.resolveFor = d }

// WritesWaiting implements store.Health, with the sum of both hubs.
func (p *Pair) WritesWaiting() int { return p.a.WritesWaiting() + p.b.WritesWaiting() }
