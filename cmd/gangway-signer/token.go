package main

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"gangway/hub/pki/cakey"
	"gangway/hub/pki/signer"
	"gangway/internal/cmdline"

	"github.com/ThalesGroup/crypto11"
	"github.com/spf13/pflag"
)

// tokenFlags say how to open a token of an HSM.
type tokenFlags struct{ module, token, pinFile string }

func (f *tokenFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.module, "module", "", "the PKCS #11 module of the HSM: the absolute path of a shared library (required)")
	flags.StringVar(&f.token, "token", "", "label of the token (required)")
	flags.StringVar(&f.pinFile, "pin-file", "", "file with the user PIN of the token, mode 0600 (required)")
}

// poolWait is how long a signature may wait for a free session of the HSM's token.
const poolWait = 10 * time.Second

// open logs in to the token.
func (f *tokenFlags) open() (*crypto11.Context, error) {
	if f.module == "" || f.token == "" || f.pinFile == "" {
		return nil, cmdline.Usagef("--module, --token and --pin-file are needed")
	}
	if !strings.HasPrefix(f.module, "/") { // the loader would search the file in other folders
		return nil, cmdline.Usagef("--module must be an absolute path, not %q", f.module)
	}
	pin, err := cakey.ReadSecret(f.pinFile)
	if err != nil {
		return nil, fmt.Errorf("read the PIN: %w", err)
	}
	c, err := crypto11.Configure(&crypto11.Config{
		Path: f.module, TokenLabel: f.token, Pin: strings.TrimRight(string(pin), "\r\n"), MaxSessions: 16, PoolWaitTimeout: poolWait,
	})
	if err != nil {
		return nil, fmt.Errorf("open the token %q with %s: %w", f.token, f.module, err)
	}
	return c, nil
}

// findKey returns the key pair with the given label. It returns an error if the token has no such
// key pair, or more than one.
func findKey(c *crypto11.Context, label string) (crypto.Signer, error) {
	keys, err := c.FindKeyPairs(nil, []byte(label))
	if err != nil {
		return nil, fmt.Errorf("find the key %q: %w", label, err)
	}
	if len(keys) != 1 {
		return nil, fmt.Errorf("the token has %d keys with the label %q, but exactly one is required: see 'gangway-signer create-key --help'", len(keys), label)
	}
	return keys[0], nil
}

// createKey makes a key pair, and returns the SHA-256 of its SubjectPublicKeyInfo.
func createKey(c *crypto11.Context, label, curve string) (hash string, err error) {
	curves := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384()}
	if curves[curve] == nil {
		return "", cmdline.Usagef("--curve must be P-256 or P-384, not %q", curve)
	}
	old, err := c.FindKeyPairs(nil, []byte(label))
	if err != nil {
		return "", fmt.Errorf("find the key %q: %w", label, err)
	}
	if len(old) > 0 {
		return "", fmt.Errorf("the token already has a key with the label %q: choose another label", label)
	}
	id := make([]byte, 16)
	rand.Read(id)                                                                 // never fails
	key, err := c.GenerateECDSAKeyPairWithLabel(id, []byte(label), curves[curve]) // sensitive and not extractable
	if err != nil {
		return "", fmt.Errorf("make the key %q: %w", label, err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// keyNames parses the values of the flag --key, which have the form NAME, NAME=LABEL or NAME=URI.
// It returns a map from each name to the key's label or URI.
func keyNames(list []string) (map[string]string, error) {
	names := map[string]string{}
	for _, text := range list {
		name, at, found := strings.Cut(text, "=")
		if !found {
			at = name
		}
		if err := signer.CheckName(name); err != nil {
			return nil, cmdline.Usagef("--key: %v", err)
		}
		if names[name] != "" || at == "" || len(at) > maxURI {
			return nil, cmdline.Usagef("--key %s is given twice, has nothing after the equals sign, or has more than %d bytes", name, maxURI)
		}
		names[name] = at
	}
	if len(names) == 0 {
		return nil, cmdline.Usagef("--key is needed: the name of each key that the hub may use")
	}
	return names, nil
}

// userIDs returns the user ids of the users in `names`, and the id of the user who runs the signer.
func userIDs(names []string) ([]int, error) {
	ids := []int{os.Getuid()}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			u, err = user.LookupId(name)
		}
		if err != nil {
			return nil, fmt.Errorf("--allow-user %q: %w", name, err)
		}
		id, err := strconv.Atoi(u.Uid)
		if err != nil {
			return nil, fmt.Errorf("--allow-user %q: %w", name, err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// groupID returns the id of a group, or -1 if the name is empty.
func groupID(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return -1, fmt.Errorf("--group: %w", err)
	}
	return strconv.Atoi(g.Gid)
}
