package main

import (
	"net/http"
	"net/url"
	"strings"

	"gangway/wire"

	"github.com/spf13/cobra"
)

// deviceClaim returns the command that claims a machine by the address on the machine's screen. A
// person can also open that address with a phone.
func (a *app) deviceClaim() *cobra.Command {
	return &cobra.Command{
		Use:   "claim ADDRESS",
		Short: "Claim a machine that has no owner, by the address on its screen",
		Long: `Claim makes you the owner of a machine whose image was built with --claim. The
machine's screen and serial console show a claim address, and some letters for a
comparison. This command prints the letters that belong to your address: compare them
with the letters on the machine. If they differ, the address belongs to another machine.`,
		Example: "  gangway device claim https://hub.example:12443/claim/AbC...",
		Args:    args("the address on the machine's screen"),
		RunE: func(c *cobra.Command, arg []string) error {
			s, err := loadSignIn(c.Context())
			if err != nil {
				return err
			}
			address, err := url.Parse(arg[0])
			if err != nil {
				return usagef("%.100q is not a URL", arg[0])
			}
			code, ok := strings.CutPrefix(address.Path, "/claim/")
			if _, _, err := wire.ParseClaimCode(code); !ok || err != nil {
				return usagef("%.100q is not a claim address: type it as the machine's screen shows it, https://HUB/claim/CODE", arg[0])
			}
			if hub, err := url.Parse(s.Hub); err != nil || hub.Host != address.Host {
				// The machine shows another address of this hub, or the address of another hub. A
				// claim code works only at the machine's own hub.
				a.note("Note: the machine's hub is at %s; you are signed in to %s.", address.Host, s.Hub)
			}
			var who wire.Claim
			if err := s.do(c.Context(), http.MethodPost, "/claim/"+code, nil, &who); err != nil {
				return err
			}
			if done, err := a.json(map[string]string{"words": wire.ClaimWords(code), "owner": who.Owner, "owner-nick": who.OwnerNick}); done {
				return err
			}
			a.note("The machine that shows %s is yours, %s. It onboards by itself; 'gangway device ls' then lists it.", wire.ClaimWords(code), who.OwnerNick)
			return nil
		},
	}
}
