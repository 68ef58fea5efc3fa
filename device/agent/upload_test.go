package agent

import (
	"bytes"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// partialHub stores one object. It closes the connection after the first `hangUp` bytes of each
// upload.
type partialHub struct {
	mu       sync.Mutex
	whole    bool   // it stores whole objects only, as Pantacor Hub does
	offset   string // if not empty, the answer to HEAD
	has      []byte
	hangUp   int // hang up after this many bytes of an upload; 0: never
	requests []string
}

func (p *partialHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = append(p.requests, r.Method)
	if p.whole && r.Method != http.MethodPut {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Tus-Resumable", "1.0.0")
	switch r.Method {
	case http.MethodHead:
		w.Header().Set("Upload-Offset", strconv.Itoa(len(p.has)))
		if p.offset != "" {
			w.Header().Set("Upload-Offset", p.offset)
		}
		return
	case http.MethodPut:
		p.has = nil
	case http.MethodPatch:
		if r.Header.Get("Upload-Offset") != strconv.Itoa(len(p.has)) || r.Header.Get("Content-Type") != "application/offset+octet-stream" {
			w.WriteHeader(http.StatusConflict)
			return
		}
	}
	body := io.Reader(r.Body)
	if p.hangUp > 0 {
		body = io.LimitReader(body, int64(p.hangUp))
	}
	b, err := io.ReadAll(body)
	p.has = append(p.has, b...)
	if p.hangUp > 0 || err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Upload-Offset", strconv.Itoa(len(p.has)))
	if r.Method == http.MethodPatch {
		w.WriteHeader(http.StatusNoContent)
	}
}

// newUploader returns a session that reaches only the given hub.
func newUploader(t *testing.T, p *partialHub) *session {
	t.Helper()
	server := httptest.NewTLSServer(p)
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	h, err := newHub(newAddresses([]string{server.URL}, ""), string(ca), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	s := &session{h: h}
	s.blobs = addressed{at: h.at, make: h.newBlobClient}
	t.Cleanup(s.blobs.close)
	return s
}

// The connection breaks twice. After each break, the next call of Upload must send only the bytes
// that the hub does not have yet.
func TestBrokenUploadContinues(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789"), 1<<20)
	p := &partialHub{hangUp: 3 << 20}
	s := newUploader(t, p)
	upload := func() error {
		return s.Upload(t.Context(), "/local-s3/x", bytes.NewReader(content), int64(len(content)))
	}
	for range 2 {
		if err := upload(); err == nil {
			t.Fatal("a broken upload succeeded")
		}
	}
	p.mu.Lock()
	p.hangUp = 0
	p.mu.Unlock()
	if err := upload(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.has, content) {
		t.Errorf("the hub has %d other bytes", len(p.has))
	}
	if err := upload(); err != nil { // the answer was lost
		t.Error(err)
	}
	if n := strings.Count(strings.Join(p.requests, " "), "PATCH"); n != 4 || slices.Contains(p.requests, "PUT") {
		t.Errorf("requests: %v", p.requests)
	}
}

// If a hub cannot resume uploads, the agent sends the whole object in one request. It always sends
// a small object in one request.
func TestUploadToAHubOfWholeObjects(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789"), 1<<20)
	p := &partialHub{whole: true}
	if err := newUploader(t, p).Upload(t.Context(), "/local-s3/x", bytes.NewReader(content), int64(len(content))); err != nil || !bytes.Equal(p.has, content) {
		t.Errorf("%v, and the hub has %d bytes", err, len(p.has))
	}
	small := &partialHub{}
	if err := newUploader(t, small).Upload(t.Context(), "/local-s3/x", strings.NewReader("small"), 5); err != nil || string(small.has) != "small" || !slices.Equal(small.requests, []string{"PUT"}) {
		t.Errorf("%v, %v", err, small.requests)
	}
}

// A hub sends an impossible upload offset. The agent must refuse the offset, and must not read past
// the end of the object.
func TestImpossibleOffsetsAreRefused(t *testing.T) {
	t.Parallel()
	content := make([]byte, 9<<20)
	for _, offset := range []string{"-1", "9437185", "99999999999999999999", "x", strings.Repeat("9", 4000)} {
		p := &partialHub{offset: offset}
		err := newUploader(t, p).Upload(t.Context(), "/local-s3/x", bytes.NewReader(content), int64(len(content)))
		if err == nil || len(err.Error()) > 200 || slices.Contains(p.requests, "PATCH") {
			t.Errorf("offset %.20s: %v, %v", offset, err, p.requests)
		}
	}
}
