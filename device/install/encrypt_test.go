package install

import (
	"bytes"
	"testing"

	"gangway/device/install/luks"
	"gangway/internal/race"
)

func TestInstallsEncrypted(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	m, stick, images := smallStick(t)
	disk := newMemory(40 * mib)
	job := Job{Manifest: m, Stick: stick, Target: disk, Encrypt: []luks.Slot{{Passphrase: passphrase}}}
	if err := job.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	table, ok := boots(t, disk)
	if !ok {
		t.Fatal("the disk does not boot")
	}
	part := disk.disk[table.Partitions[1].Start*sector:]
	if bytes.Contains(part, []byte("superblock")) {
		t.Error("the disk holds the data in plain text")
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
		t.Error("the decrypted data differs from the image")
	}

	// The installation fails if the disk does not store the key slots correctly.
	broken := newMemory(40 * mib)
	broken.broken = int(table.Partitions[1].Start) + 100
	job.Target = broken
	if err := job.Run(t.Context()); err == nil {
		t.Error("a damaged key slot is not detected")
	}
	small := newMemory(20 * mib)
	job.Target = small
	if err := job.Run(t.Context()); err == nil {
		t.Error("a disk without room for the key slots is accepted")
	}
}
