package api_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/objects"
	"gangway/hub/store"
	"gangway/internal/race"
)

// uploadParts returns content that is two and a half parts long.
func uploadParts(name string) string {
	return strings.Repeat(name, int(objects.PartSize(0))*5/2/len(name))
}

// patch sends bytes with PATCH to a signed URL for uploads.
func patch(p *person, url string, offset int64, body string) (int, string, http.Header) {
	p.t.Helper()
	status, answer, h := send(p, "PATCH", url, body, "Upload-Offset", fmt.Sprint(offset), "Tus-Resumable", "1.0.0", "Content-Type", "application/offset+octet-stream")
	return status, string(answer), h
}

func wantOffset(p *person, url string, offset int64) {
	p.t.Helper()
	status, _, h := send(p, "HEAD", url, "")
	if status != 200 || h.Get("Upload-Offset") != fmt.Sprint(offset) || h.Get("Tus-Resumable") != "1.0.0" || h.Get("Cache-Control") != "no-store" {
		p.t.Fatalf("%d %v, want the offset %d", status, h, offset)
	}
}

func wantPatch(p *person, url string, offset int64, body string, status int, after int64) {
	p.t.Helper()
	got, answer, h := patch(p, url, offset, body)
	if got != status || after >= 0 && h.Get("Upload-Offset") != fmt.Sprint(after) {
		p.t.Fatalf("PATCH at %d: %d %s %v; want %d and the offset %d", offset, got, answer, h, status, after)
	}
}

// sendAndHangUp sends only some bytes of an object, and then closes the connection.
func sendAndHangUp(t *testing.T, s *scene, url string, offset int64, sent string, length int) {
	t.Helper()
	r, w := io.Pipe()
	req := must(http.NewRequestWithContext(t.Context(), "PATCH", url, r))(t)
	req.ContentLength = int64(length)
	req.Header.Set("Upload-Offset", fmt.Sprint(offset))
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.client.Roots}}}
	defer c.CloseIdleConnections()
	go func() {
		io.WriteString(w, sent)
		w.CloseWithError(errors.New("the line is cut"))
	}()
	if resp, err := c.Do(req); err == nil {
		resp.Body.Close()
		t.Fatalf("the interrupted upload got %d", resp.StatusCode)
	}
}

// If the connection of an upload breaks in the middle of a part, the client asks for the offset and
// continues, even with another URL of the same object.
func TestInterruptedUploadContinues(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	content, part := uploadParts("interrupted "), objects.PartSize(0)
	o := announce(f.ada, "/objects/", "large", content, 200)
	before := must(f.Store.Usage(t.Context(), f.Owner.ID))(t)
	wantOffset(f.ada, o.PutURL, 0)
	sendAndHangUp(t, f.scene, o.PutURL, 0, content[:part+part/2], len(content))
	soon(t, func() bool {
		p, _, err := f.Store.Partial(t.Context(), f.Owner.ID, store.Hash(must(objects.ParseSum(o.Sum))(t)))
		return err == nil && p.Received == part
	})
	wantCode(f.ada, "GET", "/objects/"+o.Sum, nil, 404)
	o = announce(f.ada, "/objects/", "large", content, 200)
	wantOffset(f.ada, o.PutURL, part)
	wantPatch(f.ada, o.PutURL, 0, content, 409, part)
	wantPatch(f.ada, o.PutURL, part, content[part:]+"x", 400, -1)
	wantPatch(f.ada, o.PutURL, part, content[part:part+5], 204, part) // not a whole part
	wantPatch(f.ada, o.PutURL, part, content[part:2*part], 204, 2*part)
	wantPatch(f.ada, o.PutURL, 2*part, content[2*part:], 204, int64(len(content)))
	wantOffset(f.ada, o.PutURL, int64(len(content)))
	wantPatch(f.ada, o.PutURL, int64(len(content)), "", 204, int64(len(content)))
	o = want[api.ObjectView](f.ada, "GET", "/objects/"+o.Sum, nil, 200)
	status, body, _ := send(f.ada, "GET", o.GetURL, "")
	if status != 200 || sumOf([]byte(body)) != o.Sum {
		t.Errorf("%d, %d bytes", status, len(body))
	}
	if used := must(f.Store.Usage(t.Context(), f.Owner.ID))(t) - before; used != int64(len(content)) {
		t.Errorf("%d bytes count, not %d", used, len(content))
	}
	if list := must(f.Store.Disagreements(t.Context(), 9))(t); len(list) > 0 {
		t.Error(list)
	}
}

// If the bytes of an upload do not have the announced SHA-256, the hub keeps none of them, and the
// client begins again.
func TestPartsOfAnotherContentAreRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	content, part := uploadParts("wanted "), objects.PartSize(0)
	o := announce(f.ada, "/objects/", "large", content, 200)
	before := must(f.Store.Usage(t.Context(), f.Owner.ID))(t)
	wantPatch(f.ada, o.PutURL, 0, content[:part], 204, part)
	status, body, _ := patch(f.ada, o.PutURL, part, "x"+content[part+1:])
	if status != 400 || !strings.Contains(body, "object-sum") {
		t.Errorf("%d %s", status, body)
	}
	wantOffset(f.ada, o.PutURL, 0)
	wantCode(f.ada, "GET", "/objects/"+o.Sum, nil, 404)
	if used := must(f.Store.Usage(t.Context(), f.Owner.ID))(t); used != before {
		t.Errorf("%d bytes count, not %d", used, before)
	}
	wantPatch(f.ada, o.PutURL, 0, content[:part], 204, part)
	announce(f.ada, "/objects/", "large", content[:part+1], 200) // another object, which is not affected
	wantOffset(f.ada, o.PutURL, part)
	for _, offset := range []string{"", "-1", "x", "99999999999999999999"} {
		if status, _, _ := send(f.ada, "PATCH", o.PutURL, "x", "Upload-Offset", offset); status != 400 {
			t.Errorf("offset %q: %d", offset, status)
		}
	}
	// The object is announced again with another size.
	want[api.ObjectView](f.ada, "POST", "/objects/", map[string]any{"sha256sum": o.Sum, "size": len(content) + 1}, 200)
	wantOffset(f.ada, o.PutURL, 0)
	empty := announce(f.ada, "/objects/", "empty", "", 200)
	wantPatch(f.ada, empty.PutURL, 0, "", 400, -1)
}

// If another owner knows the object's SHA-256 and has a signed URL to upload the same object, this
// owner sees nothing of the first owner's upload, and cannot change or finish it. A URL for
// downloads permits no upload.
func TestNobodyAppendsToAnothersUpload(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	content, part := uploadParts("secret "), objects.PartSize(0)
	o := announce(f.ada, "/objects/", "large", content, 200)
	wantPatch(f.ada, o.PutURL, 0, content[:2*part], 204, 2*part)
	theirs := announce(f.mallory, "/objects/", "large", content, 200)
	wantOffset(f.mallory, theirs.PutURL, 0)
	wantPatch(f.mallory, theirs.PutURL, 2*part, content[2*part:], 409, 0)
	wantPatch(f.mallory, theirs.PutURL, 0, strings.Repeat("y", int(part)), 204, part)
	wantPatch(f.mallory, theirs.GetURL, 0, content, 404, -1)
	wantOffset(f.ada, o.PutURL, 2*part)
	wantPatch(f.ada, o.PutURL, 2*part, content[2*part:], 204, int64(len(content)))
	wantOffset(f.mallory, theirs.PutURL, part)
	wantCode(f.mallory, "GET", "/objects/"+o.Sum, nil, 404)
}

// If an attacker begins uploads and finishes none, their sizes count against the quota, their
// number is bounded, and they expire.
func TestUnfinishedUploadsAreNotHoarded(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	part := objects.PartSize(0)
	dir := t.TempDir()
	f := fleetOf(t, newSceneWith(t, func(c *api.Config) { c.ObjectQuota = 4 * part; dir = c.DataDir }))
	incoming := func() int { return len(must(os.ReadDir(filepath.Join(dir, "objects", "incoming")))(t)) }
	before := must(f.Store.Usage(t.Context(), f.Owner.ID))(t)
	content := uploadParts("hoarded ")
	o := announce(f.ada, "/objects/", "first", content, 200)
	wantPatch(f.ada, o.PutURL, 0, "", 204, 0)
	wantCode(f.ada, "POST", "/objects/", map[string]any{"sha256sum": sumOf([]byte("x")), "size": 2 * part}, 413)
	announce(f.ada, "/objects/", "first", content, 200) // the same object needs no more room
	for i := 1; i < api.MaxPartials; i++ {
		o := announce(f.ada, "/objects/", "small", fmt.Sprintf("small %02d", i), 200)
		wantPatch(f.ada, o.PutURL, 0, "", 204, 0)
	}
	if n := incoming(); n != api.MaxPartials {
		t.Errorf("%d uploads", n)
	}
	last := announce(f.ada, "/objects/", "small", "one too many", 200)
	wantPatch(f.ada, last.PutURL, 0, "", 413, -1)
	if n := incoming(); n != api.MaxPartials {
		t.Errorf("%d uploads", n)
	}
	f.Advance(25 * time.Hour)
	must(0, f.Server.Collect(t.Context()))(t)
	if n := incoming(); n != 0 {
		t.Errorf("%d uploads have not expired", n)
	}
	if used := must(f.Store.Usage(t.Context(), f.Owner.ID))(t); used != before {
		t.Errorf("%d bytes count, not %d", used, before)
	}
}
