package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// session is the device's conversation with its hub, on one connection at a
// time: what a hub's owner wants to know of a boot is bound to the connection,
// so each new one is measured first. Its methods may be called from several
// goroutines; they wait for each other.
type session struct {
	a      *Agent
	h      *hub
	tpm    tpm
	signer signer
	blobs  addressed // for addresses that are their own permission

	mu       sync.Mutex
	measured int64 // connections that there were when the last was measured; 0: none

	remeasureAt time.Time     // when a measurement that failed is tried again; zero: it did not
	pause       time.Duration // before that
}

// dial loads the identity key and makes a session. No connection is made yet.
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
	s.h = h.as(certs.chain(), s.signer)
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

// Do sends a request and returns the answer's body, of at most limit bytes. An
// answer of another status than 200 is a *Refused.
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
			continue // the connection was lost in between
		}
		s.measured = measured
		if err != nil && (refused == nil || strings.HasPrefix(refused.Code, "boot-")) {
			s.measured = 0 // the next try shows it anew
		}
		return answer, err
	}
}

// measure shows the hub what was booted. One that it did not take is tried again
// later on the same connection, and on the next one.
func (s *session) measure(ctx context.Context) error {
	shown, err := s.a.measure(ctx, s.h, s.tpm)
	if err != nil {
		return err
	}
	if shown {
		s.remeasureAt, s.pause = time.Time{}, 0
		return nil
	}
	s.pause = min(max(2*s.pause, firstRemeasure), lastRemeasure)
	s.remeasureAt = time.Now().Add(s.pause)
	return nil
}

// remeasure measures at the hub's wish.
func (s *session) remeasure(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.measure(ctx); err != nil {
		return err
	}
	s.measured = s.h.connections.Load()
	return nil
}

// newBlobClient shows no certificate: the address is the permission. How long
// an answer may take is its reader's to say.
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
			return errors.New("the hub answered with a redirect, which it never does")
		},
	}
}

// Upload puts a content to a path of the hub. It ends with an error if nothing
// of it goes on its way for a minute.
func (s *session) Upload(ctx context.Context, path string, content io.Reader, size int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	alarm := time.AfterFunc(uploadIdle, cancel)
	defer alarm.Stop()
	body := io.Reader(readerFunc(func(b []byte) (int, error) {
		alarm.Reset(uploadIdle)
		return content.Read(b)
	}))
	if size == 0 {
		body = http.NoBody
	}
	client, at := s.blobs.get()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, at+path, body)
	if err != nil {
		return err
	}
	req.ContentLength = size
	req.Header.Set("User-Agent", "gangway-agent")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return err
		}
		return refused(resp, answer)
	}
	return nil
}

const uploadIdle = time.Minute

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// Download gets a path of the hub from a byte on.
func (s *session) Download(ctx context.Context, path string, from int64, etag string) (*http.Response, error) {
	client, at := s.blobs.get()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "gangway-agent")
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
		req.Header.Set("If-Range", etag)
	}
	return client.Do(req)
}
