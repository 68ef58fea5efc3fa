package installer

import (
	"slices"
	"testing"
	"time"

	"gangway/device/install"
)

// The installer waits for a disk that spins up and for a controller that takes
// its time, so that it does not take the second largest.
func TestWaitsForDisksThatAreNotReady(t *testing.T) {
	nvme := install.Disk{Name: "nvme0n1", Size: 500e9}
	usb := install.Disk{Name: "sda", Size: 8e9, External: "on USB"}
	stick := install.Disk{Name: "sdb", Size: 8e9, Unfit: "the stick that this was started from"}
	asleep := install.Disk{Name: "sdc", Unfit: "without a size"}
	for _, c := range []struct {
		disks []install.Disk
		want  time.Duration
	}{
		{[]install.Disk{nvme, usb, stick}, diskSettle},
		{[]install.Disk{nvme, asleep}, diskReady},
		{[]install.Disk{usb, stick}, diskReady},
		{[]install.Disk{stick}, diskReady},
		{nil, diskReady},
	} {
		if got := settleTime(c.disks); got != c.want {
			t.Errorf("%v: %s, want %s", identities(c.disks), got, c.want)
		}
	}
}

// A disk that gets its size, and another one under the same name, are news.
func TestTellsADiskFromWhatItWas(t *testing.T) {
	was := identities([]install.Disk{{Name: "sda", Seq: 3}, {Name: "sdb", Seq: 4, Size: 8e9}})
	for _, c := range []struct {
		disks []install.Disk
		news  bool
	}{
		{[]install.Disk{{Name: "sda", Seq: 3}, {Name: "sdb", Seq: 4, Size: 8e9}}, false},
		{[]install.Disk{{Name: "sda", Seq: 3, Size: 4e9}, {Name: "sdb", Seq: 4, Size: 8e9}}, true},
		{[]install.Disk{{Name: "sda", Seq: 3}, {Name: "sdb", Seq: 9, Size: 8e9}}, true},
		{[]install.Disk{{Name: "sda", Seq: 3}}, true},
		{nil, true},
	} {
		if news := !slices.Equal(identities(c.disks), was); news != c.news {
			t.Errorf("%v after %v: news %v", identities(c.disks), was, news)
		}
	}
}
