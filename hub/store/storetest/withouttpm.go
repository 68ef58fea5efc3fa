package storetest

import (
	"fmt"
	"time"

	"gangway/hub/store"
)

var withoutTPMTests = []test{
	{"PlainDeviceIsADevice", plainDevice},
	{"ClaimIsOnceAndForOne", claimIsOnceAndForOne},
	{"UnclaimedDevicesGo", unclaimedDevicesGo},
	{"SecretsExpireAndGoWithTheDevice", secretsExpire},
	{"MetasAreReplaced", metasAreReplaced},
	{"DevicesAreFound", devicesAreFound},
}

func plain(id, owner, nick string) store.Device {
	return store.Device{ID: ID(id), Nick: nick, Owner: owner, Created: Epoch, LastSeenAddr: "192.0.2.9", UserMeta: map[string]any{"site": "oslo"}}
}

func (f *fixture) create(d store.Device) store.Device {
	f.Helper()
	got, err := f.CreateDevice(f.ctx, d, Hash("secret "+d.ID))
	f.must(err)
	return got
}

func plainDevice(f *fixture) {
	d := f.create(plain("a", f.owner.ID, "raft"))
	equal(f, "nick", d.Nick, "raft")
	equal(f, "meta", d.UserMeta, map[string]any{"site": "oslo"})
	equal(f, "evidence", d.Enrolment, store.Hash{})
	second := f.create(plain("b", f.owner.ID, "raft"))
	equal(f, "nick", second.Nick, "raft-2")
	_, err := f.CreateDevice(f.ctx, plain("a", f.owner.ID, "another"), store.Hash{1})
	f.refused(err, store.ErrExists)
	list, err := f.Devices(f.ctx, f.owner.ID, "", 0)
	f.must(err)
	equal(f, "devices", len(list), 2)
	// DeviceByCertificate does not find the device, not even by the zero hash, although the
	// device's IDevIDHash is zero.
	_, err = f.DeviceByCertificate(f.ctx, store.Hash{})
	f.refused(err, store.ErrNotFound)
	f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
	_, err = f.Device(f.ctx, d.ID)
	f.refused(err, store.ErrNotFound)
	// FindDevices also lists devices with a TPM.
	f.onboard(Machine{Name: "barge"}, f.token)
	n, err := f.CountDevices(f.ctx, f.owner.ID)
	f.must(err)
	equal(f, "devices", n, 2)
}

func claimIsOnceAndForOne(f *fixture) {
	f.create(plain("mine", f.owner.ID, "raft"))
	d := f.create(plain("nobodys", "", "raft"))
	claimed, err := f.ClaimDevice(f.ctx, d.ID, f.owner.ID, Epoch.Add(time.Hour))
	f.must(err)
	equal(f, "owner", claimed.Owner, f.owner.ID)
	equal(f, "nick", claimed.Nick, "raft-2")
	_, err = f.ClaimDevice(f.ctx, d.ID, f.other.ID, Epoch)
	f.refused(err, store.ErrNotFound)
	_, err = f.ClaimDevice(f.ctx, ID("unknown"), f.other.ID, Epoch)
	f.refused(err, store.ErrNotFound)
}

func unclaimedDevicesGo(f *fixture) {
	d := f.create(plain("nobodys", "", "raft"))
	mine := f.create(plain("mine", f.owner.ID, "raft"))
	n, err := f.RemoveUnclaimed(f.ctx, Epoch, 10)
	f.must(err)
	equal(f, "removed", n, 0)
	n, err = f.RemoveUnclaimed(f.ctx, Epoch.Add(time.Hour), 10)
	f.must(err)
	equal(f, "removed", n, 1)
	_, err = f.Device(f.ctx, d.ID)
	f.refused(err, store.ErrNotFound)
	_, err = f.DeviceSecret(f.ctx, d.ID, Epoch)
	f.refused(err, store.ErrNotFound)
	_, err = f.Device(f.ctx, mine.ID)
	f.must(err)
}

func secretsExpire(f *fixture) {
	d := f.create(plain("a", f.owner.ID, "raft"))
	h, err := f.DeviceSecret(f.ctx, d.ID, Epoch.Add(1000*week))
	f.must(err)
	equal(f, "secret", h, Hash("secret "+d.ID))
	f.must(f.PutDeviceSecret(f.ctx, d.ID, store.Hash{}, Hash("another"), Epoch.Add(time.Hour)))
	h, err = f.DeviceSecret(f.ctx, d.ID, Epoch)
	f.must(err)
	equal(f, "secret", h, Hash("another"))
	_, err = f.DeviceSecret(f.ctx, d.ID, Epoch.Add(time.Hour))
	f.refused(err, store.ErrNotFound)
	f.refused(f.PutDeviceSecret(f.ctx, ID("unknown"), store.Hash{}, Hash("x"), time.Time{}), store.ErrNotFound)
	f.must(f.PutDeviceSecret(f.ctx, d.ID, store.Hash{}, Hash("another"), time.Time{}))
	f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
	_, err = f.DeviceSecret(f.ctx, d.ID, Epoch)
	f.refused(err, store.ErrNotFound)
}

func metasAreReplaced(f *fixture) {
	d := f.create(plain("a", f.owner.ID, "raft"))
	f.must(f.ReplaceUserMeta(f.ctx, f.owner.ID, d.ID, map[string]any{"rack": "7"}))
	f.must(f.ReplaceDeviceMeta(f.ctx, d.ID, map[string]any{"a.b": "c"}))
	f.must(f.SetPublic(f.ctx, f.owner.ID, d.ID, true))
	got, err := f.Device(f.ctx, d.ID)
	f.must(err)
	equal(f, "user-meta", got.UserMeta, map[string]any{"rack": "7"})
	equal(f, "device-meta", got.DeviceMeta, map[string]any{"a.b": "c"})
	equal(f, "public", got.Public, true)
	f.refused(f.ReplaceUserMeta(f.ctx, f.other.ID, d.ID, nil), store.ErrNotFound)
	f.refused(f.SetPublic(f.ctx, f.other.ID, d.ID, false), store.ErrNotFound)
	f.refused(f.ReplaceDeviceMeta(f.ctx, ID("unknown"), nil), store.ErrNotFound)
}

func devicesAreFound(f *fixture) {
	for i, nick := range []string{"Gate-1", "gate-2", "gate_3", "mast"} {
		d := f.create(plain(fmt.Sprint(i), f.owner.ID, nick))
		if nick == "mast" {
			f.must(f.SetPublic(f.ctx, f.owner.ID, d.ID, true))
		}
	}
	f.create(plain("theirs", f.other.ID, "gate-9"))
	f.create(plain("nobodys", "", "gate-8"))
	for _, c := range []struct {
		filter store.DeviceFilter
		want   string
	}{
		{store.DeviceFilter{Owner: f.owner.ID}, "[Gate-1 gate-2 gate_3 mast]"},
		{store.DeviceFilter{Owner: f.owner.ID, NickPrefix: "GATE"}, "[Gate-1 gate-2 gate_3]"},
		{store.DeviceFilter{Owner: f.owner.ID, NickPrefix: "gate_"}, "[gate_3]"}, // the prefix is not a pattern
		{store.DeviceFilter{Owner: f.owner.ID, NickPrefix: "%"}, "[]"},
		{store.DeviceFilter{Owner: f.owner.ID, Nick: "mast"}, "[mast]"},
		{store.DeviceFilter{Owner: f.owner.ID, NotNick: "mast", Limit: 2}, "[Gate-1 gate-2]"},
		{store.DeviceFilter{Owner: f.owner.ID, After: "gate-2"}, "[gate_3 mast]"},
		{store.DeviceFilter{Owner: f.owner.ID, PublicOnly: true}, "[mast]"},
		{store.DeviceFilter{Owner: f.other.ID}, "[gate-9]"},
		{store.DeviceFilter{}, "[]"},
	} {
		list, err := f.FindDevices(f.ctx, c.filter)
		f.must(err)
		nicks := []string{}
		for _, d := range list {
			nicks = append(nicks, d.Nick)
		}
		equal(f, fmt.Sprintf("%+v", c.filter), fmt.Sprint(nicks), c.want)
	}
	d, err := f.DeviceByNick(f.ctx, f.owner.ID, "mast")
	f.must(err)
	equal(f, "id", d.ID, ID("3"))
	_, err = f.DeviceByNick(f.ctx, f.other.ID, "mast")
	f.refused(err, store.ErrNotFound)
}
