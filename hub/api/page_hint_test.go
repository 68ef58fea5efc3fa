package api_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	"gangway/hub/ui"
	"gangway/internal/brief"
)

// If a person opens a page of the hub from another site, or types its address, the browser gets a
// hint before the page. The hint has the addresses of the page's static files and no other headers,
// because the page has its own policy. A request from a page of the hub, or from a program, gets no
// hint.
func TestStaticFilesAreHintedBeforeThePage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	visit := map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none"}
	for _, c := range []struct {
		path   string
		http1  bool
		header map[string]string
		hinted bool
	}{
		{path: "/ui/overview", header: visit, hinted: true},
		{path: "/ui/devices", header: map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "cross-site"}, hinted: true},
		{path: "/ui/trust/policy", header: visit, hinted: true},
		{path: "/ui/onboard/waiting", header: visit, hinted: true},
		{path: "/sign-in", header: map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none", "Cookie": ""}, hinted: true},
		{path: "/ui/overview", header: map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin"}},
		{path: "/ui/overview", header: map[string]string{"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}},
		{path: "/ui/overview"},
		{path: "/ui/overview", header: visit, http1: true},
		{path: "/devices", header: visit},
		{path: "/healthz", header: visit},
	} {
		hints := []http.Header{}
		resp, page := b.visit(c.path, !c.http1, c.header, &hints)
		if !c.hinted {
			if len(hints) != 0 {
				t.Errorf("%s with %v, HTTP/1.1 %v: hints %v", c.path, c.header, c.http1, hints)
			}
			continue
		}
		want := []string{"<" + ui.AssetPath("app.css") + ">; rel=preload; as=style", "<" + ui.AssetPath("app.js") + ">; rel=modulepreload"}
		if strings.Contains(page, `"`+ui.AssetPath("htmx.min.js")+`"`) {
			want = append(want, "<"+ui.AssetPath("htmx.min.js")+">; rel=preload; as=script")
		}
		if len(hints) != 1 || len(hints[0]) != 1 || !slices.Equal(hints[0]["Link"], want) {
			t.Fatalf("%s: hints %v", c.path, hints)
		}
		if policy := resp.Header.Get("Content-Security-Policy"); resp.StatusCode != 200 || !strings.Contains(policy, "script-src 'self'") || resp.Header.Get("X-Frame-Options") != "DENY" || resp.Header.Get("Link") != "" {
			t.Errorf("%s: %d with the headers %v", c.path, resp.StatusCode, resp.Header)
		}
		for _, file := range []string{"app.css", "app.js"} {
			if !strings.Contains(page, `"`+ui.AssetPath(file)+`"`) {
				t.Errorf("%s: the page does not use %s: %s", c.path, file, brief.Of(page))
			}
		}
	}
}

// visit requests a page on a new connection, and adds the informational answers to `hints`.
func (b *browser) visit(path string, http2 bool, header map[string]string, hints *[]http.Header) (*http.Response, string) {
	b.t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: b.s.client.Roots}, ForceAttemptHTTP2: http2}
	b.t.Cleanup(transport.CloseIdleConnections)
	ctx := httptrace.WithClientTrace(b.t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
		*hints = append(*hints, http.Header(h))
		return nil
	}})
	req := must(http.NewRequestWithContext(ctx, "GET", b.s.URL+path, nil))(b.t)
	req.Header.Set("Accept", "text/html")
	req.Header.Set("Cookie", b.cookie)
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp := must(transport.RoundTrip(req))(b.t)
	defer resp.Body.Close()
	if http2 != (resp.ProtoMajor == 2) {
		b.t.Fatalf("%s: %s", path, resp.Proto)
	}
	return resp, string(must(io.ReadAll(resp.Body))(b.t))
}
