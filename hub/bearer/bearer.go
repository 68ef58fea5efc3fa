// Package bearer signs and verifies the hub's access tokens: JWTs (RFC 9068), signed with Ed25519
// keys that the hub publishes as a JWK set.
//
// No signing key is stored in a file: the hub derives the signing key of each calendar month from
// its seal key. So all replicas have the same keys, and a new key replaces the old key each month
// automatically. A token that was signed last month stays valid until it expires. Each token names
// a session (jti), and the hub looks up the session for each request. If the person signs out, the
// hub refuses the token at once, even before the token expires.
package bearer

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Types of callers. The values are those of Pantacor's API.
const (
	User   = "USER"
	Device = "DEVICE"
)

// Claims are the claims of a token. Their JSON is also the response of /auth/auth_status.
type Claims struct {
	Type     string           `json:"type"`
	Nick     string           `json:"nick"`
	PRN      string           `json:"prn"`
	ID       string           `json:"id"`
	Roles    string           `json:"roles"`
	Scopes   string           `json:"scopes"` // separated by spaces
	Owner    string           `json:"owner,omitempty"`
	Issuer   string           `json:"iss"`
	Subject  string           `json:"sub"`
	Audience jwt.Audience     `json:"aud"`
	Session  string           `json:"jti,omitempty"`
	Issued   *jwt.NumericDate `json:"iat"`
	Original *jwt.NumericDate `json:"orig_iat"` // start of the session
	Expires  *jwt.NumericDate `json:"exp"`
}

// MaxSize is the largest size of a token, in bytes. A longer token does not fit into Pantavisor's
// buffer for the Authorization header.
const MaxSize = 1016

// Keys signs and verifies access tokens. It is safe for concurrent use.
type Keys struct {
	seal     []byte
	url      string
	also     []string // further accepted issuers of tokens
	verified cache

	mu     sync.Mutex
	months map[string]ed25519.PrivateKey // guarded by mu: the keys in use, by their kid
}

// New returns the keys of a hub. `seal` is the hub's seal key. `url` is the hub's public URL: the
// issuer and the audience of the hub's tokens. `also` lists former URLs of the hub; tokens that the
// hub issued under these URLs stay valid.
func New(seal []byte, url string, also ...string) *Keys {
	return &Keys{seal: seal, url: url, also: also}
}

func kid(t time.Time) string { return t.UTC().Format("2006-01") }

func (k *Keys) key(kid string) ed25519.PrivateKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key, ok := k.months[kid]; ok {
		return key
	}
	if k.months == nil || len(k.months) >= maxMonths {
		k.months = map[string]ed25519.PrivateKey{}
	}
	k.months[kid] = k.derive(kid)
	return k.months[kid]
}

// maxMonths bounds the cached keys. Three months are in use at a time.
const maxMonths = 6

func (k *Keys) derive(kid string) ed25519.PrivateKey {
	m := hmac.New(sha256.New, k.seal)
	m.Write([]byte("gangway access token key v1\x00" + kid))
	return ed25519.NewKeyFromSeed(m.Sum(nil))
}

// Sign returns a token with the claims `c`. It sets the claims Issuer, Subject, Audience and
// Issued.
func (k *Keys) Sign(c Claims, now time.Time) (string, error) {
	c.Issuer, c.Subject, c.Audience, c.Issued = k.url, c.PRN, jwt.Audience{k.url}, jwt.NewNumericDate(now)
	id := kid(now)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: k.key(id), KeyID: id}},
		(&jose.SignerOptions{}).WithType("at+jwt"))
	if err != nil {
		return "", fmt.Errorf("bearer: %w", err)
	}
	token, err := jwt.Signed(signer).Claims(c).Serialize()
	if err != nil {
		return "", fmt.Errorf("bearer: %w", err)
	}
	if len(token) > MaxSize {
		return "", fmt.Errorf("%w: the token has %d bytes; at most %d are allowed", ErrTooLong, len(token), MaxSize)
	}
	return token, nil
}

// ErrTooLong means that a token with these claims would be longer than MaxSize.
var ErrTooLong = errors.New("bearer: the token is too long")

// ErrToken means that the hub did not issue the token, or that it has expired.
var ErrToken = errors.New("bearer: the token is not valid, or has expired")

// Verify checks a token's form, algorithm, type, key, signature, issuer, audience and times at the
// time `now`. It does not check that the session still exists. Any failure is ErrToken. The caller
// must not change the values that the claims point to.
func (k *Keys) Verify(token string, now time.Time) (Claims, error) {
	if len(token) > MaxSize {
		return Claims{}, ErrToken
	}
	sum := sha256.Sum256([]byte(token))
	v, known := k.verified.get(sum)
	if !known {
		var err error
		if v, err = k.verifySignature(token, now); err != nil {
			return Claims{}, err
		}
	}
	c := v.claims
	if !inUse(v.kid, now) || !now.Before(c.Expires.Time()) || now.Add(time.Minute).Before(c.Issued.Time()) {
		return Claims{}, ErrToken
	}
	if !known {
		k.verified.put(sum, v)
	}
	return c, nil
}

// inUse reports whether the tokens of a key can be valid at the time `now`.
func inUse(id string, now time.Time) bool { return id == kid(now) || id == kid(monthBefore(now)) }

// verifySignature checks everything about a token that does not change with time. It uses `now`
// only to check that the token's key is in use, before it derives the key.
func (k *Keys) verifySignature(token string, now time.Time) (v verified, err error) {
	t, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil || len(t.Headers) != 1 || t.Headers[0].ExtraHeaders[jose.HeaderType] != "at+jwt" {
		return v, ErrToken
	}
	c := &v.claims
	if v.kid = t.Headers[0].KeyID; !inUse(v.kid, now) || t.Claims(k.key(v.kid).Public(), c) != nil {
		return v, ErrToken
	}
	if c.Issuer != k.url && !slices.Contains(k.also, c.Issuer) || !slices.Contains(c.Audience, c.Issuer) || c.Session == "" || c.Expires == nil || c.Issued == nil || c.Original == nil {
		return v, ErrToken
	}
	return v, nil
}

// JWKS returns the hub's public keys as a JWK set (RFC 7517) in JSON, so that other programs can
// verify tokens. The set has the keys of last month, this month and next month.
func (k *Keys) JWKS(now time.Time) []byte {
	var set jose.JSONWebKeySet
	for _, t := range []time.Time{monthBefore(now), now, monthAfter(now)} {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.key(kid(t)).Public(), KeyID: kid(t), Algorithm: string(jose.EdDSA), Use: "sig"})
	}
	b, err := json.Marshal(set)
	if err != nil {
		panic(err) // a set of Ed25519 keys can always be encoded
	}
	return b
}

// monthBefore returns the first day of the previous month, and monthAfter the first day of the next
// month. Both start from the first day of a month, because the 31st does not exist in every month.
func monthBefore(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month()-1, 1, 0, 0, 0, 0, time.UTC)
}

func monthAfter(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month()+1, 1, 0, 0, 0, 0, time.UTC)
}

// scopePrefix is the beginning of each of Pantacor's scopes. A request may leave the prefix out.
const scopePrefix = "prn:pantahub.com:apis:/base/"

// AllScopes allows everything. If a request for a token names no scopes, the token gets AllScopes.
const AllScopes = scopePrefix + "all"

// resources are the resources that a scope can name.
var resources = []string{"devices", "objects", "trails", "metrics", "profile", "user"}

// ParseScopes parses scopes that are separated by spaces, and returns them with their prefix. It
// returns AllScopes for an empty string, and an error for an unknown scope or for more than 8
// scopes.
func ParseScopes(s string) (string, error) {
	var out []string
	for _, word := range strings.Fields(s) {
		name := strings.TrimPrefix(word, scopePrefix)
		resource, right, _ := strings.Cut(name, ".")
		if name != "all" && (!slices.Contains(resources, resource) || !slices.Contains([]string{"", "readonly", "write", "change"}, right)) {
			return "", fmt.Errorf("unknown scope %q: use \"all\", or a resource such as \"devices\" or \"trails.readonly\"", word)
		}
		if full := scopePrefix + name; !slices.Contains(out, full) {
			out = append(out, full)
		}
	}
	if len(out) == 0 {
		return AllScopes, nil
	}
	if len(out) > 8 {
		return "", errors.New("the request has more than 8 scopes; at most 8 are allowed")
	}
	return strings.Join(out, " "), nil
}

// ShortScope returns a scope without Pantacor's prefix, for display.
func ShortScope(scope string) string { return strings.TrimPrefix(scope, scopePrefix) }

// Allows reports whether the scopes allow an HTTP method on a resource. An empty resource requires
// the scope all.
func (c *Claims) Allows(method, resource string) bool {
	for _, scope := range strings.Fields(c.Scopes) {
		name := strings.TrimPrefix(scope, scopePrefix)
		if name == "all" {
			return true
		}
		of, right, _ := strings.Cut(name, ".")
		if resource == "" || of != resource {
			continue
		}
		reads := method == "GET" || method == "HEAD"
		switch right {
		case "":
			return true
		case "readonly":
			if reads {
				return true
			}
		case "write":
			if !reads {
				return true
			}
		case "change":
			if method == "PUT" || method == "PATCH" {
				return true
			}
		}
	}
	return false
}
