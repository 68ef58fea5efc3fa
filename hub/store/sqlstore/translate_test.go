package sqlstore

import (
	"strings"
	"testing"
)

func TestPostgresText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ sql, want string }{
		{`SELECT a FROM t WHERE b = ? AND c > ?`, `SELECT a FROM t WHERE b = $1 AND c > $2`},
		{`SELECT a FROM t WHERE b = ?2 OR c = ?1 OR d = ?2`, `SELECT a FROM t WHERE b = $2 OR c = $1 OR d = $2`},
		{`SELECT a FROM t INDEXED BY t_b WHERE b = ?`, `SELECT a FROM t  WHERE b = $1`},
		{`SELECT 1 FROM t CROSS JOIN u ON u.a = t.a`, `SELECT 1 FROM t JOIN u ON u.a = t.a`},
		{`DELETE FROM t WHERE a = 1 AND +b = ? AND +t.c = 2`, `DELETE FROM t WHERE a = 1 AND b = $1 AND t.c = 2`},
		{`SELECT 1 + a, n+1 FROM t`, `SELECT 1 + a, n+1 FROM t`},
		{`UPDATE t SET a = x'', b = x'0aff', c = 'x'`, `UPDATE t SET a = '\x'::bytea, b = '\x0aff'::bytea, c = 'x'`},
		{`SELECT '?', 'INDEXED BY x', 'a''?' FROM t WHERE a = ?`, `SELECT '?', 'INDEXED BY x', 'a''?' FROM t WHERE a = $1`},
		{`SELECT max(a, b), MIN((a), f(b, c)), max(a), max(f(a, b)), min(a) FROM t`, `SELECT greatest(a, b), least((a), f(b, c)), max(a), max(f(a, b)), min(a) FROM t`},
		{`SELECT max FROM t`, `SELECT max FROM t`},
	} {
		got, err := postgresText(c.sql)
		if err != nil || got != c.want {
			t.Errorf("%s:\n got %s (%v)\nwant %s", c.sql, got, err, c.want)
		}
	}
	for _, sql := range []string{
		`INSERT OR IGNORE INTO t (a) VALUES (1)`, `insert or replace into t (a) values (1)`, `SELECT iif(a, 1, 2)`, `SELECT value FROM json_each(?)`,
		`SELECT a FROM t WHERE a = ? COLLATE NOCASE`, `SELECT a FROM t WHERE a LIKE ?`, `PRAGMA page_count`, `SELECT instr(a, b)`, `SELECT zeroblob(32)`,
	} {
		if sharable(sql) == nil {
			t.Errorf("PostgreSQL should know %s", sql)
		}
	}
	if got, err := postgresText(`SELECT ?, ?2`); err == nil {
		t.Errorf("a mixture of parameters is translated to %s", got)
	}
}

// All statements of this package have a text for both engines. Only drivers register statements for
// one engine.
func TestEachStatementHasBothTexts(t *testing.T) {
	t.Parallel()
	shared := 0
	for _, s := range Statements() {
		text, err := s.postgres()
		if err != nil {
			t.Error(err)
		}
		if s.SQLite != "" && text != "" {
			shared++
		}
		if strings.Contains(text, "?") {
			t.Errorf("a parameter of %s is not translated", text)
		}
	}
	if shared < 300 {
		t.Errorf("only %d statements have both texts", shared)
	}
}
