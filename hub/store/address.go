package store

import "context"

// Addresses stores the URLs under which the hub was last served.
type Addresses interface {
	// URLs returns the URLs of the last call of SetURLs, or none if SetURLs was never called.
	URLs(ctx context.Context) ([]string, error)
	SetURLs(ctx context.Context, urls []string) error
}
