package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"gangway/hub/objects"
	"gangway/hub/store/transfer"

	"filippo.io/age"
	"github.com/fxamacker/cbor/v2"
)

// Source is what a backup is made of.
type Source struct {
	Header   Header             // Write sets Format, Engine and Schema
	Keys     string             // the folder of the hub's keys
	Snapshot *transfer.Snapshot // Write closes it
	// Objects copies an object to the folder of the backup, and returns the object's file there. If
	// the object is not stored, it returns objects.ErrNotFound. Objects is nil if the backup must
	// not contain the objects.
	Objects func(ctx context.Context, o Object) (file string, copied bool, err error)
	// Sign signs a hash with the hub's key.
	Sign func(sum [sha256.Size]byte) ([]byte, error)
	// Progress is called after each table and after each object.
	Progress func(Summary)
}

// Summary counts what Write has put into a backup.
type Summary struct {
	Header  Header
	Rows    int64
	Objects int      // number of objects in the backup
	Copied  int      // of these, the objects that no earlier backup in the folder had
	Bytes   int64    // the size of all objects
	Missing []string // SHA-256 of objects that the database lists and that are not stored
}

// writer writes the entries of a backup.
type writer struct {
	Source
	tar   *tar.Writer
	end   end
	done  Summary
	list  map[objects.Sum]int64 // sizes of the stored objects
	place map[objects.Sum]string
}

// Write writes a backup, encrypted to the recipients. It streams: it keeps no copy of the database.
func Write(ctx context.Context, to io.Writer, s Source, recipients ...age.Recipient) (Summary, error) {
	encrypted, err := age.Encrypt(to, recipients...)
	if err != nil {
		return Summary{}, errors.Join(fmt.Errorf("backup: %w", err), s.Snapshot.Close())
	}
	s.Header.Format, s.Header.Engine, s.Header.Schema = Format, s.Snapshot.Engine, s.Snapshot.Schema
	s.Header.Objects = s.Objects != nil
	w := &writer{Source: s, tar: tar.NewWriter(encrypted), list: map[objects.Sum]int64{}, place: map[objects.Sum]string{}}
	w.done.Header = s.Header
	if err := errors.Join(w.database(ctx), s.Snapshot.Close()); err != nil {
		return w.done, err
	}
	for _, step := range []func() error{
		func() error { return w.objects(ctx) }, w.finish, w.tar.Close, encrypted.Close,
	} {
		if err := step(); err != nil {
			return w.done, fmt.Errorf("backup: %w", err)
		}
	}
	return w.done, nil
}

// database writes the entries with the hub's keys, and the entries with the rows of the database.
func (w *writer) database(ctx context.Context) (err error) {
	if err := w.addJSON(headerEntry, w.Header); err != nil {
		return err
	}
	if err := w.keys(); err != nil {
		return err
	}
	if err := w.Snapshot.Tables(ctx, w.table); err != nil {
		return err
	}
	w.end.Counters, err = w.Snapshot.Counters(ctx)
	return err
}

func (w *writer) add(name string, content []byte) error {
	// The tar header of an entry has no time and no owner, so equal contents give equal entries.
	if err := w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(content)), Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	_, err := w.tar.Write(content)
	w.end.Entries = append(w.end.Entries, entryOf(name, content))
	return err
}

func (w *writer) addJSON(name string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.add(name, text)
}

// keyName matches the names of files with keys.
var keyName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`) })

func (w *writer) keys() error {
	files, err := os.ReadDir(w.Keys)
	if err != nil {
		return err
	}
	for _, f := range files {
		if !keyName().MatchString(f.Name()) {
			continue
		}
		path := filepath.Join(w.Keys, f.Name())
		info, err := os.Stat(path) // follows links: Kubernetes mounts the files of a Secret as links
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if len(content) > maxSmall {
			return fmt.Errorf("the key file %s has %d bytes; at most %d are allowed", f.Name(), len(content), maxSmall)
		}
		if err := w.add(keysPrefix+f.Name(), content); err != nil {
			return err
		}
	}
	return nil
}

// table writes the rows of a table in chunks.
func (w *writer) table(rows transfer.Rows) error {
	at := tablesPrefix + rows.Table + "/"
	if err := w.addJSON(at+columnsName, rows.Columns); err != nil {
		return err
	}
	c := chunks{w: w, at: at}
	err := rows.Each(func(row []any) error {
		w.done.Rows++
		for i, v := range row {
			if b, ok := v.([]byte); ok && b == nil {
				row[i] = []byte{} // nil would become NULL
			}
		}
		w.note(rows, row)
		return c.add(row)
	})
	if err == nil {
		err = c.flush()
	}
	if w.Progress != nil {
		w.Progress(w.done)
	}
	return err
}

// note reads a row of the tables about objects, and remembers the sizes and places of the stored
// objects.
func (w *writer) note(rows transfer.Rows, row []any) {
	value := func(column string) any {
		for i, name := range rows.Columns {
			if name == column {
				return row[i]
			}
		}
		return nil
	}
	sum, _ := value("sum").([]byte)
	if len(sum) != sha256.Size {
		return
	}
	switch rows.Table {
	case "objects":
		if value("stored") == int64(1) {
			w.list[objects.Sum(sum)], _ = value("size").(int64)
		}
	case "contents":
		w.place[objects.Sum(sum)], _ = value("place").(string)
	}
}

// objects copies the objects, and writes the list of the objects in the backup.
func (w *writer) objects(ctx context.Context) error {
	if w.Objects == nil {
		return nil
	}
	c := chunks{w: w, at: objectsPrefix}
	for sum, size := range w.list {
		o := Object{Key: objects.Key{Sum: sum, Place: w.place[sum]}, Size: size}
		file, copied, err := w.Source.Objects(ctx, o)
		if errors.Is(err, objects.ErrNotFound) {
			w.done.Missing = append(w.done.Missing, fmt.Sprintf("%x", sum))
			continue
		}
		if err != nil {
			return fmt.Errorf("object %x: %w", sum, err)
		}
		if copied {
			w.done.Copied++
		}
		w.done.Objects++
		w.done.Bytes += size
		if err := c.add([]any{sum[:], o.Key.Place, size, file}); err != nil {
			return err
		}
		if w.Progress != nil {
			w.Progress(w.done)
		}
	}
	return c.flush()
}

// finish writes the list of all entries, and its signature.
func (w *writer) finish() error {
	w.end.Objects, w.end.Bytes = w.done.Objects, w.done.Bytes
	text, err := json.Marshal(w.end)
	if err != nil {
		return err
	}
	signature, err := w.Sign(sha256.Sum256(text))
	if err != nil {
		return err
	}
	if err := w.add(endEntry, text); err != nil {
		return err
	}
	return w.add(signatureEntry, signature)
}

// chunks writes rows to the entries 000000.cbor, 000001.cbor and so on: each row is a CBOR array.
type chunks struct {
	w    *writer
	at   string
	n    int
	data bytes.Buffer
}

func (c *chunks) add(row []any) error {
	b, err := cbor.Marshal(row)
	if err != nil {
		return err
	}
	if len(b) > maxChunk-chunkSize {
		return fmt.Errorf("a row has %d bytes; at most %d are allowed", len(b), maxChunk-chunkSize)
	}
	c.data.Write(b)
	if c.data.Len() < chunkSize {
		return nil
	}
	return c.flush()
}

func (c *chunks) flush() error {
	if c.data.Len() == 0 {
		return nil
	}
	err := c.w.add(fmt.Sprintf("%s%06d.cbor", c.at, c.n), c.data.Bytes())
	c.data.Reset()
	c.n++
	return err
}
