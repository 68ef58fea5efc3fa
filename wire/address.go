package wire

import (
	"net/url"
	"slices"
	"strings"
)

// AddressesHeader is the HTTP header in which the hub's responses list the hub's addresses: https
// URLs without a path, separated by commas, the preferred one first. A device uses the header only
// on a connection that the hub's CA authenticates, because anyone else could send false addresses.
const AddressesHeader = "Gangway-Hub"

// PagesHeader is the HTTP header in which the hub's responses name the https URL of the hub's web
// pages, if the web pages have a host name of their own. The URL is for people's browsers: a device
// displays it in claim links.
const PagesHeader = "Gangway-Pages"

// MaxAddresses is the largest number of addresses that ParseAddresses returns. maxAddress is the
// largest length of one address, in bytes.
const (
	MaxAddresses = 8
	maxAddress   = 300
)

// IsHubURL reports whether `s` is a hub's address: https://host[:port], and optionally one slash.
func IsHubURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Hostname() != "" && (u.Path == "" || u.Path == "/") &&
		u.RawQuery == "" && !u.ForceQuery && u.Fragment == "" && u.User == nil
}

// ParseAddresses reads the values of AddressesHeader. It skips entries that are not hub addresses,
// addresses longer than maxAddress, repeated addresses, and all addresses after the first
// MaxAddresses.
func ParseAddresses(values []string) []string {
	var out []string
	for _, v := range values {
		for s := range strings.SplitSeq(v, ",") {
			s = strings.TrimSuffix(strings.TrimSpace(s), "/")
			if len(out) < MaxAddresses && len(s) <= maxAddress && IsHubURL(s) && !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out
}
