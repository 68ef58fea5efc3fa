// Package carry appends files to a program, so that every copy of the program contains the files.
// The files are in a ZIP archive after the program's own bytes, where an ELF loader ignores it. A
// trailer after the archive says where the archive begins.
package carry

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// magic ends the trailer, so every program with appended files ends with magic. The 8 bytes before
// magic are the size of the archive (big-endian).
const magic = "\x00gangway carries\x00"

const trailerSize = int64(8 + len(magic))

// archive returns the offset and the length of the archive in a program of `size` bytes. `ok` is
// false if the program has no archive.
func archive(f io.ReaderAt, size int64) (start, length int64, ok bool, err error) {
	if size < trailerSize {
		return 0, 0, false, nil
	}
	trailer := make([]byte, trailerSize)
	if _, err := f.ReadAt(trailer, size-trailerSize); err != nil {
		return 0, 0, false, err
	}
	if string(trailer[8:]) != magic {
		return 0, 0, false, nil
	}
	n := binary.BigEndian.Uint64(trailer)
	if n > uint64(size-trailerSize) {
		return 0, 0, false, errors.New("carry: the trailer names more bytes than the program has: the program is truncated or altered, so install it again")
	}
	return size - trailerSize - int64(n), int64(n), true, nil
}

// Open returns the files that were appended to the program. The caller must close the result.
// Errors: fs.ErrNotExist if the program has no appended files.
func Open(program string) (_ *Files, err error) {
	f, err := os.Open(program)
	if err != nil {
		return nil, fmt.Errorf("carry: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("carry: %w", err)
	}
	start, length, ok, err := archive(f, info.Size())
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("carry: no files are appended to %s: %w", program, fs.ErrNotExist)
	}
	z, err := zip.NewReader(io.NewSectionReader(f, start, length), length)
	if err != nil {
		return nil, fmt.Errorf("carry: %w", err)
	}
	return &Files{z, f}, nil
}

// Files are the files that were appended to a program.
type Files struct {
	*zip.Reader
	program *os.File
}

// Close closes the program's file.
func (f *Files) Close() error { return f.program.Close() }

// Add appends these files, with their base names, to a program. They replace any files that an
// earlier call appended. The same program and files always give the same bytes. The program may be
// running.
func Add(program string, files ...string) error {
	b, err := os.ReadFile(program)
	if err != nil {
		return fmt.Errorf("carry: %w", err)
	}
	info, err := os.Stat(program)
	if err != nil {
		return fmt.Errorf("carry: %w", err)
	}
	start, _, ok, err := archive(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	if ok {
		b = b[:start]
	}
	packed, err := pack(files)
	if err != nil {
		return err
	}
	b = append(b, packed...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(packed)))
	b = append(b, magic...)
	// The kernel does not allow a write to the file of a running program, but it allows a
	// replacement of that file.
	tmp, err := os.CreateTemp(filepath.Dir(program), ".carry-*")
	if err != nil {
		return fmt.Errorf("carry: %w", err)
	}
	defer os.Remove(tmp.Name()) // after the rename, this call fails, which is harmless
	_, err = tmp.Write(b)
	if err := errors.Join(err, tmp.Chmod(info.Mode().Perm()), tmp.Close()); err != nil {
		return fmt.Errorf("carry: %w", err)
	}
	if err := os.Rename(tmp.Name(), program); err != nil {
		return fmt.Errorf("carry: %w", err)
	}
	return nil
}

func pack(files []string) ([]byte, error) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.BestCompression) })
	for _, name := range slices.Sorted(slices.Values(files)) {
		content, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("carry: %w", err)
		}
		h := &zip.FileHeader{Name: filepath.Base(name), Method: zip.Deflate}
		h.SetMode(0o755)
		w, err := z.CreateHeader(h)
		if err != nil {
			return nil, fmt.Errorf("carry: %w", err)
		}
		if _, err := w.Write(content); err != nil {
			return nil, fmt.Errorf("carry: %w", err)
		}
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("carry: %w", err)
	}
	return b.Bytes(), nil
}
