package install

import (
	"bytes"
	"testing"

	"gangway/device/install/luks"
	"gangway/internal/race"
)

func TestInstallsEncrypted(t *testing.T) {
	race.Skip(t)
	m, stick, images := small(t)
	disk := newMemory(40 * mib)
	job := Job{Manifest: m, Stick: stick, Target: disk, Encrypt: []luks.Slot{{Passphrase: passphrase}}}
	if err := job.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	table, ok := boots(t, disk)
	if !ok {
		t.Fatal("it would not boot")
	}
	part := disk.disk[table.Partitions[1].Start*sector:]
	if bytes.Contains(part, []byte("superblock")) {
		t.Error("the data can be read")
	}
	key, err := luks.Open(bytes.NewReader(part), passphrase)
	if err != nil {
		t.Fatal(err)
	}
	c, err := key.Cipher()
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(images[Data]))
	for i := 0; i < len(got); i += sector {
		c.Decrypt(got[i:i+sector], part[luks.Overhead+i:luks.Overhead+i+sector], uint64(i/sector))
	}
	if !bytes.Equal(got, images[Data]) {
		t.Error("what is encrypted is not what was to be installed")
	}

	// A disk that does not keep the key slots is found out.
	broken := newMemory(40 * mib)
	broken.broken = int(table.Partitions[1].Start) + 100
	job.Target = broken
	if err := job.Run(t.Context()); err == nil {
		t.Error("a damaged key slot is not found out")
	}
	small := newMemory(20 * mib)
	job.Target = small
	if err := job.Run(t.Context()); err == nil {
		t.Error("a disk without room for the key slots is taken")
	}
}
