package sntp

import (
	"context"
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"
)

// server starts a time server. The function `answer` returns the packets that the server sends in
// reply to a request.
func server(t *testing.T, answer func(request []byte) [][]byte) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1024)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			for _, a := range answer(b[:n]) {
				c.WriteTo(a, from)
			}
		}
	}()
	return c.LocalAddr().String()
}

// The function `telling` makes a correct answer to a request. The time in the answer is `seconds`
// seconds since 1900, plus half a second.
func telling(request []byte, seconds uint32) []byte {
	p := make([]byte, packetSize)
	p[0], p[1] = 4<<3|serverMode, 2
	copy(p[24:32], request[40:48])
	binary.BigEndian.PutUint32(p[40:], seconds)
	binary.BigEndian.PutUint32(p[44:], 1<<31) // half a second
	return p
}

const seconds2026 = 3976992000 // 2026-01-10

func TestReadsTheTime(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		seconds uint32
		after   time.Time
		want    string
	}{
		"today":              {seconds2026, time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), "2026-01-10 00:00:00.5"},
		"the first era ends": {1<<32 - 1, time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), "2036-02-07 06:28:15.5"},
		"the second era":     {1, time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC), "2036-02-07 06:28:17.5"},
	} {
		addr := server(t, func(r []byte) [][]byte {
			if r[0] != 0x23 {
				t.Errorf("the first byte is %#x", r[0])
			}
			return [][]byte{telling(r, c.seconds)}
		})
		at, err := Ask(t.Context(), addr, c.after)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want, err := time.Parse("2006-01-02 15:04:05", c.want)
		if err != nil {
			t.Fatal(err)
		}
		if off := at.Sub(want); off < 0 || off > 5*time.Second { // the answer's time has half a second; Ask adds half of the round trip
			t.Errorf("%s: %s", name, at.UTC())
		}
	}
}

// Ask ignores an answer that is too short, or whose sender has not seen the request. If the server
// answers that it does not know the time, the error says so.
func TestAnswersThatAreNoGood(t *testing.T) {
	t.Parallel()
	change := func(f func(p []byte) []byte) func([]byte) [][]byte {
		return func(r []byte) [][]byte { return [][]byte{f(telling(r, seconds2026))} }
	}
	for name, c := range map[string]struct {
		answer func([]byte) [][]byte
		want   string
	}{
		"forged blindly":   {change(func(p []byte) []byte { p[24] ^= 1; return p }), "no answer"},
		"cut short":        {change(func(p []byte) []byte { return p[:47] }), "no answer"},
		"a client":         {change(func(p []byte) []byte { p[0] = clientMode; return p }), "the mode of a time server"},
		"a kiss of death":  {change(func(p []byte) []byte { p[1] = 0; copy(p[12:], "RATE"); return p }), `refuses to answer ("RATE")`},
		"not synchronised": {change(func(p []byte) []byte { p[0] |= 3 << 6; return p }), "the server's own clock is not set"},
		"stratum 16":       {change(func(p []byte) []byte { p[1] = 16; return p }), "the server's own clock is not set"},
		"no time":          {change(func(p []byte) []byte { clear(p[40:]); return p }), "the server's own clock is not set"},
		"silence":          {func([]byte) [][]byte { return nil }, "no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			at, err := Ask(ctx, server(t, c.answer), time.Unix(0, 0))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %v", at, err)
			}
		})
	}
	// After a forged answer, Ask still waits for a correct answer.
	addr := server(t, func(r []byte) [][]byte {
		forged := telling(r, seconds2026+1000000)
		forged[24] ^= 1
		return [][]byte{forged, telling(r, seconds2026)}
	})
	if at, err := Ask(t.Context(), addr, time.Unix(0, 0)); err != nil || at.Year() != 2026 || at.Month() != 1 || at.Day() != 10 {
		t.Error(at, err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(telling(make([]byte, packetSize), seconds2026), int64(0))
	f.Fuzz(func(t *testing.T, p []byte, after int64) {
		if len(p) != packetSize || after < 0 || after > 1<<34 {
			return
		}
		if at, err := read(p, time.Unix(after, 0)); err == nil && at.Unix() < after {
			t.Errorf("%s is before %d", at, after)
		}
	})
}
