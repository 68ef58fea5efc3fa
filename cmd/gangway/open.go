package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"gangway/internal/cmdline"
	"gangway/wire"

	"github.com/spf13/cobra"
)

func (a *app) openCommand() *cobra.Command {
	printOnly := false
	c := &cobra.Command{
		Use: "open [ID|NICK]", Short: "Open a device's page in a browser", Args: cmdline.AtMost(1),
		Long: `Open shows a device's page in your browser; without a device, the overview of the hub.
It starts the program in the variable BROWSER or, without it, the desktop's browser.
If there is no browser, for example in an SSH session, it prints the address.

The browser warns about the page's certificate if the hub's own CA signed it. It does not
warn if the operator has given the web pages a certificate that browsers trust.`,
		Example: "  gangway open oslo-gate-1\n  gangway open\n  gangway open oslo-gate-1 --print",
		RunE: func(c *cobra.Command, arg []string) error {
			s, err := loadSignIn(c.Context())
			if err != nil {
				return err
			}
			pages := s.pages(c.Context())
			address := pages + "/ui/overview"
			if len(arg) == 1 {
				d, err := findDevice(c.Context(), arg[0])
				if err != nil {
					return err
				}
				address = pages + "/ui/devices/" + d.ID
			}
			if !printOnly && a.forPeople() && openBrowser(address) == nil {
				a.note("Opened %s", address)
				return nil
			}
			if done, err := a.json(map[string]string{"url": address}); done {
				return err
			}
			a.printf("%s\n", address)
			return nil
		},
	}
	c.Flags().BoolVar(&printOnly, "print", false, "print the address and do not start a browser")
	return c
}

// pages returns the URL of the hub's web pages, as the hub announces it. If the hub announces no
// such URL, or cannot be reached, pages returns the URL that the user signed in to.
func (s *signIn) pages(ctx context.Context) string {
	c, err := s.client()
	if err != nil {
		return s.Hub
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Hub+"/healthz", nil)
	if err != nil {
		return s.Hub
	}
	resp, err := c.Do(req)
	if err != nil {
		return s.Hub
	}
	resp.Body.Close()
	if named := wire.ParseAddresses(resp.Header.Values(wire.PagesHeader)); len(named) > 0 {
		return named[0]
	}
	return s.Hub
}

var errNoBrowser = errors.New("no browser is here")

// openBrowser starts a browser that opens an address. The environment variable BROWSER is a list of
// commands, separated by colons. In each command, %s is replaced with the address.
func openBrowser(address string) error {
	for name := range strings.SplitSeq(os.Getenv("BROWSER"), ":") {
		words := strings.Fields(name)
		if len(words) == 0 {
			continue
		}
		placed := false
		for i, w := range words {
			if strings.Contains(w, "%s") {
				words[i], placed = strings.ReplaceAll(w, "%s", address), true
			}
		}
		if !placed {
			words = append(words, address)
		}
		if start(words) == nil {
			return nil
		}
	}
	switch {
	case runtime.GOOS == "darwin":
		return start([]string{"open", address})
	case os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "":
		return errNoBrowser
	}
	return start([]string{"xdg-open", address})
}

// start starts a program without a shell, and does not wait until the program ends. It discards the
// program's output.
func start(words []string) error {
	c := exec.Command(words[0], words[1:]...)
	if err := c.Start(); err != nil {
		return err
	}
	return c.Process.Release()
}
