package main

import (
	"crypto/sha256"
	"net/http/httptest"
	"strings"
	"testing"

	"gangway/hub/objects"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// Two hubs in one bucket must not remove each other's objects.
func TestHubsInOneBucketDoNotShareObjects(t *testing.T) {
	t.Parallel()
	backend := s3mem.New()
	if err := backend.CreateBucket("fleet"); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(gofakes3.New(backend).Server())
	defer server.Close()
	c := objects.S3Config{Endpoint: server.URL, Region: "us-east-1", Bucket: "fleet", AccessKey: "key", SecretKey: "secret"}
	text := "an object"
	key := objects.Key{Sum: sha256.Sum256([]byte(text)), Place: objects.NewPlace()}
	for n := range 2 {
		i, err := openInstance(t.Context(), t.TempDir(), openOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer i.close()
		if err := i.openObjects(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if _, err := i.objects.Stat(t.Context(), key); err != objects.ErrNotFound {
			t.Errorf("hub %d finds an object that it did not store: %v", n, err)
		}
		if err := i.objects.Put(t.Context(), key, int64(len(text)), strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		if _, err := i.objects.Stat(t.Context(), key); err != nil {
			t.Errorf("hub %d does not find its object: %v", n, err)
		}
	}
	i := &instance{dir: t.TempDir()}
	if err := i.openObjects(t.Context(), objects.S3Config{Bucket: "fleet"}); err == nil || !strings.Contains(err.Error(), "must be given together") {
		t.Errorf("a bucket without an endpoint: got %v, want an error", err)
	}
}
