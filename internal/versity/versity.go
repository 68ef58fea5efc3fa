// Package versity runs an S3 server for tests: Versity's S3 Gateway, which stores objects in a
// folder. Its program is built from the Go module internal/s3test.
package versity

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/internal/process"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// The credentials of every Server.
const (
	AccessKey = "fleet"
	SecretKey = "a secret of the tests"
	Region    = "us-east-1"
)

// Server is a running S3 server on loopback.
type Server struct {
	Endpoint string // http://127.0.0.1:PORT
	Dir      string // each bucket is a folder here
}

// program builds the server, and returns the program's path. The Go build cache keeps the linked
// program. The first build takes a minute or more of CPU time.
func program(t *testing.T, root string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "tool", "-n", "github.com/versity/versitygw/cmd/versitygw")
	build.Dir = filepath.Join(root, "internal", "s3test")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	build.Stderr = &stderr
	out, err := build.Output()
	if err != nil {
		t.Skipf("the S3 server versitygw cannot be built here, so S3 is not tested with a real server: %v: %.300s", err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// Start starts an S3 server, which runs until the test ends. `root` is the path of Gangway's
// source tree.
func Start(t *testing.T, root string) *Server {
	t.Helper()
	bin := program(t, root)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	s := &Server{Endpoint: "http://" + at, Dir: t.TempDir()}
	// The sidecar folder replaces extended attributes, which not every file system has.
	run := exec.Command(bin, "--port", at, "--quiet", "--region", Region, "posix", "--sidecar", t.TempDir(), s.Dir)
	run.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+AccessKey, "ROOT_SECRET_KEY="+SecretKey)
	running, err := process.Start(run)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { running.Stop(0) })
	for deadline := time.Now().Add(30 * time.Second); ; {
		if c, err := net.Dial("tcp", at); err == nil {
			c.Close()
			return s
		}
		select {
		case <-running.Done():
			t.Fatalf("versitygw ended: %s", running.Tail())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("versitygw does not start: %s", running.Tail())
		}
	}
}

// MakeBucket makes a bucket.
func (s *Server) MakeBucket(t *testing.T, name string) {
	t.Helper()
	c, err := minio.New(strings.TrimPrefix(s.Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4(AccessKey, SecretKey, ""), Region: Region})
	if err == nil {
		err = c.MakeBucket(t.Context(), name, minio.MakeBucketOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}
