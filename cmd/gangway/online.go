package main

import (
	"gangway/hub/fetch"
	"gangway/hub/onboard"

	"github.com/spf13/pflag"
)

// onlineFlags are the flags of 'gangway serve' that control what the hub downloads from TPM makers.
type onlineFlags struct {
	issuers, crls []string
	check         string
}

func (o *onlineFlags) add(f *pflag.FlagSet) {
	f.StringSliceVar(&o.issuers, "fetch-intermediates", nil, "host names from which the hub may download TPM makers' CA certificates, such as pki.infineon.com (default: none)")
	f.StringVar(&o.check, "check-crls", "off", "check TPM makers' revocation lists: off, soft (if a list cannot be downloaded, note it) or hard (if a list cannot be downloaded, refuse the device)")
	f.StringSliceVar(&o.crls, "crl-hosts", nil, "host names from which the hub may download revocation lists (default: those of --fetch-intermediates)")
}

// The method `online` returns the downloader for certificates and revocation lists of TPM makers.
// The downloader is nil if the flags allow no downloads.
func (o *onlineFlags) online() (onboard.Online, error) {
	mode, ok := map[string]fetch.CRLMode{"off": fetch.CRLsOff, "soft": fetch.CRLsSoft, "hard": fetch.CRLsHard}[o.check]
	switch {
	case !ok:
		return nil, usagef("--check-crls must be off, soft or hard, not %q", o.check)
	case mode == fetch.CRLsOff && len(o.crls) > 0:
		return nil, usagef("--crl-hosts needs --check-crls soft or hard")
	case mode == fetch.CRLsOff && len(o.issuers) == 0:
		return nil, nil
	}
	if len(o.crls) == 0 {
		o.crls = o.issuers
	}
	if mode != fetch.CRLsOff && len(o.crls) == 0 {
		return nil, usagef("--check-crls needs the hosts of the revocation lists: --crl-hosts HOST,...")
	}
	f, err := fetch.New(fetch.Options{IssuerHosts: o.issuers, CRLHosts: o.crls, CRLs: mode})
	if err != nil {
		return nil, usagef("%v", err)
	}
	return f, nil
}
