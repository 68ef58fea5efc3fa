package storetest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"time"

	"gangway/hub/store"
)

// Epoch is the time at which the tests begin. The tests pass all times to the engine, so they have
// the same result in any year.
var Epoch = time.Date(2026, 3, 14, 9, 26, 53, 589793000, time.UTC)

// ID returns a well-formed id that depends only on `name`: 24 hexadecimal digits.
func ID(name string) string {
	sum := sha256.Sum256([]byte("id " + name))
	return hex.EncodeToString(sum[:12])
}

// Hash returns the hash of a name, as a test value.
func Hash(name string) store.Hash { return sha256.Sum256([]byte(name)) }

// bytesOf returns `n` bytes that it derives from a name. They cannot be compressed.
func bytesOf(name string, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8(sha256.Sum256([]byte(name))).Read(b)
	return b
}

// Machine describes a machine with a TPM. The tests derive enrolments from it. Different machines
// have different names.
type Machine struct {
	Name string
	// IAK is the name of one of the machine's attestation keys. The first key has an empty name.
	IAK string
	// Request is the name of one of the machine's requests. The first request has an empty name.
	Request string
	// Generation is how often the TPM was released, because its device was deleted.
	Generation int
}

// DeviceID returns the id that the machine's device has if it belongs to the owner.
func (m Machine) DeviceID(owner string) string {
	return ID(fmt.Sprint("device ", m.Name, owner, m.Generation))
}

// Enrolment returns the pending enrolment of the machine's request with an owner's join token. The
// enrolment expires an hour after Epoch. Its fields are as large as the fields of a real enrolment.
func (m Machine) Enrolment(owner, token string) store.Enrolment {
	request := fmt.Sprint(m.Name, " ", m.IAK, " ", m.Request, " ", m.Generation, " ", owner, " ", token)
	name := func(of string) []byte {
		digest := Hash(of)
		return append([]byte{0x00, 0x0b}, digest[:]...) // TPM_ALG_SHA256
	}
	e := store.Enrolment{
		RequestHash:   Hash("request " + request),
		State:         store.Pending,
		DeviceID:      m.DeviceID(owner),
		Owner:         owner,
		TokenID:       token,
		Generation:    m.Generation,
		EK:            Hash("ek " + m.Name),
		EKCertificate: bytesOf("ek certificate "+m.Name, 1100),
		IAKName:       name("iak " + m.Name + m.IAK),
		IAKPublic:     bytesOf("iak public "+m.Name+m.IAK, 90),
		IDevIDName:    name("idevid " + m.Name),
		IAKCert:       bytesOf("iak certificate "+request, 700),
		IDevIDCert:    bytesOf("idevid certificate "+request, 750),
		Request:       bytesOf("request body "+request, 2800),
		Verdict:       []byte(`{"ok":true,"reasons":[]}`),
		Manufacturer:  "IFX",
		Model:         "SLB9670",
		Firmware:      "7.85",
		ProdModel:     "Gangplank 4",
		ProdSerial:    "SN-" + m.Name,
		KeyAlgorithm:  "ECDSA P-256",
		Created:       Epoch,
		Expires:       Epoch.Add(time.Hour),
	}
	e.IAKHash = sha256.Sum256(e.IAKCert)
	e.IDevIDHash = sha256.Sum256(e.IDevIDCert)
	return e
}

// Account returns an account with the nick `nick`.
func Account(nick string) store.Account {
	return store.Account{
		ID:           ID("account " + nick),
		Nick:         nick,
		Email:        nick + "@harbour.example",
		PasswordHash: "$argon2id$v=19$m=65536,t=1,p=4$c2FsdA$aGFzaA",
		Created:      Epoch,
	}
}

// JoinToken returns an owner's join token with the nick `nick`, which expires a day after Epoch. If
// `maxUses` is 0, the token may be used any number of times.
func JoinToken(owner, nick string, maxUses int) store.JoinToken {
	return store.JoinToken{
		ID:        ID("token " + owner + nick),
		Owner:     owner,
		Nick:      nick,
		PublicKey: bytesOf("token key "+owner+nick, 32),
		Expires:   Epoch.Add(24 * time.Hour),
		MaxUses:   maxUses,
		Created:   Epoch,
	}
}
