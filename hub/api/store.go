package api

import (
	"context"
	"time"

	"gangway/hub/store"
)

// Store has the parts of the hub's store that the API uses.
type Store interface {
	store.Accounts
	store.Sessions
	store.APITokens
	store.JoinTokens

	// onboard.Store has the following parts too, because onboarding needs them.
	store.Registries
	store.Enrolments
	store.EKCertificates
	store.IssuedAIKs
	store.WaitingDevices

	store.Config
	store.TrustStore
	store.Policies
	store.EKLists

	store.Devices
	store.DevicesWithoutTPM
	store.DeviceSecrets
	store.Metadata
	store.Boots
	store.BootRules
	store.Clones
	store.Fleet
	store.SavedViews

	store.Trails
	store.Objects
	store.Logs
	store.Events

	store.HubNumbers
	store.Alarms
	store.Upkeep
	store.Restores
	store.Replicas
	store.Health
}

// accountStore has the store's methods that DeleteAccount needs.
type accountStore interface {
	CountDevices(ctx context.Context, owner string) (int, error)
	Devices(ctx context.Context, owner, after string, limit int) ([]store.Device, error)
	DeleteDevice(ctx context.Context, owner, id string, now time.Time) error
	DisableAccount(ctx context.Context, id string, e store.Event) error
	DeleteAccount(ctx context.Context, id string, e store.Event) error
	AppendEvent(ctx context.Context, e store.Event) error
}
