package postgres

import (
	"errors"
	"fmt"

	"gangway/hub/store"
	"gangway/hub/store/sqlstore"

	"github.com/jackc/pgx/v5/pgconn"
)

// Codes of PostgreSQL's errors (SQLSTATE).
const (
	codeSerialization = "40001"
	codeDeadlock      = "40P01"
	codeLockTimeout   = "55P03"
	codeCancelled     = "57014" // a timeout of the server cancelled the statement
	codeReadOnly      = "25006" // the server has become a standby
	codeUnknown       = "40003" // it is unknown whether the statement completed
	codeNoSpace       = "53100"
	codeConnections   = "53300"
)

// engineError is an error of a statement, after which the connection can still be used, once the
// transaction has been rolled back.
type engineError struct{ *pgconn.PgError }

// Error implements error.
func (e *engineError) Error() string {
	return fmt.Sprintf("postgres: %s (%s)", e.Message, e.Code)
}

// The method `Is` maps PostgreSQL's error codes to the errors of the packages store and sqlstore.
func (e *engineError) Is(target error) bool {
	switch {
	case len(e.Code) == 5 && e.Code[:2] == "23": // integrity constraint violation
		return target == sqlstore.ErrConstraint
	case e.Code == codeNoSpace:
		return target == store.ErrNoSpace
	case e.repeatable(), e.Code == codeConnections:
		return target == store.ErrBusy
	}
	return false
}

// The method `repeatable` reports whether the statement's transaction may succeed if it runs again.
func (e *engineError) repeatable() bool {
	switch e.Code {
	case codeSerialization, codeDeadlock, codeLockTimeout, codeCancelled, codeReadOnly:
		return true
	}
	return false
}

// lostError means that the connection can no longer be used.
type lostError struct{ cause error }

func (e *lostError) Error() string { return "postgres: the connection is lost: " + e.cause.Error() }

func (e *lostError) Unwrap() error { return e.cause }

// The method `Is` makes errors.Is(err, store.ErrBusy) true for a lostError, because a retry may
// succeed. Operations return a lostError only if nothing was written.
func (e *lostError) Is(target error) bool { return target == store.ErrBusy }

// ErrUnknown means that the connection was lost during the commit of a write and the database did
// not answer afterwards, so that it is unknown whether the write happened.
var ErrUnknown = errors.New("postgres: the connection was lost during a commit, and the database does not answer: it is unknown whether the write happened")

// classified converts an error of package pgconn to an engineError or a lostError.
func classified(err error) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || e.SeverityUnlocalized == "FATAL" || e.SeverityUnlocalized == "PANIC" || e.Severity == "FATAL" || e.Severity == "PANIC" {
		return &lostError{err}
	}
	// If a pooler loses its connection to the server, it reports this as an error of class 08.
	if e.Code == codeReadOnly || e.Code == codeUnknown || len(e.Code) == 5 && e.Code[:2] == "08" {
		return &lostError{err}
	}
	return &engineError{e}
}

// The function `lost` reports whether a statement that failed with `err` left its connection
// unusable.
func lost(err error) bool {
	_, ok := errors.AsType[*lostError](err)
	return ok
}

// The function `repeatable` reports whether a transaction that failed with this error may succeed
// if it runs again.
func repeatable(err error) bool {
	e, ok := errors.AsType[*engineError](err)
	return ok && e.repeatable() || lost(err)
}
