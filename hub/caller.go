package hub

import (
	"context"
	"errors"
	"net/http"

	"gangway/store"
	"gangway/tcg/join"
)

// caller is who asks where people and devices may: an account, or a device
// for the account that owns it.
type caller struct {
	Owner  string        // Account.ID
	Device *store.Device // nil: a person
}

// prn names the caller.
func (c caller) prn() string {
	if c.Device != nil {
		return join.DevicePRN + c.Device.ID
	}
	return join.AccountPRN + c.Owner
}

type callerKey struct{}

// who returns the caller; asCaller has put it there.
func who(r *http.Request) caller { return r.Context().Value(callerKey{}).(caller) }

// asCaller lets through what asOwner or asDevice would. A request that shows a
// session is judged by it alone, whatever certificate its connection has.
func (s *Server) asCaller(h handler) handler {
	as := func(of func(*http.Request) caller) handler {
		return func(w http.ResponseWriter, r *http.Request) error {
			return h(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, of(r))))
		}
	}
	person := s.asOwner(as(func(r *http.Request) caller { return caller{Owner: owner(r).ID} }))
	device := s.asDevice(as(func(r *http.Request) caller { d := peer(r); return caller{Owner: d.Owner, Device: &d} }))
	return func(w http.ResponseWriter, r *http.Request) error {
		_, certified := leaf(r.TLS)
		_, err := r.Cookie(cookieName)
		if certified && r.Header.Get("Authorization") == "" && err != nil {
			return device(w, r)
		}
		return person(w, r)
	}
}

// trailOf finds the device whose trail a request is about: the caller itself,
// or one that the caller owns. Anybody else's is not found.
func (s *Server) trailOf(r *http.Request) (store.Device, error) {
	c, id := who(r), r.PathValue("id")
	if c.Device != nil {
		if c.Device.ID != id {
			return store.Device{}, store.ErrNotFound
		}
		s.sawDevice(r, id)
		return *c.Device, nil
	}
	d, err := s.cfg.Store.Device(r.Context(), id)
	if err == nil && d.Owner != c.Owner {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Device{}, err
	}
	return d, nil
}

// sawDevice records a sign of life.
func (s *Server) sawDevice(r *http.Request, id string) {
	if err := s.cfg.Store.SeenDevice(r.Context(), id, remoteAddr(r), s.cfg.Now()); err != nil && !errors.Is(err, context.Canceled) {
		s.log.Error("last seen", "device", id, "err", err)
	}
}
