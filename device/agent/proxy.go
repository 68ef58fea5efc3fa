package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/netutil"
)

// ProxyConfig configures Proxy.
type ProxyConfig struct {
	TPM, StateDir, EventLog string // as in Config
	EndorsementAuth         []byte // as in Config

	// Through is the HTTP proxy for connections to the hub. Nil means a direct connection.
	Through *HTTPProxy

	// Unix is the path of the Unix socket on which the proxy listens. Only the socket's owner, and
	// the members of Group if it is set, can use the socket. Exactly one of Unix and TCP is set.
	Unix, Group string
	// TCP is the loopback address and port on which the proxy listens, for example
	// "127.0.0.1:8080". Every user of the machine can use it.
	TCP string
	// TokenFile, if set, is the path of a file into which the proxy writes a bearer token. Every
	// request must have this token. The proxy makes a new token at each start. The file has the
	// mode 0600, and the proxy removes the file when it ends.
	TokenFile string
	// Allow lists routes that programs may use in addition to the device's own API, for example
	// "POST /device/secret".
	Allow []string
	// MaxBody is the maximum size of a request's body, in bytes. Default: DefaultMaxBody.
	MaxBody int64

	// Ready, if set, is called with the proxy's address when the proxy accepts connections.
	Ready func(addr string)
	Log   *slog.Logger // may be nil
	// Progress, if set, is called after each step of the proxy.
	Progress func(Progress)

	patience time.Duration // time limit for each read or write of a body; default: proxyPatience
}

// DefaultMaxBody is the default limit of a request's body, in bytes: 4 GiB.
const DefaultMaxBody = 4 << 30

// Limits for local programs.
const (
	proxyConnections = 64               // connections at the same time
	proxyHeader      = 32 << 10         // size of a request's header, in bytes
	proxyHeaderTime  = 10 * time.Second // time for reading a request's header
	proxyIdle        = time.Minute      // how long a connection may be idle between requests
	proxyPatience    = 30 * time.Second // default of ProxyConfig.patience
)

// Proxy lets programs on this machine use the hub's API as this device, without access to the
// device's key. Proxy accepts requests over HTTP/1. It forwards them, over TLS with the IDevID
// certificate, to the hub that the state folder names, and to no other host. Proxy returns when ctx
// ends.
//
// Proxy does not lock the state folder, so the agent may run at the same time.
func Proxy(ctx context.Context, cfg ProxyConfig) error {
	if cfg.MaxBody == 0 {
		cfg.MaxBody = DefaultMaxBody
	}
	if cfg.patience == 0 {
		cfg.patience = proxyPatience
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	dir := &folder{path: cfg.StateDir}
	state, err := dir.read()
	if err != nil {
		return err
	}
	if state.Phase != PhaseActive {
		return state.notOnboarded()
	}
	g, err := newGate(state.DeviceID, cfg.Allow)
	if err != nil {
		return err
	}
	g.loopback = cfg.TCP != ""
	t, err := openTPM(cfg.TPM)
	if err != nil {
		return err
	}
	defer t.Close()
	a := &Agent{cfg: Config{TPM: cfg.TPM, StateDir: cfg.StateDir, EndorsementAuth: cfg.EndorsementAuth, Proxy: cfg.Through, EventLog: cfg.EventLog, Log: cfg.Log, Progress: cfg.Progress}, dir: dir, state: state}
	signer, err := a.signer(ctx, t)
	if err != nil {
		return err
	}
	defer signer.Close()
	certs, err := dir.certificates(state.HubCA)
	if err != nil {
		return err
	}
	first, err := a.hubOf(state.HubName, state.HubCA)
	if err != nil {
		return err
	}
	r := newRelay(a, t, func() *hub { return first.as(certs.idevid, signer) })
	defer r.close()
	l, err := cfg.listen()
	if err != nil {
		return err
	}
	defer l.Close()
	if cfg.TokenFile != "" {
		token := rand.Text()
		if err := (&folder{path: filepath.Dir(cfg.TokenFile)}).write(filepath.Base(cfg.TokenFile), []byte(token+"\n")); err != nil {
			return err
		}
		defer os.Remove(cfg.TokenFile)
		g.guard(token)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go dir.watchIdentity(ctx, certs, func(s *State) { first.at.offer(s.addressesOf(state.HubName).URLs) }, func() { stop(ErrOnboardedAgain) })
	err = cfg.serve(ctx, l, newProxyHandler(g, first.at, r, cfg))
	if errors.Is(context.Cause(ctx), ErrOnboardedAgain) {
		return errors.Join(ErrOnboardedAgain, err)
	}
	return err
}

// ErrOnboardedAgain is returned by Proxy when the machine has onboarded again. The device then has
// a new certificate, but the proxy still has the old one. The caller can start Proxy again at once.
var ErrOnboardedAgain = errors.New("agent: this machine has onboarded again and has another certificate; restart the proxy")

// watchIdentity watches the state folder until ctx ends. It calls `read` with each new state. If
// the folder's IDevID certificate differs from the certificate in `certs`, watchIdentity calls
// `changed` and returns.
func (f *folder) watchIdentity(ctx context.Context, certs *certificates, read func(*State), changed func()) {
	var before os.FileInfo
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(statePoll):
		}
		if now, err := os.Stat(filepath.Join(f.path, stateFile)); err == nil && (before == nil || !os.SameFile(before, now)) {
			before = now
			if s, err := f.read(); err == nil {
				read(&s)
			}
		}
		text, err := f.load(identityFile)
		if err != nil {
			continue // the file was removed: the hub decides what this device may still do
		}
		if block, _ := pem.Decode(text); block != nil && !bytes.Equal(block.Bytes, certs.idevid.Raw) {
			changed()
			return
		}
	}
}

func (cfg *ProxyConfig) serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: proxyHeaderTime, IdleTimeout: proxyIdle, MaxHeaderBytes: proxyHeader,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(netutil.LimitListener(l, proxyConnections)) }()
	if cfg.Ready != nil {
		cfg.Ready(l.Addr().String())
	}
	select {
	case err := <-done:
		return fmt.Errorf("agent: serving the proxy: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if s.Shutdown(end) != nil {
		s.Close()
	}
	<-done
	return nil
}

// newProxyHandler forwards each request that the gate accepts, and answers every other request with
// the gate's refusal.
func newProxyHandler(g *gate, at *addresses, r http.RoundTripper, cfg ProxyConfig) http.Handler {
	forward := &httputil.ReverseProxy{
		Transport: r,
		Rewrite: func(p *httputil.ProxyRequest) {
			toHub(p.Out, at.current()) // if the relay's connection is to another address of the hub, the relay changes this address
			p.Out.Header = forwardHeader(p.In.Header)
		},
		ModifyResponse: func(resp *http.Response) error {
			for _, name := range []string{"Set-Cookie", "Strict-Transport-Security", "Alt-Svc"} {
				resp.Header.Del(name)
			}
			localLocation(resp.Header, at.all())
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { explain(err, cfg).write(w) },
		ErrorLog:     slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		hasBody := r.Body != nil && r.Body != http.NoBody
		if hasBody { // the server reads the rest of the body after the answer, so the limit must also apply after the handler has returned
			c.SetReadDeadline(time.Now().Add(cfg.patience))
		}
		if n := g.check(r); n != nil {
			cfg.Log.Info("refused", "method", r.Method, "path", r.URL.Path, "code", n.Code)
			w.Header().Set("Connection", "close")
			n.write(w)
			return
		}
		if r.ContentLength > cfg.MaxBody {
			w.Header().Set("Connection", "close")
			explain(&http.MaxBytesError{Limit: cfg.MaxBody}, cfg).write(w)
			return
		}
		if hasBody {
			r.Body = &patientBody{ReadCloser: http.MaxBytesReader(w, r.Body, cfg.MaxBody), control: c, patience: cfg.patience}
		}
		forward.ServeHTTP(&patientWriter{ResponseWriter: w, control: c, patience: cfg.patience}, r)
	})
}

// explain returns the refusal that a program gets if its request could not be forwarded to the hub
// because of err.
func explain(err error, cfg ProxyConfig) *refusal {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return &refusal{http.StatusRequestEntityTooLarge, "proxy-body", fmt.Sprintf("The body has more than %d bytes.", cfg.MaxBody), "Send a smaller body, or start the proxy with a larger --max-body."}
	case errors.Is(err, errBusy):
		return &refusal{http.StatusServiceUnavailable, "proxy-busy", "All connections to the hub are in use.", "Retry."}
	}
	cfg.Log.Warn("forwarding to the hub failed", "err", err)
	return &refusal{http.StatusBadGateway, "proxy-hub", "The hub could not be reached or did not answer.", "Retry; the proxy's log has the reason."}
}

// localLocation makes the Location header relative if it names one of the hub's addresses, so that
// a client that follows the header sends its next request to the proxy, too.
func localLocation(h http.Header, hub []string) {
	u, err := url.Parse(h.Get("Location"))
	if err == nil && slices.Contains(hub, u.Scheme+"://"+u.Host) {
		u.Scheme, u.Host = "", ""
		h.Set("Location", u.String())
	}
}

// patientBody is a request's body with a time limit for each read.
type patientBody struct {
	io.ReadCloser
	control  *http.ResponseController
	patience time.Duration
}

func (b *patientBody) Read(p []byte) (int, error) {
	b.control.SetReadDeadline(time.Now().Add(b.patience)) // an error would mean that the connection is closed
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.control.SetReadDeadline(time.Time{}) // the server sets its own deadline for the next request
	}
	return n, err
}

// patientWriter writes an answer, with a time limit for each write.
type patientWriter struct {
	http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration
}

func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *patientWriter) Write(p []byte) (int, error) {
	w.control.SetWriteDeadline(time.Now().Add(w.patience))
	return w.ResponseWriter.Write(p)
}

// listen opens the socket that cfg names.
func (cfg *ProxyConfig) listen() (net.Listener, error) {
	switch {
	case (cfg.Unix == "") == (cfg.TCP == ""):
		return nil, errors.New("agent: the proxy needs either a Unix socket or a loopback address to listen on")
	case cfg.TCP != "":
		if cfg.Group != "" {
			return nil, errors.New("agent: a group works only with a Unix socket; every user of the machine can reach a TCP port")
		}
		at, err := netip.ParseAddrPort(strings.Replace(cfg.TCP, "localhost:", "127.0.0.1:", 1))
		if err != nil || !at.Addr().IsLoopback() {
			return nil, fmt.Errorf("agent: %q is not a loopback address and port; use 127.0.0.1:8080, because the proxy is only for programs on this machine", cfg.TCP)
		}
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
		return l, nil
	}
	return listenUnix(cfg.Unix, cfg.Group)
}

// listenUnix makes a Unix socket to which other users can never connect. It creates the socket in a
// private folder and sets the mode and the group there. Then it moves the socket to its path.
func listenUnix(at, group string) (net.Listener, error) {
	gid, mode := -1, os.FileMode(0o600)
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return nil, fmt.Errorf("agent: group %s: %w", group, err)
		}
		mode = 0o660
	}
	if err := stale(at); err != nil {
		return nil, err
	}
	private, err := os.MkdirTemp(filepath.Dir(at), ".gw") // mode 0700
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	defer os.RemoveAll(private)
	born := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: born, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if gid != -1 { // without a group, do not call chown: the hardened systemd unit forbids it
		err = os.Chown(born, -1, gid)
	}
	if err == nil {
		err = os.Chmod(born, mode)
	}
	if err == nil {
		err = os.Rename(born, at)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("agent: %w", err)
	}
	info, err := os.Lstat(at)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("agent: %w", err)
	}
	return &unixListener{UnixListener: l, path: at, info: info}, nil
}

// The function `stale` returns nil if no file is at the path, or only a socket without a listener.
// Otherwise it returns an error.
func stale(at string) error {
	info, err := os.Lstat(at)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	if info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("agent: %s exists and is not a socket; remove it or use another path", at)
	}
	if c, err := net.DialTimeout("unix", at, time.Second); err == nil {
		c.Close()
		return fmt.Errorf("agent: another program listens on %s; stop it first", at)
	}
	return nil
}

// unixListener removes the file of its socket when it is closed, unless another socket has replaced
// the file.
type unixListener struct {
	*net.UnixListener
	path string
	info os.FileInfo
	once sync.Once
}

func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *unixListener) Close() error {
	l.once.Do(func() {
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.info) {
			os.Remove(l.path)
		}
	})
	return l.UnixListener.Close()
}
