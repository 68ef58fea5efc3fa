package main

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"gangway/hub/store/postgres/pgtest"
	"gangway/internal/fleet"

	_ "modernc.org/sqlite" // the driver that reads dbstat
)

// Bytes says how much a database grows for each device that onboards, with its evidence.
type Bytes struct {
	Engine  string  `json:"engine"`
	EK      string  `json:"ek"`
	Devices int     `json:"devices"`
	Total   float64 `json:"bytes_per_device"`
	// Parts has the growth of each table and each index, in bytes per device.
	Parts map[string]float64 `json:"parts"`
}

// measureBytes onboards `n` devices with each engine. A database grows by whole pages, so the
// result for fewer than about 500 devices is too large.
func measureBytes(maker *fleet.Maker, n int) ([]Bytes, error) {
	var out []Bytes
	file, err := openHub(maker, "")
	if err != nil {
		return nil, err
	}
	b, err := grown(maker, file, n, func() (map[string]int64, error) { return fileSizes(filepath.Join(file.dir, "gangway.db")) })
	file.close()
	if err != nil {
		return nil, err
	}
	b.Engine = "SQLite"
	out = append(out, *b)
	own, err := pgtest.Start(false)
	if err != nil {
		return nil, err
	}
	defer own.Stop()
	server, err := openPostgres(maker, own)
	if err != nil {
		return nil, err
	}
	defer server.close()
	if b, err = grown(maker, server, n, func() (map[string]int64, error) { return relationSizes(own, "bench") }); err != nil {
		return nil, err
	}
	b.Engine = "PostgreSQL"
	return append(out, *b), nil
}

// The function `grown` calls `sizes`, which returns the size of each table and index. Then it
// onboards devices, calls `sizes` again, and returns the differences.
func grown(maker *fleet.Maker, h *testHub, n int, sizes func() (map[string]int64, error)) (*Bytes, error) {
	const ek = "H-2"
	l, err := makeLoad(maker, ek, n, h.token)
	if err != nil {
		return nil, err
	}
	before, err := sizes()
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	if err := parallel(n, func(i int) error {
		reply, err := h.service.Enrol(ctx, l.requests[i], "127.0.0.1")
		if err != nil {
			return err
		}
		a, err := opened(l.devices[i], l.requests[i], reply)
		if err != nil {
			return err
		}
		return a.send(ctx, h.service)
	}); err != nil {
		return nil, err
	}
	after, err := sizes()
	if err != nil {
		return nil, err
	}
	b := &Bytes{EK: ek, Devices: n, Parts: map[string]float64{}}
	for name, size := range after {
		if more := float64(size-before[name]) / float64(n); more > 0 {
			b.Parts[name] = more
			b.Total += more
		}
	}
	return b, nil
}

// fileSizes returns the sizes of all tables and indexes of a SQLite file. Partly filled pages count
// as whole pages.
func fileSizes(path string) (map[string]int64, error) {
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro")
	if err != nil {
		return nil, err
	}
	defer db.Close()
	var text string
	if err := db.QueryRow(`SELECT json_group_object(name, size) FROM
		(SELECT name, sum(pgsize) AS size FROM dbstat GROUP BY name)`).Scan(&text); err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	return sizes, json.Unmarshal([]byte(text), &sizes)
}

// relationSizes first removes the dead rows of a database and rewrites the indexes, as a server
// does after a while. Then it returns the sizes of all tables and indexes. PostgreSQL stores a
// table's long values in a separate file; this file counts as a part of the table.
func relationSizes(own *pgtest.Server, database string) (map[string]int64, error) {
	ctx := context.Background()
	if _, err := own.Query(ctx, database, "VACUUM FULL"); err != nil {
		return nil, err
	}
	text, err := own.Query(ctx, database, `SELECT string_agg(relname || ' ' || CASE relkind WHEN 'i' THEN pg_relation_size(oid) ELSE pg_table_size(oid) END, ',')
		FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')`)
	if err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	for part := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		name, size, _ := strings.Cut(part, " ")
		if sizes[name], err = strconv.ParseInt(size, 10, 64); err != nil {
			return nil, err
		}
	}
	return sizes, nil
}

func (b *Bytes) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s, %d devices with EK %s: %.0f bytes per device\n", b.Engine, b.Devices, b.EK, b.Total)
	names := slices.SortedFunc(maps.Keys(b.Parts), func(x, y string) int { return cmp.Compare(b.Parts[y], b.Parts[x]) })
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, name := range names {
		fmt.Fprintf(t, "%.0f\t %s\n", b.Parts[name], name)
	}
	t.Flush()
}
