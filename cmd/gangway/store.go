package main

import (
	"context"
	"time"

	"gangway/hub/store"
)

// offlineStore has the database methods that the commands with --data use, because these commands
// open the hub's database themselves. Package store documents the methods.
type offlineStore interface {
	// gangway account
	CountAccounts(ctx context.Context) (int, error)
	CreateAccount(ctx context.Context, a store.Account) error
	ReleaseNick(ctx context.Context, nick string) error
	AccountByNickOrEmail(ctx context.Context, login string) (store.Account, error)
	Accounts(ctx context.Context, after string, limit int) ([]store.Account, error)
	ChangePassword(ctx context.Context, c store.PasswordChange) error
	DisableAccount(ctx context.Context, id string, e store.Event) error
	EnableAccount(ctx context.Context, id string, e store.Event) error
	SetOperator(ctx context.Context, id string, operator bool, e store.Event) error
	DeleteAccount(ctx context.Context, id string, e store.Event) error
	Sessions(ctx context.Context, account string, now time.Time) ([]store.Session, error)
	EndSession(ctx context.Context, account, id string, e store.Event) error
	EndSessions(ctx context.Context, account string, keep store.Hash, e store.Event) (int, error)

	// gangway token, with --data
	JoinTokens(ctx context.Context, owner string) ([]store.JoinToken, error)
	DisableJoinToken(ctx context.Context, owner, id string) error

	// These methods are for 'gangway account delete --with-devices' and 'gangway demo'.
	Device(ctx context.Context, id string) (store.Device, error)
	Devices(ctx context.Context, owner, after string, limit int) ([]store.Device, error)
	CountDevices(ctx context.Context, owner string) (int, error)
	DeleteDevice(ctx context.Context, owner, id string, now time.Time) error
	CreateJoinToken(ctx context.Context, t store.JoinToken) error

	// gangway policy, gangway trust
	store.Policies
	store.TrustStore
	PutEKList(ctx context.Context, owner string, list []store.ListedEK) error
	EKList(ctx context.Context, owner string) ([]store.ListedEK, error)

	// gangway serve
	store.Addresses
	HasContents(ctx context.Context) (bool, error)

	// These methods are for 'gangway serve', 'gangway backup' and 'gangway restore'.
	store.Restores

	// gangway events
	AppendEvent(ctx context.Context, e store.Event) error
	Events(ctx context.Context, f store.EventFilter) ([]store.Event, error)
}
