package policy

import (
	"bytes"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"gangway/hub/store"
	"gangway/internal/strictjson"
	"gangway/tcg"
)

// Bounds of an EK list.
const (
	MaxListSize = 24 << 20 // bytes
	MaxListed   = 200_000
)

// ListEntry is one entry of an EK list in JSON. It has either EK or Serial.
type ListEntry struct {
	EK     string `json:"ek_sha256,omitempty"` // SHA-256 of the EK's SubjectPublicKeyInfo, hexadecimal
	Serial string `json:"serial,omitempty"`    // serial number of the EK certificate, hexadecimal
	Note   string `json:"note,omitempty"`
	// Certificate is "required" or empty. If it is "required", the hub refuses the TPM unless it
	// has a trusted EK certificate.
	Certificate string `json:"certificate,omitempty"`

	nameless bool // the entry is from a list that does not name its columns
}

const headerRemedy = "Without a header, each line is an EK's SHA-256 or a serial number, optionally followed by a note. If your list has more or other columns, write the names of the columns in the first line: ek_sha256,serial,note,certificate"

// ParseEKList parses an EK list, which is a JSON array or CSV.
//
// The entries of a JSON array are strings, or objects in the form of ListEntry. CSV may have a
// header that names the columns: ek_sha256, serial, note, certificate. Other columns are ignored.
// Without a header, each line has a value and, optionally, a note.
//
// A value that is not in a named column or field is the hash of an EK if it has 64 hexadecimal
// digits, and otherwise a serial number. Colons, spaces and the case of the digits do not matter.
// If an entry is invalid, ParseEKList rejects the whole list, and the error gives the number of the
// entry.
func ParseEKList(text []byte) ([]store.ListedEK, error) {
	if len(text) > MaxListSize {
		return nil, fmt.Errorf("the EK list has %d bytes; at most %d are allowed", len(text), MaxListSize)
	}
	text = bytes.TrimSpace(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))) // spreadsheets write a byte order mark
	var lines []ListEntry
	var err error
	if bytes.HasPrefix(text, []byte("[")) {
		lines, err = listFromJSON(text)
	} else {
		lines, err = listFromCSV(text)
	}
	if err != nil {
		return nil, err
	}
	if len(lines) == 0 {
		return nil, errors.New("the EK list is empty; remove the list if you do not need one")
	}
	if len(lines) > MaxListed {
		return nil, fmt.Errorf("the EK list has %d lines; at most %d are allowed", len(lines), MaxListed)
	}
	out := make([]store.ListedEK, len(lines))
	for i, l := range lines {
		if out[i], err = l.stored(); err != nil && l.nameless {
			return nil, fmt.Errorf("EK list, entry %d: %w. The list has no header. %s", i+1, err, headerRemedy)
		} else if err != nil {
			return nil, fmt.Errorf("EK list, entry %d: %w", i+1, err)
		}
	}
	return out, nil
}

func listFromJSON(text []byte) ([]ListEntry, error) {
	var raw []json.RawMessage
	if err := strictjson.Decode(text, &raw); err != nil {
		return nil, fmt.Errorf("EK list: %w", err)
	}
	out := make([]ListEntry, len(raw))
	for i, r := range raw {
		var value string
		if json.Unmarshal(r, &value) == nil {
			out[i] = nameless(value)
			continue
		}
		if err := strictjson.DecodeKnown(r, &out[i]); err != nil {
			return nil, fmt.Errorf("EK list, entry %d: %w", i+1, err)
		}
	}
	return out, nil
}

func listFromCSV(text []byte) ([]ListEntry, error) {
	r := csv.NewReader(bytes.NewReader(text))
	r.Comment = '#'
	r.FieldsPerRecord = -1
	r.TrimLeadingSpace = true
	if line, _, _ := bytes.Cut(text, []byte("\n")); bytes.Contains(line, []byte(";")) && !bytes.Contains(line, []byte(",")) {
		r.Comma = ';'
	}
	key, serial, note, certificate := -1, -1, -1, -1
	var out []ListEntry
	for first := true; ; first = false {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("EK list: %w", err)
		}
		if first {
			column := func(name string) int {
				return slices.IndexFunc(record, func(s string) bool { return strings.EqualFold(strings.TrimSpace(s), name) })
			}
			key, serial, note, certificate = column("ek_sha256"), column("serial"), column("note"), column("certificate")
			if key >= 0 || serial >= 0 {
				continue
			}
		}
		field := func(i int) string {
			if i < 0 || i >= len(record) {
				return ""
			}
			return strings.TrimSpace(record[i])
		}
		if key < 0 && serial < 0 {
			if len(record) > 2 {
				// Without a header, the hub knows what only the first two columns mean. If it
				// ignored a third column, it might ignore the word "required".
				return nil, fmt.Errorf("EK list, entry %d: the line has %d columns, and the list has no header. %s", len(out)+1, len(record), headerRemedy)
			}
			l := nameless(field(0))
			l.Note, l.nameless = field(1), true
			out = append(out, l)
			continue
		}
		out = append(out, ListEntry{EK: field(key), Serial: field(serial), Note: field(note), Certificate: field(certificate)})
	}
}

func nameless(value string) ListEntry {
	if len(digits(value)) == 64 {
		return ListEntry{EK: value}
	}
	return ListEntry{Serial: value}
}

func digits(s string) string {
	s = strings.TrimPrefix(strings.ToLower(strings.TrimSpace(s)), "0x")
	return strings.NewReplacer(":", "", " ", "").Replace(s)
}

func (l ListEntry) stored() (store.ListedEK, error) {
	e := store.ListedEK{Note: tcg.Printable(l.Note)}
	if len(e.Note) > maxText {
		return e, fmt.Errorf("the note is longer than %d characters", maxText)
	}
	switch word := strings.TrimSpace(l.Certificate); {
	case strings.EqualFold(word, CertificateRequired):
		e.CertificateRequired = true
	case word != "":
		return e, fmt.Errorf("\"certificate\" is %q; it must be %s or empty", tcg.Printable(word), CertificateRequired)
	}
	switch {
	case l.EK != "":
		b, err := hex.DecodeString(digits(l.EK))
		if err != nil || len(b) != len(store.Hash{}) {
			return e, fmt.Errorf("%q is not a SHA-256 of 64 hexadecimal digits", tcg.Printable(l.EK))
		}
		h := store.Hash(b)
		e.Key = &h
	case l.Serial != "":
		d := digits(l.Serial)
		b, err := hex.DecodeString(strings.Repeat("0", len(d)%2) + d)
		b = bytes.TrimLeft(b, "\x00")
		if err != nil || len(b) == 0 || len(b) > 64 {
			return e, fmt.Errorf("%q is not a hexadecimal serial number", tcg.Printable(l.Serial))
		}
		e.Cert = b
	default:
		return e, errors.New("the entry has neither \"ek_sha256\" nor \"serial\"")
	}
	return e, nil
}

// CertificateRequired is the value of ListEntry.Certificate that requires an EK certificate.
const CertificateRequired = "required"

// NewListEntry converts a stored entry of an EK list to its JSON form.
func NewListEntry(e store.ListedEK) ListEntry {
	l := ListEntry{Note: e.Note}
	if e.Key != nil {
		l.EK = hex.EncodeToString(e.Key[:])
	} else {
		l.Serial = hex.EncodeToString(e.Cert)
	}
	if e.CertificateRequired {
		l.Certificate = CertificateRequired
	}
	return l
}
