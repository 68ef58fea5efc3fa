package load

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"gangway/internal/fleet"
	"gangway/tcg"
	"gangway/wire"
)

// expected is the error of a hostile operation that the hub refused, as it must.
type expected struct{ code string }

func (e *expected) Error() string { return "refused: " + e.code }

var errAccepted = errors.New("the hub accepted a hostile request")

// closedByHub is the code for a connection that the hub closed without an answer.
const closedByHub = "closed"

// source returns the number of the next source address for a hostile connection. These numbers
// begin after the numbers of the devices' source addresses.
func (r *runner) source() int { return r.cfg.Devices + int(r.sources.Add(1)%60000) }

// slowFor bounds how long the fleet waits until the hub closes a slow connection.
const slowFor = 2 * time.Minute

// The function `slow` opens a TLS connection and sends one byte a second, until the hub closes the
// connection.
func slow(ctx context.Context, r *runner, _ *device) error {
	c, err := r.to.dial(ctx, r.source(), r.to.anonymous)
	if err != nil {
		return err
	}
	defer c.close()
	text := fmt.Sprintf("POST /onboard HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nContent-Length: 1000\r\nX-Slow: ", c.host, agentName)
	one := make([]byte, 1)
	for i := range int(slowFor / time.Second) {
		one[0] = 'x'
		if i < len(text) {
			one[0] = text[i]
		}
		if err := c.tls.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if _, err := c.tls.Write(one); err != nil {
			return closedOr(err)
		}
		// The read waits for the hub's answer for a second. This wait is also the pause between two
		// bytes.
		if n, err := c.tls.Read(one); n > 0 || err != nil && !isTimeout(err) {
			return &expected{closedByHub}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.New("the hub did not close a slow connection")
}

// closedOr returns an expected error if the hub closed the connection.
func closedOr(err error) error {
	if isTimeout(err) {
		return err
	}
	return &expected{closedByHub}
}

// garbage sends random bytes instead of a TLS handshake.
func garbage(ctx context.Context, r *runner, _ *device) error {
	c, err := r.to.dialRaw(ctx, r.source())
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(r.cfg.Timeout)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	b := make([]byte, 512)
	rand.Read(b)
	if _, err := c.Write(b); err != nil {
		return closedOr(err)
	}
	// The hub answers with an alert, or not at all, and closes the connection.
	if _, err := io.Copy(io.Discard, io.LimitReader(c, 1<<16)); err != nil {
		return closedOr(err)
	}
	return &expected{closedByHub}
}

// oversizedBody is the size of the body that the function `oversized` announces. POST /onboard
// accepts 256 KiB.
const oversizedBody = 1 << 20

// oversized sends a body that is too large.
func oversized(ctx context.Context, r *runner, _ *device) error {
	c, err := r.to.dial(ctx, r.source(), r.to.anonymous)
	if err != nil {
		return err
	}
	a, open, err := r.send(ctx, c, "POST /onboard", request{method: http.MethodPost, path: "/onboard", agent: agentName, last: true, body: make([]byte, oversizedBody)})
	if open {
		c.close()
	}
	switch {
	case err != nil && (ctx.Err() != nil || isTimeout(err)):
		return err
	case err != nil: // the hub closed the connection while the body was on its way
		return &expected{closedByHub}
	}
	return refusedAs(a)
}

// refusedAs returns an expected error for a refusal, and errAccepted for any other answer.
func refusedAs(a *answer) error {
	if a.status/100 == 4 {
		return &expected{a.code()}
	}
	if a.status/100 == 2 {
		return errAccepted
	}
	return a.ok()
}

// forgedRequests is the number of requests in the set of forged requests.
const forgedRequests = 64

// forge sets the field that holds the run's forged requests. If Config.Forged is empty, it makes
// new requests.
func (r *runner) forge() (err error) {
	r.forged = r.cfg.Forged
	if len(r.forged) == 0 {
		r.forged, err = Forge(r.cfg.Token, r.cfg.Maker)
	}
	return err
}

// Forge makes a set of forged requests for Config.Forged: with the EK certificate of another TPM,
// with broken bytes, with a signature of another key, and with the proof of another token. The set
// has no TPM of an unknown maker, because the hub does not refuse such a TPM: it asks the owner.
func Forge(t *wire.TokenFile, maker *fleet.Maker) (requests [][]byte, err error) {
	if maker == nil {
		return nil, errors.New("forged requests need a maker that the hub trusts")
	}
	victim, err := fleet.New(maker, "H-2")
	if err != nil {
		return nil, err
	}
	other := *t
	other.Token = base64.StdEncoding.EncodeToString(wire.NewSecret())
	for i := range forgedRequests {
		d, err := fleet.New(maker, "H-2")
		if err != nil {
			return nil, err
		}
		token, change := t, fleet.RequestChange{}
		switch i % 4 {
		case 0:
			d.EKCert = victim.EKCert
		case 1:
			change.CSR = func(c *tcg.CSR) {
				c.SgnCertifySig = bytes.Clone(c.SgnCertifySig)
				c.SgnCertifySig[len(c.SgnCertifySig)-1] ^= 1
			}
		case 2:
			token = &other
		}
		b, err := d.Request(token, change)
		if err != nil {
			return nil, err
		}
		if i%4 == 3 {
			for _, broken := range fleet.Mutations(b, 1, uint64(i)) {
				b = broken
			}
		}
		requests = append(requests, b)
	}
	return requests, nil
}

// connPool has open connections without a client certificate.
type connPool struct {
	mu   sync.Mutex
	idle []*conn
}

// The method `take` returns the connection that was used most recently, or nil.
func (p *connPool) take() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return nil
	}
	c := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	return c
}

func (p *connPool) put(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, c)
}

func (p *connPool) close() {
	for c := p.take(); c != nil; c = p.take() {
		c.close()
	}
}

// forgedEach is the number of forged requests from one address. If an attacker sends more from one
// address, the hub's rate limit refuses the requests, and this costs the hub less than judging
// them.
const forgedEach = 20

// The function `forged` sends a forged request, on a connection that earlier forged requests have
// used.
func forged(ctx context.Context, r *runner, _ *device) error {
	n := r.source()
	for {
		c := r.anonymous.take()
		if c == nil {
			var err error
			if c, err = r.to.dial(ctx, n, r.to.anonymous); err != nil {
				return err
			}
		}
		a, open, err := r.send(ctx, c, "POST /onboard", request{method: http.MethodPost, path: "/onboard", agent: agentName, body: r.forged[n%len(r.forged)]})
		if errors.Is(err, errReused) {
			r.reconnects.Add(1)
			continue // try another connection; a new connection never causes this error
		}
		if err != nil {
			return err
		}
		if c.requests++; open && c.requests >= forgedEach {
			c.close()
		} else if open {
			r.anonymous.put(c)
		}
		return refusedAs(a)
	}
}
