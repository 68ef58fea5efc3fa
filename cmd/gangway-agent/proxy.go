package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"gangway/device/agent"

	"gangway/internal/cmdline"

	"github.com/spf13/cobra"
)

func proxyCommand(o *options, stderr io.Writer) *cobra.Command {
	var cfg agent.ProxyConfig
	c := &cobra.Command{
		Use:   "proxy --unix PATH | --tcp 127.0.0.1:PORT",
		Short: "Let local programs use the hub's API as this device",
		Long: `Proxy accepts plain HTTP/1 requests from programs on this machine and forwards them to
the hub over TLS as this device. The key stays in the TPM. If the hub's policy requires
a boot measurement, the proxy also sends a measurement.

Only the device's own API is forwarded: its record and metadata, its trail, objects and
logs. Add a route with --allow. With --token-file, every request must carry a bearer token,
which changes at each start. When the machine onboards again, the proxy exits, so that a
service manager can start it with the new certificate.

A Unix socket can be used only by its owner and by the group of --group. Every user of the
machine can reach a TCP port.`,
		Example: `  gangway-agent proxy --unix /run/gangway/hub.sock --group gangway
  curl --unix-socket /run/gangway/hub.sock http://localhost/device
  gangway-agent proxy --tcp 127.0.0.1:8080 --token-file /run/gangway/token`,
		Args: cmdline.Args(),
		RunE: func(c *cobra.Command, _ []string) error {
			if (cfg.Unix == "") == (cfg.TCP == "") {
				return cmdline.Usagef("name the address to listen on: either --unix or --tcp")
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
			cfg.Progress = func(p agent.Progress) { fmt.Fprintf(stderr, "%s (%s)\n", p.Detail, p.Took.Round(time.Millisecond)) }
			if o.output == "json" {
				cfg.Progress = nil
				cfg.Log = slog.New(slog.NewJSONHandler(stderr, nil))
			}
			cfg.Ready = func(addr string) {
				if cfg.TCP != "" && cfg.TokenFile == "" {
					fmt.Fprintln(stderr, "Warning: through this port, every user of this machine can use the hub as this device. Use --unix or --token-file to prevent that.")
				}
				fmt.Fprintf(stderr, "Listening on %s\n", strings.TrimSpace(addr))
			}
			return agent.Proxy(c.Context(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Unix, "unix", "", "listen on this Unix socket (mode 0600)")
	f.StringVar(&cfg.Group, "group", "", "group that may also use the socket; the mode is then 0660 (default: no group)")
	f.StringVar(&cfg.TCP, "tcp", "", "listen on this loopback address and port")
	f.StringVar(&cfg.TokenFile, "token-file", "", "write a new bearer token to this file each time the proxy starts, and require it in every request")
	f.StringArrayVar(&cfg.Allow, "allow", nil, "forward this route too, for example 'POST /device/secret'; repeatable")
	f.Int64Var(&cfg.MaxBody, "max-body", agent.DefaultMaxBody, "maximum size of a request's body, in bytes")
	return c
}
