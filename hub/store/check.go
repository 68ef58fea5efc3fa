package store

import "context"

// Disagreement is a consistency rule that is broken, with the rows of the database that break it.
type Disagreement struct {
	Rule string   // stable, such as "device-certificate"
	Rows []string // some of the rows: the ids of devices, accounts or join tokens, or the names of counters
	More bool     // there are more rows than Rows
}

// Identity has the hashes and certificates of an enrolment, so that they can be checked against
// each other.
type Identity struct {
	Row int64
	Enrolment
	Unreadable string // why a column cannot be read, or empty
}

// RevisionState is the state of a revision, with its stored hash Sum. The store does not check that
// the hash matches the state, so the caller must.
type RevisionState struct {
	Row    int64
	Device string
	Rev    int
	Sum    Hash
	State  []byte
}

// Consistency checks that the records in the database agree with each other: certificates, devices,
// registries, objects and counters. They disagree only after a fault of the disk, the memory or the
// program, or after another program has changed the database.
type Consistency interface {
	// Disagreements returns the rules that the database breaks, each with at most `limit` of the
	// rows that break it. It reads the whole database in one snapshot, and changes nothing.
	Disagreements(ctx context.Context, limit int) ([]Disagreement, error)
	// WrongHashes returns the broken rules about hashes, each with the rows that break it.
	WrongHashes(ctx context.Context) ([]Disagreement, error)
	// Identities returns at most `limit` enrolments whose Row is greater than `after`, in the order
	// of Row. It sets only the fields that a caller can check against a certificate or a hash.
	Identities(ctx context.Context, after int64, limit int) ([]Identity, error)
	// States returns the states of at most `limit` revisions whose Row is greater than `after`, in
	// the order of Row.
	States(ctx context.Context, after int64, limit int) ([]RevisionState, error)
	// StoredObjects returns at most `limit` objects that have content and whose Sum is greater than
	// `after`, in the order of Sum. Only Sum and Size are set.
	StoredObjects(ctx context.Context, after Hash, limit int) ([]Object, error)
}
