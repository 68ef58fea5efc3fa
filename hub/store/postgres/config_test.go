package postgres_test

import (
	"strings"
	"testing"

	"gangway/hub/store/postgres"
)

// If the operator sets no sslmode, the hub must verify the server's certificate, because an
// attacker in the network might read the traffic, or answer instead of the database.
func TestConnectionsOverANetworkAreVerified(t *testing.T) {
	for _, name := range []string{"PGHOST", "PGSSLMODE", "PGPASSWORD", "PGPORT"} {
		t.Setenv(name, "")
	}
	for _, c := range []struct {
		url      string
		verified bool
	}{
		{"postgres://u@db.example/d", true},
		{"postgres://u@db.example/d?connect_timeout=3", true},
		{"postgres://u@192.0.2.1:5432/d", true},
		{"postgresql://u@db.example/d?pgbouncer=true", true},
		{"postgres://u@localhost,db.example/d", true},
		{"postgres://u@/d?host=/run/postgresql,db.example", true},
		{"postgres://u@db.example/d?ssl%6dode=disable", false},
		{"postgres://u@db.example/d?sslmode=require", false},
		{"postgres://u@127.0.0.1/d", false},
		{"postgres://u@[::1]/d", false},
		{"postgres://u@localhost/d", false},
		{"postgres://u@/d?host=/run/postgresql", false},
	} {
		config, _, err := postgres.Parse(postgres.Config{URL: c.url})
		if err != nil {
			t.Errorf("%s: %v", c.url, err)
			continue
		}
		verified := config.TLSConfig != nil && !config.TLSConfig.InsecureSkipVerify && config.TLSConfig.ServerName != ""
		for _, f := range config.Fallbacks {
			verified = verified && (f.TLSConfig != nil && !f.TLSConfig.InsecureSkipVerify && f.TLSConfig.ServerName != "" || strings.HasPrefix(f.Host, "/"))
		}
		if strings.HasPrefix(config.Host, "/") && len(config.Fallbacks) > 0 { // a Unix socket has no TLS, but the other hosts must use TLS
			verified = true
			for _, f := range config.Fallbacks {
				verified = verified && f.TLSConfig != nil && !f.TLSConfig.InsecureSkipVerify
			}
		}
		if verified != c.verified {
			t.Errorf("%s: the certificate is verified: %t", c.url, verified)
		}
	}
	// If the URL does not set sslmode, the environment cannot weaken the default.
	t.Setenv("PGSSLMODE", "disable")
	config, _, err := postgres.Parse(postgres.Config{URL: "postgres://u@db.example/d"})
	if err != nil || config.TLSConfig == nil || config.TLSConfig.InsecureSkipVerify {
		t.Errorf("PGSSLMODE weakens the connection: %v", err)
	}
}

// The password in the URL takes precedence over Config.Password, which takes precedence over the
// environment variable.
func TestPasswordComesFromTheRightPlace(t *testing.T) {
	t.Setenv("PGPASSWORD", "environment")
	for _, c := range []struct{ url, file, want string }{
		{"postgres://u:url@localhost/d", "file", "url"},
		{"postgres://u@localhost/d", "file", "file"},
		{"postgres://u@localhost/d", "", "environment"},
	} {
		config, _, err := postgres.Parse(postgres.Config{URL: c.url, Password: c.file})
		if err != nil || config.Password != c.want {
			t.Errorf("%+v: %q, %v", c, config.Password, err)
		}
	}
}

// The store respects the limits of a pooler only if the URL has the parameter pgbouncer=true, which
// it does not send to the server.
func TestPoolerIsAskedFor(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]bool{
		"postgres://u@localhost/d": false, "postgres://u@localhost/d?pgbouncer=true": true, "postgres://u@localhost/d?pgbouncer=false&connect_timeout=1": false,
	} {
		if config, pooled, err := postgres.Parse(postgres.Config{URL: url}); err != nil || pooled != want || config.RuntimeParams["pgbouncer"] != "" {
			t.Errorf("%s: %t, %v", url, pooled, err)
		}
	}
}

// An error about the address of the database does not reveal the password.
func TestWrongAddressesAreRefused(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"", "mysql://u:secret@localhost/d", "postgres://u:secret@localhost:port/d", "postgres://u:secret@localhost/d?sslmode=perhaps",
		"postgres://u:secret@localhost/d?pgbouncer=1", "postgres://u:secret@localhost/d?connect_timeout=x",
	} {
		_, _, err := postgres.Parse(postgres.Config{URL: url})
		if err == nil {
			t.Errorf("%s is accepted", url)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func FuzzStorable(f *testing.F) {
	for _, text := range []string{"", "a", "\x00", "\xff", "\U0010FFFD", "ü\xc3", "\U0010FFFD41"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		stored := postgres.Storable(text)
		if strings.ContainsRune(stored, 0) || strings.ToValidUTF8(stored, "") != stored {
			t.Errorf("%q is stored as %q", text, stored)
		}
		if got := postgres.Original(stored); got != text {
			t.Errorf("%q is read as %q", text, got)
		}
	})
}
