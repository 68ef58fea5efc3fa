package store

import (
	"context"
	"time"
)

// Means by which an actor acted.
const (
	ByPage        = "page"        // on a page, in a browser
	ByAPI         = "api"         // by a program with a session
	ByAPIToken    = "api-token"   // by a program with an API token; Credential names the token
	ByCommand     = "command"     // by a command on the hub's machine
	ByCertificate = "certificate" // by a device with its certificate
	BySecret      = "secret"      // by a device with its secret
	ByToken       = "token"       // by a device with an access token that the hub issued for the device's certificate or secret
)

// Actor is the person, program or device that caused an event.
type Actor struct {
	ID         string // prn of an account or a device, or "operator:" and a name; empty if unknown
	Name       string // the actor's nick at the time of the event
	Means      string // one of the By constants
	Credential string // the API token's name
	Addr       string // IP address; empty if the actor was on the hub's machine
}

type actorKey struct{}

// WithActor returns a context with the actor `a`. The caller may set the fields of `a` later, when
// it knows who sent the request.
func WithActor(ctx context.Context, a *Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorIn returns the actor of a context, so that the caller can read or set its fields. If the
// context has no actor, ActorIn returns a new one, which it does not add to the context.
func ActorIn(ctx context.Context) *Actor {
	if a, ok := ctx.Value(actorKey{}).(*Actor); ok {
		return a
	}
	return new(Actor)
}

// Event is an entry of the audit trail. Only AppendCounted changes an event: it increases the Count
// of an event that stands for several equal events. Only RemoveEvents removes events.
type Event struct {
	Seq     int64 // assigned by the store; increases
	Time    time.Time
	Kind    string // stable, e.g. "enrolment.refused", "device.activated"
	Code    string // stable refusal code, or empty
	Owner   string // Account.ID of the account that may read the event; empty: only the operator may
	Device  string
	Token   string
	Addr    string
	Message string // one sentence for a person

	// Actor, ActorName, Means and Credential say who caused the event. See type Actor.
	Actor      string
	ActorName  string
	Means      string
	Credential string

	// Count is the number of events of one day that this Event stands for, and Last is the time of
	// the last of them. If Count is 0 and Last is zero, this is a single event, at Time. See
	// AppendCounted.
	Count int
	Last  time.Time

	// Unproven means that the peer that caused the event had not proven its identity in any way, so
	// that RemoveEvents may remove the event earlier than others. AppendCounted combines only
	// events that have the same Group. Methods that read events do not return Unproven and Group.
	Unproven bool
	Group    string
}

// By returns a copy of the event that names `a` as the actor, unless the event already names an
// actor.
func (e Event) By(a *Actor) Event {
	if e.Actor == "" && e.Means == "" {
		e.Actor, e.ActorName, e.Means, e.Credential = a.ID, a.Name, a.Means, a.Credential
	}
	if e.Addr == "" {
		e.Addr = a.Addr
	}
	return e
}

// EventFilter selects events. A zero field does not restrict the selection.
type EventFilter struct {
	Owner  string
	Device string
	Kind   string    // only this kind; if Kind ends with ".", all kinds that begin with Kind
	Token  string    // the id of a join token
	Actor  string    // the actor's prn, or the actor's nick (ASCII case is ignored)
	Since  time.Time // only events at or after this time; for an event that stands for several events, Last is compared
	Until  time.Time // only events before this time
	// NoRoutine leaves out routine events, which are those that AppendCounted stored without a
	// Code.
	NoRoutine bool
	Before    int64 // only events with a smaller Seq
	After     int64 // only events with a larger Seq
	Limit     int   // 0: 100; at most 1000
}

// Events is the audit trail.
type Events interface {
	AppendEvent(ctx context.Context, e Event) error
	// AppendEventOnce appends an event about a device, unless an event with the same `mark` was
	// appended since the device's first activation.
	AppendEventOnce(ctx context.Context, e Event, mark Hash) error
	// AppendCounted appends events that may be frequent. Events of one day (UTC) that differ only
	// in Time, Addr and Message become one event, which has the sum of their Counts, the Time of
	// the first event, and the Last, Addr and Message of the last one. An event with a Count counts
	// as that many events; a Count of 0 counts as 1.
	AppendCounted(ctx context.Context, events []Event) error
	// RemoveEvents removes Unproven events whose Time and Last are before `unproven`, and other
	// events whose Time and Last are before `all`. If one of these times is zero, RemoveEvents
	// removes no events of that kind. It removes at most `limit` events, and returns how many it
	// removed.
	RemoveEvents(ctx context.Context, unproven, all time.Time, limit int) (int, error)
	// Events lists the events that the filter selects, newest first.
	Events(ctx context.Context, f EventFilter) ([]Event, error)
	// FindEvents lists events as Events does, but reads only a limited number of them. The filter
	// must have an Owner. FindEvents examines at most `examine` events of the owner or, if the
	// filter has a Device, of that device. To get the next page, set f.Before to `next`. If `next`
	// is 0, the list is complete.
	FindEvents(ctx context.Context, f EventFilter, examine int) (events []Event, next int64, err error)
}
