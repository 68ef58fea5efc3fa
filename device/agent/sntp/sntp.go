// Package sntp asks a time server for the time (SNTP, RFC 5905, section 14). The answer
// is not authenticated: anyone on the network path can forge it, so the caller must
// limit its effect.
package sntp

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

const (
	port       = "123"
	packetSize = 48 // bytes, without extensions
	// clientMode is the first byte of a request: leap indicator 0, version 4, mode 3 (client). An
	// answer has mode 4 (server).
	clientMode = 4<<3 | 3
	serverMode = 4
	eraSeconds = 1 << 32
)

// epoch is the start of NTP's first era, in Unix seconds.
const epoch = -2208988800

// Ask asks a server for the time, until ctx ends. The server is a name or an address, with or
// without a port. NTP's count of seconds wraps around every 136 years, so the timestamp in an
// answer is ambiguous. Ask returns the first time that it can mean and that is not before
// `earliest`.
func Ask(ctx context.Context, server string, earliest time.Time) (time.Time, error) {
	if _, _, err := net.SplitHostPort(server); err != nil {
		server = net.JoinHostPort(server, port)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", server)
	if err != nil {
		return time.Time{}, fmt.Errorf("sntp: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	request := make([]byte, packetSize)
	request[0] = clientMode
	cookie := request[40:48] // the request's transmit timestamp: random bytes, which the answer must repeat
	rand.Read(cookie)        // never fails
	sent := time.Now()
	if _, err := conn.Write(request); err != nil {
		return time.Time{}, fmt.Errorf("sntp: %w", err)
	}
	answer := make([]byte, 1024)
	for {
		n, err := conn.Read(answer)
		if err != nil {
			if ctx.Err() != nil {
				err = fmt.Errorf("no answer from %s", server)
			}
			return time.Time{}, fmt.Errorf("sntp: %w", err)
		}
		if n < packetSize || string(answer[24:32]) != string(cookie) {
			continue // not the answer to this request
		}
		at, err := read(answer[:packetSize], earliest)
		if err != nil {
			return time.Time{}, fmt.Errorf("sntp: %s: %w", server, err)
		}
		return at.Add(time.Since(sent) / 2), nil
	}
}

// read returns the time in an answer's transmit timestamp. Of the times that the timestamp can
// mean, it returns the first that is not before `earliest`.
func read(p []byte, earliest time.Time) (time.Time, error) {
	leap, mode, stratum := p[0]>>6, p[0]&7, p[1]
	seconds, fraction := binary.BigEndian.Uint32(p[40:]), binary.BigEndian.Uint32(p[44:])
	switch {
	case mode != serverMode:
		return time.Time{}, errors.New("the answer is malformed: its mode field is not the mode of a time server")
	case stratum == 0:
		return time.Time{}, fmt.Errorf("the server refuses to answer (%q)", strings.TrimRight(string(p[12:16]), "\x00"))
	case leap == 3 || stratum > 15 || seconds == 0 && fraction == 0:
		return time.Time{}, errors.New("the server's own clock is not set")
	}
	unix := int64(seconds) + epoch
	for unix < earliest.Unix() {
		unix += eraSeconds
	}
	return time.Unix(unix, int64(fraction)*int64(time.Second)>>32), nil
}
