package cakey

import (
	"context"
	"crypto"
	"crypto/ecdsa"

	"gangway/hub/pki/signer"
)

// signerKey is a key of a signer.
type signerKey struct {
	client *signer.Client
	name   string
}

func newSignerKey(socket, name string) (*signerKey, error) {
	if err := signer.CheckName(name); err != nil {
		return nil, err
	}
	return &signerKey{signer.NewClient(socket), name}, nil
}

func (k *signerKey) public(ctx context.Context) (*ecdsa.PublicKey, error) {
	return k.client.Public(ctx, k.name)
}

func (k *signerKey) sign(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
	return k.client.Sign(ctx, k.name, digest, hash)
}
