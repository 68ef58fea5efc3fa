package store

import "context"

// Addresses keeps the URLs that the hub was last served on.
type Addresses interface {
	// URLs returns what SetURLs stored last; nothing if it never did.
	URLs(ctx context.Context) ([]string, error)
	SetURLs(ctx context.Context, urls []string) error
}
