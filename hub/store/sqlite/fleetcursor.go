package sqlite

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"gangway/hub/store"
)

// cursor is the content of store.DevicePage.Next. It has no secret: a forged one only begins a page
// of the caller's own devices elsewhere.
type cursor struct {
	Search string `json:"s"` // which search it belongs to
	place
}

var errCursor = badSearch("The page's address does not belong to this search: begin at the first page.")

// searchName is a short hash of what a search chooses and of its order.
func searchName(q store.DeviceSearch, o order) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %v %v", q.Owner, q.Words, q.Terms, o.key, o.down))
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

func writeCursor(q store.DeviceSearch, o order, p place) string {
	text, err := json.Marshal(cursor{searchName(q, o), p})
	if err != nil {
		panic(err) // texts and a number can be encoded
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// readCursor returns nil for the first page.
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
