package backup

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"

	"gangway/hub/objects"
	"gangway/hub/pki"
	"gangway/hub/store/transfer"
	"gangway/internal/strictjson"

	"filippo.io/age"
	"github.com/fxamacker/cbor/v2"
)

// Visitor gets the content of a backup. Each function may be nil. The functions get data that is
// not verified yet: only if Read returns no error does the data come from the hub.
type Visitor struct {
	Header func(Header) error
	Key    func(name string, content []byte) error
	// Rows gets rows of a table. `first` is true in the first call for a table; this call has no
	// rows.
	Rows   func(table string, columns []string, rows [][]any, first bool) error
	Object func(Object) error
}

// Info is what Read verified.
type Info struct {
	Header   Header
	Counters map[string]int64
	Objects  int
	Bytes    int64
}

// reader reads the entries of a backup.
type reader struct {
	Visitor
	hubName   string
	tar       *tar.Reader
	header    *Header
	entries   []entry
	root, aca []byte // certificates from the backup
	table     string
	columns   []string
	objects   int
	bytes     int64
}

// Read reads a backup of the hub with this hub name, and verifies that the hub made all of it. An
// error of the type *Refusal says why the backup cannot be used.
func Read(from io.Reader, hubName string, v Visitor, identities ...age.Identity) (Info, error) {
	plain, err := age.Decrypt(from, identities...)
	var none *age.NoIdentityMatchError
	switch {
	case errors.As(err, &none):
		return Info{}, &Refusal{CodeUnreadable, "The backup is not encrypted to this identity.", "Name the file with the age identity that belongs to the recipient of 'gangway backup'."}
	case err != nil:
		return Info{}, &Refusal{CodeUnreadable, fmt.Sprintf("The file is not a backup of Gangway, or its beginning is damaged: %v.", err), otherBackup}
	}
	r := &reader{Visitor: v, hubName: hubName, tar: tar.NewReader(plain)}
	info, err := r.run()
	if err != nil {
		return info, err
	}
	// Nothing may follow the archive. The end of the decryption shows that the file is complete.
	switch n, err := io.Copy(io.Discard, plain); {
	case err != nil:
		return info, r.damaged(err)
	case n > 0:
		return info, altered("%d bytes follow its end", n)
	}
	return info, nil
}

// damaged returns the refusal for an error of the decryption or of the archive.
func (r *reader) damaged(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return incomplete(r.last())
	}
	return altered("the data after %q cannot be decrypted or read (%v)", r.last(), err)
}

func (r *reader) last() string {
	if len(r.entries) == 0 {
		return "its beginning"
	}
	return r.entries[len(r.entries)-1].Name
}

func (r *reader) run() (info Info, err error) {
	for {
		name, content, err := r.next()
		if err != nil {
			return info, err
		}
		if name == endEntry {
			return r.finish(content)
		}
		if err := r.visit(name, content); err != nil {
			return info, err
		}
		r.entries = append(r.entries, entryOf(name, content))
	}
}

// next reads an entry.
func (r *reader) next() (name string, content []byte, err error) {
	h, err := r.tar.Next()
	if err != nil {
		return "", nil, r.damaged(err)
	}
	most := int64(maxChunk)
	if h.Name == headerEntry || h.Name == signatureEntry || strings.HasPrefix(h.Name, keysPrefix) {
		most = maxSmall
	}
	if h.Typeflag != tar.TypeReg || h.Size > most {
		return "", nil, altered("the entry %.100q is not a file, or is too large", h.Name)
	}
	content, err = io.ReadAll(io.LimitReader(r.tar, most))
	if err != nil {
		return "", nil, r.damaged(err)
	}
	return h.Name, content, nil
}

func (r *reader) visit(name string, content []byte) error {
	if r.header == nil {
		return r.readHeader(name, content)
	}
	switch {
	case strings.HasPrefix(name, keysPrefix):
		return r.readKey(strings.TrimPrefix(name, keysPrefix), content)
	case strings.HasPrefix(name, tablesPrefix):
		table, file, _ := strings.Cut(strings.TrimPrefix(name, tablesPrefix), "/")
		if file == columnsName {
			return r.readColumns(table, content)
		}
		if table == r.table && r.columns != nil {
			return r.readRows(content)
		}
	case strings.HasPrefix(name, objectsPrefix):
		return r.readObjects(content)
	}
	return altered("the entry %.100q is unknown, or not in its place", name)
}

func (r *reader) readHeader(name string, content []byte) error {
	var h Header
	// Later formats may have more fields, so the format is read first.
	var format struct {
		Format int `json:"format"`
	}
	if name != headerEntry || json.Unmarshal(content, &format) != nil {
		return altered("the backup does not begin with a header")
	}
	if format.Format != Format {
		return &Refusal{CodeFormat, fmt.Sprintf("The backup has the format %d, and this program reads the format %d.", format.Format, Format),
			"Restore the backup with the version of gangway that made it, or a later one."}
	}
	if err := strictjson.Decode(content, &h); err != nil {
		return altered("the header cannot be read (%v)", err)
	}
	if h.Hub != r.hubName {
		return otherHub(h.Hub)
	}
	r.header = &h
	if r.Visitor.Header == nil {
		return nil
	}
	return r.Visitor.Header(h)
}

func otherHub(name string) error {
	return &Refusal{CodeOtherHub, fmt.Sprintf("The backup is of another hub, with the hub name %.64q.", name), "Correct --hub-name, or name a backup of this hub. The token files of your devices have the hub name."}
}

func (r *reader) readKey(name string, content []byte) error {
	if !keyName().MatchString(name) {
		return altered("a key file has the unexpected name %.100q", name)
	}
	switch name {
	case "root.crt":
		r.root = content
	case "aca.crt":
		r.aca = content
	}
	if r.Key == nil {
		return nil
	}
	return r.Key(name, content)
}

// columnName matches column names. Other texts must not become part of SQL statements.
var columnName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`) })

func (r *reader) readColumns(table string, content []byte) error {
	var columns []string
	if err := strictjson.Decode(content, &columns); err != nil || len(columns) == 0 {
		return altered("the columns of %.100q cannot be read", table)
	}
	if !transfer.Known(table) || !columnNames(columns) {
		return &Refusal{CodeFormat, fmt.Sprintf("This program does not know the table %.100q of the backup.", table), "Restore the backup with the version of gangway that made it."}
	}
	r.table, r.columns = table, columns
	if r.Rows == nil {
		return nil
	}
	return r.Rows(table, columns, nil, true)
}

func columnNames(list []string) bool {
	return !slices.ContainsFunc(list, func(name string) bool { return !columnName().MatchString(name) })
}

// decoding reads rows: a row has integers, texts (which may be invalid UTF-8), bytes and NULL.
var decoding = func() cbor.DecMode {
	mode, err := cbor.DecOptions{UTF8: cbor.UTF8DecodeInvalid, IntDec: cbor.IntDecConvertSignedOrFail, MaxNestedLevels: 4}.DecMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return mode
}()

// rowsOf decodes a chunk whose rows have n values.
func rowsOf(content []byte, n int, f func(row []any) error) error {
	d := decoding.NewDecoder(bytes.NewReader(content))
	for {
		var row []any
		if err := d.Decode(&row); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil || len(row) != n {
			return altered("a row cannot be read")
		}
		for _, v := range row {
			switch v.(type) {
			case nil, int64, string, []byte:
			default:
				return altered("a row has a value of the type %T", v)
			}
		}
		if err := f(row); err != nil {
			return err
		}
	}
}

func (r *reader) readRows(content []byte) error {
	var rows [][]any
	err := rowsOf(content, len(r.columns), func(row []any) error {
		rows = append(rows, row)
		return nil
	})
	if err != nil || r.Rows == nil {
		return err
	}
	return r.Rows(r.table, r.columns, rows, false)
}

// objectFile matches the names of objects' files.
var objectFile = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{2}/[0-9a-f]{62}\.age$`) })

func (r *reader) readObjects(content []byte) error {
	return rowsOf(content, 4, func(row []any) error {
		sum, _ := row[0].([]byte)
		place, _ := row[1].(string)
		size, ok := row[2].(int64)
		file, _ := row[3].(string)
		if len(sum) != sha256.Size || !ok || size < 0 || !objectFile().MatchString(file) {
			return altered("the list of objects cannot be read")
		}
		r.objects++
		r.bytes += size
		if r.Object == nil {
			return nil
		}
		return r.Object(Object{objects.Key{Sum: objects.Sum(sum), Place: place}, size, file})
	})
}

// finish compares the list of entries with the entries that were read, and verifies the signature
// of the list.
func (r *reader) finish(content []byte) (info Info, err error) {
	if r.header == nil {
		return info, altered("the backup does not begin with a header")
	}
	r.entries = append(r.entries, entryOf(endEntry, content))
	name, signature, err := r.next()
	if err != nil {
		return info, err
	}
	if name != signatureEntry {
		return info, altered("its signature is missing")
	}
	switch err := pki.VerifyBackup(r.hubName, r.root, r.aca, sha256.Sum256(content), signature); {
	case errors.Is(err, pki.ErrOtherHub):
		return info, otherHub(strings.TrimPrefix(err.Error(), "pki: "))
	case err != nil:
		return info, altered("the hub did not sign it (%s)", strings.TrimPrefix(err.Error(), "pki: "))
	}
	r.entries = r.entries[:len(r.entries)-1]
	var e end
	if err := strictjson.Decode(content, &e); err != nil {
		return info, altered("the list of entries cannot be read (%v)", err)
	}
	for i, one := range e.Entries {
		if i >= len(r.entries) || r.entries[i] != one {
			return info, altered("the entry %q is missing, or differs from its hash", one.Name)
		}
	}
	if len(r.entries) != len(e.Entries) || r.objects != e.Objects || r.bytes != e.Bytes {
		return info, altered("the backup has entries or objects that are not in its list")
	}
	switch _, err := r.tar.Next(); {
	case err == nil:
		return info, altered("an entry follows its signature")
	case !errors.Is(err, io.EOF):
		return info, r.damaged(err)
	}
	return Info{*r.header, e.Counters, e.Objects, e.Bytes}, nil
}
