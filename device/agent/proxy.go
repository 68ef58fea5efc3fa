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

	"gangway/device/identity"

	"golang.org/x/net/netutil"
)

// ProxyConfig is what Proxy is made of.
type ProxyConfig struct {
	TPM, StateDir, EventLog string // as in Config
	EndorsementAuth         []byte // as in Config

	// Through is the HTTP proxy by which the hub is reached; nil: none.
	Through *HTTPProxy

	// Unix is the path of a socket to listen on, which its owner alone may use,
	// or Group's members too. Exactly one of Unix and TCP is set.
	Unix, Group string
	// TCP is a loopback address, which any user of the machine can reach:
	// "127.0.0.1:8080".
	TCP string
	// TokenFile, if set, gets a bearer token, made at each start, that every
	// request must show. It has mode 0600, and goes with the proxy.
	TokenFile string
	// Allow adds routes to the device's own API: "POST /device/secret".
	Allow []string
	// MaxBody bounds a request's body, in bytes. Default: DefaultMaxBody.
	MaxBody int64

	// Ready, if set, is called with the address once the proxy listens.
	Ready func(addr string)
	Log   *slog.Logger // may be nil
	// Progress, if set, is called at each step.
	Progress func(Step)

	patience time.Duration // for each piece of a body to move; default: proxyPatience
}

// DefaultMaxBody is how large a request's body may be, in bytes: 4 GiB.
const DefaultMaxBody = 4 << 30

// Limits of what a local program may do.
const (
	proxyConnections = 64               // at once
	proxyHeader      = 32 << 10         // bytes
	proxyHeaderTime  = 10 * time.Second // for a request's header to arrive
	proxyIdle        = time.Minute      // of a connection between requests
	proxyPatience    = 30 * time.Second // default
)

// Proxy gives programs of this machine the hub's API under the device's
// identity, with no key in their reach: HTTP/1 in, TLS under the IDevID out, to
// the hub of the state folder and to nowhere else. It returns when ctx ends.
//
// It takes no lock: the agent may run meanwhile.
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
		return state.notAboard()
	}
	g, err := newGate(state.DeviceID, cfg.Allow)
	if err != nil {
		return err
	}
	g.loopback = cfg.TCP != ""
	t, err := identity.Open(cfg.TPM)
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
	r := newRelay(a, t, func() *hub { return first.as(certs.chain(), signer) })
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

// ErrOnboardedAgain ends a proxy whose machine has another certificate now. It
// can be started again at once.
var ErrOnboardedAgain = errors.New("agent: this machine has onboarded again, with another certificate: start the proxy again")

// watchIdentity calls read with each new state of the folder, and changed when the
// folder holds another certificate than certs, until ctx ends.
func (f *folder) watchIdentity(ctx context.Context, certs *certificates, read func(*State), changed func()) {
	var before os.FileInfo
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(stateLook):
		}
		if now, err := os.Stat(filepath.Join(f.path, stateFile)); err == nil && (before == nil || !os.SameFile(before, now)) {
			before = now
			if s, err := f.read(); err == nil {
				read(&s)
			}
		}
		text, err := f.load(identityFile)
		if err != nil {
			continue // it is being replaced, or was taken away: the hub has the last word
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
		return fmt.Errorf("agent: the proxy: %w", err)
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

// newProxyHandler judges each request, and sends on what may pass.
func newProxyHandler(g *gate, at *addresses, r http.RoundTripper, cfg ProxyConfig) http.Handler {
	forward := &httputil.ReverseProxy{
		Transport: r,
		Rewrite: func(p *httputil.ProxyRequest) {
			toHub(p.Out, at.current()) // the host too; the relay has the last word
			p.Out.Header = onward(p.In.Header)
		},
		ModifyResponse: func(resp *http.Response) error {
			for _, name := range []string{"Set-Cookie", "Strict-Transport-Security", "Alt-Svc"} {
				resp.Header.Del(name)
			}
			inward(resp.Header, at.all())
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { explain(err, cfg).write(w) },
		ErrorLog:     slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		hasBody := r.Body != nil && r.Body != http.NoBody
		if hasBody { // also what nobody reads: the server does, after the answer
			c.SetReadDeadline(time.Now().Add(cfg.patience))
		}
		if n := g.judge(r); n != nil {
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

// explain says what went wrong on the way to the hub.
func explain(err error, cfg ProxyConfig) *no {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return &no{http.StatusRequestEntityTooLarge, "proxy-body", fmt.Sprintf("The body has more than %d bytes.", cfg.MaxBody), "Send less, or start the proxy with a larger --max-body."}
	case errors.Is(err, errBusy):
		return &no{http.StatusServiceUnavailable, "proxy-busy", "All connections to the hub are in use.", "Try again."}
	}
	cfg.Log.Warn("the hub", "err", err)
	return &no{http.StatusBadGateway, "proxy-hub", "The hub was not reached, or did not answer.", "Try again; the proxy's log says more."}
}

// inward makes an address of the hub's one of the proxy's, so that who follows it
// comes back here.
func inward(h http.Header, hub []string) {
	u, err := url.Parse(h.Get("Location"))
	if err == nil && slices.Contains(hub, u.Scheme+"://"+u.Host) {
		u.Scheme, u.Host = "", ""
		h.Set("Location", u.String())
	}
}

// patientBody is a request's body whose every piece must arrive in time.
type patientBody struct {
	io.ReadCloser
	control  *http.ResponseController
	patience time.Duration
}

func (b *patientBody) Read(p []byte) (int, error) {
	b.control.SetReadDeadline(time.Now().Add(b.patience)) // where it cannot be set, the connection is gone
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.control.SetReadDeadline(time.Time{}) // what follows is the server's own
	}
	return n, err
}

// patientWriter is an answer whose every piece must be taken in time.
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
		return nil, errors.New("agent: the proxy listens on a Unix socket or on a loopback address: name one of them")
	case cfg.TCP != "":
		if cfg.Group != "" {
			return nil, errors.New("agent: a group is for Unix sockets: any user of the machine reaches a TCP port")
		}
		at, err := netip.ParseAddrPort(strings.Replace(cfg.TCP, "localhost:", "127.0.0.1:", 1))
		if err != nil || !at.Addr().IsLoopback() {
			return nil, fmt.Errorf("agent: %q is no loopback address and port, such as 127.0.0.1:8080: the proxy is for this machine's programs alone", cfg.TCP)
		}
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
		return l, nil
	}
	return listenUnix(cfg.Unix, cfg.Group)
}

// listenUnix makes a socket that nobody else can connect to at any moment: it
// gets its mode and group in a folder of its own before it has its name.
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
	if gid != -1 { // the hardened unit forbids the system call
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

// stale refuses to take the place of anything but a socket that nobody listens
// on.
func stale(at string) error {
	info, err := os.Lstat(at)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	if info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("agent: %s is there and is no socket", at)
	}
	if c, err := net.DialTimeout("unix", at, time.Second); err == nil {
		c.Close()
		return fmt.Errorf("agent: another program listens on %s; stop it first", at)
	}
	return nil
}

// unixListener takes its socket away when it is closed, unless another one is in
// its place.
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
