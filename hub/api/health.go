package api

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

//go:embed openapi.json
var openAPIDocument []byte

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

func (s *Server) openAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	setLength(w, len(openAPIDocument))
	_, err := w.Write(openAPIDocument)
	return err
}

// hubCA serves the root certificate. The certificate is not a secret. The client must compare the
// SHA-256 of the certificate's SubjectPublicKeyInfo with the hub name that the client already has.
func (s *Server) hubCA(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, err := w.Write(s.cfg.CA.RootPEM())
	return err
}

// PrivateHandler serves the operator's routes: GET /metrics, and with Config.Profiles also Go's
// profiles. Like the public listener, it serves GET /healthz and /readyz. It does not authenticate
// clients, so use it only on a listener that outsiders cannot reach.
func (s *Server) PrivateHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	mux.Handle("GET /healthz", s.errorHandler(s.healthz))
	mux.Handle("GET /readyz", s.errorHandler(s.readyz))
	if s.cfg.Profiles {
		// The profile "cmdline" is left out: a database's URL on the command line may have a
		// password.
		mux.HandleFunc("GET /debug/pprof/{name}", func(w http.ResponseWriter, r *http.Request) {
			if r.PathValue("name") == "cmdline" {
				http.NotFound(w, r)
				return
			}
			pprof.Index(w, r)
		})
		mux.HandleFunc("GET /debug/pprof/{$}", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// ServePrivate serves PrivateHandler over plain HTTP. After ctx ends, it continues to serve for the
// duration Config.Drain.
func (s *Server) ServePrivate(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: s.PrivateHandler(), ReadTimeout: s.cfg.Timeouts.Header, WriteTimeout: s.cfg.Timeouts.Request, IdleTimeout: s.cfg.Timeouts.Idle,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	serving, end := s.drain(ctx)
	defer end()
	stop := context.AfterFunc(serving, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("hub: metrics: %w", err)
	}
	return nil
}
