package agent

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"gangway/wire"
)

// A hub is identified by its root key; the hub's address may change. The agent keeps the addresses
// from token and hub files, and the addresses that the hub names on a verified connection
// (wire.AddressesHeader). The agent uses one address until it fails, and then the next one. At each
// address, the server must show a TLS certificate of the hub's CA. The first token or hub file sets
// that CA; a later file or an answer of the hub cannot change it.

// Addresses are the addresses of one hub, as the state stores them.
type Addresses struct {
	HubName string `json:"hub-name"`
	// File is the address in the token or hub file that was last read. If the agent reads that file
	// again, the list does not change, so an old file cannot replace newer addresses from the hub.
	File string `json:"file"`
	// URLs are the addresses in the order in which the agent tries them. The first one is in use.
	URLs []string `json:"urls"`
}

// addresses keeps the Addresses of the hub that the agent uses. Its methods are safe for concurrent
// use.
type addresses struct {
	file  string              // the address in the token or hub file; tried last if the hub does not name this address
	heard func(urls []string) // called when `urls` changes, while `mu` is not locked; may be nil

	mu    sync.Mutex
	urls  []string        // never empty
	saved []string        // argument of the last call of `heard`
	pages string          // URL of the hub's pages; empty: the hub does not name one
	holds map[string]held // by method and path
}

// The type `held` is a request that the hub refused, and that the agent must not send again before
// the time `until`.
type held struct {
	refused *Refused
	until   time.Time
}

// If the hub's refusal of a request has a Retry-After, the method `hold` stores the time until
// which the agent must not send the request again.
func (a *addresses) hold(method, path string, r *Refused) {
	if r.retryAfter == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(a.holds, func(_ string, h held) bool { return !now.Before(h.until) })
	if a.holds == nil {
		a.holds = map[string]held{}
	}
	a.holds[method+" "+path] = held{r, now.Add(r.retryAfter)}
}

// The method `held` returns the hub's refusal of a request that must not be sent yet, or nil.
func (a *addresses) held(method, path string) *Refused {
	a.mu.Lock()
	defer a.mu.Unlock()
	h, ok := a.holds[method+" "+path]
	if !ok || !time.Now().Before(h.until) {
		return nil
	}
	return h.refused
}

func newAddresses(urls []string, file string) *addresses {
	return &addresses{file: file, urls: distinct(urls), saved: slices.Clone(urls)}
}

// current returns the address in use.
func (a *addresses) current() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.urls[0]
}

// all returns all addresses, in order.
func (a *addresses) all() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.urls)
}

// forPeople returns the URL of the hub's web pages. If the hub does not name this URL, forPeople
// returns the address in use.
func (a *addresses) forPeople() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return cmp.Or(a.pages, a.urls[0])
}

// The method `failed` moves `url` to the end of the list, if `url` is the address in use. The agent
// then uses the next address.
func (a *addresses) failed(url string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.urls[0] == url {
		a.urls = append(a.urls[1:], url)
	}
}

// offer inserts addresses into the list, directly after the address in use.
func (a *addresses) offer(urls []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.urls = distinct(slices.Concat(a.urls[:1], urls, a.urls[1:]))
}

// The method `worked` makes `url` the address in use, because the hub has answered at `url`. If the
// answer names addresses, these replace the other addresses, except the address from the token or
// hub file.
func (a *addresses) worked(url string, h http.Header) {
	named := wire.ParseAddresses(h.Values(wire.AddressesHeader))
	a.mu.Lock()
	a.pages = ""
	if pages := wire.ParseAddresses(h.Values(wire.PagesHeader)); len(pages) > 0 {
		a.pages = pages[0]
	}
	urls := a.urls
	if len(named) > 0 {
		urls = append(named, a.file)
	}
	a.urls = distinct(append([]string{url}, urls...))
	news := !slices.Equal(a.urls, a.saved)
	if news {
		a.saved = slices.Clone(a.urls)
	}
	urls = slices.Clone(a.urls)
	a.mu.Unlock()
	if news && a.heard != nil {
		a.heard(urls)
	}
}

// distinct returns the first wire.MaxAddresses+2 addresses of `urls`, without empty and repeated
// addresses.
func distinct(urls []string) []string {
	var out []string
	for _, u := range urls {
		if u = strings.TrimSuffix(u, "/"); u != "" && !slices.Contains(out, u) && len(out) < wire.MaxAddresses+2 {
			out = append(out, u)
		}
	}
	return out
}

// The type `addressed` keeps an HTTP client for the address in use, and replaces the client when
// another address is in use. Each address has its own TLS configuration.
type addressed struct {
	at   *addresses
	make func(url string) *http.Client

	mu     sync.Mutex
	url    string
	client *http.Client
}

// get returns the client for the address in use, and that address.
func (c *addressed) get() (*http.Client, string) {
	url := c.at.current()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == nil || c.url != url {
		if c.client != nil {
			c.client.CloseIdleConnections()
		}
		c.client, c.url = c.make(url), url
	}
	return c.client, c.url
}

func (c *addressed) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client != nil {
		c.client.CloseIdleConnections()
	}
}

// The method `file` returns the hub that the token file or the hub file names. It returns nil if
// there is neither file.
func (c *Config) file() *wire.HubFile {
	if c.Token != nil {
		return &wire.HubFile{Hub: c.Token.Hub, HubName: c.Token.HubName, HubCA: c.Token.HubCA}
	}
	return c.Hub
}

// addressesOf returns the known addresses of a hub.
func (s *State) addressesOf(hubName string) Addresses {
	switch {
	case s.Addresses != nil && s.Addresses.HubName == hubName && len(s.Addresses.URLs) > 0:
		return *s.Addresses
	case s.Hub != "" && s.HubName == hubName: // an older agent wrote the state, with one address
		return Addresses{HubName: hubName, File: s.Hub, URLs: []string{s.Hub}}
	}
	return Addresses{HubName: hubName}
}

// If the configured file is for the state's hub and names a new address, adoptAddress makes this
// address the address in use (preferAddress). If the file is for another hub, adoptAddress changes
// nothing and returns an error. The file must prove that it is for the hub that it names: the hub's
// name must be the hash of the key of the CA in the file.
func (a *Agent) adoptAddress() error {
	f := a.cfg.file()
	if f == nil || a.state.HubName == "" {
		return nil
	}
	if f.HubName != a.state.HubName {
		return fmt.Errorf("agent: this machine belongs to the hub %s at %s. The agent ignores the token file or hub file, because the file names another hub: %s at %s. To move the machine to that hub, run 'gangway-agent onboard --again --token-file FILE'", a.state.HubName, a.state.Hub, f.HubName, f.Hub)
	}
	if _, err := (&wire.TokenFile{HubName: f.HubName, HubCA: f.HubCA}).RootName(); err != nil {
		return fmt.Errorf("agent: the address %s from the token file or hub file is not used: %w", f.Hub, err)
	}
	return a.preferAddress(f)
}

// preferAddress makes the address in a file the address in use. If the file that was last read had
// the same address, preferAddress changes nothing.
func (a *Agent) preferAddress(f *wire.HubFile) error {
	url, known := strings.TrimSuffix(f.Hub, "/"), a.state.addressesOf(f.HubName)
	if url == strings.TrimSuffix(known.File, "/") {
		return nil
	}
	err := a.edit(func(s *State) {
		s.Addresses = &Addresses{HubName: f.HubName, File: url, URLs: distinct(append([]string{url}, known.URLs...))}
		if s.HubName == f.HubName {
			s.Hub = url
		}
	})
	if len(known.URLs) > 0 {
		a.say("address", "The token file or hub file has a new address of the same hub: %s. The previous address was %s.", url, known.URLs[0])
	}
	return err
}

// hubOf returns a connection to the hub with this name. The hub's certificates must be from the CA
// `ca`. The hub's verified answers may set the clock, and they update the addresses in the state.
func (a *Agent) hubOf(name, ca string) (*hub, error) {
	a.mu.Lock()
	known := a.state.addressesOf(name)
	a.mu.Unlock()
	if len(known.URLs) == 0 {
		return nil, errors.New("agent: the agent's state has no address of the hub; name a token file with --token-file")
	}
	at := newAddresses(known.URLs, known.File)
	at.heard = func(urls []string) {
		moved := ""
		err := a.edit(func(s *State) {
			s.Addresses = &Addresses{HubName: name, File: known.File, URLs: urls}
			if s.HubName == name {
				if s.Hub != urls[0] {
					moved = s.Hub
				}
				s.Hub = urls[0]
			}
		})
		if moved != "" {
			a.say("address", "The hub now answers at %s, and no longer at %s.", urls[0], moved)
		}
		if err != nil {
			a.sayOnce(onState, "state", "Saving the agent's state failed: %v.", err)
		}
	}
	return a.hub(at, ca)
}
