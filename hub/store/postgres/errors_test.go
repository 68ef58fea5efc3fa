package postgres

import (
	"errors"
	"testing"

	"gangway/hub/store"
	"gangway/hub/store/sqlstore"

	"github.com/jackc/pgx/v5/pgconn"
)

// The code of the server's error decides whether the store runs the transaction again, finds out
// whether it was committed, or returns the error.
func TestErrorsOfTheServer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		severity, code string
		is             error // nil: none of the store's errors
		again, lost    bool
	}{
		{"ERROR", "23505", sqlstore.ErrConstraint, false, false},
		{"ERROR", "23503", sqlstore.ErrConstraint, false, false},
		{"ERROR", "40001", store.ErrBusy, true, false},
		{"ERROR", "40P01", store.ErrBusy, true, false},
		{"ERROR", "55P03", store.ErrBusy, true, false},
		{"ERROR", "57014", store.ErrBusy, true, false},
		{"ERROR", "53100", store.ErrNoSpace, false, false},
		{"ERROR", "42703", nil, false, false},
		{"ERROR", "25006", store.ErrBusy, true, true},   // the server has become a standby
		{"ERROR", "40003", store.ErrBusy, true, true},   // it is unknown whether the statement completed
		{"ERROR", "08006", store.ErrBusy, true, true},   // a pooler has lost its connection to the server
		{"FATAL", "57P01", store.ErrBusy, true, true},   // the server stops
		{"FATAL", "25P03", store.ErrBusy, true, true},   // the hub was silent within a transaction
		{"PANIC", "53100", store.ErrBusy, true, true},   // no space for the server's write-ahead log: the server crashes
		{"FATAL", "53300", store.ErrBusy, true, true},   // too many connections
		{"FATALE", "57P01", store.ErrBusy, true, true},  // in another language
		{"FEHLER", "40001", store.ErrBusy, true, false}, // in another language
	} {
		plain := map[string]string{"FATALE": "FATAL", "FEHLER": "ERROR"}[c.severity]
		if plain == "" {
			plain = c.severity
		}
		err := classified(&pgconn.PgError{Severity: c.severity, SeverityUnlocalized: plain, Code: c.code})
		for _, known := range []error{sqlstore.ErrConstraint, store.ErrBusy, store.ErrNoSpace} {
			if got := errors.Is(err, known); got != (known == c.is) {
				t.Errorf("%s %s is %v: %t", c.severity, c.code, known, got)
			}
		}
		if repeatable(err) != c.again || lost(err) != c.lost {
			t.Errorf("%s %s: again %t, lost %t", c.severity, c.code, repeatable(err), lost(err))
		}
	}
	if err := classified(errors.New("EOF")); !lost(err) || !errors.Is(err, store.ErrBusy) {
		t.Errorf("an end of the connection is %v", err)
	}
}
