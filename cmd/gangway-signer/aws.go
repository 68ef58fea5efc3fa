package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"strings"

	"gangway/internal/cmdline"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// openAWS opens a key of AWS KMS. AWS's library finds the credentials in its usual places: the
// environment, files, and the instance's role. If the URI names no region, the library finds the
// region there too.
func openAWS(ctx context.Context, rest string) (crypto.Signer, error) {
	at, err := attributes(rest, ";", "key-id", "region", "profile")
	if err != nil {
		return nil, err
	}
	id := at["key-id"]
	if id == "" {
		return nil, cmdline.Usagef("an awskms URI needs key-id=, with the id, the ARN or an alias of the key")
	}
	region := at["region"]
	if part := strings.Split(id, ":"); region == "" && len(part) > 3 && part[0] == "arn" {
		region = part[3]
	}
	options := []func(*config.LoadOptions) error{config.WithRegion(region)}
	if at["profile"] != "" {
		options = append(options, config.WithSharedConfigProfile(at["profile"]))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("awskms: %w", err)
	}
	if cfg.Region == "" {
		return nil, cmdline.Usagef("an awskms URI needs region=, or set AWS_REGION")
	}
	client := kms.NewFromConfig(cfg)
	out, err := client.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &id})
	if err != nil {
		return nil, fmt.Errorf("awskms: read the public key of %s: %w", id, err)
	}
	key, err := x509.ParsePKIXPublicKey(out.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("awskms: the public key of %s: %w", id, err)
	}
	public, ok := key.(*ecdsa.PublicKey)
	if !ok || out.KeyUsage != types.KeyUsageTypeSignVerify || out.KeyId == nil {
		return nil, fmt.Errorf("awskms: %s: %w", id, errCurve)
	}
	arn := *out.KeyId // if `id` is an alias, someone may move the alias to another key while the signer runs
	return &cloudKey{public, func(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
		algorithm := types.SigningAlgorithmSpecEcdsaSha256
		if hash == crypto.SHA384 {
			algorithm = types.SigningAlgorithmSpecEcdsaSha384
		}
		out, err := client.Sign(ctx, &kms.SignInput{KeyId: &arn, Message: digest, MessageType: types.MessageTypeDigest, SigningAlgorithm: algorithm})
		if err != nil {
			return nil, fmt.Errorf("awskms: %w", err)
		}
		return out.Signature, nil
	}}, nil
}
