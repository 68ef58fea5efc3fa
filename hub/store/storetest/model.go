package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"gangway/hub/store"

	"pgregory.net/rapid"
)

// model implements the rules of onboarding with plain maps. The function Model runs random
// sequences of operations on a model and on the engine. After each operation, both must have
// returned the same result, and must have the same state.
type model struct {
	tokens     map[string]*modelToken
	enrolments map[store.Hash]*modelEnrolment // by request
	tpms       map[store.Hash]*modelTPM       // by EK
	aiks       map[string]string              // AIK name to machine, until the machine's device is deleted
	devices    map[string]*modelDevice
	counted    map[[2]string]bool // key: token and device
	begun      int                // enrolments so far
}

type modelToken struct {
	owner    string
	expires  time.Time
	max      int
	uses     int
	disabled bool
}

type modelEnrolment struct {
	store.Enrolment
	machine string
	began   int // position in the order in which enrolments began
}

type modelTPM struct {
	owner, device string
	generation    int
}

type modelDevice struct {
	owner   string
	ek      store.Hash
	active  store.Hash
	deleted bool
}

func newModel() *model {
	return &model{
		tokens:     make(map[string]*modelToken),
		enrolments: make(map[store.Hash]*modelEnrolment),
		tpms:       make(map[store.Hash]*modelTPM),
		aiks:       make(map[string]string),
		devices:    make(map[string]*modelDevice),
		counted:    make(map[[2]string]bool),
	}
}

func (m *model) tpm(ek store.Hash) modelTPM {
	if t := m.tpms[ek]; t != nil {
		return *t
	}
	return modelTPM{}
}

func (m *model) begin(e store.Enrolment, machine string, now time.Time) *modelEnrolment {
	old := m.enrolments[e.RequestHash]
	overdue := old != nil && old.State == store.Pending && !now.Before(old.Expires)
	if old == nil || old.State == store.Expired || overdue {
		m.begun++
		m.enrolments[e.RequestHash] = &modelEnrolment{Enrolment: e, machine: machine, began: m.begun}
	}
	return m.enrolments[e.RequestHash]
}

func (m *model) activate(e *modelEnrolment, now time.Time) error {
	tpm, device, token := m.tpm(e.EK), m.devices[e.DeviceID], m.tokens[e.TokenID]
	machine, registered := m.aiks[string(e.IAKName)]
	use := [2]string{e.TokenID, e.DeviceID}
	switch {
	case e.State == store.Active:
		return nil
	case e.State == store.Revoked:
		return store.ErrRevoked
	case e.State == store.Superseded:
		return store.ErrSuperseded
	case e.State != store.Pending, !now.Before(e.Expires):
		return store.ErrEnrolmentExpired
	case e.Generation != tpm.generation:
		return store.ErrRevoked
	case tpm.owner != "" && tpm.owner != e.Owner:
		return store.ErrOtherOwner
	case device != nil && e.began < m.enrolments[device.active].began:
		return store.ErrSuperseded
	case registered && machine != e.machine:
		return store.ErrOtherEK
	case token.disabled, !now.Before(token.expires):
		return store.ErrTokenUnusable
	case !m.counted[use] && token.max > 0 && token.uses >= token.max:
		return store.ErrTokenUsedUp
	}
	if !m.counted[use] {
		m.counted[use] = true
		token.uses++
	}
	if device == nil {
		device = &modelDevice{owner: e.Owner, ek: e.EK}
		m.devices[e.DeviceID] = device
	} else {
		m.enrolments[device.active].State = store.Superseded
	}
	device.active = e.RequestHash
	e.State = store.Active
	m.aiks[string(e.IAKName)] = e.machine
	m.tpms[e.EK] = &modelTPM{owner: e.Owner, device: e.DeviceID, generation: e.Generation}
	return nil
}

func (m *model) delete(id, owner string) error {
	d := m.devices[id]
	if d == nil || d.deleted || d.owner != owner {
		return store.ErrNotFound
	}
	d.deleted = true
	machine := m.enrolments[d.active].machine
	for _, e := range m.enrolments {
		if e.DeviceID == id && (e.State == store.Pending || e.State == store.Active) {
			e.State = store.Revoked
		}
	}
	for name, of := range m.aiks {
		if of == machine {
			delete(m.aiks, name)
		}
	}
	m.tpms[d.ek] = &modelTPM{generation: m.tpms[d.ek].generation + 1}
	return nil
}

func (m *model) expire(now time.Time) (n int) {
	for _, e := range m.enrolments {
		if e.State == store.Pending && !now.Before(e.Expires) {
			e.State = store.Expired
			n++
		}
	}
	return n
}

// Model tests an engine with random sequences of operations, in addition to Run. All sequences run
// on one store, each with its own owners, tokens and machines, because it would take too long to
// make an empty store for each sequence.
func Model(t *testing.T, s Engine) {
	ctx := context.Background()
	story := 0
	rapid.Check(t, func(t *rapid.T) {
		story++
		name := func(what string, n int) string { return fmt.Sprintf("%s %d of %d", what, n, story) }
		m := newModel()
		now := Epoch.AddDate(story, 0, 0) // another year, so that rows of other sequences do not expire
		fail := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		same := func(what string, got, want error) {
			if !errors.Is(got, want) {
				t.Fatalf("%s: the engine returned %v, the model %v", what, got, want)
			}
		}

		var owners, tokens []string
		for i := range 2 {
			a := Account(name("o", i))
			owners = append(owners, a.ID)
			fail(s.CreateAccount(ctx, a))
			for j := range 2 {
				token := JoinToken(a.ID, name("token", j), []int{2, 0}[j])
				token.Expires = now.Add(90 * time.Minute)
				fail(s.CreateJoinToken(ctx, token))
				tokens = append(tokens, token.ID)
				m.tokens[token.ID] = &modelToken{owner: a.ID, expires: token.Expires, max: token.MaxUses}
			}
		}
		var requests []store.Hash // in the order in which the requests were first sent
		ids := make(map[string]bool)

		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				token := rapid.SampledFrom(tokens).Draw(t, "token")
				machine := Machine{
					Name:    name("machine", rapid.IntRange(0, 2).Draw(t, "machine")),
					IAK:     rapid.SampledFrom([]string{"", "new"}).Draw(t, "IAK"),
					Request: rapid.SampledFrom([]string{"", "again"}).Draw(t, "request"),
				}
				machine.Generation = m.tpm(Hash("ek " + machine.Name)).generation
				e := machine.Enrolment(m.tokens[token].owner, token)
				if rapid.IntRange(0, 9).Draw(t, "foreign IAK") == 0 {
					e.IAKName = Machine{Name: name("machine", 0)}.Enrolment("", "").IAKName
					e.RequestHash = Hash(fmt.Sprintf("foreign %x", e.RequestHash))
				}
				e.Created, e.Expires = now, now.Add(20*time.Minute)
				// Each call has a different certificate, so that the returned enrolment shows which
				// call stored it.
				e.IDevIDCert = fmt.Appendf(nil, "%x issued at %d", e.RequestHash, now.UnixNano())
				e.IDevIDHash = Hash(string(e.IDevIDCert))
				if m.enrolments[e.RequestHash] == nil {
					requests = append(requests, e.RequestHash)
				}
				ids[e.DeviceID] = true
				want := m.begin(e, machine.Name, now)
				got, err := s.BeginEnrolment(ctx, e, now)
				fail(err)
				if got.State != want.State || got.IDevIDHash != want.IDevIDHash {
					t.Fatalf("the engine returned the enrolment %s %x, the model %s %x",
						got.State, got.IDevIDHash, want.State, want.IDevIDHash)
				}
			},
			"activate": func(t *rapid.T) {
				if len(requests) == 0 {
					t.Skip("no request yet")
				}
				e := m.enrolments[rapid.SampledFrom(requests).Draw(t, "request")]
				_, err := s.Activate(ctx, store.Activation{IDevIDHash: e.IDevIDHash, Nick: e.ProdSerial, Now: now})
				same("activate", err, m.activate(e, now))
			},
			"delete": func(t *rapid.T) {
				if len(requests) == 0 {
					t.Skip("no device yet")
				}
				id := m.enrolments[rapid.SampledFrom(requests).Draw(t, "request")].DeviceID
				owner := rapid.SampledFrom(owners).Draw(t, "owner")
				same("delete", s.DeleteDevice(ctx, owner, id, now), m.delete(id, owner))
			},
			"disable": func(t *rapid.T) {
				token := rapid.SampledFrom(tokens).Draw(t, "token")
				if rapid.IntRange(0, 4).Draw(t, "really") != 0 {
					t.Skip("rarely")
				}
				m.tokens[token].disabled = true
				fail(s.DisableJoinToken(ctx, m.tokens[token].owner, token))
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 15).Draw(t, "minutes")) * time.Minute)
			},
			"expire": func(t *rapid.T) {
				got, err := s.ExpireEnrolments(ctx, now, 1000)
				fail(err)
				if want := m.expire(now); got < want || story == 1 && got != want {
					t.Fatalf("the engine made %d enrolments expire, the model %d", got, want)
				}
			},
			"": func(t *rapid.T) { m.compare(ctx, t, s, owners, ids) },
		})
	})
}

// compare checks that the engine has the same rows as the model.
func (m *model) compare(ctx context.Context, t *rapid.T, s Engine, owners []string, ids map[string]bool) {
	for request, want := range m.enrolments {
		got, err := s.Enrolment(ctx, request)
		if err != nil || got.State != want.State || got.IDevIDHash != want.IDevIDHash {
			t.Fatalf("enrolment %x: the store has %s %x (error: %v), the model has %s %x", request,
				got.State, got.IDevIDHash, err, want.State, want.IDevIDHash)
		}
		d, err := s.DeviceByCertificate(ctx, want.IDevIDHash)
		if want.State == store.Active {
			if err != nil || d.ID != want.DeviceID || d.Enrolment != request {
				t.Fatalf("certificate %x belongs to device %q (%v) in the store, but to device %q in the model", want.IDevIDHash, d.ID, err, want.DeviceID)
			}
		} else if !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("the enrolment of certificate %x is %s, but the store finds device %q by the certificate (error: %v)", want.IDevIDHash, want.State, d.ID, err)
		}
	}
	for id, want := range m.tokens {
		got, err := s.JoinToken(ctx, id)
		if err != nil || got.Uses != want.uses || got.Disabled != want.disabled {
			t.Fatalf("token %s: the store has %d uses, disabled %v (error: %v); the model has %d uses, disabled %v",
				id, got.Uses, got.Disabled, err, want.uses, want.disabled)
		}
	}
	for ek, want := range m.tpms {
		got, err := s.TPM(ctx, ek)
		if err != nil || got.Owner != want.owner || got.DeviceID != want.device || got.Generation != want.generation {
			t.Fatalf("TPM %x: the store has %+v (error: %v); the model has %+v", ek, got, err, want)
		}
	}
	for _, e := range m.enrolments {
		got, err := s.AIK(ctx, e.IAKName)
		machine, registered := m.aiks[string(e.IAKName)]
		if registered != (err == nil) || registered && got.EK != Hash("ek "+machine) {
			t.Fatalf("AIK %x: the store has the EK %x (error: %v); the model has the machine %q", e.IAKName, got.EK, err, machine)
		}
	}
	live := make(map[string]int)
	for id := range ids {
		d := m.devices[id]
		_, err := s.Device(ctx, id)
		if alive := d != nil && !d.deleted; alive != (err == nil) {
			t.Fatalf("device %s: the store returned the error %v; the device exists in the model: %v", id, err, alive)
		} else if alive {
			live[d.owner]++
		}
	}
	for _, owner := range owners {
		if n, err := s.CountDevices(ctx, owner); err != nil || n != live[owner] {
			t.Fatalf("the store has %d devices (error: %v), the model has %d", n, err, live[owner])
		}
	}
}
