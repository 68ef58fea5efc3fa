package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const testDevice = "0123456789abcdef01234567"

// roundTrip is a fake hub: the test's function answers each request or returns an error.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// startProxy serves the proxy's handler, with short time limits, on a Unix socket. The fake `hub`
// answers the requests that the proxy forwards. The returned function connects to the socket.
func startProxy(t *testing.T, hub roundTrip) func() net.Conn {
	t.Helper()
	g, err := newGate(testDevice, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := ProxyConfig{MaxBody: 1 << 20, patience: time.Second}
	at := filepath.Join(t.TempDir(), "s")
	l, err := listenUnix(at, "")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Log = slog.New(slog.DiscardHandler)
	target := newAddresses([]string{"https://hub.example"}, "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- cfg.serve(ctx, l, newProxyHandler(g, target, hub, cfg)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func() net.Conn {
		c, err := net.Dial("unix", at)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(30 * time.Second))
		t.Cleanup(func() { c.Close() })
		return c
	}
}

// endless is a request's body that returns bytes until it is closed.
type endless struct{ closed chan struct{} }

func (e *endless) Read(p []byte) (int, error) {
	select {
	case <-e.closed:
		return 0, io.ErrClosedPipe
	default:
		return len(p), nil
	}
}

func (e *endless) Close() error {
	select {
	case <-e.closed:
	default:
		close(e.closed)
	}
	return nil
}

func answer(r *http.Request, body io.ReadCloser) *http.Response {
	return &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: body, ContentLength: -1, Request: r}
}

// A local program may stop while it sends a body to the proxy, or while it reads an answer. In both
// cases, the proxy cancels the request, so that its connection to the hub becomes free.
func TestStalledProgramDoesNotHoldTheProxy(t *testing.T) {
	t.Parallel()
	t.Run("sending", func(t *testing.T) {
		t.Parallel()
		ended := make(chan error, 1)
		dial := startProxy(t, func(r *http.Request) (*http.Response, error) {
			_, err := io.Copy(io.Discard, r.Body)
			ended <- err
			return nil, err
		})
		c := dial()
		fmt.Fprintf(c, "PATCH /device/meta HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
		select {
		case err := <-ended:
			if err == nil {
				t.Error("the body seems whole")
			}
		case <-time.After(20 * time.Second):
			t.Fatal("it waits for the rest of the body")
		}
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil && resp.StatusCode < 400 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v, %v", resp, err)
		}
	})
	t.Run("what is refused", func(t *testing.T) {
		t.Parallel()
		dial := startProxy(t, func(r *http.Request) (*http.Response, error) { return nil, errors.New("not reached") })
		for _, path := range []string{"/device/secret", "/device/meta"} {
			c := dial()
			fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{", path)
			if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: the connection is held", path)
			}
		}
	})
	t.Run("taking", func(t *testing.T) {
		t.Parallel()
		body := &endless{make(chan struct{})}
		dial := startProxy(t, func(r *http.Request) (*http.Response, error) { return answer(r, body), nil })
		c := dial()
		fmt.Fprintf(c, "GET /device HTTP/1.1\r\nHost: localhost\r\n\r\n")
		select {
		case <-body.closed:
		case <-time.After(20 * time.Second):
			t.Fatal("it waits for the program to read")
		}
	})
	t.Run("a slow one may go on", func(t *testing.T) {
		t.Parallel()
		const size = 8
		dial := startProxy(t, func(r *http.Request) (*http.Response, error) {
			b, err := io.ReadAll(r.Body)
			if err != nil || len(b) != size {
				return nil, fmt.Errorf("%d bytes, %w", len(b), err)
			}
			time.Sleep(1500 * time.Millisecond) // longer than the patience in this test
			return answer(r, io.NopCloser(strings.NewReader("done"))), nil
		})
		c := dial()
		fmt.Fprintf(c, "PATCH /device/meta HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", size)
		for range size {
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(150 * time.Millisecond)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "done" {
			t.Errorf("%s, %q, %v", resp.Status, b, err)
		}
	})
}

// If the proxy cannot forward a request to the hub, the answer to the local program has a fixed
// text. The proxy does not pass on the text of the error, which may contain a secret.
func TestProxyTellsProgramsNothingOfItsErrors(t *testing.T) {
	t.Parallel()
	dial := startProxy(t, func(*http.Request) (*http.Response, error) { return nil, errors.New("the secret inside") })
	c := dial()
	fmt.Fprintf(c, "GET /device HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	b, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 502 ") || !strings.Contains(string(b), "proxy-hub") || strings.Contains(string(b), "secret") {
		t.Errorf("%s, %v", b, err)
	}
}

// Local programs do not get the hub's cookies. If a Location header contains the hub's address, the
// proxy makes the header relative, so that the program sends its next request to the proxy.
func TestProxyKeepsTheHubsAddressesInside(t *testing.T) {
	t.Parallel()
	for location, want := range map[string]string{
		"https://hub.example/local-s3/a.b?x=1": "/local-s3/a.b?x=1",
		"https://s3.example/bucket/x":          "https://s3.example/bucket/x",
		"https://hub.example:444/x":            "https://hub.example:444/x",
		"http://hub.example/x":                 "http://hub.example/x",
		"/x":                                   "/x",
	} {
		dial := startProxy(t, func(r *http.Request) (*http.Response, error) {
			if r.URL.Host != "hub.example" || r.Host != "" && r.Host != "hub.example" {
				t.Errorf("the request is for %s at %s", r.Host, r.URL)
			}
			a := answer(r, http.NoBody)
			a.StatusCode = 302
			a.Header.Set("Location", location)
			a.Header.Set("Set-Cookie", "a=b")
			return a, nil
		})
		c := dial()
		fmt.Fprintf(c, "GET /device HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Location"); got != want || resp.Header.Get("Set-Cookie") != "" {
			t.Errorf("%s became %s, %v", location, got, resp.Header)
		}
	}
}
