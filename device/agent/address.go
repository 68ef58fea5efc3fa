package agent

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"gangway/wire"
)

// A hub is its root key; its address may change. The agent keeps the addresses
// that a token's or hub's file gave, and those that the hub itself names on a
// verified connection (join.AddressesHeader). It uses one of them until that one
// fails, and then tries the next. Whoever answers at an address must show a TLS
// certificate of the hub's CA, which no file and no answer changes later.

// Addresses are where a hub may be found.
type Addresses struct {
	HubName string `json:"hub-name"`
	// File is the address in the file that was last read. The same file again is
	// not news, so an old file does not undo what the hub has said since.
	File string `json:"file"`
	// URLs are in the order in which they are tried; the first is in use.
	URLs []string `json:"urls"`
}

// addresses are the Addresses of a hub in use. Its methods may be called from
// several goroutines.
type addresses struct {
	file  string              // tried last, where the hub no longer names it
	heard func(urls []string) // called, without the lock, when the list is another one; may be nil

	mu    sync.Mutex
	urls  []string // never empty
	saved []string // what heard was last told
}

func newAddresses(urls []string, file string) *addresses {
	return &addresses{file: file, urls: distinct(urls), saved: slices.Clone(urls)}
}

// current is the address in use.
func (a *addresses) current() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.urls[0]
}

// all are the addresses that are tried.
func (a *addresses) all() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.urls)
}

// failed has the next address used, if url still is the one in use.
func (a *addresses) failed(url string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.urls[0] == url {
		a.urls = append(a.urls[1:], url)
	}
}

// offer adds addresses to those that are tried.
func (a *addresses) offer(urls []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.urls = distinct(slices.Concat(a.urls[:1], urls, a.urls[1:]))
}

// worked notes that the hub answered at url, and what it said of its addresses.
func (a *addresses) worked(url string, h http.Header) {
	named := wire.ParseAddresses(h.Values(wire.AddressesHeader))
	a.mu.Lock()
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

// distinct drops empty and repeated addresses, and those beyond a bound.
func distinct(urls []string) []string {
	var out []string
	for _, u := range urls {
		if u = strings.TrimSuffix(u, "/"); u != "" && !slices.Contains(out, u) && len(out) < wire.MaxAddresses+2 {
			out = append(out, u)
		}
	}
	return out
}

// addressed keeps an HTTP client for the address in use: each address has a
// TLS configuration of its own.
type addressed struct {
	at   *addresses
	make func(url string) *http.Client

	mu     sync.Mutex
	url    string
	client *http.Client
}

// get returns the client and the address that it is for.
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

// file is the hub that the token's file, or the hub's file, names; nil: none.
func (c *Config) file() *wire.HubFile {
	if c.Token != nil {
		return &wire.HubFile{Hub: c.Token.Hub, HubName: c.Token.HubName, HubCA: c.Token.HubCA}
	}
	return c.Hub
}

// addressesOf is what is known of a hub's addresses.
func (s *State) addressesOf(hubName string) Addresses {
	switch {
	case s.Addresses != nil && s.Addresses.HubName == hubName && len(s.Addresses.URLs) > 0:
		return *s.Addresses
	case s.Hub != "" && s.HubName == hubName: // of an agent that kept one address
		return Addresses{HubName: hubName, File: s.Hub, URLs: []string{s.Hub}}
	}
	return Addresses{HubName: hubName}
}

// adoptAddress has the address in the configured file tried first, if the file is
// of the state's hub and its address is news. A file of another hub changes
// nothing: the error says so. What a file says of a hub it must prove: its CA is
// the key that is the hub's name.
func (a *Agent) adoptAddress() error {
	f := a.cfg.file()
	if f == nil || a.state.HubName == "" {
		return nil
	}
	if f.HubName != a.state.HubName {
		return fmt.Errorf("agent: this machine belongs to the hub %s, at %s, and the file names another hub, %s, at %s: nothing of the file is used. To move the machine to that hub, run 'gangway-agent onboard --again --token-file FILE'", a.state.HubName, a.state.Hub, f.HubName, f.Hub)
	}
	if _, err := (&wire.TokenFile{HubName: f.HubName, HubCA: f.HubCA}).RootName(); err != nil {
		return fmt.Errorf("agent: the file's address %s is not used: %w", f.Hub, err)
	}
	return a.preferAddress(f)
}

// preferAddress has the address in a file tried first, if it is another one than the
// last file's.
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
		a.say("address", "The file gives another address of the same hub: %s, before %s.", url, known.URLs[0])
	}
	return err
}

// hubOf is the hub of a name, whose certificates must be of ca. Its word may put
// the clock right, and changes the addresses in the state.
func (a *Agent) hubOf(name, ca string) (*hub, error) {
	a.mu.Lock()
	known := a.state.addressesOf(name)
	a.mu.Unlock()
	if len(known.URLs) == 0 {
		return nil, errors.New("agent: no address of the hub is known")
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
			a.say("address", "The hub answers at %s, and no longer at %s.", urls[0], moved)
		}
		if err != nil {
			a.sayOnce(onState, "state", "The agent's state cannot be saved: %v.", err)
		}
	}
	return a.hub(at, ca)
}
