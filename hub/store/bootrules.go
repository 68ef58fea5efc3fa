package store

import (
	"context"
	"time"
)

const (
	// MaxManifestKeys, MaxManifests and MaxBootDecisions are the maximum numbers of manifest keys,
	// manifests and boot decisions of one owner.
	MaxManifestKeys  = 20
	MaxManifests     = 100
	MaxBootDecisions = 1000
)

// ManifestKey is a public key with which an owner signs reference manifests.
type ManifestKey struct {
	Owner string // Account.ID
	ID    Hash   // SHA-256 of DER
	Name  string
	DER   []byte // SubjectPublicKeyInfo
	Added time.Time
}

// Manifest is a reference manifest whose signature was valid when the owner uploaded it. The hub
// uses it only as long as the owner has the key that signed it.
type Manifest struct {
	Owner  string
	ID     Hash   // SHA-256 of Signed
	Key    Hash   // ManifestKey.ID of the key that signed the manifest
	Text   []byte // the bytes that the signature covers
	Signed []byte // the manifest as the owner uploaded it
	Added  time.Time
	Counts bool // the owner has the key; set by reads
}

// BootDecision is an owner's decision to accept a measured Value of one Part of the boot, for
// example a new firmware. It applies to all devices of the owner, or only to devices with a certain
// model, join token or firmware version.
type BootDecision struct {
	ID    int64
	Owner string
	Part  string
	Value string
	Model string // empty: all models
	Token string // JoinToken.ID; empty: devices of all tokens
	// Firmware is a version, as in BootJudged.Firmware. If it is empty, the decision applies to all
	// versions.
	Firmware string
	Made     time.Time
	MadeBy   string // nick of the account
	Words    string // what was accepted, a sentence
	// Devices is the number of devices in the cohort when the decision was made.
	Devices int
}

// BootJudged is what the store must know about a device's newest boot in order to count and find
// the devices of a cohort (see BootCohort).
type BootJudged struct {
	// Version is the version of the owner's rules by which the boot was judged.
	Version  int64
	Model    string
	Token    string // JoinToken.ID
	Firmware string // the firmware's version, as it was measured
	Ran      []byte // JSON of the boot.System that ran; empty: keep the stored one
	States   []byte // JSON object: the state of each part of the boot, by the part's name
	Parts    []BootPart
}

// BootPart is the verdict on one part of a device's newest boot.
type BootPart struct {
	Part, Value string
	Bad         bool // the part is neither expected nor known
	Words       string
	Cause       string
}

// BootCohort counts an owner's devices of one model that measured the same value for one part of
// the boot, for example the same firmware.
type BootCohort struct {
	Part, Model, Value string
	Devices, Bad       int       // all devices of the cohort, and the bad ones: this part of their boot is neither expected nor known
	Of                 int       // all measured devices of the model
	First              time.Time // when a device of this model first measured the value
	Words, Cause       string    // from the verdict on the latest bad device; may be empty
	Firmware           string    // the firmware's version of the latest device
}

// BootMember is a device of a cohort.
type BootMember struct {
	Device, Nick string
	Bad          bool
}

// BootMembers selects the devices of a cohort. If Model is set, and Token and Firmware are empty,
// the bad devices come first, on which this part of the boot is neither expected nor known.
type BootMembers struct {
	Part, Value            string
	Model, Token, Firmware string // empty: all
	Limit                  int
}

// BootVersion counts the devices of a cohort that have the same firmware version.
type BootVersion struct {
	Firmware     string // BootJudged.Firmware; may be empty
	Devices, Bad int
}

// BootRules stores an owner's rules about boots: manifest keys, manifests and decisions. It also
// counts the devices of each cohort. Whenever a key, a manifest or a decision changes, the version
// of the owner's rules increases. A boot is stale if it was judged by an older version.
type BootRules interface {
	// ManifestKeys lists an owner's keys, by name.
	ManifestKeys(ctx context.Context, owner string) ([]ManifestKey, error)
	// PutManifestKey adds a key. Errors: ErrExists, ErrFull (the owner has MaxManifestKeys keys).
	PutManifestKey(ctx context.Context, k ManifestKey, e Event) error
	// DeleteManifestKey removes a key. The manifests that it signed remain stored, but the hub no
	// longer uses them. Errors: ErrNotFound.
	DeleteManifestKey(ctx context.Context, owner string, id Hash, e Event) error

	// Manifests lists an owner's manifests, newest first.
	Manifests(ctx context.Context, owner string) ([]Manifest, error)
	// PutManifest adds a manifest. Errors: ErrNotFound (the owner does not have the key),
	// ErrExists, ErrFull (the owner has MaxManifests manifests).
	PutManifest(ctx context.Context, m Manifest, e Event) error
	// DeleteManifest removes a manifest. Errors: ErrNotFound.
	DeleteManifest(ctx context.Context, owner string, id Hash, e Event) error

	// BootDecisions lists an owner's decisions, newest first. BootDecisionsFor lists only the
	// decisions whose Value is in the list `values`.
	BootDecisions(ctx context.Context, owner string) ([]BootDecision, error)
	BootDecisionsFor(ctx context.Context, owner string, values []string) ([]BootDecision, error)
	// PutBootDecision adds a decision and returns its id. Errors: ErrExists, ErrFull (the owner has
	// MaxBootDecisions decisions).
	PutBootDecision(ctx context.Context, d BootDecision, e Event) (int64, error)
	// DeleteBootDecision removes a decision. Errors: ErrNotFound.
	DeleteBootDecision(ctx context.Context, owner string, id int64, e Event) error

	// BootRulesVersion returns the version of an owner's rules, or 0 if the owner never changed
	// them.
	BootRulesVersion(ctx context.Context, owner string) (int64, error)
	// StaleBoots lists devices whose newest boot was judged by older rules: those of the given
	// owner, or of all owners if `owner` is empty.
	StaleBoots(ctx context.Context, owner string, limit int) ([]string, error)
	// JudgedBoot returns the BootJudged that is stored for a device's newest boot, without the
	// verdicts on the parts of the boot. ErrNotFound: the parts of the device's boot were never
	// judged.
	JudgedBoot(ctx context.Context, device string) (BootJudged, error)

	// BadBootCohorts lists the cohorts that have bad devices, on which this part of the boot is
	// neither expected nor known. The cohorts with the fewest bad devices come first or, if `most`
	// is true, those with the most. Instead of cohorts for the part "firmware", it lists cohorts
	// for its subset "firmware-code".
	BadBootCohorts(ctx context.Context, owner string, most bool, limit int) ([]BootCohort, error)
	// RareBootCohorts lists the cohorts with the fewest devices for one part of the boot.
	RareBootCohorts(ctx context.Context, owner, part string, limit int) ([]BootCohort, error)
	// BootCohorts lists the cohorts for one part of the boot and one model, or for all models if
	// `model` is empty, the largest cohort first.
	BootCohorts(ctx context.Context, owner, part, model string, limit int) ([]BootCohort, error)
	// BootCohortOf counts the devices that measured the value q.Value for the part q.Part of the
	// boot. If q.Model and q.Firmware are not empty, it counts only devices of this model and with
	// this firmware version. It ignores q.Token and q.Limit, and does not set BootCohort.Of.
	BootCohortOf(ctx context.Context, owner string, q BootMembers) (BootCohort, error)
	// BootVersions lists the firmware versions in a cohort, the most frequent first. It ignores
	// q.Token and q.Firmware.
	BootVersions(ctx context.Context, owner string, q BootMembers) ([]BootVersion, error)
	// BootMembers lists the devices of a cohort.
	BootMembers(ctx context.Context, owner string, q BootMembers) ([]BootMember, error)
}
