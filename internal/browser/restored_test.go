package browser_test

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/browser"
	"gangway/internal/hubtest"
	"gangway/internal/race"
)

// A person opens the pages about devices that a restore lost, and about devices whose maker is
// distrusted now. The lists on these pages have rows here; in TestPages they are empty. The pages
// must pass the checks of TestPages.
func TestPagesAfterTroubleInBrowser(t *testing.T) {
	race.Skip(t)
	skipShort(t)
	maker, err := goodMaker()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	h := &hubWithDevices{maker: maker}
	h.Hub = hubtest.NewWith(t, func(c *api.Config) {
		c.Restore = &store.Restore{Epoch: 1, Backup: now.Add(-26 * time.Hour), Time: now.Add(-time.Hour)}
	}, maker.Roots(), maker.Intermediates())
	h.client = loopback(t)
	for i := range 3 {
		h.first = h.onboard(t, []string{"L-1", "H-2", "H-3"}[i], "NUC12WSHi5", fmt.Sprintf("SN-000%d", i)).ID
	}
	for i := range 4 {
		id := fmt.Sprintf("%x", sha256.Sum256([]byte{byte(i)}))[:24]
		d := store.LostDevice{ID: id, Owner: h.Owner.ID, TokenID: h.tokens(t)[0].ID, Certificate: store.Hash{byte(i)}, Issued: now.Add(-20 * time.Hour), FirstSeen: now, LastSeen: now.Add(-time.Minute), Addr: fmt.Sprintf("192.0.2.%d", i+1)}
		e := store.Event{Time: now, Kind: store.EventLostDevice, Code: "device-lost", Owner: h.Owner.ID, Device: id, Message: "The restored hub lost its record of this device."}
		if err := h.Store.RecordLostDevice(t.Context(), d, e); err != nil {
			t.Fatal(err)
		}
	}
	root := store.TrustedCertificate{Fingerprint: sha256.Sum256(maker.Root.Raw), DER: maker.Root.Raw, Kind: store.Distrusted, Source: "test"}
	if err := h.Store.ChangeTrust(t.Context(), store.TrustChange{Put: []store.TrustedCertificate{root}}); err != nil {
		t.Fatal(err)
	}
	h.cookie = browser.SignIn(t, h.client, h.URL, "ada", hubtest.Password)
	operator := h.operator(t)
	if err := h.Store.SetLastBackup(t.Context(), now.Add(-8*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []page{
		{name: "devices-restored", path: "/ui/devices", want: "Show the lost devices"},
		{name: "lost-rows", path: "/ui/devices/lost", want: "Devices whose records a restore lost"},
		{name: "judge-rows", path: "/ui/trust/judge", want: "would be refused"},
		{name: "judge-delete", path: "/ui/bulk?act=delete&id={id}", want: "delete 1"},
		{name: "operator-alarms-lasting", path: "/ui/operator/alarms", operator: true, want: "needs you"},
	} {
		cookie := h.cookie
		if p.operator {
			cookie = operator
		}
		for _, o := range screens() {
			see(t, h, cookie, p, o)
		}
	}
}
