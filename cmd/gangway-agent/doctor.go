package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"gangway/device/doctor"
	"gangway/internal/cmdline"
	"gangway/internal/finding"
	"gangway/wire"

	"github.com/spf13/cobra"
)

// errProblems makes doctor exit with code 1. It has no text, because the findings are already
// printed.
var errProblems = errors.New("")

func doctorCommand(o *options, stdout io.Writer) *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine: TPM, event log, Secure Boot, clock, network, proxy, hub",
		Long: `Doctor checks what onboarding and reports need: the TPM with its PCR banks and its
lockout, the firmware's event log and whether it explains the PCRs, the mode of Secure
Boot, the agent's state, the network, the proxy, the hub and its name, the clock, and
whether the hub accepts this device. Each finding gives the problem, its cause and the
remedy. Doctor changes nothing, and shows no secret.

The exit code is 1 if a finding is a problem, and 0 otherwise. With --output json, the
findings are a list; their codes are stable.

A machine that is onboarded knows its hub. Before that, name the hub with --token-file or
--hub-file. Use --proxy, --network-file and --endorsement-auth-file with the same values
as for 'run'.`,
		Example: `  gangway-agent doctor
  gangway-agent doctor --token-file device_autojointoken.json
  gangway-agent doctor --proxy http://proxy.example:3128 -o json`,
		Args: cmdline.Args(),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := o.doctor()
			if err != nil {
				return err
			}
			findings := doctor.Examine(c.Context(), cfg)
			if c.Context().Err() != nil {
				return c.Context().Err()
			}
			if err := o.printFindings(stdout, findings); err != nil {
				return err
			}
			if doctor.Worst(findings) == doctor.Problem {
				return errProblems
			}
			return nil
		},
	}
	c.Flags().StringVar(&o.token, "token-file", "", "join token file that names the hub to check, if the machine is not onboarded (default: no hub)")
	c.Flags().StringVar(&o.hub, "hub-file", "", "hub file that names the hub to check, if the machine is not onboarded (default: no hub)")
	return c
}

// doctor converts the command's options to a configuration of package doctor.
func (o *options) doctor() (doctor.Config, error) {
	cfg := doctor.Config{TPM: o.tpm, StateDir: o.state}
	var err error
	if cfg.EndorsementAuth, err = readAuth(o.endorsementAuth); err != nil {
		return cfg, err
	}
	network, err := o.network.settings()
	if err != nil {
		return cfg, err
	}
	cfg.Proxy = httpProxy(network)
	cfg.Hub, err = o.namedHub()
	return cfg, err
}

// namedHub returns the hub that the token file or the hub file names. If the options name no file,
// it returns nil. The result does not contain the token file's secret.
func (o *options) namedHub() (*doctor.Hub, error) {
	switch {
	case o.token != "":
		b, err := readFile(o.token, wire.MaxTokenFile)
		if err != nil {
			return nil, err
		}
		t, err := wire.ParseTokenFile(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.token, err)
		}
		return &doctor.Hub{URL: strings.TrimSuffix(t.Hub, "/"), Name: t.HubName, CA: t.HubCA}, nil
	case o.hub != "":
		b, err := readFile(o.hub, wire.MaxTokenFile)
		if err != nil {
			return nil, err
		}
		h, err := wire.ParseHubFile(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.hub, err)
		}
		return &doctor.Hub{URL: strings.TrimSuffix(h.Hub, "/"), Name: h.HubName, CA: h.HubCA}, nil
	}
	return nil, nil
}

func (o *options) printFindings(w io.Writer, findings []doctor.Finding) error {
	if o.output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(findings)
	}
	return finding.Write(w, findings, nil)
}
