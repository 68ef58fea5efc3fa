package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"regexp"

	"gangway/internal/cmdline"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
)

// azureName matches the names of vaults and keys, and the versions of keys.
var azureName = regexp.MustCompile(`^[0-9A-Za-z-]{1,127}$`)

// openAzure opens a version of a key in Azure Key Vault or in a managed HSM.
func openAzure(ctx context.Context, rest string, transport policy.Transporter) (crypto.Signer, error) {
	at, err := attributes(rest, ";", "vault", "url", "name", "version")
	if err != nil {
		return nil, err
	}
	address := at["url"]
	if azureName.MatchString(at["vault"]) && address == "" {
		address = "https://" + at["vault"] + ".vault.azure.net"
	} else if u, err := url.Parse(address); err != nil || u.Scheme != "https" || u.Host == "" || u.Path+u.RawQuery+u.Fragment != "" || u.User != nil || at["vault"] != "" {
		return nil, cmdline.Usagef("an azurekms URI needs vault=NAME, or url=https://HOST for another cloud or a managed HSM")
	}
	name, version := at["name"], at["version"]
	if !azureName.MatchString(name) || !azureName.MatchString(version) {
		// If the URI had no version, Azure would sign with the newest version of the key, so a
		// rotation of the key in Azure would silently change the CA's key.
		return nil, cmdline.Usagef("an azurekms URI needs name=KEY and version=VERSION")
	}
	credential, err := azureCredential(policy.ClientOptions{Transport: transport})
	if err != nil {
		return nil, fmt.Errorf("azurekms: %w", err)
	}
	client, err := azkeys.NewClient(address, credential, &azkeys.ClientOptions{ClientOptions: policy.ClientOptions{Transport: transport}})
	if err != nil {
		return nil, fmt.Errorf("azurekms: %w", err)
	}
	got, err := client.GetKey(ctx, name, version, nil)
	if err != nil {
		return nil, fmt.Errorf("azurekms: read the public key of %s: %w", name, err)
	}
	public, err := azurePublic(got.Key)
	if err != nil {
		return nil, fmt.Errorf("azurekms: %s: %w", name, err)
	}
	return &cloudKey{public, func(ctx context.Context, digest []byte, hash crypto.Hash) ([]byte, error) {
		algorithm := azkeys.SignatureAlgorithmES256
		if hash == crypto.SHA384 {
			algorithm = azkeys.SignatureAlgorithmES384
		}
		out, err := client.Sign(ctx, name, version, azkeys.SignParameters{Algorithm: &algorithm, Value: digest}, nil)
		if err != nil {
			return nil, fmt.Errorf("azurekms: %w", err)
		}
		half := (public.Curve.Params().BitSize + 7) / 8
		if len(out.Result) != 2*half { // R and S, of the curve's size (RFC 7518, 3.4)
			return nil, fmt.Errorf("azurekms: the signature has %d bytes instead of %d", len(out.Result), 2*half)
		}
		return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(out.Result[:half]), new(big.Int).SetBytes(out.Result[half:])})
	}}, nil
}

func azurePublic(key *azkeys.JSONWebKey) (*ecdsa.PublicKey, error) {
	if key == nil || key.Kty == nil || *key.Kty != azkeys.KeyTypeEC && *key.Kty != azkeys.KeyTypeECHSM || key.Crv == nil {
		return nil, errCurve
	}
	curves := map[azkeys.CurveName]elliptic.Curve{azkeys.CurveNameP256: elliptic.P256(), azkeys.CurveNameP384: elliptic.P384()}
	curve := curves[*key.Crv]
	if curve == nil {
		return nil, errCurve
	}
	size := (curve.Params().BitSize + 7) / 8
	point := make([]byte, 1+2*size)
	point[0] = 4 // uncompressed (SEC 1, 2.3.3)
	if len(key.X) > size || len(key.Y) > size {
		return nil, errCurve
	}
	copy(point[1+size-len(key.X):], key.X)
	copy(point[1+2*size-len(key.Y):], key.Y)
	return ecdsa.ParseUncompressedPublicKey(curve, point)
}

// azureCredential returns a credential from the environment (AZURE_CLIENT_ID and a secret or a
// certificate), from the workload identity of Kubernetes, or from the managed identity of the
// machine. It does not use azidentity's default credential, because that one would also start other
// programs, such as az.
func azureCredential(o policy.ClientOptions) (azcore.TokenCredential, error) {
	if c, err := azidentity.NewEnvironmentCredential(&azidentity.EnvironmentCredentialOptions{ClientOptions: o}); err == nil {
		return c, nil
	}
	if c, err := azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{ClientOptions: o}); err == nil {
		return c, nil
	}
	managed := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: o}
	if id := os.Getenv("AZURE_CLIENT_ID"); id != "" {
		managed.ID = azidentity.ClientID(id)
	}
	return azidentity.NewManagedIdentityCredential(managed)
}
