package postgres

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Config says which database Open opens.
type Config struct {
	// URL is the address of the database: postgres://user@host/database. It may contain a password
	// and the parameters of libpq. It may also have the parameter pgbouncer=true, for PgBouncer or
	// another pooler that may give each transaction another connection.
	//
	// If the URL has the parameter sslmode, that parameter decides how TLS is used. Otherwise the
	// server's certificate is verified (verify-full), except that TLS is optional for a Unix socket
	// or a loopback address.
	URL string
	// Password is used if the URL has no password. If both are empty, the environment variable
	// PGPASSWORD or libpq's password file is used.
	Password string
	// Writers and Readers are the numbers of connections for writing and for reading. 0 means the
	// default.
	Writers, Readers int
}

const (
	// defaultWriters is 1 because transactions that write run one after the other (see writers), so
	// that more connections would only make the batches smaller (BenchmarkOnboard).
	defaultWriters = 1
	defaultReaders = 8
	// connectTimeout is how long an attempt to connect to one host may take, unless the URL has the
	// parameter connect_timeout.
	connectTimeout = 5 * time.Second
	// silence is how long the server may leave a packet unacknowledged before the connection counts
	// as lost. After half of this time, an idle connection sends a probe.
	silence = 5 * time.Second
)

// IsURL reports whether the address of a database is a PostgreSQL URL, which this package can open.
func IsURL(address string) bool {
	return strings.HasPrefix(address, "postgres://") || strings.HasPrefix(address, "postgresql://")
}

// parse returns the configuration of the connections, and whether the URL has the parameter
// pgbouncer=true.
func (c Config) parse() (_ *pgconn.Config, pooled bool, err error) {
	if !IsURL(c.URL) {
		return nil, false, errors.New("postgres: the address of the database must begin with postgres://")
	}
	base, params := parameters(c.URL)
	if value, ok := take(&params, "pgbouncer"); ok {
		if value != "true" && value != "false" {
			return nil, false, fmt.Errorf("postgres: the parameter pgbouncer is %.20q: write pgbouncer=true or leave the parameter out", value)
		}
		pooled = value == "true"
	}
	secure := has(params, "sslmode")
	if !secure {
		params = append(params, "sslmode=prefer")
	}
	config, err := parseURL(base, params)
	if err != nil {
		return nil, false, err
	}
	hosts := hostsOf(config)
	if !secure && !slices.ContainsFunc(hosts, remote) {
		secure = true // there is no network between the hub and the database
	}
	if !secure {
		params[len(params)-1] = "sslmode=verify-full"
	}
	if len(hosts) > 1 && !has(params, "target_session_attrs") {
		params = append(params, "target_session_attrs=read-write")
	}
	if config, err = parseURL(base, params); err != nil {
		return nil, false, err
	}
	if c.Password != "" && !passwordInURL(base) {
		config.Password = c.Password
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	config.DialFunc = newDialer().DialContext
	config.OnNotice = noteWarning
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "gangway"
	}
	return config, pooled, nil
}

func parseURL(base string, params []string) (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(base + "?" + strings.Join(params, "&"))
	if err != nil {
		return nil, fmt.Errorf("postgres: the address of the database is wrong: %w", err)
	}
	return config, nil
}

// parameters splits a URL into the text before the question mark, and the parameters after it.
func parameters(address string) (base string, params []string) {
	base, query, _ := strings.Cut(address, "?")
	if query != "" {
		params = strings.Split(query, "&")
	}
	return base, params
}

// The function `take` removes a parameter and returns its value.
func take(params *[]string, name string) (value string, ok bool) {
	i := slices.IndexFunc(*params, func(p string) bool { return nameOf(p) == name })
	if i < 0 {
		return "", false
	}
	_, value, _ = strings.Cut((*params)[i], "=")
	*params = slices.Delete(*params, i, i+1)
	return value, true
}

func has(params []string, name string) bool {
	return slices.ContainsFunc(params, func(p string) bool { return nameOf(p) == name })
}

func nameOf(param string) string {
	name, _, _ := strings.Cut(param, "=")
	if plain, err := url.QueryUnescape(name); err == nil {
		return plain
	}
	return name
}

func passwordInURL(base string) bool {
	_, rest, _ := strings.Cut(base, "://")
	authority, _, _ := strings.Cut(rest, "/")
	at := strings.LastIndexByte(authority, '@')
	return at >= 0 && strings.Contains(authority[:at], ":")
}

// hostsOf returns the hosts of a configuration, without duplicates.
func hostsOf(config *pgconn.Config) []string {
	hosts := []string{net.JoinHostPort(config.Host, fmt.Sprint(config.Port))}
	for _, f := range config.Fallbacks {
		hosts = append(hosts, net.JoinHostPort(f.Host, fmt.Sprint(f.Port)))
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// remote reports whether the connection to a host may go over a network. In `hostport`, the host
// may also be the folder of a Unix socket.
func remote(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return true
	}
	if strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || host == "localhost" {
		return false
	}
	ip := net.ParseIP(host)
	return ip == nil || !ip.IsLoopback()
}
