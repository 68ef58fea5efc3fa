package sqlite

import (
	"slices"
	"testing"

	"gangway/hub/store/sqlstore"
)

var selectList = sqlstore.ForSQLite(`SELECT value FROM json_each(?)`)

// A nick can contain any bytes. If a search passes a list of nicks to the database, each byte must
// arrive there.
func TestListsKeepEachByte(t *testing.T) {
	t.Parallel()
	r := newReaders(t, 1)
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for _, list := range [][]string{
		{}, {""}, {"raft", "raft", "x"}, {string(every)}, {"\x00", "a\x00b"}, {"\xff\xfe", "\xed\xa0\x80"}, {`"\u0041\`, "</script>", "\u2028"},
	} {
		got := []string{}
		if err := r.do(t.Context(), func(c *conn) error {
			return c.EachColumns(selectList, func(r sqlstore.Columns) (bool, error) {
				got = append(got, r.Text(0, ""))
				return true, nil
			}, list)
		}); err != nil {
			t.Fatalf("%q: %v", list, err)
		}
		if !slices.Equal(got, list) {
			t.Errorf("%q became %q", list, got)
		}
	}
}
