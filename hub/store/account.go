package store

import (
	"context"
	"encoding/hex"
	"errors"
	"time"
)

var (
	// ErrHasDevices means that the account cannot be deleted, because it still has devices.
	ErrHasDevices = errors.New("store: the account has devices")
	// ErrTooMany means that the account has the maximum number of API tokens.
	ErrTooMany = errors.New("store: the account has the maximum number of API tokens")
)

// MaxSessions is the largest number of sessions that an account may have.
const MaxSessions = 200

// Account is a person's or program's entry at the hub; it can own devices. ID is 24 lower-case
// hexadecimal digits; the account's prn is "prn:::accounts:/" + ID.
type Account struct {
	ID           string
	Nick         string // unique, 3 to 23 characters
	Email        string // unique if not empty
	PasswordHash string // argon2id, in PHC string format; never leaves the hub
	Created      time.Time
	Disabled     bool // nobody can sign in, and no new device can join the account
	// Operator means that the account has the role operator: it sees counts and owners of the whole
	// hub. Only a command on the hub's machine gives the role.
	Operator bool
}

// Session is the record that a person is signed in. It is found by the SHA-256 of its random token;
// the token itself is not stored.
type Session struct {
	TokenHash Hash
	AccountID string
	Created   time.Time
	Expires   time.Time
	Addr      string // IP address from which the person signed in
	Means     string // ByPage or ByAPI
}

// ID returns a name for the session that its owner may see: the first half of the token's hash, as
// 32 hexadecimal digits. Nobody can sign in with an ID.
func (s Session) ID() string { return hex.EncodeToString(s.TokenHash[:16]) }

// APIToken lets a program act for an account, within scopes and until it expires. It is found by
// the SHA-256 of the token; the token itself is not stored.
type APIToken struct {
	ID       string // 24 lower-case hexadecimal digits
	Hash     Hash
	Account  string // Account.ID
	Name     string // unique within its account
	Scopes   string // separated by spaces
	Created  time.Time
	Expires  time.Time
	Used     time.Time // time of the last use, recorded up to ten minutes late; zero: never used
	UsedAddr string
}

// PasswordChange replaces an account's password.
type PasswordChange struct {
	Account string // Account.ID
	// VerifiedHash is the PasswordHash against which the current password was verified. It is empty
	// if the operator resets the password, because a reset needs no current password.
	VerifiedHash string
	NewHash      string // the new PasswordHash
	// KeepSession is the TokenHash of the session that stays signed in; all others end.
	KeepSession Hash
	// If EndAPITokens is true, the account's API tokens end too.
	EndAPITokens bool
	Event        Event // for the audit trail
}

// Accounts stores accounts. A method that takes an Event appends it in the same transaction.
type Accounts interface {
	// CreateAccount stores a new account. ErrExists: another account has the nick or the e-mail
	// address (ASCII case is ignored), or a deleted account still reserves the nick.
	CreateAccount(ctx context.Context, a Account) error
	Account(ctx context.Context, id string) (Account, error)
	// AccountByNickOrEmail finds an account by its nick or e-mail address. ASCII case is ignored.
	AccountByNickOrEmail(ctx context.Context, login string) (Account, error)
	CountAccounts(ctx context.Context) (int, error)
	// Accounts lists accounts in the order of their nicks (ASCII case is ignored), starting after
	// the nick `after`, or with the first nick if it is empty. It returns at most limit accounts
	// (0: 100; at most 1000).
	Accounts(ctx context.Context, after string, limit int) ([]Account, error)
	// PublicOwners lists, in order, the nicks of accounts that are not disabled and have a public
	// device, and the nick of the account `self`. It lists only nicks that begin with prefix (ASCII
	// case is ignored).
	PublicOwners(ctx context.Context, prefix, self string, limit int) ([]string, error)
	// ChangePassword changes the password and ends all sessions except c.KeepSession. ErrNotFound:
	// the account does not exist. ErrChanged: c.VerifiedHash is no longer the account's hash, or
	// the account is disabled and c is not a reset.
	ChangePassword(ctx context.Context, c PasswordChange) error
	// DisableAccount ends the account's sessions and API tokens. Its join tokens cannot be used
	// until EnableAccount. Its devices keep working. Both methods may be called again without
	// effect: they append the event only if they change something.
	DisableAccount(ctx context.Context, id string, e Event) error
	EnableAccount(ctx context.Context, id string, e Event) error
	// DeleteAccount deletes an account that has no devices, with its sessions, API tokens, join
	// tokens, policy, EK list and waiting devices. Its nick stays reserved until ReleaseNick.
	// Errors: ErrNotFound, ErrHasDevices.
	DeleteAccount(ctx context.Context, id string, e Event) error
	// ReleaseNick makes the nick of a deleted account available to CreateAccount. It succeeds even
	// if no account reserved the nick.
	ReleaseNick(ctx context.Context, nick string) error
}

// Sessions stores the sessions of accounts.
type Sessions interface {
	// CreateSession stores a session for a person whose password was verified against `verified`,
	// the PasswordHash of the account at that time. If the account already has MaxSessions, its
	// oldest session ends. ErrChanged: the account's hash has changed since then, or the account
	// was disabled. ErrNotFound: the account was deleted.
	CreateSession(ctx context.Context, s Session, verified string) error
	// Session finds a session by the SHA-256 of its token. ErrNotFound: no session has this token,
	// or it expired at or before now.
	Session(ctx context.Context, token Hash, now time.Time) (Session, error)
	DeleteSession(ctx context.Context, token Hash) error
	// Sessions lists an account's sessions that have not expired, newest first.
	Sessions(ctx context.Context, account string, now time.Time) ([]Session, error)
	// EndSession ends the session of the account that has this Session.ID. ErrNotFound: the account
	// has no such session.
	EndSession(ctx context.Context, account, id string, e Event) error
	// EndSessions ends all sessions of an account except the one with the hash `keep`. It returns
	// the number of ended sessions that had not expired, and appends the event only if that number
	// is not 0.
	EndSessions(ctx context.Context, account string, keep Hash, e Event) (int, error)
}

// APITokens stores the API tokens of accounts.
type APITokens interface {
	// CreateAPIToken stores an API token. ErrNotFound: the session has ended; so a session that a
	// password change ended cannot make a token. ErrExists: the account has a token with this name.
	// ErrTooMany: the account has `max` tokens that are still valid at t.Created. The account's
	// expired tokens are removed.
	CreateAPIToken(ctx context.Context, t APIToken, session Hash, max int, e Event) error
	// APIToken finds a token by its hash. ErrNotFound: no token has this hash, or it expired at or
	// before now.
	APIToken(ctx context.Context, hash Hash, now time.Time) (APIToken, error)
	// APITokens lists an account's tokens, newest first, including expired tokens.
	APITokens(ctx context.Context, account string) ([]APIToken, error)
	// MarkAPITokenUsed records the time and address of a token's use. If the token was deleted, it
	// does nothing.
	MarkAPITokenUsed(ctx context.Context, hash Hash, addr string, now time.Time) error
	// DeleteAPIToken deletes a token of an account by the token's id. ErrNotFound: the account has
	// no such token.
	DeleteAPIToken(ctx context.Context, account, id string, e Event) error
}
