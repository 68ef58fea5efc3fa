package onboard

import (
	"context"
	"time"

	"gangway/hub/store"
)

// Store is the part of the hub's store that onboarding uses. Package store describes each method.
type Store interface {
	// Join tokens, and the generations of TPMs, which are how often a TPM was released.
	JoinToken(ctx context.Context, id string) (store.JoinToken, error)
	JoinTokenForEK(ctx context.Context, id string, ek store.Hash, now time.Time) (store.TokenForEK, error)

	// The rules by which requests are judged.
	ConfigVersion(ctx context.Context) (int64, error)
	TrustedCertificates(ctx context.Context) ([]store.TrustedCertificate, error)
	Policy(ctx context.Context, owner string) (store.Policy, error)
	HasEKList(ctx context.Context, owner string) (bool, error)
	FindEK(ctx context.Context, owner string, ek store.Hash, serial []byte) (store.ListedEK, error)
	EKCertificate(ctx context.Context, ek store.Hash, now time.Time) (store.KeptEKCertificate, error)
	KeepEKCertificate(ctx context.Context, k store.KeptEKCertificate, now time.Time, limit int) error

	// The owner's decisions.
	PutWaiting(ctx context.Context, w store.WaitingDevice, limit int) (store.WaitingDevice, error)
	WaitingByEK(ctx context.Context, owner string, ek store.Hash, now time.Time) (store.WaitingDevice, error)
	Decide(ctx context.Context, owner, deviceID string, d store.Decision) (store.WaitingDevice, error)

	// Enrolments: the certificates that the hub issues, and their activation.
	IssuedAIK(ctx context.Context, ek store.Hash, name []byte, now time.Time) (store.IssuedAIK, error)
	RecordIssuedAIK(ctx context.Context, a store.IssuedAIK, most int) (first bool, err error)
	BeginEnrolment(ctx context.Context, e store.Enrolment, now time.Time) (store.Enrolment, error)
	BeginEnrolmentIfUnchanged(ctx context.Context, e store.Enrolment, version int64, now time.Time) (store.Enrolment, error)
	Enrolment(ctx context.Context, request store.Hash) (store.Enrolment, error)
	EnrolmentByCertificate(ctx context.Context, idevid store.Hash) (store.Enrolment, error)
	EnrolmentToActivate(ctx context.Context, idevid store.Hash) (e store.Enrolment, before store.Hash, err error)
	Activate(ctx context.Context, a store.Activation) (store.Device, error)
	TPM(ctx context.Context, ek store.Hash) (store.TPM, error)
	AIK(ctx context.Context, name []byte) (store.AIK, error)
	Device(ctx context.Context, id string) (store.Device, error)

	// Records of suspected and certain clones.
	Clone(ctx context.Context, device string) (store.Clone, error)
	PutClone(ctx context.Context, c store.Clone, events ...store.Event) (int64, error)

	// The audit trail.
	AppendEvent(ctx context.Context, e store.Event) error
	AppendEventOnce(ctx context.Context, e store.Event, mark store.Hash) error
}
