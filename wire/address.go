package wire

import (
	"net/url"
	"slices"
	"strings"
)

// AddressesHeader is the header of the hub's answers that names where the hub is
// reached: https URLs without a path, separated by commas, the preferred one
// first. It is worth what the connection is: a device reads it only where the
// hub's CA vouches for the connection.
const AddressesHeader = "Gangway-Hub"

// MaxAddresses is how many addresses of a hub are read, and maxAddress how long
// one may be, in bytes.
const (
	MaxAddresses = 8
	maxAddress   = 300
)

// IsHubURL reports whether s is a hub's address: https://host[:port], and
// optionally one slash.
func IsHubURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.Hostname() != "" && (u.Path == "" || u.Path == "/") &&
		u.RawQuery == "" && !u.ForceQuery && u.Fragment == "" && u.User == nil
}

// ParseAddresses reads the values of AddressesHeader. What is not an address is
// left out, and so is what exceeds the bounds.
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
