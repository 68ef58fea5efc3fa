package onboard

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"time"

	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/wire"
)

// NewToken gives the join token `t`, whose other fields the caller has set, an id and a key, and
// makes its token file. Only the token file contains the secret.
func NewToken(ca *pki.Hub, publicURL string, t store.JoinToken) (store.JoinToken, *wire.TokenFile, error) {
	secret := wire.NewSecret()
	t.ID = wire.NewID()
	key, err := wire.OwnershipKey(secret, t.ID)
	if err != nil {
		return t, nil, err
	}
	t.PublicKey = key.Public().(ed25519.PublicKey)
	if t.WithoutTPM {
		t.SecretHash = TokenSecretHash(secret)
	}
	if t.ForPantacor {
		if t.PantacorKey, err = SealOwnershipKey(ca, secret, t.ID); err != nil {
			return t, nil, err
		}
	}
	return t, TokenFile(ca, publicURL, t, secret), nil
}

// TokenFile makes a join token's token file again, for a caller who has the token's secret.
func TokenFile(ca *pki.Hub, publicURL string, t store.JoinToken, secret []byte) *wire.TokenFile {
	return &wire.TokenFile{
		ID: t.ID, PRN: wire.TokenPRN + t.ID, Nick: t.Nick, Owner: wire.AccountPRN + t.Owner,
		Token: base64.StdEncoding.EncodeToString(secret),
		Hub:   publicURL, HubName: ca.HubName(), HubCA: string(ca.RootPEM()), Expires: t.Expires.UTC().Format(time.RFC3339),
	}
}

// IsTokenSecret reports whether `secret` is the secret of the join token `t`.
func IsTokenSecret(t store.JoinToken, secret []byte) bool {
	key, err := wire.OwnershipKey(secret, t.ID)
	return err == nil && key.Public().(ed25519.PublicKey).Equal(ed25519.PublicKey(t.PublicKey))
}

// TokenSecretHash returns the hash by which the hub finds a token when a device sends the token's
// secret itself. Nobody can compute the secret from the hash.
func TokenSecretHash(secret []byte) store.Hash {
	return sha256.Sum256(append([]byte("gangway auto-join token v1\x00"), secret...))
}
