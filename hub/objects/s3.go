package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3 stores objects in a bucket of a service with the S3 API. The key of an object whose SHA-256
// begins with abcdef is PREFIXab/cdef....PLACE. Put first writes the object to a temporary file and
// checks it, so that the service never receives an incomplete object.
type S3 struct {
	client         *minio.Client
	bucket, prefix string
	spool          string
}

// S3Config configures OpenS3.
type S3Config struct {
	// Endpoint is "https://HOST[:PORT]". Use "http://" only for a service on this machine.
	Endpoint string
	Region   string // if empty, OpenS3 asks the service for the region
	Bucket   string // must exist
	Prefix   string // begins all keys, e.g. "gangway/"; may be empty
	// AccessKey and SecretKey are the credentials. If both are empty, the environment's credentials
	// are used (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).
	AccessKey, SecretKey string
	// Spool is the folder for temporary files, or empty for the system's default.
	Spool string
	// Transport replaces minio-go's HTTP transport in tests, unless it is nil.
	Transport http.RoundTripper
}

// OpenS3 connects to a bucket, which must exist and be readable.
func OpenS3(ctx context.Context, c S3Config) (*S3, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("objects: the S3 endpoint %q does not have the form https://host[:port]", c.Endpoint)
	}
	who := credentials.NewEnvAWS()
	if c.AccessKey != "" || c.SecretKey != "" {
		who = credentials.NewStaticV4(c.AccessKey, c.SecretKey, "")
	}
	client, err := minio.New(u.Host, &minio.Options{Creds: who, Secure: u.Scheme == "https", Region: c.Region, Transport: c.Transport})
	if err != nil {
		return nil, fmt.Errorf("objects: S3: %w", err)
	}
	s := &S3{client: client, bucket: c.Bucket, prefix: c.Prefix, spool: c.Spool}
	if err := s.Ping(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *S3) key(key Key) string { return s.prefix + key.name() }

// wrap converts an error of minio-go. It returns ErrNotFound if the service does not have the key
// or the upload, and adds the prefix of this package to any other error.
func wrap(err error) error {
	if err == nil {
		return nil
	}
	if code := minio.ToErrorResponse(err).Code; code == "NoSuchKey" || code == "NotFound" || code == "NoSuchUpload" {
		return ErrNotFound
	}
	return fmt.Errorf("objects: S3: %w", err)
}

// contentType is the type of all objects in a bucket.
const contentType = "application/octet-stream"

// spoolFile creates a temporary file and removes its name, which nobody needs, so the file
// disappears when the process ends, even if it is killed.
func (s *S3) spoolFile() (*os.File, error) {
	file, err := os.CreateTemp(s.spool, "gangway-object-")
	if err != nil {
		return nil, fmt.Errorf("objects: %w", err)
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("objects: %w", err), file.Close())
	}
	return file, nil
}

// Put implements Store.
func (s *S3) Put(ctx context.Context, key Key, size int64, r io.Reader) error {
	if size < 0 {
		return ErrSize
	}
	file, err := s.spoolFile()
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.Copy(file, &cancellable{ctx, check(r, key.Sum, size)}); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("objects: %w", err)
	}
	_, err = s.client.PutObject(ctx, s.bucket, s.key(key), file, size, minio.PutObjectOptions{ContentType: contentType, NumThreads: 1, SendContentMd5: true})
	return wrap(err)
}

// Open implements Store.
func (s *S3) Open(ctx context.Context, key Key) (io.ReadSeekCloser, error) {
	o, err := s.client.GetObject(ctx, s.bucket, s.key(key), minio.GetObjectOptions{})
	if err != nil {
		return nil, wrap(err)
	}
	// GetObject does not contact the service before the first read, so call Stat to find out now
	// whether the object exists.
	if _, err := o.Stat(); err != nil {
		return nil, errors.Join(wrap(err), o.Close())
	}
	return o, nil
}

// Stat implements Store.
func (s *S3) Stat(ctx context.Context, key Key) (Info, error) {
	info, err := s.client.StatObject(ctx, s.bucket, s.key(key), minio.StatObjectOptions{})
	if err != nil {
		return Info{}, wrap(err)
	}
	return Info{info.Size, info.LastModified}, nil
}

// Delete implements Store.
func (s *S3) Delete(ctx context.Context, key Key) error {
	if err := wrap(s.client.RemoveObject(ctx, s.bucket, s.key(key), minio.RemoveObjectOptions{})); !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}

// Walk implements Store. It ignores keys in the bucket that are not keys of objects.
func (s *S3) Walk(ctx context.Context, visit func(Key, Info) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing
	for o := range s.client.ListObjects(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix, Recursive: true}) {
		if o.Err != nil {
			return wrap(o.Err)
		}
		key, ok := parseName(strings.TrimPrefix(o.Key, s.prefix))
		if !ok {
			continue
		}
		if err := visit(key, Info{o.Size, o.LastModified}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Ping implements Store.
func (s *S3) Ping(ctx context.Context) error {
	there, err := s.client.BucketExists(ctx, s.bucket)
	if err != nil {
		return wrap(err)
	}
	if !there {
		return fmt.Errorf("objects: S3: bucket %q does not exist; create it, or name another one", s.bucket)
	}
	return nil
}

// Close implements Store.
func (s *S3) Close() error { return nil }
