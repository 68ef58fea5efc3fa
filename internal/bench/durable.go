package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"gangway/hub/store/postgres"
	"gangway/hub/store/postgres/pgtest"
	"gangway/internal/fleet"

	"golang.org/x/sys/unix"
)

// Durable is the rate of enrolments with one database engine, in wall time. The hub replies to an
// enrolment only after it is in the database and flushed to disk. The rate is compared with the
// rate at which the same cores can do only the unavoidable cryptography of an enrolment. All values
// are medians of the rounds.
type Durable struct {
	EK     string `json:"ek"`
	Engine string `json:"engine"`
	Rounds int    `json:"rounds"`
	// Crypto and Enrolments are rates per second. Share is Enrolments / Crypto.
	Crypto     float64 `json:"crypto_per_second"`
	Enrolments float64 `json:"enrolments_per_second"`
	Share      float64 `json:"share"`
	// HubCPU and ServerCPU are the CPU times of an enrolment, in microseconds: of the hub's process,
	// and of PostgreSQL's processes for the hub.
	HubCPU    float64 `json:"hub_cpu_us"`
	ServerCPU float64 `json:"server_cpu_us,omitempty"`
	// OpsPerCommit is the mean number of enrolments that shared a commit.
	OpsPerCommit float64 `json:"ops_per_commit"`
}

// measureDurable measures each engine. PostgreSQL runs on this machine, with its default settings,
// and without TLS.
func measureDurable(maker *fleet.Maker, n int) (out []Durable, err error) {
	const ek = "H-2"
	own, err := startPostgres()
	if err != nil {
		fmt.Fprintln(os.Stderr, "PostgreSQL is not measured:", err)
	} else {
		defer own.Stop()
	}
	for _, name := range []string{"SQLite", "PostgreSQL"} {
		var h *testHub
		switch {
		case name == "SQLite":
			h, err = openHub(maker, "")
		case own == nil:
			continue
		default:
			h, err = openPostgres(maker, own)
		}
		if err != nil {
			return nil, err
		}
		served := func() time.Duration { return 0 }
		if name == "PostgreSQL" {
			served = own.CPU
		}
		d, err := durable(maker, h, ek, n/rounds, served)
		h.close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		d.Engine = name
		out = append(out, *d)
	}
	return out, nil
}

// startPostgres starts a server whose data is in the folder of temporary files.
func startPostgres() (*pgtest.Server, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(os.TempDir(), &fs); err != nil {
		return nil, err
	}
	if fs.Type == unix.TMPFS_MAGIC {
		return nil, fmt.Errorf("%s is in memory, so commits would not wait for a disk; set TMPDIR to a folder on a disk", os.TempDir())
	}
	return pgtest.Start(true)
}

func openPostgres(maker *fleet.Maker, own *pgtest.Server) (*testHub, error) {
	ctx := context.Background()
	if _, err := own.Query(ctx, "postgres", "CREATE DATABASE bench"); err != nil {
		return nil, err
	}
	s, err := postgres.Open(ctx, postgres.Config{URL: own.URL("bench")})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll("build", 0o755); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("build", "bench-")
	if err != nil {
		return nil, err
	}
	return openHubOn(maker, dir, s, func() float64 { return float64(s.Stats().Ops) / float64(s.Stats().Commits) })
}

// durable alternates between two measurements: the unavoidable cryptography of `n` enrolments
// alone, and the `n` enrolments themselves. `served` returns the CPU time of the database's
// processes.
func durable(maker *fleet.Maker, h *testHub, ek string, n int, served func() time.Duration) (*Durable, error) {
	fmt.Fprintf(os.Stderr, "making %d emulated devices for durable enrolments ...\n", n*rounds)
	l, err := makeLoad(maker, ek, n*rounds+1, h.token)
	if err != nil {
		return nil, err
	}
	l.devices = nil // the garbage collector must not scan their keys: see measure
	ops, err := operations(maker, h.token)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	if _, err := h.service.Enrol(ctx, l.requests[n*rounds], "127.0.0.1"); err != nil {
		return nil, err
	}
	var crypto, enrolments, shares, hubCPU, serverCPU []float64
	for i := range rounds {
		requests := l.requests[i*n : (i+1)*n]
		us, err := prepareAll(requests)
		if err != nil {
			return nil, err
		}
		c, err := perSecond(n, func(i int) error {
			for _, op := range ops {
				if err := op.f(us[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		used, before := cpu(), served()
		e, err := perSecond(n, func(i int) error {
			_, err := h.service.Enrol(ctx, requests[i], "127.0.0.1")
			return err
		})
		if err != nil {
			return nil, err
		}
		hubCPU, serverCPU = append(hubCPU, micros(cpu()-used, n)), append(serverCPU, micros(served()-before, n))
		crypto, enrolments, shares = append(crypto, c), append(enrolments, e), append(shares, e/c)
	}
	return &Durable{EK: ek, Rounds: rounds, Crypto: median(crypto), Enrolments: median(enrolments), Share: median(shares), HubCPU: median(hubCPU), ServerCPU: median(serverCPU), OpsPerCommit: h.perCommit()}, nil
}

// durableWorkers is the number of concurrent enrolments. With fewer, the cores sometimes wait for the
// disk, and a rate is only the rate of these few devices.
const durableWorkers = 256

// durableRounds is how many times as many enrolments a round of this measurement has in `make
// bench`, because a round would otherwise end after a tenth of a second.
const durableRounds = 5

func perSecond(n int, f func(i int) error) (float64, error) {
	start := time.Now()
	err := parallelOn(durableWorkers, n, f)
	return float64(n) / time.Since(start).Seconds(), err
}
