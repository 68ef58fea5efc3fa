package store

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrDevices: the account cannot be deleted while it has devices.
	ErrDevices = errors.New("store: the account has devices")
	// ErrTooMany: the account has as many of these as it may.
	ErrTooMany = errors.New("store: the account has as many as it may")
)

// APIToken lets a program act for an account, within scopes and until it
// expires. It is found by the SHA-256 of the token: the token itself is not
// stored.
type APIToken struct {
	ID       string // 24 lower-case hexadecimal digits
	Hash     Hash
	Account  string // Account.ID
	Name     string // unique for its account
	Scopes   string // separated by spaces
	Created  time.Time
	Expires  time.Time
	Used     time.Time // zero: never; up to ten minutes old
	UsedAddr string
}

// PasswordChange replaces an account's password.
type PasswordChange struct {
	Account string // Account.ID
	// Was is the PasswordHash that the current password was verified against;
	// empty for a reset by the operator, which asks for none.
	Was string
	New string // the new PasswordHash
	// Keep is the session that stays; all others end.
	Keep Hash
	// EndAPITokens also ends the account's API tokens.
	EndAPITokens bool
	Event        Event // for the trail
}

// AccountDesk is what happens to accounts after they were made. Where a method
// takes an Event, it is appended in the same transaction.
type AccountDesk interface {
	// Accounts lists accounts by nick, without regard to ASCII case, after the
	// nick `after` (empty: from the start), at most limit (0: 100, at most 1000).
	Accounts(ctx context.Context, after string, limit int) ([]Account, error)
	// PublicOwners lists the nicks, by nick, of accounts that are not disabled
	// and have a public device, and of the account self. Nicks begin with
	// prefix, without regard to ASCII case.
	PublicOwners(ctx context.Context, prefix, self string, limit int) ([]string, error)
	// ChangePassword ends all sessions but c.Keep. ErrNotFound: there is no such
	// account. ErrChanged: c.Was is no longer the account's hash, or the account
	// is disabled and this is not a reset.
	ChangePassword(ctx context.Context, c PasswordChange) error
	// DisableAccount ends the account's sessions and API tokens and makes its
	// join tokens refuse until EnableAccount. Its devices go on. Both are
	// idempotent, and append the event only where they change something.
	DisableAccount(ctx context.Context, id string, e Event) error
	EnableAccount(ctx context.Context, id string, e Event) error
	// DeleteAccount deletes an account that has no devices, with its sessions,
	// API tokens, join tokens, policy, EK list and waiting machines. Its nick
	// stays reserved until ReleaseNick. ErrNotFound, ErrDevices.
	DeleteAccount(ctx context.Context, id string, e Event) error
	// ReleaseNick lets CreateAccount take the nick of a deleted account. It is
	// idempotent.
	ReleaseNick(ctx context.Context, nick string) error

	// Sessions lists an account's sessions that have not expired, newest first.
	Sessions(ctx context.Context, account string, now time.Time) ([]Session, error)
	// EndSession ends an account's session by its Session.ID. ErrNotFound.
	EndSession(ctx context.Context, account, id string, e Event) error
	// EndSessions ends all sessions of an account but keep, and says how many
	// had not expired. It appends the event only if there were some.
	EndSessions(ctx context.Context, account string, keep Hash, e Event) (int, error)

	// CreateAPIToken fails with ErrNotFound when the session has ended (no token
	// comes out of a session that a change of the password ended), ErrExists
	// when the account has a token of that name, ErrTooMany when it has max of them
	// that have not expired by t.Created. Expired ones are dropped.
	CreateAPIToken(ctx context.Context, t APIToken, session Hash, max int, e Event) error
	// APIToken returns ErrNotFound for one that expired at or before now.
	APIToken(ctx context.Context, hash Hash, now time.Time) (APIToken, error)
	// APITokens lists an account's, newest first, with those that have expired.
	APITokens(ctx context.Context, account string) ([]APIToken, error)
	// UsedAPIToken records a use. A token that is gone is let pass.
	UsedAPIToken(ctx context.Context, hash Hash, addr string, now time.Time) error
	// DeleteAPIToken ends a token by its id. ErrNotFound.
	DeleteAPIToken(ctx context.Context, account, id string, e Event) error

	// JoinTokensPage lists an owner's join tokens, newest first, after the token
	// `after` (empty: from the newest), at most limit (0: 100, at most 1000).
	// ErrNotFound: the owner has no token `after`.
	JoinTokensPage(ctx context.Context, owner, after string, limit int) ([]JoinToken, error)
	// DeleteJoinToken deletes a join token that is disabled. Devices that joined
	// with it stay. ErrNotFound; ErrStatus: it is not disabled.
	DeleteJoinToken(ctx context.Context, owner, id string, e Event) error
}
