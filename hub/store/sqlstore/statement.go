package sqlstore

import (
	"fmt"
	"slices"
)

// Statement is one SQL statement, as text for each engine. If only one driver runs a statement, the
// statement has no text for the other engine.
type Statement struct {
	// Index is the position of the statement in Statements. Drivers keep the prepared statement at
	// this index of their own list.
	Index    int
	SQLite   string
	Postgres string
}

var statements []*Statement

// Statements returns all statements of the program. Statements are made only for package variables,
// so the list is complete and constant before main begins.
func Statements() []*Statement { return slices.Clone(statements) }

// ForSQLite registers a statement that only the SQLite driver runs.
func ForSQLite(sql string) *Statement { return register(sql, "") }

// ForPostgres registers a statement that only the PostgreSQL driver runs.
func ForPostgres(sql string) *Statement { return register("", sql) }

// prepared registers a statement that both engines understand, except for the differences that
// postgresText translates.
func prepared(sql string) *Statement {
	if err := sharable(sql); err != nil {
		panic(fmt.Sprintf("%v: register this statement with the function \"both\": %s", err, sql))
	}
	return both(sql, sql)
}

// The function `both` registers a statement whose text differs between the engines. postgresText
// translates the parameters and hints of the second text too. Both texts must have the same
// parameters.
func both(sqlite, postgres string) *Statement {
	text, err := postgresText(postgres)
	if err != nil {
		panic(fmt.Sprintf("%v: %s", err, postgres))
	}
	return register(sqlite, text)
}

func register(sqlite, postgres string) *Statement {
	s := &Statement{Index: len(statements), SQLite: sqlite, Postgres: postgres}
	statements = append(statements, s)
	return s
}
