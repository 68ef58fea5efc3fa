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

// MaxSessions is the maximum number of sessions of an account.
const MaxSessions = 200

// Account is a person's or program's entry at the hub; it can own devices. ID is 24 lower-case
// hexadecimal digits; the account's prn (Pantacor resource name) is "prn:::accounts:/" + ID.
type Account struct {
	ID           string
	Nick         string // unique, 3 to 23 characters
	Email        string // unique if not empty
	PasswordHash string // argon2id, in PHC string format; never leaves the hub
	Created      time.Time
	Disabled     bool // nobody can sign in, and no new device can join the account
	// Operator means that the account has the role operator, which may see all owners, and figures
	// about the whole hub. Only a command on the hub's machine can give an account this role.
	Operator bool
}

// Session records that a person is signed in. The hub finds it by the SHA-256 of the session's
// random token; the token itself is not stored.
type Session struct {
	TokenHash Hash
	AccountID string
	Created   time.Time
	Expires   time.Time
	Addr      string // the IP address from which the person signed in
	Means     string // ByPage or ByAPI
}

// ID returns a name for the session: the first half of the token's hash, as 32 hexadecimal digits.
// The ID may be shown to the account's owner, because nobody can sign in with it.
func (s Session) ID() string { return hex.EncodeToString(s.TokenHash[:16]) }

// APIToken lets a program act for an account, within the token's scopes and until the token
// expires. The hub finds it by the token's SHA-256; the token itself is not stored.
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
	// if the operator resets the password, which does not require the current password.
	VerifiedHash string
	NewHash      string // the new PasswordHash
	// KeepSession is the TokenHash of the session that stays signed in; all other sessions end.
	KeepSession Hash
	// If EndAPITokens is true, the account's API tokens end too.
	EndAPITokens bool
	Event        Event // for the audit trail
}

// Accounts stores accounts. A method that takes an Event appends it in the same transaction.
type Accounts interface {
	// CreateAccount stores a new account. ErrExists: another account has the nick or the e-mail
	// address (ignoring ASCII case), or the nick is still reserved for a deleted account.
	CreateAccount(ctx context.Context, a Account) error
	Account(ctx context.Context, id string) (Account, error)
	// AccountByNickOrEmail finds an account by its nick or e-mail address, ignoring ASCII case.
	AccountByNickOrEmail(ctx context.Context, login string) (Account, error)
	CountAccounts(ctx context.Context) (int, error)
	// Accounts lists at most `limit` accounts (0: 100; at most 1000) in the order of their nicks,
	// ignoring ASCII case. The list starts after the nick `after`, or with the first nick if
	// `after` is empty.
	Accounts(ctx context.Context, after string, limit int) ([]Account, error)
	// PublicOwners lists the nicks of the accounts that are not disabled and have a public device,
	// and the nick of the account with the id `self`. The list is sorted, and has only nicks that
	// begin with `prefix`, ignoring ASCII case.
	PublicOwners(ctx context.Context, prefix, self string, limit int) ([]string, error)
	// ChangePassword changes the password and ends all sessions except c.KeepSession. ErrNotFound:
	// the account does not exist. ErrChanged: c.VerifiedHash is no longer the account's hash, or
	// the account is disabled and c is not a reset by the operator.
	ChangePassword(ctx context.Context, c PasswordChange) error
	// DisableAccount ends the account's sessions and API tokens. The account's join tokens cannot
	// be used until EnableAccount is called. The account's devices keep working. If the account is
	// already disabled or enabled, DisableAccount and EnableAccount change nothing, and append no
	// event.
	DisableAccount(ctx context.Context, id string, e Event) error
	EnableAccount(ctx context.Context, id string, e Event) error
	// DeleteAccount deletes an account that has no devices, together with its sessions, API tokens,
	// join tokens, policy, EK list and waiting devices. The nick stays reserved until ReleaseNick
	// is called. Errors: ErrNotFound, ErrHasDevices.
	DeleteAccount(ctx context.Context, id string, e Event) error
	// ReleaseNick makes the nick of a deleted account available to CreateAccount again. It succeeds
	// even if the nick was not reserved.
	ReleaseNick(ctx context.Context, nick string) error
}

// Sessions stores the sessions of accounts.
type Sessions interface {
	// CreateSession stores a session for a person whose password was verified against the
	// PasswordHash `verified`. If the account already has MaxSessions, its oldest session ends.
	// ErrChanged: the account's PasswordHash is no longer `verified`, or the account was disabled.
	// ErrNotFound: the account was deleted.
	CreateSession(ctx context.Context, s Session, verified string) error
	// Session finds a session by the SHA-256 of its token. ErrNotFound: no session has this token,
	// or the session expired at or before the time `now`.
	Session(ctx context.Context, token Hash, now time.Time) (Session, error)
	DeleteSession(ctx context.Context, token Hash) error
	// Sessions lists an account's sessions that have not expired, newest first.
	Sessions(ctx context.Context, account string, now time.Time) ([]Session, error)
	// EndSession ends the session of an account with the given Session.ID. ErrNotFound: the account
	// has no such session.
	EndSession(ctx context.Context, account, id string, e Event) error
	// EndSessions ends all sessions of an account except the session with the TokenHash `keep`, and
	// returns how many of them had not expired. If there were none, it does not append the event.
	EndSessions(ctx context.Context, account string, keep Hash, e Event) (int, error)
}

// APITokens stores the API tokens of accounts.
type APITokens interface {
	// CreateAPIToken stores an API token, and removes the account's expired API tokens. `session`
	// is the TokenHash of the session that creates the token. ErrNotFound: the session has ended,
	// for example because the password was changed. ErrExists: the account already has a token with
	// this name. ErrTooMany: the account has `max` tokens that are valid at the time t.Created.
	CreateAPIToken(ctx context.Context, t APIToken, session Hash, max int, e Event) error
	// APIToken finds an API token by its SHA-256. ErrNotFound: no API token has this hash, or the
	// token expired at or before the time `now`.
	APIToken(ctx context.Context, hash Hash, now time.Time) (APIToken, error)
	// APITokens lists an account's tokens, including expired ones, newest first.
	APITokens(ctx context.Context, account string) ([]APIToken, error)
	// MarkAPITokenUsed records when a token was used, and from which address. If the token was
	// deleted, it does nothing.
	MarkAPITokenUsed(ctx context.Context, hash Hash, addr string, now time.Time) error
	// DeleteAPIToken deletes the token with this id from an account. ErrNotFound: the account has
	// no such token.
	DeleteAPIToken(ctx context.Context, account, id string, e Event) error
}
