package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/minio/minio-go/v7"
)

const (
	// minPart is the smallest size of a part of a multipart upload, except for the last part. S3
	// requires 5 MiB.
	minPart = 8 << 20
	// maxParts is the largest number of parts of a multipart upload. S3 permits 10,000.
	maxParts = 9000
)

// PartSize returns the size of each part, except the last one, of a multipart upload of an object
// of `size` bytes.
func PartSize(size int64) int64 {
	const unit = 1 << 20
	return max(minPart, (size/maxParts+unit)/unit*unit)
}

// partOf returns the number and the size of the part that begins at `offset`, for an object of
// `whole` bytes.
func partOf(whole, offset int64) (n int, size int64) {
	part := PartSize(whole)
	return int(offset / part), min(part, whole-offset)
}

// partial returns the path of the folder with the parts of an object, in which each part is a file.
func (f *Folder) partial(key Key) string {
	return filepath.Join(f.dir, incoming, key.Place+partialSuffix)
}

const partialSuffix = ".parts"

// BeginParts implements Store. The token of a Folder is always the same.
func (f *Folder) BeginParts(_ context.Context, key Key) (string, error) {
	if err := os.Mkdir(f.partial(key), 0o700); err != nil {
		return "", fmt.Errorf("objects: %w", err)
	}
	return "folder", flush(filepath.Join(f.dir, incoming))
}

// PutPart implements Store. Each call writes its own file, so a slow connection cannot change a
// part after CompleteParts has checked it.
func (f *Folder) PutPart(ctx context.Context, key Key, _ string, whole, offset int64, r io.Reader) (err error) {
	n, size := partOf(whole, offset)
	file, err := os.CreateTemp(filepath.Join(f.dir, incoming), "")
	if err != nil {
		return fmt.Errorf("objects: %w", err)
	}
	defer func() {
		file.Close()
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	if _, err := io.CopyN(file, &cancellable{ctx, r}, size); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("objects: %w", err)
	}
	err = os.Rename(file.Name(), filepath.Join(f.partial(key), strconv.Itoa(n)))
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("objects: %w", err)
	}
	return flush(f.partial(key))
}

// CompleteParts implements Store. It copies the parts to the object's file while it checks their
// bytes, because a connection may still replace a part.
func (f *Folder) CompleteParts(ctx context.Context, key Key, token string, size int64) error {
	if _, err := os.Stat(f.partial(key)); errors.Is(err, fs.ErrNotExist) {
		// An earlier call may have stored the object without its caller learning this.
		_, err := f.Stat(ctx, key)
		return err
	}
	parts := &partReader{dir: f.partial(key)}
	defer parts.close()
	if err := f.Put(ctx, key, size, parts); err != nil {
		return err
	}
	return f.AbortParts(ctx, key, token)
}

// partReader reads the files 0, 1, 2 and so on of a folder, one after the other.
type partReader struct {
	dir  string
	next int
	file *os.File // nil: the next file is not open
}

func (p *partReader) Read(b []byte) (int, error) {
	for {
		if p.file == nil {
			file, err := os.Open(filepath.Join(p.dir, strconv.Itoa(p.next)))
			if errors.Is(err, fs.ErrNotExist) {
				return 0, io.EOF
			}
			if err != nil {
				return 0, fmt.Errorf("objects: %w", err)
			}
			p.file = file
			p.next++
		}
		n, err := p.file.Read(b)
		if n > 0 || err != io.EOF {
			return n, err
		}
		p.close()
	}
}

func (p *partReader) close() {
	if p.file != nil {
		p.file.Close()
		p.file = nil
	}
}

// AbortParts implements Store.
func (f *Folder) AbortParts(_ context.Context, key Key, _ string) error {
	if err := os.RemoveAll(f.partial(key)); err != nil {
		return fmt.Errorf("objects: %w", err)
	}
	return nil
}

// BeginParts implements Store. The token is the service's id of the multipart upload.
func (s *S3) BeginParts(ctx context.Context, key Key) (string, error) {
	id, err := s.core().NewMultipartUpload(ctx, s.bucket, s.key(key), minio.PutObjectOptions{ContentType: contentType})
	return id, wrap(err)
}

func (s *S3) core() minio.Core { return minio.Core{Client: s.client} }

// PutPart implements Store.
func (s *S3) PutPart(ctx context.Context, key Key, token string, whole, offset int64, r io.Reader) error {
	n, size := partOf(whole, offset)
	file, err := s.spoolFile()
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.CopyN(file, &cancellable{ctx, r}, size); err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("objects: %w", err)
	}
	_, err = s.core().PutObjectPart(ctx, s.bucket, s.key(key), token, n+1, file, size, minio.PutObjectPartOptions{})
	return wrap(err)
}

// CompleteParts implements Store. It reads the object back, because two connections may have sent
// different bytes for a part, and the hash that S3 has of a part is too weak to detect this.
func (s *S3) CompleteParts(ctx context.Context, key Key, token string, size int64) error {
	var parts []minio.CompletePart
	for last := 0; ; {
		list, err := s.core().ListObjectParts(ctx, s.bucket, s.key(key), token, last, 1000)
		if minio.ToErrorResponse(err).Code == "NoSuchUpload" {
			break // an earlier call may have completed the upload
		}
		if err != nil {
			return wrap(err)
		}
		for _, p := range list.ObjectParts {
			parts = append(parts, minio.CompletePart{PartNumber: p.PartNumber, ETag: p.ETag})
			last = p.PartNumber
		}
		if !list.IsTruncated || len(list.ObjectParts) == 0 {
			break
		}
	}
	if len(parts) > 0 {
		if _, err := s.core().CompleteMultipartUpload(ctx, s.bucket, s.key(key), token, parts, minio.PutObjectOptions{}); err != nil {
			return wrap(err)
		}
	}
	o, err := s.Open(ctx, key)
	if err != nil {
		return err
	}
	defer o.Close()
	_, err = io.Copy(io.Discard, check(o, key.Sum, size))
	if errors.Is(err, ErrSum) || errors.Is(err, ErrSize) {
		return errors.Join(err, s.Delete(ctx, key))
	}
	return err
}

// AbortParts implements Store.
func (s *S3) AbortParts(ctx context.Context, key Key, token string) error {
	err := s.core().AbortMultipartUpload(ctx, s.bucket, s.key(key), token)
	if minio.ToErrorResponse(err).Code == "NoSuchUpload" {
		return nil
	}
	return wrap(err)
}
