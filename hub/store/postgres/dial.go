package postgres

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// newDialer returns a dialer whose connections soon notice that the other host no longer answers.
// With the kernel's default, this would take 15 minutes, and until then each request of the hub
// would wait for its timeout.
func newDialer() *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silence / 2, Interval: time.Second, Count: 5},
		Control: func(network, _ string, raw syscall.RawConn) (err error) {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			failed := raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
			})
			return errors.Join(failed, err)
		},
	}
}

// connKey is the key under which the custom data of a pgconn.PgConn contains its conn.
const connKey = "conn"

// noteWarning records a warning from the server, so that the code that uses the connection can read
// it.
func noteWarning(pg *pgconn.PgConn, n *pgconn.Notice) {
	if c, ok := pg.CustomData()[connKey].(*conn); ok && (n.SeverityUnlocalized == "WARNING" || n.Severity == "WARNING") {
		c.warning = "postgres: " + n.Message
	}
}

// The function `split` returns one configuration for each host of a configuration, in the same
// order.
func split(config *pgconn.Config) []*pgconn.Config {
	first := config.Copy()
	first.Fallbacks = nil
	hosts := []*pgconn.Config{first}
	for _, f := range config.Fallbacks {
		last := hosts[len(hosts)-1]
		if f.Host == last.Host && f.Port == last.Port { // with and without TLS
			last.Fallbacks = append(last.Fallbacks, f)
			continue
		}
		next := config.Copy()
		next.Host, next.Port, next.TLSConfig, next.Fallbacks = f.Host, f.Port, f.TLSConfig, nil
		hosts = append(hosts, next)
	}
	return hosts
}

// headStart is how long a host may take to accept a connection before the next host is tried too.
const headStart = 500 * time.Millisecond

// connectFirst connects to the first host that accepts a connection. A host that does not answer
// delays the failover to the next host only by headStart.
func connectFirst(ctx context.Context, hosts []*pgconn.Config) (*pgconn.PgConn, error) {
	if len(hosts) == 1 {
		return pgconn.ConnectConfig(ctx, hosts[0])
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		pg  *pgconn.PgConn
		err error
	}
	results := make(chan result)
	var errs []error
	for started := 0; ; {
		var next <-chan time.Time
		if started < len(hosts) {
			host := hosts[started]
			started++
			go func() {
				pg, err := pgconn.ConnectConfig(ctx, host)
				select {
				case results <- result{pg, err}:
				case <-ctx.Done(): // another host was faster
					if err == nil {
						closeNow(pg)
					}
				}
			}()
			next = time.After(headStart)
		}
		select {
		case r := <-results:
			if r.err == nil {
				return r.pg, nil
			}
			if errs = append(errs, r.err); len(errs) == len(hosts) {
				return nil, errors.Join(errs...)
			}
		case <-next:
		case <-ctx.Done():
			return nil, errors.Join(append(errs, ctx.Err())...)
		}
	}
}

// closeNow closes a connection without waiting for the server.
func closeNow(pg *pgconn.PgConn) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = pg.Close(ended)
}
