package trail_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"strings"
	"testing"

	"gangway/wire/trail"
)

// A dishonest hub cannot send a number that overflows: the parser refuses malformed and huge
// numbers.
func TestHugeNumbersFromTheHub(t *testing.T) {
	t.Parallel()
	for _, rev := range []string{"-1", "1.5", "1e300", "9007199254740993", "2147483648", `"1"`, "null", "true"} {
		if p, err := trail.ParsePending([]byte(`[{"rev":` + rev + `,"state":{}}]`)); err == nil {
			t.Errorf("rev %s is %d", rev, p.Rev)
		}
	}
	for _, size := range []string{"-1", "1.5", "1e3", "99999999999999999999", "9223372036854775807", "1099511627777", "", "0x10", " 1"} {
		if r, err := trail.ParseRecord(fmt.Appendf(nil, `{"sha256sum":%q,"size":%q,"signed-geturl":"/local-s3/x"}`, a, size), a); err == nil {
			t.Errorf("size %q is %d", size, r.Size)
		}
	}
}

// A hub cannot use the URL of an object to send a device to another host: the device uses only the
// path of the URL.
func TestHubSendsTheDeviceNowhereElse(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"https://10.0.0.1/secret", "http://127.0.0.1:22/", "file:///etc/passwd", "/local-s3/../admin", "/local-s3/a b",
		"/local-s3/a?x=/../y", "/local-s3/a%2f..", "/local-s3/a#b", "/local-s3/a@b", "/local-s3/a\r\nHost: x", "/local-s3/" + strings.Repeat("x", 9000), "", "/local-s3/", "/local-s3/.", "/local-s3/..", "/local-s3/a/b"} {
		text, err := json.Marshal(map[string]string{"sha256sum": a, "size": "1", "signed-geturl": address, "signed-puturl": address})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := trail.ParseRecord(text, a); err == nil {
			t.Errorf("%q leads to %q", address, r.Path)
		}
		if path, err := trail.ParseUpload(text, a); err == nil {
			t.Errorf("%q leads to %q", address, path)
		}
	}
	// The hub answers with the record of an object that the device did not request.
	text := []byte(`{"sha256sum":"` + b + `","size":"1","signed-geturl":"/local-s3/x","signed-puturl":"/local-s3/x"}`)
	if _, err := trail.ParseRecord(text, a); err == nil {
		t.Error("another object's record is accepted")
	}
	if _, err := trail.ParseUpload(text, a); err == nil {
		t.Error("another object's address is accepted")
	}
}

func TestFirstOfTheWaitingRevisions(t *testing.T) {
	t.Parallel()
	if p, err := trail.ParsePending([]byte("[]")); p != nil || err != nil {
		t.Errorf("no revision: %+v, %v", p, err)
	}
	p, err := trail.ParsePending([]byte(`[{"rev":3,"commit-msg":"` + strings.Repeat("ü", 200) + `","state": {"a" : 1}},{"rev":4}]`))
	if err != nil || p.Rev != 3 || string(p.State) != `{"a":1}` || p.Message != strings.Repeat("ü", 100)+"…" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, text := range []string{``, `{}`, `[1]`, `[{"rev":1,"rev":2}]`, `[{"state":{}}]`} {
		if p, err := trail.ParsePending([]byte(text)); err == nil {
			t.Errorf("%s: %+v", text, p)
		}
	}
}

// Every record that ParseRecord accepts has a path on the hub and a size that is not negative.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"sha256sum":"` + a + `","size":"1","signed-geturl":"https://hub.example/local-s3/x"}`))
	f.Add([]byte(`[{"rev":1,"state":{}}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := trail.ParseRecord(text, a); err == nil {
			u, err := url.Parse("https://hub.example" + r.Path)
			if err != nil || u.Host != "hub.example" || u.RawQuery != "" || u.Path != r.Path || path.Dir(path.Clean(u.Path)) != "/local-s3" || r.Size < 0 {
				t.Errorf("%+v %v", r, err)
			}
		}
		if p, err := trail.ParsePending(text); err == nil && p != nil && (p.Rev < 0 || p.Rev > 1<<31-1 || len(p.Message) > 210) {
			t.Errorf("%+v", p)
		}
	})
}
