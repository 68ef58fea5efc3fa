package store

import (
	"context"
	"time"
)

// MaxJoinTokens is the largest number of join tokens of an owner, including disabled and expired
// tokens.
const MaxJoinTokens = 10_000

// JoinToken lets devices join an owner's account. The hub has only the public half of the key that
// is derived from the token's secret.
type JoinToken struct {
	ID        string // 24 lower-case hexadecimal digits
	Owner     string // Account.ID
	Nick      string // displayed to the owner; not unique
	PublicKey []byte // Ed25519, 32 bytes
	Expires   time.Time
	MaxUses   int // 0: no limit
	Uses      int // devices that activated with the token, each counted once
	Disabled  bool
	Paused    bool // the hub was restored, and may have lost uses: only devices that have used the token can use it
	// DefaultUserMeta becomes the user-meta of each device that joins with the token.
	DefaultUserMeta map[string]any
	// Unreadable lists the members of DefaultUserMeta that the database contains but that a read
	// cannot return (see MaxMeta). Each is a JSON Pointer that begins with "/default-user-meta".
	Unreadable []string
	Created    time.Time
	// WithoutTPM means that devices may send the token's secret itself, without evidence. The hub
	// then finds the token by SecretHash, the SHA-256 of the secret.
	WithoutTPM bool
	SecretHash Hash
	// ForPantacor means that devices may send the ownership proof in Pantacor's form. PantacorKey
	// is the key that verifies those proofs, encrypted by the hub.
	ForPantacor bool
	PantacorKey []byte
}

// TokenForEK holds all that the hub needs before it can judge a request: the fields of the join
// token on which the judgement depends, and what the hub knows about the EK in the request.
type TokenForEK struct {
	ID, Owner     string
	PublicKey     []byte
	Expires       time.Time
	Disabled      bool  // as JoinToken.Disabled
	Generation    int   // TPM.Generation; 0 if the EK was never activated at this hub
	ConfigVersion int64 // see Config
	// Waits reports whether WaitingByEK finds a device of the token's owner with this EK.
	Waits bool
}

// Fits reports whether the hub may enrol `e` with the token at the time `now`, if it has judged the
// request by the rules of the config version `version`. Fits does not look at Waits.
func (t TokenForEK) Fits(e *Enrolment, version int64, now time.Time) bool {
	return t.Owner == e.Owner && !t.Disabled && t.Expires.After(now) && t.Generation == e.Generation && t.ConfigVersion == version
}

// JoinTokens stores the join tokens of accounts.
type JoinTokens interface {
	// CreateJoinToken stores a new join token. ErrExists: the id is in use. ErrFull: the owner
	// already has MaxJoinTokens. *MetaError, ErrTooLarge: the default user-meta cannot be stored.
	CreateJoinToken(ctx context.Context, t JoinToken) error
	JoinToken(ctx context.Context, id string) (JoinToken, error)
	// JoinTokenBySecretHash finds a join token by its SecretHash. Only tokens whose WithoutTPM is
	// true have a SecretHash.
	JoinTokenBySecretHash(ctx context.Context, hash Hash) (JoinToken, error)
	// JoinTokenForEK returns a token and what the hub knows about an endorsement key, all from the
	// same state of the database. ErrNotFound: there is no such token.
	JoinTokenForEK(ctx context.Context, id string, ek Hash, now time.Time) (TokenForEK, error)
	// JoinTokens lists an owner's tokens, newest first.
	JoinTokens(ctx context.Context, owner string) ([]JoinToken, error)
	// JoinTokensPage lists an owner's join tokens, newest first. The list starts after the token
	// with the id `after`, or with the newest token if `after` is empty. It has at most limit
	// tokens (0 means 100; never more than 1000). ErrNotFound: the owner has no token with the id
	// `after`.
	JoinTokensPage(ctx context.Context, owner, after string, limit int) ([]JoinToken, error)
	// JoinTokensByNick lists an owner's join tokens with this nick, newest first. It ignores the
	// case of ASCII letters, and returns at most limit tokens (0 means 100; never more than 1000).
	JoinTokensByNick(ctx context.Context, owner, nick string, limit int) ([]JoinToken, error)
	// JoinTokensExpiring lists an owner's join tokens that are not disabled and expire between the
	// times `after` and `before`. The token that expires next comes first. It returns at most limit
	// tokens (0 means 100; never more than 1000).
	JoinTokensExpiring(ctx context.Context, owner string, after, before time.Time, limit int) ([]JoinToken, error)
	// DisableJoinToken disables a join token. If the token is already disabled, it changes nothing
	// and returns nil. ErrNotFound: the owner has no token with this id.
	DisableJoinToken(ctx context.Context, owner, id string) error
	// DeleteJoinToken deletes a join token that is disabled. Devices that joined with the token
	// stay. ErrNotFound: the owner has no token with this id. ErrStatus: the token is not disabled.
	DeleteJoinToken(ctx context.Context, owner, id string, e Event) error
}
