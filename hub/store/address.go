package store

import "context"

// Addresses stores the URLs under which the hub was last served.
type Addresses interface {
	// URLs returns the URLs that SetURLs stored last. If SetURLs was never called, it returns none.
	URLs(ctx context.Context) ([]string, error)
	SetURLs(ctx context.Context, urls []string) error
}
