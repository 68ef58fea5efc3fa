// Package signer is the protocol between a hub and gangway-signer, a program that holds the hub's
// connection to an HSM. The protocol is HTTP on a Unix socket:
//
//	GET  /v1/keys/NAME                    the public key: SubjectPublicKeyInfo in PEM
//	POST /v1/keys/NAME/sign?hash=SHA-256  the body is a digest, the answer is an ASN.1 Ecdsa-Sig-Value
//
// Anyone who can connect to the socket can get any digest signed. Therefore the socket has the mode
// 0600, and the signer also checks the user of each connection.
package signer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"time"
)

var nameForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`) })

// CheckName checks that `name` can be the name of a key: 1 to 64 lower-case letters, digits and
// hyphens.
func CheckName(name string) error {
	if !nameForm().MatchString(name) {
		return fmt.Errorf("the name of a key must be 1 to 64 lower-case letters, digits and hyphens, not %.80q", name)
	}
	return nil
}

// maxAnswer is the maximum size of the signer's answer, in bytes.
const maxAnswer = 4 << 10

// Client requests public keys and signatures from a signer. It is safe for concurrent use.
type Client struct{ http http.Client }

// NewClient returns a client for the signer that listens on a Unix socket. It does not connect yet.
func NewClient(socket string) *Client {
	return &Client{http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute,
	}}}
}

func (c *Client) do(ctx context.Context, method, path string, body io.Reader) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://signer"+path, body)
	if err != nil {
		return nil, err
	}
	// This entry permits net/http to repeat the request on a new connection if the signer has
	// closed the old one, for example because it was restarted. Signing the same digest twice is
	// safe.
	req.Header["Idempotency-Key"] = nil
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the signer does not answer: is gangway-signer running, and may this user use its socket? %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the signer's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the signer refuses (%s): %.300q", resp.Status, answer)
	}
	return answer, nil
}

// Public returns the public key with the given name.
func (c *Client) Public(ctx context.Context, name string) (*ecdsa.PublicKey, error) {
	text, err := c.do(ctx, http.MethodGet, "/v1/keys/"+url.PathEscape(name), nil)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the signer's answer is not a public key in PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the signer's public key: %w", err)
	}
	public, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the signer's key %q is not an ECDSA key", name)
	}
	return public, nil
}

// Sign returns the signature of a digest by the key with the given name. It does not verify the
// signature: the caller must do that.
func (c *Client) Sign(ctx context.Context, name string, digest []byte, hash crypto.Hash) ([]byte, error) {
	return c.do(ctx, http.MethodPost, "/v1/keys/"+url.PathEscape(name)+"/sign?hash="+url.QueryEscape(hash.String()), bytes.NewReader(digest))
}

// hashes maps each allowed curve to the hash function for its signatures.
var hashes = map[elliptic.Curve]crypto.Hash{elliptic.P256(): crypto.SHA256, elliptic.P384(): crypto.SHA384}

// Handler is the signer's HTTP handler. It signs only digests whose length is right for the key,
// and logs each signature.
type Handler struct {
	keys map[string]crypto.Signer
	log  *slog.Logger
	mux  *http.ServeMux
}

// NewHandler returns a handler for the given keys by name. It returns an error if a name is not
// valid, or if a key is not an ECDSA key on P-256 or P-384.
func NewHandler(keys map[string]crypto.Signer, log *slog.Logger) (*Handler, error) {
	for name, key := range keys {
		if err := CheckName(name); err != nil {
			return nil, err
		}
		public, ok := key.Public().(*ecdsa.PublicKey)
		if !ok || hashes[public.Curve] == 0 {
			return nil, fmt.Errorf("the key %q is not an ECDSA key on P-256 or P-384", name)
		}
	}
	h := &Handler{keys, log, http.NewServeMux()}
	h.mux.HandleFunc("GET /v1/keys/{name}", h.public)
	h.mux.HandleFunc("POST /v1/keys/{name}/sign", h.sign)
	return h, nil
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

func (h *Handler) public(w http.ResponseWriter, r *http.Request) {
	key, ok := h.keys[r.PathValue("name")]
	if !ok {
		http.Error(w, "no such key: start gangway-signer with --key", http.StatusNotFound)
		return
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		http.Error(w, "the public key cannot be encoded", http.StatusInternalServerError)
		return
	}
	pem.Encode(w, &pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func (h *Handler) sign(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	key, ok := h.keys[name]
	if !ok {
		http.Error(w, "no such key: start gangway-signer with --key", http.StatusNotFound)
		return
	}
	hash := hashes[key.Public().(*ecdsa.PublicKey).Curve]
	if got := r.URL.Query().Get("hash"); got != hash.String() {
		http.Error(w, fmt.Sprintf("the key %s signs only digests of %s", name, hash), http.StatusBadRequest)
		return
	}
	digest, err := io.ReadAll(io.LimitReader(r.Body, int64(hash.Size())+1))
	if err != nil || len(digest) != hash.Size() {
		http.Error(w, fmt.Sprintf("the body must be a digest of %d bytes", hash.Size()), http.StatusBadRequest)
		return
	}
	sig, err := key.Sign(rand.Reader, digest, hash)
	if err != nil {
		h.log.Error("The HSM did not sign.", "key", name, "error", err)
		http.Error(w, "the HSM did not sign: see the signer's log", http.StatusBadGateway)
		return
	}
	h.log.Info("Signed.", "key", name, "digest", hex.EncodeToString(digest))
	w.Write(sig)
}

// Serve serves the handler on a listener until `ctx` ends. It refuses slow and large requests.
func (h *Handler) Serve(ctx context.Context, l net.Listener) error {
	s := &http.Server{
		Handler: h, ReadTimeout: 10 * time.Second, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 4 << 10,
		ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelWarn),
	}
	stop := context.AfterFunc(ctx, func() {
		last, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Shutdown(last)
	})
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
