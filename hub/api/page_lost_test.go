package api_test

import (
	"strings"
	"testing"
	"time"

	"gangway/hub/store"
)

// After the hub was restored from a backup, the owner's page of devices links to the list of lost
// devices. Another owner, or the owner on a hub that was never restored, sees no such link.
func TestLostDevicesOnPages(t *testing.T) {
	t.Parallel()
	s := newRestoredScene(t, -time.Hour)
	ctx, now := t.Context(), s.Now()
	lost := func(id string, owner store.Account) {
		t.Helper()
		d := store.LostDevice{ID: id, Owner: owner.ID, TokenID: s.tok.ID, Certificate: store.Hash{1}, Issued: now.Add(-time.Minute), FirstSeen: now, LastSeen: now, Addr: "192.0.2.7"}
		if err := s.Store.RecordLostDevice(ctx, d, store.Event{Time: now, Kind: store.EventLostDevice, Owner: owner.ID, Device: id, Message: "Lost."}); err != nil {
			t.Fatal(err)
		}
	}
	b := s.signedIn(t, "ada")
	if _, body, _ := b.send("GET", "/ui/devices", ""); strings.Contains(body, "/ui/devices/lost") {
		t.Error("nothing is lost, and the list says so")
	}
	mine, theirs := hexSum("mine")[:24], hexSum("theirs")[:24]
	lost(mine, s.Owner)
	lost(theirs, s.Account(t, "thief"))
	if _, body, _ := b.send("GET", "/ui/devices", ""); !strings.Contains(body, `href="/ui/devices/lost"`) {
		t.Error("the list does not say that devices are lost")
	}
	status, body, _ := b.send("GET", "/ui/devices/lost", "")
	if status != 200 || !strings.Contains(body, mine) || !strings.Contains(body, "192.0.2.7") || !strings.Contains(body, "The hub was restored") || strings.Contains(body, theirs) {
		t.Errorf("%d %.3000s", status, body)
	}
	if _, body, _ := b.send("GET", "/ui/devices/lost?after="+mine, ""); strings.Contains(body, mine) || !strings.Contains(body, "Show the first lost devices") {
		t.Error("the page after the last device")
	}
	if _, body, _ := newScene(t).signedIn(t, "ada").send("GET", "/ui/devices/lost", ""); !strings.Contains(body, "never restored") {
		t.Error("a hub that was never restored")
	}
}
