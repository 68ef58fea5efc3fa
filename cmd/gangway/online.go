package main

import (
	"gangway/hub/fetch"
	"gangway/hub/onboard"

	"github.com/spf13/pflag"
)

// onlineFlags are serve's, for what the hub may look up on the web.
type onlineFlags struct {
	issuers, crls []string
	check         string
}

func (o *onlineFlags) add(f *pflag.FlagSet) {
	f.StringSliceVar(&o.issuers, "fetch-intermediates", nil, "host names that TPM makers' CA certificates may be fetched from, e.g. pki.infineon.com (default: none is fetched)")
	f.StringVar(&o.check, "check-crls", "off", "ask makers' revocation lists: off, soft (one that cannot be had is noted) or hard (it is refused)")
	f.StringSliceVar(&o.crls, "crl-hosts", nil, "host names that revocation lists may be fetched from (default: those of --fetch-intermediates)")
}

// online returns what looks up, nil if nothing is to be.
func (o *onlineFlags) online() (onboard.Online, error) {
	mode, ok := map[string]fetch.CRLMode{"off": fetch.CRLsOff, "soft": fetch.CRLsSoft, "hard": fetch.CRLsHard}[o.check]
	switch {
	case !ok:
		return nil, usagef("--check-crls is off, soft or hard, not %q", o.check)
	case mode == fetch.CRLsOff && len(o.crls) > 0:
		return nil, usagef("--crl-hosts needs --check-crls soft or hard")
	case mode == fetch.CRLsOff && len(o.issuers) == 0:
		return nil, nil
	}
	if len(o.crls) == 0 {
		o.crls = o.issuers
	}
	if mode != fetch.CRLsOff && len(o.crls) == 0 {
		return nil, usagef("--check-crls needs the hosts that lists may be fetched from: --crl-hosts HOST,...")
	}
	f, err := fetch.New(fetch.Options{IssuerHosts: o.issuers, CRLHosts: o.crls, CRLs: mode})
	if err != nil {
		return nil, usagef("%v", err)
	}
	return f, nil
}
