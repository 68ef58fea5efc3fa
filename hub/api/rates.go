package api

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/time/rate"
)

// Rate is a rate limit: a client may send PerSecond requests per second on average, and at most
// Burst requests at once.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Rates are rate limits by name. See DefaultRates.
type Rates map[string]Rate

// Names of limits.
const (
	onboardRate      = "onboard"
	signInRate       = "sign-in"
	accountRate      = "account"
	deviceSignInRate = "device-sign-in"
	registerRate     = "register"
	claimRate        = "claim"
	signatureRate    = "signature"
	bootRate         = "boot"
)

// DefaultRates returns the default limits, which the operator can change. The limit "boot" applies
// to each device, and the limit "account" to each account. All other limits apply to each network:
// an IPv4 address, or an IPv6 /64.
func DefaultRates() Rates {
	return Rates{
		onboardRate:      {50, 200},      // onboarding requests and activations
		signInRate:       {1.0 / 3, 10},  // passwords of people
		accountRate:      {1.0 / 10, 20}, // passwords for one account, from networks from which nobody has signed in to the account
		deviceSignInRate: {20, 100},      // secrets of devices
		registerRate:     {1.0 / 2, 20},  // registrations of devices without a TPM
		claimRate:        {1.0 / 6, 10},  // claims of devices by their challenge
		signatureRate:    {1, 20},        // checks of Pantacor's ownership signatures
		bootRate:         {1.0 / 2, 30},  // boot measurements
	}
}

// The method `with` returns a copy of `r` in which the rates in `other` replace those with the same
// names. It returns an error for an unknown name, and for a rate that admits no request. The texts
// of these errors are for the operator.
func (r Rates) with(other Rates) (Rates, error) {
	all := maps.Clone(r)
	for name, rate := range other {
		if _, ok := all[name]; !ok {
			return nil, fmt.Errorf("unknown rate limit %q; the rate limits are %s", name, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
		}
		if !(rate.PerSecond > 0) || rate.PerSecond > 1e9 || rate.Burst < 1 {
			return nil, fmt.Errorf("rate limit %q: the requests a second must be more than 0, and the burst must be at least 1", name)
		}
		all[name] = rate
	}
	return all, nil
}

// Check returns an error if `r` has an unknown name, or a rate that New would refuse.
func (r Rates) Check() error {
	_, err := DefaultRates().with(r)
	return err
}

// byNetwork makes the limiters of all rates that apply to a network, by name.
func (r Rates) byNetwork() map[string]*limiter[netip.Prefix] {
	limiters := map[string]*limiter[netip.Prefix]{}
	for name, rate := range r {
		if name != bootRate && name != accountRate {
			limiters[name] = limiterOf[netip.Prefix](rate)
		}
	}
	return limiters
}

func limiterOf[K comparable](r Rate) *limiter[K] {
	return newLimiter[K](rate.Limit(r.PerSecond), r.Burst)
}
