// Package backup writes and reads backups of a hub. docs/backup.md describes the format.
//
// A backup is a file with the keys and all rows of the database, and a folder with the objects. The
// file is a tar archive, encrypted with age. Its last entries are a list of all entries with their
// hashes, and a signature of this list by the hub's attestation CA. So only the hub can make a
// backup that Read accepts: encryption alone does not show who made a file, because anyone can
// encrypt to a recipient.
//
// Each object is in a separate file. All backups in the same folder share these files.
package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"gangway/hub/objects"
)

// Format is the version of the format.
const Format = 1

// Header is the first entry of a backup.
type Header struct {
	Format  int       `json:"format"`
	Hub     string    `json:"hub"`   // the hub name
	Epoch   int64     `json:"epoch"` // later backups and starts of the hub have greater numbers
	Begun   time.Time `json:"begun"` // everything that the hub acknowledged before this time is in the backup
	Version string    `json:"version"`
	Engine  string    `json:"engine"` // transfer.EngineSQLite or transfer.EnginePostgres
	Schema  int64     `json:"schema"`
	Objects bool      `json:"objects"` // false: the backup does not have the objects
}

// Object is an object that a backup has.
type Object struct {
	Key  objects.Key
	Size int64
	File string // its file in the folder of the objects, such as "ab/cdef.age"
}

// end is the entry that lists all entries before it.
type end struct {
	Entries  []entry          `json:"entries"`
	Counters map[string]int64 `json:"counters"` // the last numbers that the database assigned, for transfer.Target.Finish
	Objects  int              `json:"objects"`  // number of objects
	Bytes    int64            `json:"bytes"`    // size of all objects
}

type entry struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func entryOf(name string, content []byte) entry {
	sum := sha256.Sum256(content)
	return entry{name, int64(len(content)), hex.EncodeToString(sum[:])}
}

// The names of the entries, in their order.
const (
	headerEntry    = "header.json"
	keysPrefix     = "pki/"
	tablesPrefix   = "tables/" // tables/NAME/columns.json, tables/NAME/000000.cbor and so on
	columnsName    = "columns.json"
	objectsPrefix  = "objects/" // objects/000000.cbor and so on
	endEntry       = "end.json"
	signatureEntry = "end.sig"
)

// The largest sizes of entries, in bytes. The rows of a table are in chunks. A chunk ends with the
// row that makes the chunk longer than chunkSize. The longest rows are enrolments with the device's
// evidence, and revisions with their state.
const (
	maxSmall  = 64 << 10
	chunkSize = 4 << 20
	maxChunk  = 64 << 20
)

// Refusal is the reason why a backup cannot be used.
type Refusal struct {
	Code   string // stable, such as "backup-altered"
	Fact   string
	Remedy string
}

func (r *Refusal) Error() string { return r.Fact + " " + r.Remedy }

// The codes of refusals.
const (
	CodeIncomplete = "backup-incomplete"
	CodeAltered    = "backup-altered"
	CodeUnreadable = "backup-unreadable"
	CodeOtherHub   = "backup-other-hub"
	CodeFormat     = "backup-format"
	CodeObject     = "backup-object"
)

const otherBackup = "Use another backup, and keep this file: find out what changed it."

func incomplete(after string) error {
	return &Refusal{CodeIncomplete, fmt.Sprintf("The backup ends after %q, so a part of it is missing.", after), "Copy the file again, or use another backup."}
}

func altered(format string, args ...any) error {
	return &Refusal{CodeAltered, "The backup was changed: " + fmt.Sprintf(format, args...) + ".", otherBackup}
}
