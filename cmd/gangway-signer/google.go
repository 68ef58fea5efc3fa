package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"regexp"

	"gangway/internal/cmdline"

	kms "cloud.google.com/go/kms/apiv1"
	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/api/option"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var googleName = regexp.MustCompile(`^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+/cryptoKeyVersions/[0-9]+$`)

// errTransit reports a wrong checksum: a message to or from Google was altered in transit.
var errTransit = errors.New("a checksum from Google Cloud KMS is wrong: the message was altered in transit")

// crc returns the checksum that Google Cloud KMS uses.
func crc(data []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))))
}

// openGoogle opens a key version of Google Cloud KMS. The credentials are the application default
// credentials: GOOGLE_APPLICATION_CREDENTIALS, or those of the machine.
func openGoogle(ctx context.Context, name string, options []option.ClientOption) (crypto.Signer, error) {
	if !googleName.MatchString(name) {
		return nil, cmdline.Usagef("write cloudkms:projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/1, with a version")
	}
	// The client lives as long as the signer: it must not use the time limit of `ctx`.
	client, err := kms.NewKeyManagementClient(context.WithoutCancel(ctx), options...)
	if err != nil {
		return nil, fmt.Errorf("cloudkms: %w", err)
	}
	public, err := googlePublic(ctx, client, name)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cloudkms: read the public key of %s: %w", name, err), client.Close())
	}
	return &cloudKey{public, func(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
		sent := &kmspb.Digest{Digest: &kmspb.Digest_Sha256{Sha256: digest}}
		if hash == crypto.SHA384 {
			sent = &kmspb.Digest{Digest: &kmspb.Digest_Sha384{Sha384: digest}}
		}
		out, err := client.AsymmetricSign(ctx, &kmspb.AsymmetricSignRequest{Name: name, Digest: sent, DigestCrc32C: crc(digest)})
		if err != nil {
			return nil, fmt.Errorf("cloudkms: %w", err)
		}
		if out.GetName() != name || !out.GetVerifiedDigestCrc32C() || out.GetSignatureCrc32C().GetValue() != crc(out.GetSignature()).GetValue() {
			return nil, errTransit
		}
		return out.GetSignature(), nil
	}}, nil
}

func googlePublic(ctx context.Context, client *kms.KeyManagementClient, name string) (*ecdsa.PublicKey, error) {
	out, err := client.GetPublicKey(ctx, &kmspb.GetPublicKeyRequest{Name: name})
	if err != nil {
		return nil, err
	}
	if out.GetName() != name || out.GetPemCrc32C().GetValue() != crc([]byte(out.GetPem())).GetValue() {
		return nil, errTransit
	}
	switch out.GetAlgorithm() {
	case kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256, kmspb.CryptoKeyVersion_EC_SIGN_P384_SHA384:
	default:
		return nil, fmt.Errorf("%w, but %s", errCurve, out.GetAlgorithm())
	}
	block, _ := pem.Decode([]byte(out.GetPem()))
	if block == nil {
		return nil, errors.New("the answer is not a public key in PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	public, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return nil, errCurve
	}
	return public, nil
}
