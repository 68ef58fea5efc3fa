package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"gangway/hub/pki"
	"gangway/internal/strictjson"
)

// A signed audit trail is a file with one event in JSON on each line, and a last line with a
// signature of the hub (TrailSigner). Without the signature, anyone who can change the file could
// make a restore delete devices, or hide deletions from the restore. A file may contain several
// signed audit trails, one after the other.

// Trail describes the events before a signature. The signature also covers this description.
type Trail struct {
	Hub    string    `json:"hub"`   // the hub name
	Since  time.Time `json:"since"` // the file has all events from this time on; zero: from the first event on
	Until  time.Time `json:"until"` // the file has all events before this time
	Events int       `json:"events"`
	SHA256 string    `json:"sha256"` // of the lines before this one, with their line ends
	Root   string    `json:"root"`   // certificate in PEM
	ACA    string    `json:"aca"`    // certificate in PEM; its key has made the signature
}

// sealed is the last line of a signed audit trail.
type sealed struct {
	Trail     json.RawMessage `json:"gangway-signed-events"`
	Signature []byte          `json:"signature"`
}

// sealBegins is the beginning of a line that has a signature. No event begins with this text.
var sealBegins = []byte(`{"gangway-signed-events":`)

// trailPrefix begins the text whose hash the hub signs. The hub also signs the list of a backup's
// entries, but this list begins with a brace. So nobody can use the signature of a trail as the
// signature of a backup.
const trailPrefix = "gangway signed events v1\x00"

// CodeEvents is the code of refusals of audit trails.
const CodeEvents = "events-unsigned"

// TrailSigner writes a signed audit trail. Each event is one line; Close writes the signature.
type TrailSigner struct {
	to    io.Writer
	ca    *pki.Hub
	trail Trail
	sum   hash.Hash
}

// NewTrailSigner returns a TrailSigner for the events from `since` (inclusive) to `until`
// (exclusive).
func NewTrailSigner(to io.Writer, ca *pki.Hub, since, until time.Time) *TrailSigner {
	return &TrailSigner{to, ca, Trail{Hub: ca.HubName(), Since: since.UTC(), Until: until.UTC(), Root: string(ca.RootPEM()), ACA: string(ca.ACAPEM())}, sha256.New()}
}

// Add writes an event: a line of JSON with its line end.
func (s *TrailSigner) Add(line []byte) error {
	s.trail.Events++
	s.sum.Write(line)
	_, err := s.to.Write(line)
	return err
}

// Close writes the signature.
func (s *TrailSigner) Close() error {
	s.trail.SHA256 = hex.EncodeToString(s.sum.Sum(nil))
	text, err := json.Marshal(s.trail)
	if err != nil {
		return err
	}
	signature, err := s.ca.SignBackup(trailSum(text))
	if err != nil {
		return err
	}
	line, err := json.Marshal(sealed{text, signature})
	if err != nil {
		return err
	}
	_, err = s.to.Write(append(line, '\n'))
	return err
}

func trailSum(text []byte) [sha256.Size]byte {
	return sha256.Sum256(append([]byte(trailPrefix), text...))
}

// maxTrailLine is the largest size of a line, in bytes.
const maxTrailLine = 1 << 20

// ReadTrail reads audit trails of the hub with this name, and calls `event` for each event. The
// events are not verified until ReadTrail returns without an error, so the caller must first
// collect the events. If `unsigned` is true, events without a signature are accepted.
func ReadTrail(from io.Reader, hubName string, unsigned bool, event func(line []byte) error) (trails []Trail, err error) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxTrailLine)
	sum, open := sha256.New(), 0
	n := 0
	for lines.Scan() {
		n++
		line := lines.Bytes()
		if bytes.HasPrefix(line, sealBegins) {
			t, err := verifyTrail(line, hubName, hex.EncodeToString(sum.Sum(nil)), open)
			if err != nil {
				return nil, err
			}
			trails, open = append(trails, t), 0
			sum.Reset()
			continue
		}
		sum.Write(line)
		sum.Write([]byte("\n"))
		open++
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		if err := event(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("after line %d: %w", n, err)
	}
	if open > 0 && !unsigned {
		return nil, &Refusal{CodeEvents, fmt.Sprintf("No signature of the hub follows the last %d lines of the events, so anyone can have written these lines, or a part of the file is missing.", open),
			"Name a file that 'gangway events --data DIR --output jsonl --sign' has printed. If there is only a file without a signature, read it, and say with --unsigned-events that you trust it."}
	}
	return trails, nil
}

// verifyTrail verifies the signature in a line. `sum` is the hash of the lines before it.
func verifyTrail(line []byte, hubName, sum string, events int) (t Trail, err error) {
	var s sealed
	if err := strictjson.DecodeKnown(line, &s); err != nil {
		return t, eventsChanged("the signature cannot be read (%v)", err)
	}
	if err := strictjson.Decode(s.Trail, &t); err != nil {
		return t, eventsChanged("the signature cannot be read (%v)", err)
	}
	switch err := pki.VerifyBackup(hubName, []byte(t.Root), []byte(t.ACA), trailSum(s.Trail), s.Signature); {
	case errors.Is(err, pki.ErrOtherHub) || err == nil && t.Hub != hubName:
		return t, &Refusal{CodeOtherHub, fmt.Sprintf("The events are of another hub, with the hub name %.64q.", t.Hub), "Name a file with the events of the hub that made this backup."}
	case err != nil:
		return t, eventsChanged("the hub did not sign the events")
	case t.SHA256 != sum || t.Events != events:
		return t, eventsChanged("the events differ from the events that the hub signed")
	}
	return t, nil
}

func eventsChanged(format string, args ...any) error {
	return &Refusal{CodeAltered, "The file of the events was changed: " + fmt.Sprintf(format, args...) + ".",
		"Copy the file again, or use another export. Keep this file: find out what changed it."}
}

// Uncovered returns the periods that no trail covers, between `from` and the end of the last trail.
func Uncovered(trails []Trail, from time.Time) (gaps [][2]time.Time) {
	for len(trails) > 0 {
		// `end` is the latest end of the trails that begin at or before `from`. `next` is the
		// earliest start of the trails that begin later.
		end, next := from, time.Time{}
		for _, t := range trails {
			switch {
			case !t.Until.After(from):
			case !t.Since.After(from):
				if t.Until.After(end) {
					end = t.Until
				}
			case next.IsZero() || t.Since.Before(next):
				next = t.Since
			}
		}
		switch {
		case end.After(from):
			from = end
		case !next.IsZero():
			gaps, from = append(gaps, [2]time.Time{from, next}), next
		default:
			return gaps
		}
	}
	return gaps
}
