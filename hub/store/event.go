package store

import "context"

// Means by which somebody did something.
const (
	ByPage        = "page"        // in a browser
	ByAPI         = "api"         // with a session, by a program
	ByAPIToken    = "api-token"   // Credential names it
	ByCommand     = "command"     // on the hub's machine
	ByCertificate = "certificate" // a device's
	BySecret      = "secret"      // a device's
	ByToken       = "token"       // a device's, got with its certificate or secret
)

// Actor is who does something, from where and how.
type Actor struct {
	ID         string // prn of an account or a device, "operator:" and a name; empty: nobody that is known
	Name       string // its nick at that time
	Means      string // one of the above
	Credential string // the API token's name
	Addr       string // IP address; empty on the hub's machine
}

type actorKey struct{}

// WithActor puts an actor in a context. What the pointer points to may become
// known later, while the request is judged.
func WithActor(ctx context.Context, a *Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorIn returns the actor of a context, for its owner to fill in; one that
// nobody reads if there is none.
func ActorIn(ctx context.Context) *Actor {
	if a, ok := ctx.Value(actorKey{}).(*Actor); ok {
		return a
	}
	return new(Actor)
}

// By returns the event with the actor filled in where the event names none.
func (e Event) By(a *Actor) Event {
	if e.Actor == "" && e.Means == "" {
		e.Actor, e.ActorName, e.Means, e.Credential = a.ID, a.Name, a.Means, a.Credential
	}
	if e.Addr == "" {
		e.Addr = a.Addr
	}
	return e
}
