package sqlstore

import (
	"fmt"
	"slices"
	"sync"
)

// Statement is an SQL statement, with a text for each engine. If only one engine's driver runs the
// statement, the text for the other engine is empty.
type Statement struct {
	// Index is the position of the statement in the result of Statements. Drivers keep the prepared
	// statement at the same index of a list of their own.
	Index  int
	SQLite string

	postgres func() (string, error)
}

// Postgres returns the statement's text for PostgreSQL. The statement is translated at the first
// call, because translating all statements takes some milliseconds, and most programs do not use
// PostgreSQL. TestEachStatementHasBothTexts translates all statements.
func (s *Statement) Postgres() string {
	text, err := s.postgres()
	if err != nil {
		panic(err)
	}
	return text
}

var statements []*Statement

// Statements returns all statements of the program. Statements are registered only by package
// variables, so the list is complete before main begins.
func Statements() []*Statement { return slices.Clone(statements) }

// ForSQLite registers a statement that only the SQLite driver runs.
func ForSQLite(sql string) *Statement { return register(sql, textOf("")) }

// ForPostgres registers a statement that only the PostgreSQL driver runs.
func ForPostgres(sql string) *Statement { return register("", textOf(sql)) }

// OnceForPostgres returns a statement of PostgreSQL that is not registered, and not prepared.
func OnceForPostgres(sql string) *Statement { return &Statement{postgres: textOf(sql)} }

// prepared registers a statement that both engines understand, except for the differences that
// postgresText translates.
func prepared(sql string) *Statement {
	return register(sql, func() (string, error) {
		if err := sharable(sql); err != nil {
			return "", fmt.Errorf("%w: register this statement with the function \"both\": %s", err, sql)
		}
		return translated(sql)
	})
}

// The function `both` registers a statement whose text differs between the engines. postgresText
// translates the parameters and hints of the second text too. Both texts must have the same
// parameters.
func both(sqlite, postgres string) *Statement {
	return register(sqlite, func() (string, error) { return translated(postgres) })
}

func translated(sql string) (string, error) {
	text, err := postgresText(sql)
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, sql)
	}
	return text, nil
}

func textOf(sql string) func() (string, error) {
	return func() (string, error) { return sql, nil }
}

func register(sqlite string, postgres func() (string, error)) *Statement {
	s := &Statement{Index: len(statements), SQLite: sqlite, postgres: sync.OnceValues(postgres)}
	statements = append(statements, s)
	return s
}
