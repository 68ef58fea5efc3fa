package backup_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/backup"
	"gangway/hub/pki"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// signedTrail returns a signed audit trail with n events.
func signedTrail(t *testing.T, ca *pki.Hub, since, until time.Time, n int) string {
	t.Helper()
	var b bytes.Buffer
	s := backup.NewTrailSigner(&b, ca, since, until)
	for i := range n {
		if err := s.Add(fmt.Appendf(nil, "{\"seq\":%d}\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func hubKeys(t *testing.T) *pki.Hub {
	t.Helper()
	ca, err := pki.Open(t.TempDir()+"/pki", pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// A restore gets all events of signed audit trails, even if several files follow one another.
func TestSignedTrailComesBack(t *testing.T) {
	t.Parallel()
	ca := hubKeys(t)
	text := signedTrail(t, ca, noon, noon.Add(time.Hour), 3) + signedTrail(t, ca, noon.Add(time.Hour), noon.Add(2*time.Hour), 0)
	n := 0
	trails, err := backup.ReadTrail(strings.NewReader(text), ca.HubName(), false, func([]byte) error { n++; return nil })
	if err != nil || n != 3 || len(trails) != 2 || !trails[0].Since.Equal(noon) || !trails[1].Until.Equal(noon.Add(2*time.Hour)) {
		t.Errorf("%d events, %v, %v", n, trails, err)
	}
}

// An attacker adds, removes or changes an event of a signed audit trail, or its signature.
// ReadTrail must refuse the trail.
func TestRejectsForgedTrail(t *testing.T) {
	t.Parallel()
	ca, other := hubKeys(t), hubKeys(t)
	good := signedTrail(t, ca, noon, noon.Add(time.Hour), 3)
	lines := strings.SplitAfter(good, "\n")
	events, seal := strings.Join(lines[:3], ""), lines[3]
	for name, c := range map[string]struct{ text, code string }{
		"an added event":            {"{\"seq\":9}\n" + good, backup.CodeAltered},
		"a removed event":           {lines[0] + lines[2] + seal, backup.CodeAltered},
		"a changed event":           {strings.Replace(good, `"seq":1`, `"seq":7`, 1), backup.CodeAltered},
		"events in another order":   {lines[1] + lines[0] + lines[2] + seal, backup.CodeAltered},
		"an event after the end":    {good + "{\"seq\":9}\n", backup.CodeEvents},
		"no signature":              {events, backup.CodeEvents},
		"another time":              {strings.Replace(good, `"until":"2026-11-29T13`, `"until":"2026-11-29T19`, 1), backup.CodeAltered},
		"another signature":         {events + strings.Replace(seal, `"signature":"`, `"signature":"AAAA`, 1), backup.CodeAltered},
		"more in the signature":     {events + strings.Replace(seal, `,"signature"`, `,"more":1,"signature"`, 1), backup.CodeAltered},
		"the signature of another":  {signedTrail(t, other, noon, noon.Add(time.Hour), 3), backup.CodeOtherHub},
		"the name of another hub":   {strings.Replace(signedTrail(t, other, noon, noon, 1), other.HubName(), ca.HubName(), 1), backup.CodeOtherHub},
		"two files without the end": {strings.TrimSuffix(good, seal) + good, backup.CodeAltered},
	} {
		_, err := backup.ReadTrail(strings.NewReader(c.text), ca.HubName(), false, func([]byte) error { return nil })
		if refusal := (*backup.Refusal)(nil); !errors.As(err, &refusal) || refusal.Code != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	// The operator may trust events that only lack the signature. A wrong signature stays an error.
	accept := func([]byte) error { return nil }
	if _, err := backup.ReadTrail(strings.NewReader(events), ca.HubName(), true, accept); err != nil {
		t.Error(err)
	}
	if _, err := backup.ReadTrail(strings.NewReader(lines[0]+seal), ca.HubName(), true, accept); err == nil {
		t.Error("a wrong signature was accepted")
	}
}

func TestUncoveredTimesAreNamed(t *testing.T) {
	t.Parallel()
	hours := func(since, until int) backup.Trail {
		return backup.Trail{Since: noon.Add(time.Duration(since) * time.Hour), Until: noon.Add(time.Duration(until) * time.Hour)}
	}
	for _, c := range []struct {
		trails []backup.Trail
		want   []int // pairs of hours after noon
	}{
		{nil, nil},
		{[]backup.Trail{{Until: noon.Add(time.Hour)}}, nil},
		{[]backup.Trail{hours(-3, -1)}, nil},
		{[]backup.Trail{hours(-3, 2), hours(2, 4)}, nil},
		{[]backup.Trail{hours(1, 2)}, []int{0, 1}},
		{[]backup.Trail{hours(5, 6), hours(-1, 2), hours(1, 3)}, []int{3, 5}},
		{[]backup.Trail{hours(1, 9), hours(2, 3), hours(11, 12)}, []int{0, 1, 9, 11}},
	} {
		var got []int
		for _, gap := range backup.Uncovered(c.trails, noon) {
			got = append(got, int(gap[0].Sub(noon).Hours()), int(gap[1].Sub(noon).Hours()))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.trails, got, c.want)
		}
	}
}
