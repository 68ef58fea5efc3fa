package api_test

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"

	_ "modernc.org/sqlite" // the driver
)

// newRestoredScene returns a scene with a hub that was restored from a backup. The argument
// `backup` is the time at which the backup began, relative to now.
func newRestoredScene(t *testing.T, backup time.Duration) *scene {
	t.Helper()
	now := time.Now()
	return newSceneWith(t, func(c *api.Config) {
		c.Restore = &store.Restore{Epoch: 1, Backup: now.Add(backup), Time: now.Add(time.Minute)}
	})
}

// The method `loses` removes the records of all devices, as the restore of an older backup does.
func (s *scene) loses(t *testing.T) {
	t.Helper()
	db := must(sql.Open("sqlite", filepath.Join(s.Data(), "gangway.db")))(t)
	defer db.Close()
	for _, statement := range []string{
		"PRAGMA busy_timeout = 5000", "PRAGMA foreign_keys = OFF",
		"DELETE FROM devices", "DELETE FROM aiks", "DELETE FROM tpms", "DELETE FROM token_uses", "DELETE FROM enrolments", "UPDATE join_tokens SET uses = 0",
	} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// A restore lost the records of a device. The hub recognises the device by its certificate, tells
// its owner once, and takes the device back only for this owner.
func TestLostDeviceComesBackOnlyToItsOwner(t *testing.T) {
	t.Parallel()
	s := newRestoredScene(t, -time.Hour)
	c := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	id := s.deviceOf(t, s.victim)
	thief := s.Account(t, "thief")
	theirs := s.Token(t, thief, nil)
	s.loses(t)
	for range 2 {
		conn := must(s.client.Dial(t.Context(), c.TLS(s.victim)))(t)
		a := must(conn.Do(t.Context(), "GET", "/device", nil))(t)
		refused(t, a, 403, "certificate-not-active")
		// The agent onboards again by itself if the answer has the state "unknown".
		if text := string(a.Body); !strings.Contains(text, `"unknown"`) || !strings.Contains(text, "restored from a backup") {
			t.Errorf("%s", text)
		}
		conn.Close()
	}
	if events := s.ownersEvents(t, s.Owner, store.EventLostDevice); len(events) != 1 || events[0].Device != id || events[0].Code != "device-lost" {
		t.Errorf("the owner's events: %s", brief.Of(events))
	}
	if events := s.ownersEvents(t, thief, store.EventLostDevice); len(events) != 0 {
		t.Errorf("another owner's events: %s", brief.Of(events))
	}
	stolen := must(s.victim.Enrol(t.Context(), s.client, must(s.victim.Request(theirs, fleet.RequestChange{}))(t)))(t)
	refused(t, must(s.victim.Activate(t.Context(), s.client, stolen))(t), 409, onboard.CodeOtherOwner)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	if got := s.deviceOf(t, s.victim); got != id {
		t.Errorf("the device came back as %s, and was %s", got, id)
	}
	if list := must(s.Store.LostDevices(t.Context(), "", 10))(t); len(list) != 0 {
		t.Errorf("still lost: %s", brief.Of(list))
	}
}

// After the backup, the owner released the TPM and onboarded it again, so its device got another
// id. The restored hub does not know of the release, and gives the TPM its earlier id. Even with
// this id, another owner cannot take the device.
func TestLostDeviceOfAReleasedTPMIsRecognised(t *testing.T) {
	t.Parallel()
	s := newRestoredScene(t, -time.Hour)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	s.deleteDevice(t, s.deviceOf(t, s.victim))
	c := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	theirs := s.Token(t, s.Account(t, "thief"), nil)
	s.loses(t)
	conn := must(s.client.Dial(t.Context(), c.TLS(s.victim)))(t)
	defer conn.Close()
	refused(t, must(conn.Do(t.Context(), "GET", "/device", nil))(t), 403, "certificate-not-active")
	stolen := must(s.victim.Enrol(t.Context(), s.client, must(s.victim.Request(theirs, fleet.RequestChange{}))(t)))(t)
	refused(t, must(s.victim.Activate(t.Context(), s.client, stolen))(t), 409, onboard.CodeOtherOwner)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
}

// A device whose records are missing counts as lost only if the hub was restored, and the device's
// certificate is newer than the backup. Otherwise the device is unknown: for example, its enrolment
// may have expired long ago.
func TestOnlyARestoreLosesDevices(t *testing.T) {
	t.Parallel()
	s := newRestoredScene(t, 2*time.Hour) // the backup is younger than the certificate
	c := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	ask := func() {
		t.Helper()
		conn := must(s.client.Dial(t.Context(), c.TLS(s.victim)))(t)
		defer conn.Close()
		a := must(conn.Do(t.Context(), "GET", "/device", nil))(t)
		refused(t, a, 403, "certificate-not-active")
		if list := must(s.Store.LostDevices(t.Context(), "", 10))(t); len(list) != 0 {
			t.Errorf("lost: %s", brief.Of(list))
		}
	}
	s.loses(t)
	ask()
}

// A paused join token lets no new device join, until the operator ends the pause.
func TestPausedTokenIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	limited := s.Token(t, s.Owner, func(j *store.JoinToken) { j.MaxUses = 2 })
	must(s.Store.MarkRestored(t.Context(), store.Restore{Epoch: 1, Backup: s.Now(), Time: s.Now()}))(t)
	enrolled := must(s.victim.Enrol(t.Context(), s.client, must(s.victim.Request(limited, fleet.RequestChange{}))(t)))(t)
	refused(t, must(s.victim.Activate(t.Context(), s.client, enrolled))(t), 403, onboard.CodeTokenPaused)
	if err := s.Store.ResumeToken(t.Context(), limited.ID, 0, store.Event{Time: s.Now(), Kind: store.EventTokenResumed}); err != nil {
		t.Fatal(err)
	}
	if a := must(s.victim.Activate(t.Context(), s.client, enrolled))(t); a.Status != 200 {
		t.Errorf("after the pause: %d %s", a.Status, a.Body)
	}
}
