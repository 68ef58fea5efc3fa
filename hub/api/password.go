package api

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"gangway/hub/tracing/step"

	"golang.org/x/crypto/argon2"
)

// argonCost has the parameters of argon2id (RFC 9106, section 4) that determine the cost of a hash.
type argonCost struct{ passes, memory uint32 } // memory in KiB

// passwordCost is the cost of new hashes: the 19 MiB of memory that OWASP recommends, and three
// passes, which is one more than OWASP recommends. Only tests of this package change it, before
// they begin.
var passwordCost = argonCost{passes: 3, memory: 19 << 10}

const (
	argonThreads = 1
	argonKey     = 32
)

// MinPassword and MaxPassword bound a password's length in bytes.
const (
	MinPassword = 8
	MaxPassword = 256
)

// HashPassword returns the hash of a password as a PHC string:
// $argon2id$v=19$m=19456,t=3,p=1$salt$key.
func HashPassword(password string) (string, error) { return hashPassword(password, passwordCost) }

func hashPassword(password string, cost argonCost) (string, error) {
	if len(password) < MinPassword || len(password) > MaxPassword {
		return "", fmt.Errorf("a password must have %d to %d bytes", MinPassword, MaxPassword)
	}
	salt := make([]byte, 16)
	rand.Read(salt) // never fails
	return phc(cost, salt, argon2.IDKey([]byte(password), salt, cost.passes, cost.memory, argonThreads, argonKey)), nil
}

// phc returns the PHC string of a key that argon2id derived from a password.
func phc(cost argonCost, salt, key []byte) string {
	enc := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, cost.memory, cost.passes, argonThreads, enc(salt), enc(key))
}

// passwords checks passwords. Each check takes 19 MiB of memory, so only a few checks run at the
// same time.
type passwords struct {
	queue lifoSemaphore
	// decoy is the hash that is checked if the account does not exist, so that the check takes as
	// long as for an existing account and does not reveal which accounts exist.
	decoy string
}

// Bounds of the queue for passwords.
const (
	passwordsAtOnce = 4
	passwordQueue   = 64              // maximum number of checks that wait in each lane
	passwordTimeout = 5 * time.Second // how long a check waits at most
)

func newPasswords() *passwords {
	return &passwords{
		queue: lifoSemaphore{free: passwordsAtOnce, maxWaiting: passwordQueue, timeout: passwordTimeout},
		decoy: decoy(passwordCost),
	}
}

// decoy returns a hash with a random key, which no password has. Checking it takes as long as
// checking a real hash.
func decoy(cost argonCost) string {
	random := make([]byte, 16+argonKey)
	rand.Read(random) // never fails
	return phc(cost, random[:16], random[16:])
}

// check reports whether `hash` is the hash of `password`. An empty hash matches no password, but
// its check takes as long as that of a real hash. check returns errBusy if too many checks are
// waiting.
func (p *passwords) check(ctx context.Context, lane int, password, hash string) (ok bool, err error) {
	if len(password) > MaxPassword {
		return false, nil
	}
	exists := hash != ""
	if !exists {
		hash = p.decoy
	}
	ctx, span := step.Begin(ctx, "password.verify")
	defer span.End()
	err = p.queue.do(ctx, lane, func() error {
		ok, err = verifyPassword(password, hash)
		return err
	})
	return ok && exists, err
}

func verifyPassword(password, phc string) (bool, error) {
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false, errors.New("hub: stored password hash is not argon2id; set a new password with 'gangway account passwd'")
	}
	var version, memory, passes, threads int
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return false, errors.New("hub: stored password hash has another argon2 version; set a new password with 'gangway account passwd'")
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &passes, &threads); err != nil || memory > 1<<20 || passes > 64 || threads > 64 || memory < 8 || passes < 1 || threads < 1 {
		return false, errors.New("hub: stored password hash has unusable parameters; set a new password with 'gangway account passwd'")
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil {
		return false, errors.New("hub: stored password hash has an unreadable salt; set a new password with 'gangway account passwd'")
	}
	want, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil || len(want) < 16 {
		return false, errors.New("hub: stored password hash has an unreadable key; set a new password with 'gangway account passwd'")
	}
	got := argon2.IDKey([]byte(password), salt, uint32(passes), uint32(memory), uint8(threads), uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}
