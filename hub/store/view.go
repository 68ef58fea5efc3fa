package store

import (
	"context"
	"time"
)

const (
	// MaxSavedViews is the largest number of saved views of an account.
	MaxSavedViews = 50
	// MaxViewName and MaxViewQuery are the maximum lengths of a saved view's name and query, in
	// bytes.
	MaxViewName, MaxViewQuery = 64, 2048
)

// SavedView is a list of devices that an account has saved under a name: a search, an order and
// columns. Query is the query part of the URL of the list's page.
type SavedView struct {
	Owner   string // Account.ID
	Name    string // unique for its owner; ASCII case is ignored
	Query   string
	Created time.Time
}

// SavedViews stores the saved views of accounts.
type SavedViews interface {
	// SavedViews lists an account's views by name.
	SavedViews(ctx context.Context, owner string) ([]SavedView, error)
	// PutSavedView stores a view, and replaces the account's view with the same name if there is
	// one. ErrFull: the account has MaxSavedViews other views. ErrTooLarge: the name or the query
	// is longer than allowed.
	PutSavedView(ctx context.Context, v SavedView) error
	// DeleteSavedView deletes a view. ErrNotFound: the account has no view with this name.
	DeleteSavedView(ctx context.Context, owner, name string) error
}
