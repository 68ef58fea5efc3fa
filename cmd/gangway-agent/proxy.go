package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"gangway/device/agent"

	"github.com/spf13/cobra"
)

func proxyCommand(o *options, stderr io.Writer) *cobra.Command {
	var cfg agent.ProxyConfig
	c := &cobra.Command{
		Use:   "proxy --unix PATH | --tcp 127.0.0.1:PORT",
		Short: "Let programs of this machine use the hub under its identity",
		Long: `Proxy takes plain HTTP/1 from programs of this machine and sends it to the hub over
TLS with the device's identity, whose key stays in the TPM. It shows the hub what was
booted where its policy asks for that.

Only the device's own API passes: its record and meta data, its trail, objects and
logs. --allow adds a route, --token-file asks for a token, which is another one after
each start. When the machine has onboarded again it ends, to be started again.

A Unix socket is for its owner alone, or for --group. A TCP port can be reached by
every user of the machine.`,
		Example: `  gangway-agent proxy --unix /run/gangway/hub.sock --group gangway
  curl --unix-socket /run/gangway/hub.sock http://localhost/device
  gangway-agent proxy --tcp 127.0.0.1:8080 --token-file /run/gangway/token`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if (cfg.Unix == "") == (cfg.TCP == "") {
				return usageError{fmt.Errorf("one of --unix and --tcp is needed")}
			}
			cfg.TPM, cfg.StateDir = o.tpm, o.state
			auth, err := readAuth(o.endorsementAuth)
			if err != nil {
				return err
			}
			cfg.EndorsementAuth = auth
			network, err := o.network.settings()
			if err != nil {
				return err
			}
			cfg.Through = httpProxy(network)
			level := slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})
			cfg.Log = slog.New(level)
			cfg.Progress = func(s agent.Progress) { fmt.Fprintf(stderr, "%s (%s)\n", s.Detail, s.Took.Round(time.Millisecond)) }
			if o.output == "json" {
				cfg.Progress = nil
				cfg.Log = slog.New(slog.NewJSONHandler(stderr, nil))
			}
			cfg.Ready = func(addr string) {
				if cfg.TCP != "" && cfg.TokenFile == "" {
					fmt.Fprintln(stderr, "Warning: every user of this machine can use the hub as this device through this port; --unix or --token-file keeps them out.")
				}
				fmt.Fprintf(stderr, "Listening on %s\n", strings.TrimSpace(addr))
			}
			return agent.Proxy(c.Context(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Unix, "unix", "", "listen on this Unix socket, mode 0600")
	f.StringVar(&cfg.Group, "group", "", "group that may use the socket too (mode 0660)")
	f.StringVar(&cfg.TCP, "tcp", "", "listen on this loopback address")
	f.StringVar(&cfg.TokenFile, "token-file", "", "file for a bearer token that every request must show")
	f.StringArrayVar(&cfg.Allow, "allow", nil, "one more route, such as 'POST /device/secret'; may be repeated")
	f.Int64Var(&cfg.MaxBody, "max-body", agent.DefaultMaxBody, "largest request body, in bytes")
	return c
}
