package store

import (
	"context"
	"time"
)

// Means by which an actor did something.
const (
	ByPage        = "page"        // in a browser
	ByAPI         = "api"         // with a session, by a program
	ByAPIToken    = "api-token"   // Credential names it
	ByCommand     = "command"     // on the hub's machine
	ByCertificate = "certificate" // a device's
	BySecret      = "secret"      // a device's
	ByToken       = "token"       // a device's access token, issued for its certificate or secret
)

// Actor is the person, program or device that did something.
type Actor struct {
	ID         string // prn of an account or a device, or "operator:" and a name; empty: unknown
	Name       string // the actor's nick at that time
	Means      string // one of the above
	Credential string // the API token's name
	Addr       string // IP address; empty on the hub's machine
}

type actorKey struct{}

// WithActor puts an actor in a context. The caller may fill it in later, while the request is
// judged.
func WithActor(ctx context.Context, a *Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorIn returns the actor of a context, so that the caller can read it or fill it in. If the
// context has none, it returns a new one that is not in the context.
func ActorIn(ctx context.Context) *Actor {
	if a, ok := ctx.Value(actorKey{}).(*Actor); ok {
		return a
	}
	return new(Actor)
}

// Event is a line of the audit trail. An event never changes, except that AppendCounted updates the
// row that counts equal events. Only RemoveEvents removes events.
type Event struct {
	Seq     int64 // given by the store, increasing
	Time    time.Time
	Kind    string // stable, e.g. "enrolment.refused", "device.activated"
	Code    string // stable refusal code, or empty
	Owner   string // Account.ID of the account that may read it; empty: the operator's
	Device  string
	Token   string
	Addr    string
	Message string // one sentence for a person

	// The person, program or device that caused the event. See Actor.
	Actor      string
	ActorName  string
	Means      string
	Credential string

	// Count is how many events of one day this row counts, the last of them at Last. 0, with a zero
	// Last: one event, at Time. See AppendCounted.
	Count int
	Last  time.Time

	// Unproven: a peer that had proven nothing caused the event. Such an event is kept for a
	// shorter time. AppendCounted never counts events of different Group in one row. Reads return
	// neither field.
	Unproven bool
	Group    string
}

// By returns the event. If the event names no actor, By fills in the actor a.
func (e Event) By(a *Actor) Event {
	if e.Actor == "" && e.Means == "" {
		e.Actor, e.ActorName, e.Means, e.Credential = a.ID, a.Name, a.Means, a.Credential
	}
	if e.Addr == "" {
		e.Addr = a.Addr
	}
	return e
}

// EventFilter chooses events. Zero fields do not filter.
type EventFilter struct {
	Owner  string
	Device string
	Kind   string // this kind; if it ends with ".", every kind that begins with it
	Token  string
	Actor  string    // the prn or, without regard to ASCII case, the nick of who caused the event
	Since  time.Time // not before this; for a row that counts several events, Last counts
	Until  time.Time // the event is before this
	// NoRoutine leaves out rows of AppendCounted that have no Code.
	NoRoutine bool
	Before    int64 // only events with a smaller Seq
	After     int64 // only events with a larger Seq
	Limit     int   // 0: 100; at most 1000
}

// Events is the audit trail.
type Events interface {
	AppendEvent(ctx context.Context, e Event) error
	// AppendEventOnce appends an event about a device, unless one with the same mark was appended
	// since the device was first activated.
	AppendEventOnce(ctx context.Context, e Event, mark Hash) error
	// AppendCounted appends events that may be frequent. Events of one day (UTC) that differ only in
	// Time, Addr and Message become one row. It has their Count, the Time of the first, and the
	// Last, Addr and Message of the last. If a given event has a Count, it stands for that many
	// events until its Last; 0 is one.
	AppendCounted(ctx context.Context, events []Event) error
	// RemoveEvents removes at most limit events: Unproven ones whose Time and Last are before
	// unproven, and any whose Time and Last are before all. A zero time removes nothing. It returns
	// how many it removed.
	RemoveEvents(ctx context.Context, unproven, all time.Time, limit int) (int, error)
	// Events lists events, newest first.
	Events(ctx context.Context, f EventFilter) ([]Event, error)
	// FindEvents is Events for a filter with an Owner, at a bounded cost: it examines at most examine
	// events of the owner or, if the filter has a Device, of that device. next is the Before with
	// which the list continues; 0: the list is complete.
	FindEvents(ctx context.Context, f EventFilter, examine int) (events []Event, next int64, err error)
}
