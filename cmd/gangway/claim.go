package main

import (
	"net/http"
	"net/url"
	"strings"

	"gangway/wire"

	"github.com/spf13/cobra"
)

// deviceClaim takes a machine by the address that its screen shows, as a phone
// does.
func (a *app) deviceClaim() *cobra.Command {
	return &cobra.Command{
		Use:   "claim ADDRESS",
		Short: "Take a machine that has no owner, by the address on its screen",
		Long: `Claim makes a machine yours whose image was built with --claim. Its screen, and its
serial console, show the address, and letters that are printed here too: compare
them before you take a machine that you do not see.`,
		Example: "  gangway device claim https://hub.example:12443/claim/AbC...",
		Args:    args("the address on the machine's screen"),
		RunE: func(c *cobra.Command, arg []string) error {
			s, err := loadSignIn()
			if err != nil {
				return err
			}
			address, err := url.Parse(arg[0])
			if err != nil {
				return usagef("%q is no address", arg[0])
			}
			code, ok := strings.CutPrefix(address.Path, "/claim/")
			if _, _, err := wire.ParseClaimCode(code); !ok || err != nil {
				return usagef("%.100q is no address of a machine's screen: https://HUB/claim/CODE", arg[0])
			}
			if hub, err := url.Parse(s.Hub); err != nil || hub.Host != address.Host {
				// The machine knows its hub by another address, or is another
				// hub's: the code is good at its own alone.
				a.note("The machine names %s; you are signed in to %s.", address.Host, s.Hub)
			}
			var who wire.Claim
			if err := s.do(c.Context(), http.MethodPost, "/claim/"+code, nil, &who); err != nil {
				return err
			}
			if done, err := a.json(map[string]string{"words": wire.ClaimWords(code), "owner": who.Owner, "owner-nick": who.OwnerNick}); done {
				return err
			}
			a.note("The machine that shows %s is yours, %s; it comes to the list by itself.", wire.ClaimWords(code), who.OwnerNick)
			return nil
		},
	}
}
