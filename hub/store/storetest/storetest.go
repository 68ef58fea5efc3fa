// Package storetest contains the tests that every engine of package store must pass. The tests of
// an engine call Run. If they pass, a hub can use the engine.
//
// The tests use only the interfaces of package store, and pass all times as arguments. Only the
// tests of store.Replicas sleep, because its methods use the clock of the database. The tests
// accept all behaviour that the interfaces allow: for example, an engine may truncate times to
// microseconds.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"gangway/hub/store"
)

// Run runs all tests on an engine, in parallel. The function `open` returns an empty store, which
// it closes when the test ends. The function `reopen` closes the store `s`, as a hub does when it
// stops, and opens another store with the same data.
func Run(t *testing.T, open func(t *testing.T) Engine, reopen func(t *testing.T, s Engine) Engine) {
	for _, group := range groups {
		for _, test := range group.tests {
			t.Run(group.name+"/"+test.name, func(t *testing.T) {
				t.Parallel()
				f := newFixture(t, open(t))
				test.run(f)
				f.agrees()
			})
		}
	}
	for _, test := range durabilityTests {
		t.Run("Durability/"+test.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, open(t))
			test.run(f, func() { f.Engine = reopen(t, f.Engine) })
		})
	}
}

// RunPart runs only the tests with these names ("group/test"). Use it to test a fake engine that
// has only some of an engine's methods.
func RunPart(t *testing.T, open func(t *testing.T) Engine, names ...string) {
	ran := 0
	for _, group := range groups {
		for _, test := range group.tests {
			if name := group.name + "/" + test.name; slices.Contains(names, name) {
				ran++
				t.Run(name, func(t *testing.T) { test.run(newFixture(t, open(t))) })
			}
		}
	}
	if ran != len(names) {
		t.Errorf("only %d of the %d names are tests of the suite", ran, len(names))
	}
}

// RunGroup runs only the tests of the group with this name, in parallel.
func RunGroup(t *testing.T, open func(t *testing.T) Engine, name string) {
	i := slices.IndexFunc(groups, func(g group) bool { return g.name == name })
	if i < 0 {
		t.Fatalf("there is no group %s", name)
	}
	for _, test := range groups[i].tests {
		t.Run(name+"/"+test.name, func(t *testing.T) {
			t.Parallel()
			test.run(newFixture(t, open(t)))
		})
	}
}

type group struct {
	name  string
	tests []test
}

var groups = []group{
	{"Accounts", accountTests},
	{"Sessions", sessionTests},
	{"AccountChanges", accountChangeTests},
	{"APITokens", apiTokenTests},
	{"JoinTokens", tokenTests},
	{"Enrolments", enrolmentTests},
	{"Activation", activationTests},
	{"Refusals", refusalTests},
	{"Devices", deviceTests},
	{"Meta", metaTests},
	{"Deletion", deletionTests},
	{"IssuedAIKs", issuedTests},
	{"Waiting", waitingTests},
	{"EKCertificates", ekCertificateTests},
	{"Chips", chipTests},
	{"WithoutTPM", withoutTPMTests},
	{"Boots", bootTests},
	{"BootRules", bootRuleTests},
	{"Clones", cloneTests},
	{"Fleet", fleetTests},
	{"SavedViews", viewTests},
	{"HubNumbers", hubNumberTests},
	{"Alarms", alarmTests},
	{"Trails", trailTests},
	{"Objects", objectTests},
	{"Logs", logTests},
	{"Events", eventTests},
	{"CountedEvents", countedEventTests},
	{"Growth", growthTests},
	{"Trust", trustTests},
	{"Replicas", replicaTests},
	{"Consistency", checkTests},
	{"Restores", restoreTests},
	{"Races", raceTests},
	{"Cancelled", cancelledTests},
}

type test struct {
	name string
	run  func(*fixture)
}

// fixture is a store with two owners. `token` is a join token of the first owner, which may be used
// any number of times.
type fixture struct {
	*testing.T
	Engine
	ctx   context.Context
	owner store.Account
	other store.Account
	token store.JoinToken
}

func newFixture(t *testing.T, s Engine) *fixture {
	f := &fixture{
		T:      t,
		Engine: s,
		ctx:    context.Background(),
		owner:  Account("anne"),
		other:  Account("mary"),
	}
	f.token = JoinToken(f.owner.ID, "fleet", 0)
	f.must(s.CreateAccount(f.ctx, f.owner))
	f.must(s.CreateAccount(f.ctx, f.other))
	f.must(s.CreateJoinToken(f.ctx, f.token))
	return f
}

// agrees fails the test if rows of the database break a rule of store.Consistency.
func (f *fixture) agrees() {
	f.Helper()
	list, err := f.Disagreements(f.ctx, 3)
	f.must(err)
	for _, d := range list {
		f.Errorf("the database breaks the rule %s: %v", d.Rule, d.Rows)
	}
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// refused fails the test if `err` is not the error `want`. If `want` is nil, `err` must be nil.
func (f *fixture) refused(err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Fatalf("got error %v, want %v", err, want)
	}
}

func equal[V any](f *fixture, what string, got, want V) {
	f.Helper()
	if !reflect.DeepEqual(got, want) {
		f.Fatalf("%s:\n got %.600s\nwant %.600s", what, fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want))
	}
}

// newToken stores another join token of the first owner.
func (f *fixture) newToken(nick string, maxUses int) store.JoinToken {
	f.Helper()
	t := JoinToken(f.owner.ID, nick, maxUses)
	f.must(f.CreateJoinToken(f.ctx, t))
	return t
}

// begin stores a pending enrolment of the machine.
func (f *fixture) begin(m Machine, t store.JoinToken) store.Enrolment {
	f.Helper()
	e, err := f.BeginEnrolment(f.ctx, m.Enrolment(t.Owner, t.ID), Epoch)
	f.must(err)
	return e
}

// activate activates an enrolment a minute after Epoch.
func (f *fixture) activate(e store.Enrolment) (store.Device, error) {
	return f.Activate(f.ctx, proof(e))
}

func proof(e store.Enrolment) store.Activation {
	return store.Activation{
		IDevIDHash: e.IDevIDHash,
		Nick:       e.ProdSerial,
		Now:        Epoch.Add(time.Minute),
		Addr:       "192.0.2.7:51000",
	}
}

// onboard begins and activates a machine's enrolment. Both must succeed.
func (f *fixture) onboard(m Machine, t store.JoinToken) store.Device {
	f.Helper()
	d, err := f.activate(f.begin(m, t))
	f.must(err)
	return d
}

func (f *fixture) state(e store.Enrolment) store.EnrolmentState {
	f.Helper()
	e, err := f.Enrolment(f.ctx, e.RequestHash)
	f.must(err)
	return e.State
}

func (f *fixture) uses(t store.JoinToken) int {
	f.Helper()
	t, err := f.JoinToken(f.ctx, t.ID)
	f.must(err)
	return t.Uses
}
