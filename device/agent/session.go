package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// session sends the requests of an onboarded device, one at a time. A boot measurement is bound to
// a connection, so a session uses only one connection at a time, and sends a measurement as the
// first request on each new connection. Its methods are safe for concurrent use.
type session struct {
	a      *Agent
	h      *hub
	tpm    tpm
	signer signer
	blobs  addressed // client for downloads and uploads of objects; sends no client certificate

	mu       sync.Mutex
	measured int64 // value of hub.connections at the last measurement; 0: none, so measure before the next request

	remeasureAt time.Time     // when to retry a failed measurement; zero: no measurement failed
	pause       time.Duration // pause before the next retry of a failed measurement
}

// dial loads the IDevID key and returns a session, which connects to the hub when it sends its
// first request.
func (a *Agent) dial(ctx context.Context) (*session, error) {
	if a.state.Phase != PhaseActive {
		return nil, a.state.notOnboarded()
	}
	t, err := a.cfg.openTPM()
	if err != nil {
		return nil, err
	}
	s := &session{a: a, tpm: t}
	if s.signer, err = a.signer(ctx, t); err != nil {
		return nil, errors.Join(err, s.close())
	}
	certs, err := a.dir.certificates(a.state.HubCA)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	h, err := a.hubOf(a.state.HubName, a.state.HubCA)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.h = h.as(certs.idevid, s.signer)
	s.blobs = addressed{at: s.h.at, make: s.h.newBlobClient}
	return s, nil
}

func (s *session) close() error {
	var err error
	if s.h != nil {
		s.h.close()
		s.blobs.close()
	}
	if s.signer != nil {
		err = s.signer.Close()
	}
	return errors.Join(err, s.tpm.Close())
}

// Do sends a request and returns the body of an answer with the status 200, of at most `limit`
// bytes. For any other answer, the error is a *Refused. If the connection is new, Do measures the
// boot before the request.
func (s *session) Do(ctx context.Context, method, path string, body []byte, limit int64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for again := false; ; again = true {
		measured := s.h.connections.Load()
		if again || measured != s.measured || measured == 0 || !s.remeasureAt.IsZero() && !time.Now().Before(s.remeasureAt) {
			if err := s.measure(ctx); err != nil {
				return nil, err
			}
			measured = s.h.connections.Load()
		}
		contentType := ""
		if body != nil {
			contentType = "application/json"
		}
		answer, err := s.h.sendWithin(ctx, method, path, contentType, body, limit)
		var refused *Refused
		if errors.As(err, &refused) && refused.Code == "boot-unmeasured" && !again {
			continue // the request went over a new connection, which needs a measurement
		}
		s.measured = measured
		if err != nil && (refused == nil || strings.HasPrefix(refused.Code, "boot-")) {
			s.measured = 0 // makes Do measure before its next request
		}
		return answer, err
	}
}

// The method `measure` sends a boot measurement. If the TPM cannot make the measurement, Do calls
// measure again after a pause, or earlier if a new connection is made during the pause.
func (s *session) measure(ctx context.Context) error {
	sent, err := s.a.measure(ctx, s.h, s.tpm)
	if err != nil {
		return err
	}
	if sent {
		s.remeasureAt, s.pause = time.Time{}, 0
		return nil
	}
	s.pause = min(max(2*s.pause, firstRemeasure), lastRemeasure)
	s.remeasureAt = time.Now().Add(s.pause)
	return nil
}

// remeasure sends a boot measurement because the hub has asked for one.
func (s *session) remeasure(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.measure(ctx); err != nil {
		return err
	}
	s.measured = s.h.connections.Load()
	return nil
}

// newBlobClient makes a client for downloads and uploads of objects. The client sends no client
// certificate, because everyone who knows an object's secret URL may download or upload the object.
// The client has no time limit of its own: its callers set one.
func (h *hub) newBlobClient(url string) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:           h.dial,
			TLSClientConfig:       h.trusting(hostOf(url)),
			TLSHandshakeTimeout:   20 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
			MaxConnsPerHost:       8,
			MaxIdleConnsPerHost:   8,
			IdleConnTimeout:       30 * time.Second,
			DisableCompression:    true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the server answered with a redirect; a hub never redirects")
		},
	}
}

// Upload uploads an object to a path of the hub. Upload fails if it makes no progress for
// uploadIdle. If the object is large, and the hub has a part of it from an earlier call, Upload
// sends only the rest, with the protocol tus 1.0.0.
func (s *session) Upload(ctx context.Context, path string, content io.ReadSeeker, size int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	alarm := time.AfterFunc(uploadIdle, cancel)
	defer alarm.Stop()
	client, at := s.blobs.get()
	method, success, offset := http.MethodPut, http.StatusOK, int64(0)
	if size > resumeFrom {
		has, resumable, err := uploadOffset(ctx, client, at+path, size)
		if err != nil {
			return err
		}
		if resumable {
			method, success, offset = http.MethodPatch, http.StatusNoContent, has
		}
	}
	if _, err := content.Seek(offset, io.SeekStart); err != nil {
		return err
	}
	body := io.Reader(readerFunc(func(b []byte) (int, error) {
		alarm.Reset(uploadIdle)
		return content.Read(b)
	}))
	if offset == size {
		body = http.NoBody
	}
	req, err := http.NewRequestWithContext(ctx, method, at+path, body)
	if err != nil {
		return err
	}
	req.ContentLength = size - offset
	req.Header.Set("User-Agent", "gangway-agent")
	if method == http.MethodPatch {
		req.Header.Set("Tus-Resumable", tusVersion)
		req.Header.Set("Content-Type", "application/offset+octet-stream")
		req.Header.Set("Upload-Offset", strconv.FormatInt(offset, 10))
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != success {
		answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return err
		}
		return refused(resp, answer)
	}
	if has := resp.Header.Get("Upload-Offset"); method == http.MethodPatch && has != strconv.FormatInt(size, 10) {
		return fmt.Errorf("the device uploaded %[2]d bytes of the object, but the hub reports %.20[1]q bytes", has, size)
	}
	return nil
}

const (
	// resumeFrom is the size, in bytes, above which the agent asks whether the hub already has a
	// part of an object. For a smaller object it does not ask, because hubs never store a part of
	// less than 8 MiB.
	resumeFrom = 8 << 20
	tusVersion = "1.0.0"
)

// uploadOffset asks the hub how many bytes of an object it already has. If `resumable` is false,
// the hub stores whole objects only, as Pantacor Hub does.
func uploadOffset(ctx context.Context, client *http.Client, url string, size int64) (offset int64, resumable bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return 0, false, err
	}
	req.Header.Set("User-Agent", "gangway-agent")
	req.Header.Set("Tus-Resumable", tusVersion)
	resp, err := client.Do(req)
	if err != nil {
		return 0, false, err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Tus-Resumable") != tusVersion {
		return 0, false, nil
	}
	offset, err = strconv.ParseInt(resp.Header.Get("Upload-Offset"), 10, 64)
	if err != nil || offset < 0 || offset > size {
		return 0, false, fmt.Errorf("the object has %[2]d bytes, but the hub reports %.20[1]q bytes", resp.Header.Get("Upload-Offset"), size)
	}
	return offset, true, nil
}

const uploadIdle = time.Minute

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// Download gets the object at a path of the hub, from the byte `offset` to the object's end.
func (s *session) Download(ctx context.Context, path string, offset int64, etag string) (*http.Response, error) {
	client, at := s.blobs.get()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "gangway-agent")
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		req.Header.Set("If-Range", etag)
	}
	return client.Do(req)
}
