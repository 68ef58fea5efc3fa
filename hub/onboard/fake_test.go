package onboard_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"sync"
	"time"

	"gangway/hub/onboard"
	"gangway/hub/store"
)

// fake is an onboard.Store in memory. TestFakeDoesWhatEnginesDo runs the tests from the engines'
// suite that need only the fake's methods.
type fake struct {
	mu sync.Mutex

	accounts map[string]store.Account
	tokens   map[string]store.JoinToken
	counted  map[[2]string]bool // key: token id and device id; the device has used the token

	version  int64
	policies map[string]store.Policy
	lists    map[string][]store.ListedEK
	trusted  map[store.Hash]store.TrustedCertificate
	kept     map[store.Hash]store.KeptEKCertificate

	enrolments map[store.Hash]*enrolment
	begun      int
	tpms       map[store.Hash]store.TPM
	aiks       map[string]store.AIK
	devices    map[string]store.Device
	issued     map[string]store.IssuedAIK // by EK and AIK name
	waiting    map[string]store.WaitingDevice
	clones     map[string]store.Clone
	events     []store.Event
	once       map[store.Hash]bool

	// `calls` has the names of the methods that were called, in order. The call with the number
	// `failAt`, counted from 1, returns the error `failure`. If `before` is set, each call runs it
	// first, without holding the lock.
	calls   []string
	failAt  int
	failure error
	before  func(method string)
}

type enrolment struct {
	store.Enrolment
	number int // counts the calls of BeginEnrolment
}

var _ onboard.Store = (*fake)(nil)

func newFake() *fake {
	return &fake{
		accounts: map[string]store.Account{}, tokens: map[string]store.JoinToken{}, counted: map[[2]string]bool{},
		policies: map[string]store.Policy{}, lists: map[string][]store.ListedEK{}, trusted: map[store.Hash]store.TrustedCertificate{}, kept: map[store.Hash]store.KeptEKCertificate{},
		enrolments: map[store.Hash]*enrolment{}, tpms: map[store.Hash]store.TPM{}, aiks: map[string]store.AIK{}, devices: map[string]store.Device{},
		issued: map[string]store.IssuedAIK{}, waiting: map[string]store.WaitingDevice{}, clones: map[string]store.Clone{}, once: map[store.Hash]bool{},
	}
}

// do records the call of a method, and then runs the function `f` as one atomic step.
func (s *fake) do(method string, f func() error) error {
	if s.before != nil {
		s.before(method)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls = append(s.calls, method); len(s.calls) == s.failAt {
		return s.failure
	}
	return f()
}

// count returns how often a method was called.
func (s *fake) count(method string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls {
		if c == method {
			n++
		}
	}
	return n
}

// find returns in[key] as one atomic step, or store.ErrNotFound if there is no such key.
func find[K comparable, V any](s *fake, method string, in map[K]V, key K) (v V, err error) {
	err = s.do(method, func() error {
		var ok bool
		if v, ok = in[key]; !ok {
			return store.ErrNotFound
		}
		return nil
	})
	return v, err
}

func (s *fake) CreateAccount(_ context.Context, a store.Account) error {
	return s.do("CreateAccount", func() error { s.accounts[a.ID] = a; return nil })
}

func (s *fake) CreateJoinToken(_ context.Context, t store.JoinToken) error {
	return s.do("CreateJoinToken", func() error { s.tokens[t.ID] = t; return nil })
}

func (s *fake) DisableJoinToken(_ context.Context, owner, id string) error {
	return s.do("DisableJoinToken", func() error {
		t, ok := s.tokens[id]
		if !ok || t.Owner != owner {
			return store.ErrNotFound
		}
		t.Disabled = true
		s.tokens[id] = t
		return nil
	})
}

func (s *fake) JoinToken(_ context.Context, id string) (store.JoinToken, error) {
	return find(s, "JoinToken", s.tokens, id)
}

func (s *fake) JoinTokenForEK(_ context.Context, id string, ek store.Hash, now time.Time) (t store.TokenForEK, err error) {
	err = s.do("JoinTokenForEK", func() error {
		t, err = s.tokenForEK(id, ek, now)
		return err
	})
	return t, err
}

func (s *fake) tokenForEK(id string, ek store.Hash, now time.Time) (t store.TokenForEK, err error) {
	j, ok := s.tokens[id]
	if !ok {
		return t, store.ErrNotFound
	}
	t = store.TokenForEK{ID: j.ID, Owner: j.Owner, PublicKey: j.PublicKey, Expires: j.Expires, Disabled: j.Disabled,
		Generation: s.tpms[ek].Generation, ConfigVersion: s.version}
	_, t.Waits = s.waitingNow(t.Owner, ek, now)
	return t, nil
}

func (s *fake) ConfigVersion(context.Context) (v int64, err error) {
	err = s.do("ConfigVersion", func() error { v = s.version; return nil })
	return v, err
}

func (s *fake) TrustedCertificates(context.Context) (list []store.TrustedCertificate, err error) {
	err = s.do("TrustedCertificates", func() error {
		for _, c := range s.trusted {
			list = append(list, c)
		}
		slices.SortFunc(list, func(a, b store.TrustedCertificate) int { return bytes.Compare(a.Fingerprint[:], b.Fingerprint[:]) })
		return nil
	})
	return list, err
}

func (s *fake) ChangeTrust(_ context.Context, c store.TrustChange) error {
	return s.do("ChangeTrust", func() error {
		for _, h := range c.Remove {
			if _, ok := s.trusted[h]; !ok {
				return store.ErrNotFound
			}
		}
		for _, h := range c.Remove {
			delete(s.trusted, h)
		}
		for _, one := range c.Put {
			s.trusted[one.Fingerprint] = one
		}
		s.version++
		return nil
	})
}

func (s *fake) Policy(_ context.Context, owner string) (store.Policy, error) {
	return find(s, "Policy", s.policies, owner)
}

func (s *fake) PutPolicy(_ context.Context, p store.Policy) error {
	return s.do("PutPolicy", func() error {
		if s.policies[p.Owner] = p; p.Text == "" {
			delete(s.policies, p.Owner)
		}
		s.version++
		return nil
	})
}

func (s *fake) PutEKList(_ context.Context, owner string, list []store.ListedEK) error {
	return s.do("PutEKList", func() error { s.lists[owner] = list; s.version++; return nil })
}

func (s *fake) EKList(_ context.Context, owner string) (list []store.ListedEK, err error) {
	err = s.do("EKList", func() error { list = s.lists[owner]; return nil })
	return list, err
}

func (s *fake) HasEKList(_ context.Context, owner string) (has bool, err error) {
	err = s.do("HasEKList", func() error { has = len(s.lists[owner]) > 0; return nil })
	return has, err
}

func (s *fake) FindEK(_ context.Context, owner string, ek store.Hash, serial []byte) (line store.ListedEK, err error) {
	err = s.do("FindEK", func() error {
		list := s.lists[owner]
		i := slices.IndexFunc(list, func(l store.ListedEK) bool { return l.Key != nil && *l.Key == ek })
		if i < 0 && serial != nil {
			i = slices.IndexFunc(list, func(l store.ListedEK) bool { return l.Key == nil && bytes.Equal(l.Cert, serial) })
		}
		if i < 0 {
			return store.ErrNotFound
		}
		line = list[i]
		return nil
	})
	return line, err
}

func (s *fake) EKCertificate(_ context.Context, ek store.Hash, now time.Time) (k store.KeptEKCertificate, err error) {
	err = s.do("EKCertificate", func() error {
		var ok bool
		if k, ok = s.keptNow(ek, now); !ok {
			return store.ErrNotFound
		}
		return nil
	})
	return k, err
}

func (s *fake) keptNow(ek store.Hash, now time.Time) (store.KeptEKCertificate, bool) {
	k, ok := s.kept[ek]
	if !ok || !k.Proven && !now.Before(k.Expires) {
		return store.KeptEKCertificate{}, false
	}
	return k, true
}

func (s *fake) KeepEKCertificate(_ context.Context, k store.KeptEKCertificate, now time.Time, _ int) error {
	return s.do("KeepEKCertificate", func() error { s.keep(k, now); return nil })
}

func (s *fake) keep(k store.KeptEKCertificate, now time.Time) {
	is, ok := s.keptNow(k.EK, now)
	if !ok || !is.Proven && bytes.Equal(is.Certificate, k.Certificate) && k.Expires.After(is.Expires) {
		s.kept[k.EK] = k
	}
}

func waitingKey(owner string, ek store.Hash) string { return owner + string(ek[:]) }

func (s *fake) waitingNow(owner string, ek store.Hash, now time.Time) (store.WaitingDevice, bool) {
	w, ok := s.waiting[waitingKey(owner, ek)]
	if !ok || len(w.Answered) == 0 && !now.Before(w.Expires) {
		return store.WaitingDevice{}, false
	}
	return w, true
}

func (s *fake) WaitingByEK(_ context.Context, owner string, ek store.Hash, now time.Time) (w store.WaitingDevice, err error) {
	err = s.do("WaitingByEK", func() error {
		var ok bool
		if w, ok = s.waitingNow(owner, ek, now); !ok {
			return store.ErrNotFound
		}
		return nil
	})
	return w, err
}

func (s *fake) PutWaiting(_ context.Context, w store.WaitingDevice, limit int) (store.WaitingDevice, error) {
	err := s.do("PutWaiting", func() error {
		is, known := s.waitingNow(w.Owner, w.EK, w.LastSeen)
		others := 0
		for key, other := range s.waiting {
			if other.Owner == w.Owner && key != waitingKey(w.Owner, w.EK) && other.State == store.Undecided {
				others++
			}
		}
		w.State = store.Undecided
		if known {
			w.Since, w.Answered, w.By, w.Decided = is.Since, is.Answered, is.By, is.Decided
			if is.State == store.Denied {
				w.State, w.Expires = store.Denied, is.Expires
			}
		}
		switch {
		case w.State == store.Undecided && w.Approves(w.Codes):
			w.State = store.Approved
		case w.State == store.Undecided && others >= limit:
			return store.ErrFull
		}
		s.waiting[waitingKey(w.Owner, w.EK)] = w
		return nil
	})
	if err != nil {
		return store.WaitingDevice{}, err
	}
	return w, nil
}

func (s *fake) Decide(_ context.Context, owner, deviceID string, d store.Decision) (w store.WaitingDevice, err error) {
	err = s.do("Decide", func() error {
		for key, one := range s.waiting {
			if one.Owner == owner && one.DeviceID == deviceID {
				if w, _ = s.waitingNow(owner, one.EK, d.At); w.DeviceID == "" {
					break
				}
				if d.Codes != nil && !slices.Equal(d.Codes, w.Codes) || d.Seen != nil && *d.Seen != w.Digest() {
					return store.ErrChanged
				}
				w.By, w.Decided, w.State = d.By, d.At, store.Approved
				if d.Approve {
					w.Answered = append(slices.Clone(w.Answered), w.Codes...)
				} else {
					w.State, w.Answered, w.Expires = store.Denied, nil, d.Expires
				}
				s.waiting[key] = w
				return nil
			}
		}
		return store.ErrNotFound
	})
	return w, err
}

func (s *fake) IssuedAIK(_ context.Context, ek store.Hash, name []byte, now time.Time) (a store.IssuedAIK, err error) {
	err = s.do("IssuedAIK", func() error {
		var ok bool
		if a, ok = s.issued[string(ek[:])+string(name)]; !ok || !now.Before(a.Expires) {
			a = store.IssuedAIK{}
			return store.ErrNotFound
		}
		return nil
	})
	return a, err
}

func (s *fake) RecordIssuedAIK(_ context.Context, a store.IssuedAIK, most int) (first bool, err error) {
	err = s.do("RecordIssuedAIK", func() error {
		key := string(a.EK[:]) + string(a.Name)
		if _, ok := s.issued[key]; !ok && len(s.issued) >= most {
			return store.ErrFull
		}
		first = true
		for _, other := range s.issued {
			if other.EK == a.EK && a.Issued.Before(other.Expires) {
				first = false
			}
		}
		s.issued[key] = a
		return nil
	})
	return first, err
}

func (s *fake) BeginEnrolment(_ context.Context, e store.Enrolment, now time.Time) (stored store.Enrolment, err error) {
	err = s.do("BeginEnrolment", func() error {
		stored, err = s.begin(e, now)
		return err
	})
	return stored, err
}

func (s *fake) BeginEnrolmentIfUnchanged(_ context.Context, e store.Enrolment, version int64, now time.Time) (stored store.Enrolment, err error) {
	err = s.do("BeginEnrolmentIfUnchanged", func() error {
		t, err := s.tokenForEK(e.TokenID, e.EK, now)
		if err != nil || t.Waits || !t.Fits(&e, version, now) {
			return store.ErrChanged
		}
		stored, err = s.begin(e, now)
		return err
	})
	return stored, err
}

func (s *fake) begin(e store.Enrolment, now time.Time) (store.Enrolment, error) {
	if is, ok := s.enrolments[e.RequestHash]; ok && is.State != store.Expired && (is.State != store.Pending || now.Before(is.Expires)) {
		return is.Enrolment, nil
	}
	for h, other := range s.enrolments {
		if h != e.RequestHash && other.IDevIDHash == e.IDevIDHash {
			return store.Enrolment{}, store.ErrExists
		}
	}
	s.begun++
	e.State = store.Pending
	s.enrolments[e.RequestHash] = &enrolment{e, s.begun}
	if e.EKKnown {
		s.keep(store.KeptEKCertificate{EK: e.EK, Certificate: e.EKCertificate, Links: e.EKLinks, Expires: now.Add(store.UnprovenEKKeptFor)}, now)
	}
	return e, nil
}

func (s *fake) Enrolment(_ context.Context, request store.Hash) (store.Enrolment, error) {
	e, err := find(s, "Enrolment", s.enrolments, request)
	if err != nil {
		return store.Enrolment{}, err
	}
	return e.Enrolment, nil
}

func (s *fake) byCertificate(idevid store.Hash) *enrolment {
	for _, e := range s.enrolments {
		if e.IDevIDHash == idevid {
			return e
		}
	}
	return nil
}

func (s *fake) EnrolmentByCertificate(_ context.Context, idevid store.Hash) (found store.Enrolment, err error) {
	err = s.do("EnrolmentByCertificate", func() error {
		e := s.byCertificate(idevid)
		if e == nil {
			return store.ErrNotFound
		}
		found = e.Enrolment
		return nil
	})
	return found, err
}

func (s *fake) EnrolmentToActivate(ctx context.Context, idevid store.Hash) (e store.Enrolment, before store.Hash, err error) {
	if e, err = s.EnrolmentByCertificate(ctx, idevid); err != nil {
		return e, before, err
	}
	e.Request, e.Verdict, e.IAKPublic, e.IAKCert, e.IDevIDCert, e.EKLinks = nil, nil, nil, nil, nil, nil
	d, err := s.Device(ctx, e.DeviceID)
	if errors.Is(err, store.ErrNotFound) {
		return e, before, nil
	}
	return e, d.Enrolment, err
}

func (s *fake) Activate(_ context.Context, a store.Activation) (d store.Device, err error) {
	err = s.do("Activate", func() error {
		e := s.byCertificate(a.IDevIDHash)
		if e == nil {
			return store.ErrNotFound
		}
		if e.State == store.Active {
			if d = s.devices[e.DeviceID]; d.Clone == store.CloneRefused {
				return store.ErrCloned
			}
			d.LastSeen, d.LastSeenAddr = a.Now, a.Addr
			s.devices[d.ID] = d
			return nil
		}
		if err := s.refusal(e, a.Now); err != nil {
			return err
		}
		if _, known := s.devices[e.DeviceID]; known && a.First {
			return store.ErrChanged
		}
		d = s.bind(e, a)
		return nil
	})
	if err != nil {
		return store.Device{}, err
	}
	return d, nil
}

func (s *fake) refusal(e *enrolment, now time.Time) error {
	switch e.State {
	case store.Revoked:
		return store.ErrRevoked
	case store.Superseded:
		return store.ErrSuperseded
	case store.Expired:
		return store.ErrEnrolmentExpired
	}
	tpm, aik := s.tpms[e.EK], s.aiks[string(e.IAKName)]
	d, known := s.devices[e.DeviceID]
	token, hasToken := s.tokens[e.TokenID]
	_, hasOwner := s.accounts[e.Owner]
	switch {
	case !now.Before(e.Expires):
		return store.ErrEnrolmentExpired
	case e.Generation != tpm.Generation, known && d.Deleted:
		return store.ErrRevoked
	case tpm.Owner != "" && tpm.Owner != e.Owner, known && d.Owner != e.Owner:
		return store.ErrOtherOwner
	case known && s.enrolments[d.Enrolment] != nil && e.number < s.enrolments[d.Enrolment].number:
		return store.ErrSuperseded
	case aik.Name != nil && aik.EK != e.EK:
		return store.ErrOtherEK
	case tpm.Owner != "" && tpm.DeviceID != e.DeviceID, known && tpm.Owner == "":
		return store.ErrExists
	case d.Clone == store.CloneRefused:
		return store.ErrCloned
	case !hasOwner, !hasToken, token.Owner != e.Owner, token.Disabled, !now.Before(token.Expires):
		return store.ErrTokenUnusable
	case !s.counted[[2]string{e.TokenID, e.DeviceID}] && token.MaxUses > 0 && token.Uses >= token.MaxUses:
		return store.ErrTokenUsedUp
	}
	return nil
}

func (s *fake) bind(e *enrolment, a store.Activation) store.Device {
	d, known := s.devices[e.DeviceID]
	token := s.tokens[e.TokenID]
	if known {
		s.enrolments[d.Enrolment].State = store.Superseded
	} else {
		d = store.Device{ID: e.DeviceID, Nick: a.Nick, Owner: e.Owner, TokenID: e.TokenID, EK: e.EK, Created: a.Now, UserMeta: map[string]any{}, DeviceMeta: map[string]any{}}
		for k, v := range token.DefaultUserMeta {
			d.UserMeta[k] = v
		}
	}
	e.State = store.Active
	d.Enrolment, d.IDevIDHash, d.Activated, d.LastSeen, d.LastSeenAddr = e.RequestHash, e.IDevIDHash, a.Now, a.Now, a.Addr
	d.TPMMaker, d.TPMModel, d.TPMFirmware = e.Manufacturer, e.Model, e.Firmware
	d.ProdModel, d.ProdSerial, d.KeyAlgorithm = e.ProdModel, e.ProdSerial, e.KeyAlgorithm
	s.devices[d.ID] = d
	tpm := s.tpms[e.EK]
	s.tpms[e.EK] = store.TPM{EK: e.EK, Owner: e.Owner, DeviceID: d.ID, Generation: e.Generation, Certificate: e.EKCertificate,
		Manufacturer: e.Manufacturer, Model: e.Model, Firmware: e.Firmware, FirstSeen: cmp.Or(tpm.FirstSeen, a.Now)}
	registered := cmp.Or(s.aiks[string(e.IAKName)].Registered, a.Now)
	s.aiks[string(e.IAKName)] = store.AIK{Name: e.IAKName, EK: e.EK, DeviceID: d.ID, Public: e.IAKPublic, Certificate: e.IAKCert, Registered: registered}
	if k, ok := s.kept[e.EK]; ok || e.EKKnown {
		if k.Proven, k.Expires = true, (time.Time{}); e.EKKnown {
			k.EK, k.Certificate, k.Links = e.EK, e.EKCertificate, e.EKLinks
		}
		s.kept[e.EK] = k
	}
	if use := [2]string{e.TokenID, d.ID}; !s.counted[use] {
		s.counted[use] = true
		token.Uses++
		s.tokens[token.ID] = token
	}
	for _, m := range a.Marks {
		s.events = append(s.events, store.Event{Kind: store.EventSameChip, Owner: e.Owner, Device: d.ID, Message: m.What})
	}
	return d
}

func (s *fake) TPM(_ context.Context, ek store.Hash) (store.TPM, error) {
	return find(s, "TPM", s.tpms, ek)
}

func (s *fake) AIK(_ context.Context, name []byte) (store.AIK, error) {
	return find(s, "AIK", s.aiks, string(name))
}

func (s *fake) Device(_ context.Context, id string) (d store.Device, err error) {
	err = s.do("Device", func() error {
		if d = s.devices[id]; d.ID == "" || d.Deleted {
			d = store.Device{}
			return store.ErrNotFound
		}
		return nil
	})
	return d, err
}

func (s *fake) DeviceByCertificate(_ context.Context, idevid store.Hash) (found store.Device, err error) {
	err = s.do("DeviceByCertificate", func() error {
		for _, d := range s.devices {
			if d.IDevIDHash == idevid && !d.Deleted {
				found = d
				found.UserMeta, found.DeviceMeta = nil, nil
				return nil
			}
		}
		return store.ErrNotFound
	})
	return found, err
}

func (s *fake) DeleteDevice(_ context.Context, owner, id string, _ time.Time) error {
	return s.do("DeleteDevice", func() error {
		d, ok := s.devices[id]
		if !ok || d.Deleted || d.Owner != owner {
			return store.ErrNotFound
		}
		d.Deleted = true
		s.devices[id] = d
		for _, e := range s.enrolments {
			if e.DeviceID == id && e.Owner == owner && (e.State == store.Pending || e.State == store.Active) {
				e.State = store.Revoked
			}
		}
		tpm := s.tpms[d.EK]
		tpm.Owner, tpm.DeviceID, tpm.Generation = "", "", tpm.Generation+1
		s.tpms[d.EK] = tpm
		for name, a := range s.aiks {
			if a.DeviceID == id {
				delete(s.aiks, name)
			}
		}
		delete(s.waiting, waitingKey(owner, d.EK))
		delete(s.clones, id)
		return nil
	})
}

// Devices and JoinTokens sort their lists by id, so that two calls can be compared.
func (s *fake) Devices(_ context.Context, owner, _ string, _ int) (list []store.Device, err error) {
	err = s.do("Devices", func() error {
		for _, d := range s.devices {
			if d.Owner == owner && !d.Deleted {
				list = append(list, d)
			}
		}
		slices.SortFunc(list, func(a, b store.Device) int { return cmp.Compare(a.ID, b.ID) })
		return nil
	})
	return list, err
}

func (s *fake) JoinTokens(_ context.Context, owner string) (list []store.JoinToken, err error) {
	err = s.do("JoinTokens", func() error {
		for _, t := range s.tokens {
			if t.Owner == owner {
				list = append(list, t)
			}
		}
		slices.SortFunc(list, func(a, b store.JoinToken) int { return cmp.Compare(a.ID, b.ID) })
		return nil
	})
	return list, err
}

func (s *fake) ExpireEnrolments(_ context.Context, now time.Time, _ int) (n int, err error) {
	err = s.do("ExpireEnrolments", func() error {
		for _, e := range s.enrolments {
			if e.State == store.Pending && !now.Before(e.Expires) {
				e.State = store.Expired
				n++
			}
		}
		return nil
	})
	return n, err
}

func (s *fake) Clone(_ context.Context, device string) (store.Clone, error) {
	return find(s, "Clone", s.clones, device)
}

func (s *fake) PutClone(_ context.Context, c store.Clone, events ...store.Event) (int64, error) {
	err := s.do("PutClone", func() error {
		d, ok := s.devices[c.Device]
		switch {
		case !ok || d.Deleted:
			return store.ErrNotFound
		case s.clones[c.Device].Version != c.Version:
			return store.ErrChanged
		}
		c.Version++
		d.Clone = c.State
		s.clones[c.Device], s.devices[c.Device] = c, d
		s.events = append(s.events, events...)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return c.Version, nil
}

// Events lists all events, newest first.
func (s *fake) Events(context.Context, store.EventFilter) (list []store.Event, err error) {
	err = s.do("Events", func() error {
		list = slices.Clone(s.events)
		slices.Reverse(list)
		return nil
	})
	return list, err
}

func (s *fake) AppendEvent(_ context.Context, e store.Event) error {
	return s.do("AppendEvent", func() error { s.events = append(s.events, e); return nil })
}

func (s *fake) AppendEventOnce(_ context.Context, e store.Event, mark store.Hash) error {
	return s.do("AppendEventOnce", func() error {
		key := sha256.Sum256(append([]byte(e.Device), mark[:]...))
		if !s.once[key] {
			s.once[key] = true
			s.events = append(s.events, e)
		}
		return nil
	})
}
