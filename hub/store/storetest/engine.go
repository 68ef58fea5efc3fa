package storetest

import "gangway/hub/store"

// Engine combines all interfaces that an engine must implement. Code that uses a store declares
// only the methods that it needs.
type Engine interface {
	store.Accounts
	store.Sessions
	store.APITokens
	store.JoinTokens

	store.Registries
	store.Enrolments
	store.EKCertificates
	store.IssuedAIKs
	store.WaitingDevices

	store.Addresses
	store.Config
	store.Policies
	store.EKLists
	store.TrustStore

	store.Devices
	store.DevicesWithoutTPM
	store.DeviceSecrets
	store.Metadata
	store.Boots
	store.BootRules
	store.Clones
	store.Fleet
	store.SavedViews
	store.HubNumbers
	store.Alarms
	store.Upkeep

	store.Trails
	store.Objects
	store.Logs
	store.Events

	store.Restores
	store.Replicas
	store.Consistency
	store.Health
	Close() error
}
