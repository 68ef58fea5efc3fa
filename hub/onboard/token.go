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

// NewToken gives a join token its id and key, and makes its file. t says the
// rest: owner, nick, expiry, uses, what for. The secret is in the file alone.
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
	return t, &wire.TokenFile{
		ID: t.ID, PRN: wire.TokenPRN + t.ID, Nick: t.Nick, Owner: wire.AccountPRN + t.Owner,
		Token: base64.StdEncoding.EncodeToString(secret),
		Hub:   publicURL, HubName: ca.HubName(), HubCA: string(ca.RootPEM()), Expires: t.Expires.UTC().Format(time.RFC3339),
	}, nil
}

// TokenSecretHash is what a token is found by whose secret a device shows as it is.
// Who has the hash cannot show the secret.
func TokenSecretHash(secret []byte) store.Hash {
	return sha256.Sum256(append([]byte("gangway auto-join token v1\x00"), secret...))
}
