package bearer_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"gangway/hub/bearer"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

var (
	seal = bytes.Repeat([]byte{7}, 32)
	now  = time.Date(2026, 11, 30, 23, 50, 0, 0, time.UTC)
)

const url = "https://hub.example"

func claims() bearer.Claims {
	return bearer.Claims{Type: bearer.User, Nick: "ada", PRN: "prn:::accounts:/65f0c1d2e3f4a5b6c7d8e9f0", ID: "65f0c1d2e3f4a5b6c7d8e9f0", Scopes: bearer.AllScopes,
		Session: "s1", Original: jwt.NewNumericDate(now), Expires: jwt.NewNumericDate(now.Add(time.Hour))}
}

func sign(t testing.TB, k *bearer.Keys, c bearer.Claims) string {
	t.Helper()
	token, err := k.Sign(c, now)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestTokenIsGoodUntilItExpires(t *testing.T) {
	t.Parallel()
	k := bearer.New(seal, url)
	token := sign(t, k, claims())
	if len(token) > bearer.MaxSize {
		t.Errorf("%d bytes", len(token))
	}
	// The token is also valid in the next month, and in another replica of the hub.
	for _, at := range []time.Time{now, now.Add(59 * time.Minute)} {
		c, err := bearer.New(seal, url).Verify(token, at)
		if err != nil || c.Nick != "ada" || c.Session != "s1" || c.Type != bearer.User {
			t.Errorf("at %s: %v, %+v", at, err, c)
		}
	}
	for _, at := range []time.Time{now.Add(time.Hour), now.Add(70 * 24 * time.Hour), now.Add(-time.Hour)} {
		if _, err := k.Verify(token, at); err == nil {
			t.Errorf("accepted at %s", at)
		}
	}
}

func TestRejectsTokensThatAreNotTheHubs(t *testing.T) {
	t.Parallel()
	k := bearer.New(seal, url)
	good := sign(t, k, claims())
	parts := strings.Split(good, ".")
	header := func(h string) string { return base64.RawURLEncoding.EncodeToString([]byte(h)) }
	own := func(typ string, key any, alg jose.SignatureAlgorithm, kid string) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
		if err != nil {
			t.Fatal(err)
		}
		c := claims()
		c.Issuer, c.Audience, c.Issued = url, jwt.Audience{url}, jwt.NewNumericDate(now)
		token, err := jwt.Signed(s).Claims(c).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	_, stranger, _ := ed25519.GenerateKey(nil)
	var public struct{ Keys []struct{ X string } }
	if err := json.Unmarshal(k.JWKS(now), &public); err != nil {
		t.Fatal(err)
	}
	published, _ := base64.RawURLEncoding.DecodeString(public.Keys[1].X)
	for name, token := range map[string]string{
		"empty":                        "",
		"garbage":                      "a.b.c",
		"without signature":            parts[0] + "." + parts[1] + ".",
		"alg none":                     header(`{"alg":"none","kid":"2026-11","typ":"at+jwt"}`) + "." + parts[1] + ".",
		"altered":                      parts[0] + "." + parts[1][:20] + "A" + parts[1][21:] + "." + parts[2],
		"stranger's key":               own("at+jwt", stranger, jose.EdDSA, "2026-11"),
		"public key as an HMAC secret": own("at+jwt", append(published, published...), jose.HS256, "2026-11"),
		"another hub's":                sign(t, bearer.New(bytes.Repeat([]byte{8}, 32), url), claims()),
		"same hub, another audience":   sign(t, bearer.New(seal, "https://other.example"), claims()),
		"oversized":                    good + strings.Repeat("A", bearer.MaxSize),
	} {
		if c, err := k.Verify(token, now); err == nil {
			t.Errorf("%s: accepted: %+v", name, c)
		}
	}
	// A token of another type is refused, and so is a token of an expired key.
	for _, typ := range []string{"JWT", "id+jwt"} {
		if _, err := k.Verify(own(typ, stranger, jose.EdDSA, "2026-11"), now); err == nil {
			t.Errorf("type %s accepted", typ)
		}
	}
	if _, err := k.Verify(good, now.AddDate(0, 2, 0)); err == nil {
		t.Error("a key from two months ago is accepted")
	}
	noSession := claims()
	noSession.Session = ""
	if _, err := k.Verify(sign(t, k, noSession), now); err == nil {
		t.Error("a token without a session is accepted")
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		scopes, method, resource string
		want                     bool
	}{
		{"", "DELETE", "devices", true}, {"", "GET", "", true},
		{"devices", "DELETE", "devices", true}, {"devices", "GET", "trails", false}, {"devices", "GET", "", false},
		{"devices.readonly", "GET", "devices", true}, {"devices.readonly", "PATCH", "devices", false},
		{"trails.write", "POST", "trails", true}, {"trails.write", "GET", "trails", false},
		{"prn:pantahub.com:apis:/base/objects.change", "PUT", "objects", true}, {"objects.change", "DELETE", "objects", false},
		{"devices.readonly trails.write", "POST", "trails", true},
	} {
		full, err := bearer.ParseScopes(c.scopes)
		if err != nil {
			t.Fatal(err)
		}
		claims := bearer.Claims{Scopes: full}
		if got := claims.Allows(c.method, c.resource); got != c.want {
			t.Errorf("%q allows %s %q: %v", c.scopes, c.method, c.resource, got)
		}
	}
	for _, s := range []string{"everything", "devices.admin", "devicesreadonly"} {
		if _, err := bearer.ParseScopes(s); err == nil {
			t.Errorf("%q is a scope", s)
		}
	}
}

func FuzzVerify(f *testing.F) {
	k := bearer.New(seal, url)
	good := sign(f, k, claims())
	want, err := k.Verify(good, now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, token string) {
		// The last character of base64 has unused bits. So an altered text may decode to the same
		// token, but Verify must not return other claims.
		if c, err := k.Verify(token, now); err == nil && !reflect.DeepEqual(c, want) {
			t.Fatalf("accepted %q: %+v", token, c)
		}
	})
}

// If a hub gets a new URL, the tokens of the former URL stay valid as long as the hub's
// configuration names that URL.
func TestTokenOfAFormerURLIsValidWhileTheHubNamesIt(t *testing.T) {
	t.Parallel()
	token := sign(t, bearer.New(seal, "https://old.example"), claims())
	for name, c := range map[string]struct {
		keys *bearer.Keys
		ok   bool
	}{
		"named":         {bearer.New(seal, url, "https://old.example"), true},
		"not any more":  {bearer.New(seal, url), false},
		"another":       {bearer.New(seal, url, "https://other.example"), false},
		"another's key": {bearer.New(bytes.Repeat([]byte{8}, 32), url, "https://old.example"), false},
	} {
		if _, err := c.keys.Verify(token, now); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A token that was verified before is refused when it expires, when its key is no longer in use,
// and when one of its bytes differs.
func TestVerifiedTokenExpiresAllTheSame(t *testing.T) {
	t.Parallel()
	k := bearer.New(seal, url)
	long := claims()
	long.Expires = jwt.NewNumericDate(now.AddDate(1, 0, 0))
	short, old := sign(t, k, claims()), sign(t, k, long)
	for range 3 {
		for _, token := range []string{short, old} {
			if c, err := k.Verify(token, now); err != nil || c.Nick != "ada" {
				t.Fatalf("%v, %+v", err, c)
			}
		}
	}
	for _, at := range []time.Time{now.Add(time.Hour), now.Add(-time.Hour)} {
		if _, err := k.Verify(short, at); err == nil {
			t.Errorf("accepted at %s", at)
		}
	}
	if _, err := k.Verify(old, now.AddDate(0, 3, 0)); err == nil {
		t.Error("accepted after its key is no longer in use")
	}
	for i := range len(short) {
		b := []byte(short)
		b[i] ^= 1
		if c, err := k.Verify(string(b), now); err == nil && !reflect.DeepEqual(c, claims()) {
			if want, _ := k.Verify(short, now); !reflect.DeepEqual(c, want) {
				t.Errorf("byte %d changed: %+v", i, c)
			}
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	k := bearer.New(seal, url)
	token := sign(b, k, claims())
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			bearer.New(seal, url).Verify(token, now)
		}
	})
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			k.Verify(token, now)
		}
	})
}
