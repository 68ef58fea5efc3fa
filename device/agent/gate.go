package agent

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
)

// gate judges what local programs ask of the proxy, before anything of it goes
// to the hub.
type gate struct {
	routes   *http.ServeMux
	loopback bool     // listens on TCP: browsers can reach it
	token    [32]byte // SHA-256 of the bearer token
	guarded  bool     // there is one
}

// deviceRoutes are what a device may do with its own record, its trail, its
// objects and its logs. %s stands for its id. Not among them: onboarding and
// activation, the boot's measurement, and whatever gives out secrets, tokens or
// sessions.
var deviceRoutes = []string{
	"GET /healthz", "GET /readyz",
	"GET /device", "PATCH /device/meta",
	"GET /devices/%s", "GET /devices/%s/user-meta",
	"GET /devices/%s/device-meta", "PUT /devices/%s/device-meta", "PATCH /devices/%s/device-meta",
	"GET /trails/{$}", "GET /trails", "POST /trails/{$}", "POST /trails",
	"GET /trails/%s", "GET /trails/%s/", "POST /trails/%s/",
	"PUT /trails/%s/steps/{rev}/progress", "PUT /trails/%s/steps/{rev}/state",
	"POST /objects", "POST /objects/{$}", "GET /objects/{sha}",
	"GET /local-s3/{token}", "PUT /local-s3/{token}",
	"POST /logs", "POST /logs/{$}",
}

// newGate allows the device's own API and what allow adds, each a pattern of
// http.ServeMux with its method: "POST /device/secret".
func newGate(deviceID string, allow []string) (*gate, error) {
	g := &gate{routes: http.NewServeMux()}
	for _, route := range deviceRoutes {
		if err := g.add(strings.ReplaceAll(route, "%s", deviceID)); err != nil {
			return nil, err
		}
	}
	for _, route := range allow {
		method, at, ok := strings.Cut(route, " ")
		if !ok || method == "" || method != strings.ToUpper(method) || method == http.MethodConnect || !strings.HasPrefix(at, "/") {
			return nil, fmt.Errorf("agent: the route %q is not a method and a path, such as \"POST /device/secret\"", route)
		}
		if err := g.add(route); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// add makes an error of ServeMux's panic about a pattern that it cannot read.
func (g *gate) add(route string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("agent: the route %q: %v", route, r)
		}
	}()
	g.routes.Handle(route, http.NotFoundHandler())
	return nil
}

// guard asks for a bearer token from now on.
func (g *gate) guard(token string) { g.token, g.guarded = sha256.Sum256([]byte(token)), true }

// refusal is a refusal of the proxy's own, in the form of the hub's.
type refusal struct {
	Status int    `json:"code"`
	Code   string `json:"error"`
	Reason string `json:"msg"`
	Hint   string `json:"hint"`
}

func (n *refusal) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(n.Status)
	json.NewEncoder(w).Encode(n) // a client that went away is no error of ours
}

var (
	noForward = &refusal{http.StatusBadRequest, "proxy-forward", "This is no proxy to other places.", "Ask for a path, such as /device, of the proxy's own address."}
	noHost    = &refusal{http.StatusForbidden, "proxy-host", "The request is for another host.", "Use localhost, 127.0.0.1 or [::1] in the address."}
	noBrowser = &refusal{http.StatusForbidden, "proxy-browser", "The request comes from a web page.", "Only programs of this machine may use the proxy."}
	noToken   = &refusal{http.StatusUnauthorized, "proxy-token", "The proxy's token is missing or wrong.", "Send 'Authorization: Bearer' and what is in the token file; it is another one after each start."}
	noUpgrade = &refusal{http.StatusBadRequest, "proxy-upgrade", "The connection cannot become another protocol.", "Send the request without the header Upgrade."}
	noPath    = &refusal{http.StatusBadRequest, "proxy-path", "The path is not in its plain form.", "Send it without '//', '.', '..' and percent signs."}
	noRoute   = &refusal{http.StatusForbidden, "proxy-route", "The proxy does not let this through.", "Only the device's own API is; 'gangway-agent proxy --allow' adds a route."}
)

// check returns why a request is refused; nil: it may pass.
func (g *gate) check(r *http.Request) *refusal {
	switch {
	case r.Method == http.MethodConnect, r.URL.Host != "", r.URL.Scheme != "", !strings.HasPrefix(r.RequestURI, "/"):
		return noForward
	case g.loopback && !loopbackHost(r):
		return noHost
	case fromBrowser(r.Header):
		return noBrowser
	case g.guarded && !g.hasToken(r.Header.Values("Authorization")):
		return noToken
	case len(r.Header.Values("Upgrade")) > 0:
		return noUpgrade
	case r.URL.RawPath != "" || strings.Contains(r.URL.EscapedPath(), "%") || !plainPath(r.URL.Path):
		return noPath
	}
	// Not ServeMux's own dispatch: that answers what does not fit with redirects.
	if _, pattern := g.routes.Handler(r); pattern == "" {
		return noRoute
	}
	return nil
}

// loopbackHost reports whether a request was meant for this machine: a page
// whose name was made to point here sends its own name. Programs of HTTP/1.0
// need send none, and no browser is one.
func loopbackHost(r *http.Request) bool {
	if r.Host == "" {
		return r.ProtoMajor == 1 && r.ProtoMinor == 0
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// fromBrowser reports whether a page had the request sent: browsers say so with
// each that a page could read or that changes something, and with the others in
// Sec-Fetch-Site.
func fromBrowser(h http.Header) bool {
	for name := range h {
		if name == "Origin" || strings.HasPrefix(name, "Sec-Fetch-") || strings.HasPrefix(name, "Access-Control-") {
			return true
		}
	}
	return false
}

func (g *gate) hasToken(values []string) bool {
	if len(values) != 1 {
		return false
	}
	// The scheme's name is compared without regard to case (RFC 9110, 11.1).
	scheme, token, _ := strings.Cut(values[0], " ")
	hash := sha256.Sum256([]byte(strings.TrimLeft(token, " ")))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(hash[:], g.token[:]) == 1
}

// plainPath reports whether a path means the same to everybody.
func plainPath(p string) bool {
	clean := path.Clean(p)
	return p == clean || p == clean+"/"
}

// forwardedHeaders are the headers of requests that mean something to the hub's API. No
// other goes on: no sign-in but the device's, and nobody's word on who is asking.
var forwardedHeaders = []string{
	"Accept", "Accept-Encoding", "Cache-Control", "Content-Encoding", "Content-Language", "Content-Type",
	"If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since", "Range", "User-Agent",
	"Content-Md5", "Digest", "Content-Digest",
}

// forwardHeader is the header of the request to the hub.
func forwardHeader(h http.Header) http.Header {
	out := make(http.Header, len(forwardedHeaders))
	for _, name := range forwardedHeaders {
		if v := h.Values(name); len(v) > 0 {
			out[http.CanonicalHeaderKey(name)] = v
		}
	}
	if out.Get("User-Agent") == "" {
		out.Set("User-Agent", "gangway-agent proxy")
	}
	return out
}
