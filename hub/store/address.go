package store

import "context"

// Addresses stores the URLs under which the hub was last reachable.
type Addresses interface {
	// URLs returns the URLs that were last passed to SetURLs, or none if SetURLs was never called.
	URLs(ctx context.Context) ([]string, error)
	SetURLs(ctx context.Context, urls []string) error
}
