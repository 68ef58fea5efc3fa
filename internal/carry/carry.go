// Package carry appends files to a program, so that the program has them wherever it is copied to.
// The files are a ZIP archive behind the program's own bytes, which an ELF loader ignores; a trailer
// says where the archive begins.
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

// magic ends a program that carries files. Before it are 8 bytes, the size of the archive.
const magic = "\x00gangway carries\x00"

const trailerSize = int64(8 + len(magic))

// archive returns the place of the archive in a program of this size; ok is false without one.
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
		return 0, 0, false, errors.New("carry: the trailer names more bytes than the program has: it was cut or changed")
	}
	return size - trailerSize - int64(n), int64(n), true, nil
}

// Open returns the files that a program carries, or an error that is fs.ErrNotExist if it carries
// none. The caller closes it.
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
		return nil, fmt.Errorf("carry: %s carries no files: %w", program, fs.ErrNotExist)
	}
	z, err := zip.NewReader(io.NewSectionReader(f, start, length), length)
	if err != nil {
		return nil, fmt.Errorf("carry: %w", err)
	}
	return &Files{z, f}, nil
}

// Files are the files that a program carries.
type Files struct {
	*zip.Reader
	program *os.File
}

// Close closes the program's file.
func (f *Files) Close() error { return f.program.Close() }

// Add lets a program carry these files, by their base names, instead of those that it carried before.
// The same program and files give the same bytes. The program may be running.
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
	// A running program cannot be written to, but it can be replaced.
	tmp, err := os.CreateTemp(filepath.Dir(program), ".carry-*")
	if err != nil {
		return fmt.Errorf("carry: %w", err)
	}
	defer os.Remove(tmp.Name()) // fails after the rename, which is harmless
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
