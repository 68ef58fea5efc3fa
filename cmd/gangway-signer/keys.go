package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"gangway/internal/cmdline"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/ThalesGroup/crypto11"
	"google.golang.org/api/option"
)

// maxURI is the maximum length of a key's URI, in bytes. An ARN has at most 2048 bytes.
const maxURI = 4096

// The time limits for the first answer of a cloud's key service, and for one signature. The hub
// waits 30 seconds for a signature.
const (
	openTimeout = 60 * time.Second
	signTimeout = 25 * time.Second
)

// keyring opens keys by their URIs:
//
//	pkcs11:token=gangway;object=aca?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/gangway-signer/pin
//	awskms:key-id=arn:aws:kms:eu-central-1:111122223333:key/0f1e...;region=eu-central-1
//	cloudkms:projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/1
//	azurekms:vault=NAME;name=KEY;version=0123...
//
// The first form is a part of RFC 7512; the other forms are those of step-ca's library
// go.step.sm/crypto.
type keyring struct {
	token  tokenFlags // the values for parts that a pkcs11 URI leaves out
	tokens map[tokenFlags]*crypto11.Context

	// Tests set these fields, so that the clients reach the tests' own servers.
	google []option.ClientOption
	azure  policy.Transporter
}

// Close logs out of all tokens.
func (k *keyring) Close() error {
	var errs []error
	for _, t := range k.tokens {
		errs = append(errs, t.Close())
	}
	return errors.Join(errs...)
}

// open returns the key at the URI `text`. If `text` is not a URI, it is the label of a key in the
// token that the flags name. open reads the public key, so the HSM or the key service must be
// reachable.
func (k *keyring) open(ctx context.Context, text string) (crypto.Signer, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	scheme, rest, _ := strings.Cut(text, ":")
	switch scheme {
	case "pkcs11":
		return k.openPKCS11(rest)
	case "awskms":
		return openAWS(ctx, rest)
	case "cloudkms":
		return openGoogle(ctx, rest, k.google)
	case "azurekms":
		return openAzure(ctx, rest, k.azure)
	}
	return k.inToken(k.token, text)
}

// openPKCS11 opens a key in a token. The URI's token label, module and PIN file override those of
// the flags.
func (k *keyring) openPKCS11(rest string) (crypto.Signer, error) {
	path, query, _ := strings.Cut(rest, "?")
	at, err := attributes(path, ";", "token", "object")
	if err != nil {
		return nil, err
	}
	more, err := attributes(query, "&", "module-path", "pin-source")
	if err != nil {
		return nil, err
	}
	if at["object"] == "" {
		return nil, cmdline.Usagef("a pkcs11 URI needs object=LABEL")
	}
	pin, isFile := strings.CutPrefix(more["pin-source"], "file:")
	if more["pin-source"] != "" && !isFile {
		return nil, cmdline.Usagef("pin-source must have the form file:PATH, not %q", more["pin-source"])
	}
	return k.inToken(tokenFlags{
		module: either(more["module-path"], k.token.module), token: either(at["token"], k.token.token), pinFile: either(pin, k.token.pinFile),
	}, at["object"])
}

func either(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// inToken finds a key in a PKCS #11 token. It logs in to each token only once.
func (k *keyring) inToken(f tokenFlags, label string) (crypto.Signer, error) {
	if k.tokens == nil {
		k.tokens = map[tokenFlags]*crypto11.Context{}
	}
	if k.tokens[f] == nil {
		t, err := f.open()
		if err != nil {
			return nil, err
		}
		k.tokens[f] = t
	}
	return findKey(k.tokens[f], label)
}

// attributes parses the NAME=VALUE pairs of a key's URI, and decodes their percent-encoding. The
// pairs are separated by `separator`. A repeated name is an error. An unknown name is an error too,
// because it may be a misspelled one.
func attributes(text, separator string, known ...string) (map[string]string, error) {
	list := map[string]string{}
	if text == "" {
		return list, nil
	}
	for _, pair := range strings.Split(text, separator) {
		name, value, found := strings.Cut(pair, "=")
		value, err := url.PathUnescape(value)
		if err != nil || !found || value == "" || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, cmdline.Usagef("write NAME=VALUE, not %q", pair)
		}
		is := false
		for _, k := range known {
			is = is || k == name
		}
		if !is || list[name] != "" {
			return nil, cmdline.Usagef("unknown or repeated name %q: the known names are %s", name, strings.Join(known, ", "))
		}
		list[name] = value
	}
	return list, nil
}

// cloudKey is a key in a cloud's key service.
type cloudKey struct {
	public *ecdsa.PublicKey
	// sign returns an ASN.1 Ecdsa-Sig-Value (RFC 3279, 2.2.3) of the digest.
	sign func(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error)
}

func (k *cloudKey) Public() crypto.PublicKey { return k.public }

// Sign signs a digest. It then verifies the signature with the public key, because another company
// operates the key service. The hub would notice a wrong signature too, but an operator looks into
// the signer's log first.
func (k *cloudKey) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
	defer cancel()
	sig, err := k.sign(ctx, digest, o.HashFunc())
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(k.public, digest, sig) {
		return nil, fmt.Errorf("the key service returned a signature that the key did not make")
	}
	return sig, nil
}

// errCurve means that a CA cannot use a cloud's key, because the key is not an ECDSA key on P-256
// or P-384.
var errCurve = errors.New("the key is not an ECDSA key on P-256 or P-384")
