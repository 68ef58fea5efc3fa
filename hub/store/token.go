package store

import (
	"context"
	"time"
)

// MaxJoinTokens bounds the join tokens that an owner has, disabled and expired ones included.
const MaxJoinTokens = 10_000

// JoinToken lets devices join an owner's account. The hub has only the public half of the key
// derived from the token's secret.
type JoinToken struct {
	ID        string // 24 lower-case hexadecimal digits
	Owner     string // Account.ID
	Nick      string // shown to the owner; not unique
	PublicKey []byte // Ed25519, 32 bytes
	Expires   time.Time
	MaxUses   int // 0: no limit
	Uses      int // devices that activated with it, each counted once
	Disabled  bool
	// DefaultUserMeta is the first user-meta of a device that joins with the token.
	DefaultUserMeta map[string]any
	// Unreadable are JSON Pointers, from "/default-user-meta", of members that were kept and
	// cannot be returned. See MaxMeta.
	Unreadable []string
	Created    time.Time
	// WithoutTPM: devices may send the token's secret itself, with no evidence. The hub then finds
	// the token by SecretHash.
	WithoutTPM bool
	SecretHash Hash
	// ForPantacor: devices may prove ownership in Pantacor's form. PantacorKey is the key that
	// verifies those proofs, encrypted by the hub.
	ForPantacor bool
	PantacorKey []byte
}

// JoinTokens keeps the join tokens of accounts.
type JoinTokens interface {
	// CreateJoinToken fails with ErrExists when the id is in use, with ErrFull when the owner has
	// MaxJoinTokens, and like PatchDeviceMeta when the user-meta cannot be kept.
	CreateJoinToken(ctx context.Context, t JoinToken) error
	JoinToken(ctx context.Context, id string) (JoinToken, error)
	// JoinTokenBySecretHash finds a token that is WithoutTPM by its SecretHash.
	JoinTokenBySecretHash(ctx context.Context, hash Hash) (JoinToken, error)
	// JoinTokenAndGeneration returns a token and the TPM.Generation of an endorsement key, both read at the
	// same moment. The generation of an EK that never activated here is 0.
	JoinTokenAndGeneration(ctx context.Context, id string, ek Hash) (t JoinToken, generation int, err error)
	// JoinTokens lists an owner's tokens, newest first.
	JoinTokens(ctx context.Context, owner string) ([]JoinToken, error)
	// JoinTokensPage lists an owner's join tokens, newest first, after the token `after` (empty:
	// from the newest), at most limit (0: 100, at most 1000). ErrNotFound: the owner has no token
	// `after`.
	JoinTokensPage(ctx context.Context, owner, after string, limit int) ([]JoinToken, error)
	// JoinTokensByNick lists an owner's join tokens with a nick, without regard to ASCII case, newest
	// first, at most limit (0: 100, at most 1000).
	JoinTokensByNick(ctx context.Context, owner, nick string, limit int) ([]JoinToken, error)
	// JoinTokensExpiring lists an owner's join tokens that are not disabled and expire after one time
	// and before another, the next first, at most limit (0: 100, at most 1000).
	JoinTokensExpiring(ctx context.Context, owner string, after, before time.Time, limit int) ([]JoinToken, error)
	// DisableJoinToken is idempotent. ErrNotFound: the owner has no token with this id.
	DisableJoinToken(ctx context.Context, owner, id string) error
	// DeleteJoinToken deletes a join token that is disabled. Devices that joined with the token
	// stay. ErrNotFound; ErrStatus: the token is not disabled.
	DeleteJoinToken(ctx context.Context, owner, id string, e Event) error
}
