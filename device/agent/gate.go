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

// gate decides which requests of local programs the proxy forwards to the hub.
type gate struct {
	routes   *http.ServeMux
	loopback bool     // the proxy listens on TCP, where browsers can reach it
	token    [32]byte // SHA-256 of the bearer token; used only if `guarded` is set
	guarded  bool     // requests must have the bearer token
}

// deviceRoutes are the hub's routes for the device's own record, trail, objects and logs. %s stands
// for the device's id. The list does not include onboarding, activation, boot measurements, and
// every route that returns secrets, tokens or sessions.
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

// newGate returns a gate that forwards requests for deviceRoutes and for the routes in `allow`.
// Each route in `allow` is a pattern of http.ServeMux with a method, such as "POST /device/secret".
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

// add allows a route. ServeMux panics if the pattern is malformed; add returns that panic as an
// error.
func (g *gate) add(route string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("agent: the route %q: %v", route, r)
		}
	}()
	g.routes.Handle(route, http.NotFoundHandler())
	return nil
}

// guard makes the gate require this bearer token in every request.
func (g *gate) guard(token string) { g.token, g.guarded = sha256.Sum256([]byte(token)), true }

// refusal is the answer to a request that the proxy itself refuses. It has the same form as the
// hub's refusals.
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
	json.NewEncoder(w).Encode(n) // an error means that the client has closed the connection
}

var (
	noForward = &refusal{http.StatusBadRequest, "proxy-forward", "The proxy forwards requests only to the hub, not to other hosts.", "Request a path, such as /device, at the proxy's own address."}
	noHost    = &refusal{http.StatusForbidden, "proxy-host", "The Host header names another host.", "Use localhost, 127.0.0.1 or [::1] in the address."}
	noBrowser = &refusal{http.StatusForbidden, "proxy-browser", "The request comes from a web page.", "Only local programs may use the proxy."}
	noToken   = &refusal{http.StatusUnauthorized, "proxy-token", "The proxy's token is missing or wrong.", "Send the header 'Authorization: Bearer TOKEN'. TOKEN is the content of the token file, which changes each time that the proxy starts."}
	noUpgrade = &refusal{http.StatusBadRequest, "proxy-upgrade", "The proxy does not support protocol upgrades.", "Send the request without the Upgrade header."}
	noPath    = &refusal{http.StatusBadRequest, "proxy-path", "The path is not in its canonical form.", "Send a path without '//', '.', '..' and percent signs."}
	noRoute   = &refusal{http.StatusForbidden, "proxy-route", "The proxy does not forward this route.", "The proxy forwards only the device's own API; to add a route, use 'gangway-agent proxy --allow'."}
)

// check returns the refusal of a request, or nil if the proxy may forward the request.
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
	// Look up the route, but do not let ServeMux handle the request: ServeMux answers some requests
	// with redirects.
	if _, pattern := g.routes.Handler(r); pattern == "" {
		return noRoute
	}
	return nil
}

// loopbackHost reports whether the Host header names this machine. The check prevents DNS
// rebinding: a web page whose DNS name resolves to this machine sends that name as Host. A request
// without a Host is accepted if it is HTTP/1.0, because no browser uses HTTP/1.0.
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

// fromBrowser reports whether a web page caused the request. Browsers send Origin with every
// request that changes data, and with every request whose answer the page could read. With all
// other requests, browsers send Sec-Fetch-Site.
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
	// The name of the scheme is case-insensitive (RFC 9110, 11.1).
	scheme, token, _ := strings.Cut(values[0], " ")
	hash := sha256.Sum256([]byte(strings.TrimLeft(token, " ")))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(hash[:], g.token[:]) == 1
}

// plainPath reports whether the path has no "." or ".." elements and no empty elements. Two servers
// could interpret a path with such elements differently.
func plainPath(p string) bool {
	clean := path.Clean(p)
	return p == clean || p == clean+"/"
}

// forwardedHeaders are the request headers that the hub's API uses. The proxy forwards no other
// header, because with other headers a local program could sign in as somebody else, or pretend to
// be a proxy in front of the hub.
var forwardedHeaders = []string{
	"Accept", "Accept-Encoding", "Cache-Control", "Content-Encoding", "Content-Language", "Content-Type",
	"If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since", "Range", "User-Agent",
	"Content-Md5", "Digest", "Content-Digest",
}

// forwardHeader returns the headers for the request to the hub, from the headers `h` of the local
// program's request.
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
