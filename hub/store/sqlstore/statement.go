package sqlstore

import "slices"

// Statement is one SQL statement of the store, as text for each engine.
type Statement struct {
	// Index is the position of the statement in Statements. Drivers keep what they prepared for a
	// statement at this index.
	Index  int
	SQLite string
}

var statements []*Statement

// Statements returns all statements of the program. Statements are made only for package variables,
// so the list is complete and constant before main begins.
func Statements() []*Statement { return slices.Clone(statements) }

// Prepared registers a statement.
func Prepared(sql string) *Statement {
	s := &Statement{Index: len(statements), SQLite: sql}
	statements = append(statements, s)
	return s
}

func prepared(sql string) *Statement { return Prepared(sql) }
