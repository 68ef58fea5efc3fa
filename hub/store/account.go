package store

import (
	"context"
	"encoding/hex"
	"errors"
	"time"
)

var (
	// ErrHasDevices: the account cannot be deleted while it has devices.
	ErrHasDevices = errors.New("store: the account has devices")
	// ErrTooMany: the account has the maximum number of API tokens.
	ErrTooMany = errors.New("store: the account has the maximum number of API tokens")
)

// MaxSessions is how many sessions an account may have.
const MaxSessions = 200

// Account is a person or program that owns devices. ID is 24 lower-case hexadecimal digits; the
// account's prn is "prn:::accounts:/" + ID.
type Account struct {
	ID           string
	Nick         string // unique, 3 to 23 characters
	Email        string // unique when not empty
	PasswordHash string // argon2id, PHC string format; never leaves the hub
	Created      time.Time
	Disabled     bool // nobody can sign in, and no new device can join
}

// Session is a signed-in account. It is found by the SHA-256 of its random token; the token itself
// is not stored.
type Session struct {
	TokenHash Hash
	AccountID string
	Created   time.Time
	Expires   time.Time
	Addr      string // IP address that signed in
	Means     string // ByPage or ByAPI
}

// ID names a session to the session's owner: the first half of the token's hash, as 32 hexadecimal
// digits. Nobody can sign in with an ID.
func (s Session) ID() string { return hex.EncodeToString(s.TokenHash[:16]) }

// APIToken lets a program act for an account, within scopes and until it expires. It is found by
// the SHA-256 of the token; the token itself is not stored.
type APIToken struct {
	ID       string // 24 lower-case hexadecimal digits
	Hash     Hash
	Account  string // Account.ID
	Name     string // unique for its account
	Scopes   string // separated by spaces
	Created  time.Time
	Expires  time.Time
	Used     time.Time // last use, up to ten minutes late; zero: never
	UsedAddr string
}

// PasswordChange replaces an account's password.
type PasswordChange struct {
	Account string // Account.ID
	// VerifiedHash is the PasswordHash that the current password was verified against. It is empty when the
	// operator resets the password, which needs no current one.
	VerifiedHash string
	NewHash      string // the new PasswordHash
	// KeepSession is the session that stays; all others end.
	KeepSession Hash
	// EndAPITokens also ends the account's API tokens.
	EndAPITokens bool
	Event        Event // for the audit trail
}

// Accounts keeps accounts. Methods that take an Event append it in the same transaction.
type Accounts interface {
	// CreateAccount fails with ErrExists when the nick or the e-mail is in use (compared without
	// regard to ASCII case), or when a deleted account still reserves the nick.
	CreateAccount(ctx context.Context, a Account) error
	Account(ctx context.Context, id string) (Account, error)
	// AccountByNickOrEmail finds an account by nick or e-mail, without regard to ASCII case.
	AccountByNickOrEmail(ctx context.Context, login string) (Account, error)
	CountAccounts(ctx context.Context) (int, error)
	// Accounts lists accounts by nick, without regard to ASCII case, after the nick `after` (empty:
	// from the start), at most limit (0: 100, at most 1000).
	Accounts(ctx context.Context, after string, limit int) ([]Account, error)
	// PublicOwners lists, in order, the nicks of accounts that are not disabled and have a public
	// device, and the nick of the account self. It lists only nicks that begin with prefix, without
	// regard to ASCII case.
	PublicOwners(ctx context.Context, prefix, self string, limit int) ([]string, error)
	// ChangePassword ends all sessions but c.KeepSession. ErrNotFound: the account does not exist.
	// ErrChanged: c.VerifiedHash is no longer the account's hash, or the account is disabled and this is not
	// a reset.
	ChangePassword(ctx context.Context, c PasswordChange) error
	// DisableAccount ends the account's sessions and API tokens and makes its join tokens unusable
	// until EnableAccount. Its devices keep working. Both methods are idempotent and append the
	// event only if they change something.
	DisableAccount(ctx context.Context, id string, e Event) error
	EnableAccount(ctx context.Context, id string, e Event) error
	// DeleteAccount deletes an account that has no devices, with its sessions, API tokens, join
	// tokens, policy, EK list and waiting devices. Its nick stays reserved until ReleaseNick.
	// ErrNotFound, ErrHasDevices.
	DeleteAccount(ctx context.Context, id string, e Event) error
	// ReleaseNick lets CreateAccount use the nick of a deleted account. It is idempotent.
	ReleaseNick(ctx context.Context, nick string) error
}

// Sessions keeps the sessions of accounts.
type Sessions interface {
	// CreateSession makes a session for a person whose password was verified against the
	// Account.PasswordHash verified. ErrChanged: the account's hash has changed, or the account was
	// disabled. ErrNotFound: the account was deleted. When an account has MaxSessions, its oldest
	// session ends.
	CreateSession(ctx context.Context, s Session, verified string) error
	// Session returns ErrNotFound for a session that expired at or before now.
	Session(ctx context.Context, token Hash, now time.Time) (Session, error)
	DeleteSession(ctx context.Context, token Hash) error
	// Sessions lists an account's sessions that have not expired, newest first.
	Sessions(ctx context.Context, account string, now time.Time) ([]Session, error)
	// EndSession ends an account's session by its Session.ID. ErrNotFound.
	EndSession(ctx context.Context, account, id string, e Event) error
	// EndSessions ends all sessions of an account but keep, and returns how many of them had not
	// expired. It appends the event only if that number is not 0.
	EndSessions(ctx context.Context, account string, keep Hash, e Event) (int, error)
}

// APITokens keeps the API tokens of accounts.
type APITokens interface {
	// CreateAPIToken makes an API token. It fails with ErrNotFound if the session has ended, so
	// that a session that a password change ended cannot make a token; with ErrExists if the
	// account has a token of that name; with ErrTooMany if the account has max tokens that are
	// still valid at t.Created. Expired tokens are removed.
	CreateAPIToken(ctx context.Context, t APIToken, session Hash, max int, e Event) error
	// APIToken returns ErrNotFound for a token that expired at or before now.
	APIToken(ctx context.Context, hash Hash, now time.Time) (APIToken, error)
	// APITokens lists an account's tokens, newest first, expired ones included.
	APITokens(ctx context.Context, account string) ([]APIToken, error)
	// MarkAPITokenUsed records a use. If the token was deleted, it does nothing.
	MarkAPITokenUsed(ctx context.Context, hash Hash, addr string, now time.Time) error
	// DeleteAPIToken ends a token by its id. ErrNotFound.
	DeleteAPIToken(ctx context.Context, account, id string, e Event) error
}
