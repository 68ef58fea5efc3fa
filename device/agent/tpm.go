package agent

import (
	"context"
	"crypto"

	"gangway/device/identity"
	"gangway/device/install/lockout"

	"github.com/google/go-tpm/tpm2/transport"
)

// tpm is the set of TPM operations that the agent needs. machineTPM implements it with a real TPM.
// Tests of the agent's decisions use a fake TPM.
type tpm interface {
	// loadKeys finds the endorsement key and makes the IAK and the IDevID key.
	loadKeys(ctx context.Context, o identity.Options) (*deviceKeys, error)
	// loadSigner makes only the IDevID key.
	loadSigner(ctx context.Context, o identity.Options) (signer, error)
	// quote signs the PCRs together with the qualifying data.
	quote(ctx context.Context, o identity.Options, qualifying []byte) (*identity.Quoted, error)
	readLockout(ctx context.Context) (lockout.State, error)
	// liftLockout ends a lockout if the TPM's lockout hierarchy has no password. `was` reports
	// whether the TPM was in lockout.
	liftLockout(ctx context.Context) (was bool, err error)
	Close() error
}

// deviceKeys are the keys that a device needs for an enrolment. Their private parts are in the TPM.
type deviceKeys struct {
	identity.Keys
	enroller
	idevid crypto.Signer // usable until the enroller is closed
}

// enroller makes and opens the messages of an enrolment. With a real TPM, the enroller is an
// *identity.Identity.
type enroller interface {
	Request(identity.RequestInfo) ([]byte, error)
	ActivateCredential(credentialBlob, secret []byte) ([]byte, error)
	Close() error
}

// signer is the IDevID key in the TPM. With a real TPM, the signer is an *identity.Signer.
type signer interface {
	crypto.Signer
	// Keep stores the key at a persistent handle, and Drop removes it from that handle.
	Keep(ctx context.Context, handle uint32) (uint32, error)
	Drop(ctx context.Context, handle uint32) (int, error)
	Close() error
}

type machineTPM struct{ *identity.TPM }

// openTPM opens the TPM at an address, as identity.Open describes.
func openTPM(address string) (tpm, error) {
	t, err := identity.Open(address)
	if err != nil {
		return nil, err
	}
	return machineTPM{t}, nil
}

func (t machineTPM) loadKeys(ctx context.Context, o identity.Options) (*deviceKeys, error) {
	id, err := identity.Load(ctx, t.TPM, o)
	if err != nil {
		return nil, err
	}
	return &deviceKeys{id.Keys, id, id.Signer()}, nil
}

func (t machineTPM) loadSigner(ctx context.Context, o identity.Options) (signer, error) {
	s, err := identity.LoadSigner(ctx, t.TPM, o)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (t machineTPM) quote(ctx context.Context, o identity.Options, qualifying []byte) (*identity.Quoted, error) {
	return identity.LoadQuote(ctx, t.TPM, o, qualifying)
}

func (t machineTPM) readLockout(ctx context.Context) (s lockout.State, err error) {
	err = t.Raw(ctx, func(link transport.TPM) (err error) {
		s, err = lockout.Read(link)
		return err
	})
	return s, err
}

func (t machineTPM) liftLockout(ctx context.Context) (was bool, err error) {
	err = t.Raw(ctx, func(link transport.TPM) (err error) {
		was, err = lockout.Lift(link)
		return err
	})
	return was, err
}
