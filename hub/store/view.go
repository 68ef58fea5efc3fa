package store

import (
	"context"
	"time"
)

const (
	// MaxSavedViews bounds the saved views of an account.
	MaxSavedViews = 50
	// MaxViewName and MaxViewQuery bound a saved view, in bytes.
	MaxViewName, MaxViewQuery = 64, 2048
)

// SavedView is a list of devices that an account gave a name: a search, an order and columns, as the
// query of the list's address.
type SavedView struct {
	Owner   string // Account.ID
	Name    string // unique for its owner, without regard to ASCII case
	Query   string
	Created time.Time
}

// SavedViews keeps the saved views of accounts.
type SavedViews interface {
	// SavedViews lists an account's views by name.
	SavedViews(ctx context.Context, owner string) ([]SavedView, error)
	// PutSavedView keeps a view, in place of the one with the same name. ErrFull: the account has
	// MaxSavedViews others. ErrTooLarge: the name or the query is longer than its bound.
	PutSavedView(ctx context.Context, v SavedView) error
	// DeleteSavedView deletes a view. ErrNotFound.
	DeleteSavedView(ctx context.Context, owner, name string) error
}
