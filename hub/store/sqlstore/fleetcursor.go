package sqlstore

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"gangway/hub/store"
)

// cursor is the data that store.DevicePage.Next encodes. It contains no secret and needs no
// signature: with a forged cursor, callers only start at another place in the list of their own
// devices.
type cursor struct {
	Search string `json:"s"` // the searchName of the search to which the cursor belongs
	place
}

var errCursor = badSearch("The address of this page is not from this list: start again at the first page.")

// searchName returns a short hash of the conditions and the order of a search.
func searchName(q store.DeviceSearch, o order) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %v %v", q.Owner, q.Words, q.Terms, o.key, o.down))
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

func writeCursor(q store.DeviceSearch, o order, p place) string {
	text, err := json.Marshal(cursor{searchName(q, o), p})
	if err != nil {
		panic(err) // strings and a number can always be encoded
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// readCursor returns the place (the position in the order) after which the page begins, or nil for
// the first page.
func readCursor(q store.DeviceSearch, o order) (*place, error) {
	if q.After == "" {
		return nil, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(q.After)
	if err != nil || len(text) > 4096 {
		return nil, errCursor
	}
	var c cursor
	if json.Unmarshal(text, &c) != nil || c.Search != searchName(q, o) {
		return nil, errCursor
	}
	return &c.place, nil
}
