package main

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/hub/pki/signer"
	"gangway/internal/softhsm"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// checkSigner starts a signer for the keys at the URIs `uris`, as 'gangway-signer serve' does. Then
// it signs with each key through the signer's socket.
func checkSigner(t *testing.T, ring *keyring, uris map[string]string) {
	t.Helper()
	keys := map[string]crypto.Signer{}
	for name, uri := range uris {
		key, err := ring.open(t.Context(), uri)
		if err != nil {
			t.Fatalf("%s: %v", uri, err)
		}
		keys[name] = key
	}
	logger := slog.New(slog.DiscardHandler)
	h, err := signer.NewHandler(keys, logger)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(shortDir(t), "s")
	l, err := signer.Listen(socket, signer.ListenOptions{Users: []int{os.Getuid()}, Group: -1, Log: logger})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, l) }()
	defer func() { stop(); <-done }()
	checkSignatures(t, socket, uris)
}

// checkSignatures signs with each key of a signer, and verifies the signatures with the keys'
// public keys.
func checkSignatures(t *testing.T, socket string, uris map[string]string) {
	t.Helper()
	c := signer.NewClient(socket)
	for name := range uris {
		public, err := c.Public(t.Context(), name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		hash := crypto.SHA256
		if public.Curve == elliptic.P384() {
			hash = crypto.SHA384
		}
		digest := make([]byte, hash.Size())
		for range 20 { // so that some numbers of a signature begin with zero bits
			rand.Read(digest)
			if sig, err := c.Sign(t.Context(), name, digest, hash); err != nil || !ecdsa.VerifyASN1(public, digest, sig) {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

// kmsServer starts Local KMS, an emulator of AWS KMS, and returns AWS's client for it.
func kmsServer(t *testing.T) *kms.Client {
	t.Helper()
	program := filepath.Join(t.TempDir(), "kmstest")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir, build.Env = "../../internal/kmstest", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	c := exec.Command(program, t.TempDir())
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ENDPOINT_URL_KMS", strings.TrimSpace(url))
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion("eu-central-1"))
	if err != nil {
		t.Fatal(err)
	}
	return kms.NewFromConfig(cfg)
}

// The signer signs with keys in AWS KMS that its URIs name by id, by ARN or by alias.
func TestKeysInAWS(t *testing.T) {
	client := kmsServer(t)
	create := func(spec types.KeySpec, usage types.KeyUsageType) (id, arn string) {
		t.Helper()
		made, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{KeySpec: spec, KeyUsage: usage})
		if err != nil {
			t.Fatal(err)
		}
		return *made.KeyMetadata.KeyId, *made.KeyMetadata.Arn
	}
	id, _ := create(types.KeySpecEccNistP256, types.KeyUsageTypeSignVerify)
	other, arn := create(types.KeySpecEccNistP384, types.KeyUsageTypeSignVerify)
	if _, err := client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: to.Ptr("alias/tls-ca"), TargetKeyId: &id}); err != nil {
		t.Fatal(err)
	}
	uris := map[string]string{
		"aca": "awskms:key-id=" + id + ";region=eu-central-1", "device-ca": "awskms:key-id=" + arn,
		"tls-ca": "awskms:key-id=alias/tls-ca;region=eu-central-1",
	}
	checkSigner(t, &keyring{}, uris)

	// The program gangway-signer, run as a whole, signs with the same keys.
	socket := filepath.Join(shortDir(t), "s")
	arg := []string{"serve", "--socket", socket}
	for name, uri := range uris {
		arg = append(arg, "--key", name+"="+uri)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() { done <- run(ctx, arg, io.Discard, io.Discard) }()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("the signer does not start")
		}
	}
	checkSignatures(t, socket, uris)
	stop()
	if code := <-done; code != 0 {
		t.Errorf("the signer ended with %d", code)
	}

	// If someone moves the alias to another key while the signer runs, the signer continues to use
	// the first key.
	key, err := (&keyring{}).open(t.Context(), uris["tls-ca"])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.UpdateAlias(t.Context(), &kms.UpdateAliasInput{AliasName: to.Ptr("alias/tls-ca"), TargetKeyId: &other}); err != nil {
		t.Fatal(err)
	}
	if _, err := key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err != nil {
		t.Errorf("after a change of the alias: %v", err)
	}

	encrypts, _ := create(types.KeySpecRsa2048, types.KeyUsageTypeEncryptDecrypt)
	bitcoin, _ := create(types.KeySpecEccSecgP256k1, types.KeyUsageTypeSignVerify)
	for name, uri := range map[string]string{
		"no such key": "awskms:key-id=00000000-0000-0000-0000-000000000000;region=eu-central-1", "RSA": "awskms:key-id=" + encrypts + ";region=eu-central-1",
		"secp256k1": "awskms:key-id=" + bitcoin + ";region=eu-central-1", "no region": "awskms:key-id=" + id,
	} {
		if _, err := (&keyring{}).open(t.Context(), uri); err == nil || !strings.Contains(err.Error(), "awskms") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := client.DisableKey(t.Context(), &kms.DisableKeyInput{KeyId: &id}); err != nil {
		t.Fatal(err)
	}
	if _, err := key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err == nil {
		t.Error("signs with a disabled key")
	}
}

// googleServer is a server that implements the published gRPC definition of Google Cloud KMS. It
// makes real signatures with the keys in `keys`, and checks the caller's signed token.
type googleServer struct {
	kmspb.UnimplementedKeyManagementServiceServer
	keys  map[string]crypto.Signer
	lie   func(*kmspb.AsymmetricSignResponse) // changes an answer
	calls int
}

const googleKeys = "projects/p/locations/europe-west3/keyRings/r/cryptoKeys/"

func (g *googleServer) admit(ctx context.Context) error {
	g.calls++
	md, _ := metadata.FromIncomingContext(ctx)
	if auth := md.Get("authorization"); len(auth) != 1 || strings.Count(auth[0], ".") != 2 {
		return status.Errorf(codes.Unauthenticated, "the call has no signed token: %q", auth)
	}
	return nil
}

func (g *googleServer) GetPublicKey(ctx context.Context, in *kmspb.GetPublicKeyRequest) (*kmspb.PublicKey, error) {
	if err := g.admit(ctx); err != nil {
		return nil, err
	}
	key := g.keys[in.GetName()]
	if key == nil {
		return nil, status.Errorf(codes.NotFound, "%s not found", in.GetName())
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	algorithm := kmspb.CryptoKeyVersion_RSA_SIGN_PKCS1_2048_SHA256
	if k, ok := key.Public().(*ecdsa.PublicKey); ok && k.Curve == elliptic.P256() {
		algorithm = kmspb.CryptoKeyVersion_EC_SIGN_P256_SHA256
	} else if ok {
		algorithm = kmspb.CryptoKeyVersion_EC_SIGN_P384_SHA384
	}
	return &kmspb.PublicKey{Pem: string(text), Algorithm: algorithm, PemCrc32C: crc(text), Name: in.GetName()}, nil
}

func (g *googleServer) AsymmetricSign(ctx context.Context, in *kmspb.AsymmetricSignRequest) (*kmspb.AsymmetricSignResponse, error) {
	if err := g.admit(ctx); err != nil {
		return nil, err
	}
	hash, digest := crypto.SHA256, in.GetDigest().GetSha256()
	if len(digest) == 0 {
		hash, digest = crypto.SHA384, in.GetDigest().GetSha384()
	}
	sig, err := g.keys[in.GetName()].Sign(rand.Reader, digest, hash)
	if err != nil {
		return nil, err
	}
	out := &kmspb.AsymmetricSignResponse{
		Name: in.GetName(), Signature: sig, SignatureCrc32C: crc(sig),
		VerifiedDigestCrc32C: in.GetDigestCrc32C().GetValue() == crc(digest).GetValue(),
	}
	if g.lie != nil {
		g.lie(out)
	}
	return out, nil
}

// start serves with TLS on loopback, and returns the options with which Google's client reaches
// this server under the name of Google's service.
func (g *googleServer) start(t *testing.T) []option.ClientOption {
	t.Helper()
	cert, roots := certificateFor(t, "cloudkms.googleapis.com")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	kmspb.RegisterKeyManagementServiceServer(s, g)
	go s.Serve(l)
	t.Cleanup(s.Stop)

	account, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(account)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "account.json")
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "p", "client_email": "signer@p.iam.gserviceaccount.com", "private_key_id": "1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "token_uri": "https://oauth2.googleapis.com/token",
	})
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	return []option.ClientOption{
		option.WithGRPCDialOption(grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		})),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "cloudkms.googleapis.com"}))),
	}
}

// The signer signs with keys in Google Cloud KMS. It refuses answers that were altered in transit.
func TestKeysInGoogleCloud(t *testing.T) {
	p256, p384 := generateKey(t, elliptic.P256()), generateKey(t, elliptic.P384())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	g := &googleServer{keys: map[string]crypto.Signer{
		googleKeys + "aca/cryptoKeyVersions/1": p256, googleKeys + "device-ca/cryptoKeyVersions/12": p384, googleKeys + "rsa/cryptoKeyVersions/1": rsaKey,
	}}
	ring := &keyring{google: g.start(t)}
	checkSigner(t, ring, map[string]string{
		"aca": "cloudkms:" + googleKeys + "aca/cryptoKeyVersions/1", "device-ca": "cloudkms:" + googleKeys + "device-ca/cryptoKeyVersions/12",
	})
	if g.calls < 42 {
		t.Errorf("the server was called %d times", g.calls)
	}
	for name, uri := range map[string]string{"no such key": googleKeys + "x/cryptoKeyVersions/1", "RSA": googleKeys + "rsa/cryptoKeyVersions/1"} {
		if _, err := ring.open(t.Context(), "cloudkms:"+uri); err == nil || !strings.Contains(err.Error(), "cloudkms") {
			t.Errorf("%s: %v", name, err)
		}
	}
	key, err := ring.open(t.Context(), "cloudkms:"+googleKeys+"aca/cryptoKeyVersions/1")
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(nil)
	stranger, err := generateKey(t, elliptic.P256()).Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	for name, lie := range map[string]func(*kmspb.AsymmetricSignResponse){
		"altered signature":     func(r *kmspb.AsymmetricSignResponse) { r.Signature[9] ^= 1 },
		"signature of a key":    func(r *kmspb.AsymmetricSignResponse) { r.Signature, r.SignatureCrc32C = stranger, crc(stranger) },
		"answer of another key": func(r *kmspb.AsymmetricSignResponse) { r.Name = googleKeys + "x/cryptoKeyVersions/1" },
		"digest not verified":   func(r *kmspb.AsymmetricSignResponse) { r.VerifiedDigestCrc32C = false },
		"no signature":          func(r *kmspb.AsymmetricSignResponse) { r.Signature, r.SignatureCrc32C = nil, crc(nil) },
	} {
		g.lie = lie
		if sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256); err == nil {
			t.Errorf("%s: %x", name, sig)
		}
	}
}

// azureServer answers like an Azure key vault (the REST API of Key Vault, which asks for a token
// with a challenge), and like the machine's identity service. It makes real signatures.
func azureServer(t *testing.T, keys map[string]crypto.Signer) *http.Client {
	t.Helper()
	const token = "token-of-the-machine"
	text := base64.RawURLEncoding.EncodeToString
	refuse := func(w http.ResponseWriter, code int, name string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		fmt.Fprintf(w, `{"error": {"code": %q, "message": "refused"}}`, name)
	}
	vault := http.NewServeMux()
	vault.HandleFunc("GET /keys/{name}/{version}", func(w http.ResponseWriter, r *http.Request) {
		key, kid := keys[r.PathValue("name")+"/"+r.PathValue("version")], "https://"+r.Host+r.URL.Path
		w.Header().Set("Content-Type", "application/json")
		switch k := key.(type) {
		case nil:
			refuse(w, http.StatusNotFound, "KeyNotFound")
		case *ecdsa.PrivateKey:
			fmt.Fprintf(w, `{"key": {"kid": %q, "kty": "EC-HSM", "crv": %q, "x": %q, "y": %q}}`, kid, k.Params().Name, text(k.X.Bytes()), text(k.Y.Bytes()))
		default:
			fmt.Fprintf(w, `{"key": {"kid": %q, "kty": "RSA", "n": "AQAB", "e": "AQAB"}}`, kid)
		}
	})
	vault.HandleFunc("POST /keys/{name}/{version}/sign", func(w http.ResponseWriter, r *http.Request) {
		k := keys[r.PathValue("name")+"/"+r.PathValue("version")].(*ecdsa.PrivateKey)
		var in struct{ Alg, Value string }
		err := json.NewDecoder(r.Body).Decode(&in)
		digest, bad := base64.RawURLEncoding.DecodeString(in.Value)
		if size := k.Params().BitSize; err != nil || bad != nil || in.Alg != fmt.Sprintf("ES%d", size) || len(digest) != size/8 {
			refuse(w, http.StatusBadRequest, "BadParameter")
			return
		}
		x, y, err := ecdsa.Sign(rand.Reader, k, digest)
		if err != nil {
			refuse(w, http.StatusInternalServerError, "InternalServerError")
			return
		}
		raw := make([]byte, 2*len(digest))
		x.FillBytes(raw[:len(digest)])
		y.FillBytes(raw[len(digest):])
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"kid": %q, "value": %q}`, "https://"+r.Host+strings.TrimSuffix(r.URL.Path, "/sign"), text(raw))
	})
	identity := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-IDENTITY-HEADER") != "secret-of-the-machine" || r.URL.Query().Get("resource") != "https://vault.azure.net" {
			http.Error(w, "refused", http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, `{"access_token": %q, "expires_on": "%d", "resource": "https://vault.azure.net", "token_type": "Bearer"}`, token, time.Now().Add(time.Hour).Unix())
	}))
	t.Cleanup(identity.Close)
	t.Setenv("IDENTITY_ENDPOINT", identity.URL)
	t.Setenv("IDENTITY_HEADER", "secret-of-the-machine")
	for _, name := range []string{"AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE"} {
		t.Setenv(name, "")
	}

	cert, roots := certificateFor(t, "harbour.vault.azure.net")
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.Header().Set("WWW-Authenticate", `Bearer authorization="https://login.microsoftonline.com/00000000-0000-0000-0000-000000000000", resource="https://vault.azure.net"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Query().Get("api-version") == "" {
			refuse(w, http.StatusBadRequest, "BadParameter")
			return
		}
		vault.ServeHTTP(w, r)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if strings.HasPrefix(address, "harbour.vault.azure.net:") {
				address = s.Listener.Addr().String()
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
}

// The signer signs with keys in Azure Key Vault, with the machine's own identity.
func TestKeysInAzure(t *testing.T) {
	keys := map[string]crypto.Signer{"aca/0f": generateKey(t, elliptic.P256()), "device-ca/1f": generateKey(t, elliptic.P384()), "rsa/1": &rsa.PrivateKey{}, "old/521": generateKey(t, elliptic.P521())}
	ring := &keyring{azure: azureServer(t, keys)}
	checkSigner(t, ring, map[string]string{
		"aca": "azurekms:vault=harbour;name=aca;version=0f", "device-ca": "azurekms:url=https://harbour.vault.azure.net;name=device-ca;version=1f",
	})
	for name, uri := range map[string]string{
		"no such key": "azurekms:vault=harbour;name=x;version=1", "RSA": "azurekms:vault=harbour;name=rsa;version=1", "P-521": "azurekms:vault=harbour;name=old;version=521",
	} {
		if _, err := ring.open(t.Context(), uri); err == nil || !strings.Contains(err.Error(), "azurekms") {
			t.Errorf("%s: %v", name, err)
		}
	}
	keys["aca/0f"] = generateKey(t, elliptic.P256())
	key, err := ring.open(t.Context(), "azurekms:vault=harbour;name=aca;version=0f")
	if err != nil {
		t.Fatal(err)
	}
	keys["aca/0f"] = generateKey(t, elliptic.P256())
	if _, err := key.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err == nil || !strings.Contains(err.Error(), "did not make") {
		t.Errorf("a signature of another key: %v", err)
	}
}

// The signer refuses a URI with a missing or unknown part, so that a misspelled URI never opens
// another key.
func TestRejectsBadURIs(t *testing.T) {
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	for _, uri := range []string{
		"awskms:", "awskms:key-id=", "awskms:keyid=a;region=b", "awskms:key-id=a;key-id=b;region=c", "awskms:key-id=a", "awskms:key-id=a%;region=b", "awskms:key-id=a%0Ab;region=b", "awskms:key-id=a?region=b",
		"cloudkms:", "cloudkms:" + googleKeys + "aca", "cloudkms:" + googleKeys + "aca/cryptoKeyVersions/latest", "cloudkms:" + googleKeys + "a/b/cryptoKeyVersions/1", "cloudkms:/" + googleKeys + "aca/cryptoKeyVersions/1",
		"azurekms:", "azurekms:vault=harbour;name=aca", "azurekms:name=aca;version=1", "azurekms:vault=har.bour;name=aca;version=1", "azurekms:vault=harbour;url=https://a;name=aca;version=1",
		"azurekms:url=http://a;name=aca;version=1", "azurekms:url=https://a/b;name=aca;version=1", "azurekms:url=https://u@a;name=aca;version=1", "azurekms:vault=harbour;name=a/b;version=1", "azurekms:vault=harbour;name=aca;version=1/sign",
		"pkcs11:", "pkcs11:token=gangway", "pkcs11:token=gangway;object=", "pkcs11:object=aca;id=01", "pkcs11:object=aca?pin-value=1234", "pkcs11:object=aca?pin-source=/etc/pin", "pkcs11:object=aca", "aca",
	} {
		if code, _, errs := try(t, "serve", "--key", "aca="+uri, "--socket", filepath.Join(t.TempDir(), "s")); code != exitUsage || !strings.Contains(errs, "aca") {
			t.Errorf("%s: %d, %s", uri, code, errs)
		}
	}
}

// A pkcs11 URI can open a key in a different token from the one that the flags name. The flags
// supply the values that the URI does not contain.
func TestKeyAtAPKCS11URI(t *testing.T) {
	token := softhsm.New(t)
	t.Setenv("SOFTHSM2_CONF", token.Config)
	if code, _, errs := try(t, append([]string{"create-key", "hub; 1"}, token.Flags()...)...); code != 0 {
		t.Fatal(errs)
	}
	module := "?module-path=" + softhsm.Module + "&pin-source=file:" + token.PINFile
	for name, ring := range map[string]*keyring{
		"pkcs11:token=" + softhsm.Label + ";object=hub%3B%201" + module: {},
		"pkcs11:object=hub%3B%201":                                      {token: tokenFlags{softhsm.Module, softhsm.Label, token.PINFile}},
		"hub; 1":                                                        {token: tokenFlags{softhsm.Module, softhsm.Label, token.PINFile}},
		"pkcs11:token=" + softhsm.Label + ";object=hub%3B%201":          {token: tokenFlags{softhsm.Module, "other", token.PINFile}},
	} {
		checkSigner(t, ring, map[string]string{"aca": name})
		if err := ring.Close(); err != nil {
			t.Error(err)
		}
	}
	ring := &keyring{}
	defer ring.Close()
	if _, err := ring.open(t.Context(), "pkcs11:token=other;object=hub%3B%201"+module); err == nil || !strings.Contains(err.Error(), `token "other"`) {
		t.Errorf("another token: %v", err)
	}
}

// shortDir returns a temporary folder with a short path, because paths of Unix sockets must be
// short.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "signer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func generateKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certificateFor returns a certificate for a server, and the roots with which a client accepts it.
func certificateFor(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key := generateKey(t, elliptic.P256())
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}
