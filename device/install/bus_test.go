package install

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

const pci = "pci0000:00/0000:00:17.0/"

// Disks lists exactly those entries of /sys/block that are disks of this machine, even if the
// hardware is unusual.
func TestListsWhatIsADiskOfThisMachine(t *testing.T) {
	t.Parallel()
	const built, no = "built in", "not listed"
	for _, c := range []struct {
		name, bus string
		files     map[string]string
		want      string // built: built in; no: not listed; else why it is external or unfit
	}{
		{"sda", pci + "ata1/host0/target0:0:0/0:0:0:0/block", nil, built},
		{"sdaa", pci + "host2/port-2:0/end_device-2:0/target2:0:0/2:0:0:0/block", nil, built}, // SAS
		{"sdab", pci + "host0/target0:2:0/0:2:0:0/block", nil, built},                         // a RAID controller's volume
		{"sda", "LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/f8b3781a-1e82-4818-a1c3-63d806ec15bb/host0/target0:0:0/0:0:0:0/block", nil, built},
		{"vda", "pci0000:00/0000:00:04.0/virtio1/block", nil, built},
		{"xvda", "vbd-51712/block", nil, built},
		{"vdo", "pci0000:00/0000:00:13.0/virtio16/block", nil, built}, // the fifteenth virtio disk; it is not a device of the kernel module VDO
		{"hda", "pci0000:00/0000:00:01.1/ide0/0.0/block", nil, built},
		{"mmcblk0", "platform/80860F14:00/mmc_host/mmc0/mmc0:0001/block", map[string]string{"device/type": "MMC"}, built},
		{"nvme0n1", pci + "nvme/nvme0", map[string]string{"device/transport": "pcie"}, built},
		{"nvme0n2", pci + "nvme/nvme0", nil, built},
		{"nvme12n1", "pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/nvme/nvme12", nil, built}, // Intel's VMD

		// NVMe with several paths: the disk, and one path to this disk.
		{"nvme0n1", "virtual/nvme-subsystem/nvme-subsys0", map[string]string{"hidden": "0", "device/nvme0/transport": "pcie"}, built},
		{"nvme0c0n1", pci + "nvme/nvme0", map[string]string{"hidden": "1"}, no},
		{"nvme0c12n1", pci + "nvme/nvme12", nil, no}, // Linux before 4.15 has no "hidden"
		{"sdz", pci + "ata9/host9/target9:0:0/9:0:0:0/block", map[string]string{"hidden": "1"}, no},

		// External disks: the installer uses such a disk only if a person or a rule names it.
		{"sda", pci + "ata1/host0/target0:0:0/0:0:0:0/block", map[string]string{"removable": "1"}, "removable"}, // the firmware allows hot-plugging
		{"sda", pci + "ata1/host0/target0:0:0/0:0:0:0/block", map[string]string{"removable": ""}, "removable"},  // the kernel does not report whether the disk is removable
		{"sdb", "pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host1/target1:0:0/1:0:0:0/block", nil, "on USB"},
		{"sdb", "pci0000:00/0000:00:14.0/fw1/fw1.0/host1/target1:0:0/1:0:0:0/block", nil, "on FireWire"},
		{"nvme1n1", pci + "0000:05:00.0/nvme/nvme1", map[string]string{"../../../removable": "removable"}, "on an external port"}, // Thunderbolt
		{"nvme1n1", pci + "0000:05:00.0/nvme/nvme1", map[string]string{"../../../removable": "fixed"}, built},
		{"mmcblk1", "pci0000:00/0000:00:1c.0/mmc_host/mmc1/mmc1:aaaa/block", map[string]string{"device/type": "SD"}, "a memory card"},
		{"mspblk0", "pci0000:00/0000:00:1c.0/memstick/memstick0/block", nil, "a memory card"},
		{"mmcblk2", "pci0000:00/0000:00:14.0/usb1/1-4/1-4:1.0/rtsx_usb_sdmmc/mmc_host/mmc2/mmc2:0001/block", map[string]string{"device/type": "MMC"}, "on USB"},

		// Unfit disks: the installer never uses such a disk, even if a person names it explicitly.
		{"sdc", pci + "ata3/host2/target2:0:0/2:0:0:0/block", map[string]string{"queue/logical_block_size": "520"}, "its sectors have 520 bytes; only 512 and 4096 are supported"},
		{"sdc", pci + "ata3/host2/target2:0:0/2:0:0:0/block", map[string]string{"queue/logical_block_size": ""}, "its sectors have 0 bytes; only 512 and 4096 are supported"},
		{"sdc", pci + "ata3/host2/target2:0:0/2:0:0:0/block", map[string]string{"size": "0"}, "the disk has no size: the disk is not ready, or Linux does not support its sector size, such as 520 bytes"},
		{"sdc", pci + "ata3/host2/target2:0:0/2:0:0:0/block", map[string]string{"size": "-1"}, "the disk has no size: the disk is not ready, or Linux does not support its sector size, such as 520 bytes"},
		{"sdc", pci + "ata3/host2/target2:0:0/2:0:0:0/block", map[string]string{"size": "99999999999999999999"}, "the disk has no size: the disk is not ready, or Linux does not support its sector size, such as 520 bytes"},
		{"sdc", pci + "ata3/host2/target2:0:0/2:0:0:0/block", map[string]string{"ro": "1"}, "read-only"},
		{"sdc", pci + "ata3/host2/target2:0:0/2:0:0:0/block", map[string]string{"size": "2097151"}, "too small: at least 1.1 GB are needed"},
		{"sdc", pci + "ata3/host2/target2:0:0/2:0:0:0/block", map[string]string{"size": "2097152"}, built},

		// Additional areas of an eMMC.
		{"mmcblk0boot0", "platform/80860F14:00/mmc_host/mmc0/mmc0:0001/block/mmcblk0", map[string]string{"device/type": "MMC"}, no},
		{"mmcblk0boot1", "platform/80860F14:00/mmc_host/mmc0/mmc0:0001/block/mmcblk0", map[string]string{"device/type": "MMC"}, no},
		{"mmcblk0rpmb", "platform/80860F14:00/mmc_host/mmc0/mmc0:0001/block/mmcblk0", map[string]string{"device/type": "MMC"}, no},
		{"mmcblk0gp0", "platform/80860F14:00/mmc_host/mmc0/mmc0:0001/block/mmcblk0", map[string]string{"device/type": "MMC"}, no},

		// Storage networks.
		{"sdf", "platform/host5/session1/target5:0:0/5:0:0:0/block", nil, no},                 // iSCSI
		{"sdf", pci + "host5/session12/target5:0:0/5:0:0:0/block", nil, no},                   // iSCSI in the adapter's hardware
		{"sdg", pci + "host7/rport-7:0-0/target7:0:0/7:0:0:1/block", nil, no},                 // Fibre Channel
		{"sdh", pci + "infiniband_srp/srp-mlx5_0-1/host8/target8:0:0/8:0:0:0/block", nil, no}, // SRP
		{"nvme3n1", "virtual/nvme-fabrics/ctl/nvme3", map[string]string{"device/transport": "tcp"}, no},
		{"nvme4n1", "virtual/nvme-subsystem/nvme-subsys4", map[string]string{"device/nvme4/transport": "tcp", "device/nvme5/transport": "tcp"}, no},
		{"nvme4n1", "virtual/nvme-subsystem/nvme-subsys4", map[string]string{"device/nvme4/transport": "fc"}, no},
		{"nvme4n1", "virtual/nvme-subsystem/nvme-subsys4", map[string]string{"device/nvme4/transport": "rdma"}, no},
		{"nvme4n1", "virtual/nvme-subsystem/nvme-subsys4", map[string]string{"device/nvme4/transport": "loop"}, no},
		{"rbd0", "rbd/0/block", nil, no},
		{"rbd1", "virtual/rbd", nil, no},
		{"drbd0", "virtual/block", nil, no},
		{"nbd0", "virtual/block", nil, no},
		{"rnbd0", "virtual/rnbd-client/ctl", nil, no},
		{"etherd!e0.0", "virtual/block", nil, no}, // ATA over Ethernet

		// Devices that are not disks: those that Linux makes from other devices or from memory,
		// devices that a program emulates, and persistent memory.
		{"bcache0", "virtual/block", nil, no},
		{"md127", "virtual/block", nil, no},
		{"md_d0", "virtual/block", nil, no},
		{"dm-0", "virtual/block", nil, no},
		{"loop0", "virtual/block", nil, no},
		{"ram0", "virtual/block", nil, no},
		{"zram0", "virtual/block", nil, no},
		{"zd0", "virtual/block", nil, no},
		{"ublkb0", "virtual/ublk-char/ublkc0/block", nil, no},
		{"nullb0", "virtual/block", nil, no},
		{"newthing0", "virtual/block", nil, no}, // an unknown driver
		{"pmem0", "LNXSYSTM:00/LNXSYBUS:00/ACPI0012:00/ndbus0/region0/namespace0.0/block", nil, no},
		{"pmem0s", "LNXSYSTM:00/LNXSYBUS:00/ACPI0012:00/ndbus0/region0/btt0.0/block", nil, no},
		{"mtdblock0", "pci0000:00/0000:00:1f.5/spi_master/spi0/spi0.0/mtd/mtd0", nil, no},

		// Other media.
		{"sr0", pci + "ata2/host1/target1:0:0/1:0:0:0/block", map[string]string{"removable": "1"}, no},
		{"fd0", "platform/floppy.0/block", map[string]string{"removable": "1"}, no},
		{"sdc", "pci0000:00/0000:00:14.0/usb1/1-3/1-3:1.0/host2/target2:0:0/2:0:0:0/block", map[string]string{"removable": "1", "size": "0"}, no},
	} {
		files := map[string]string{"bus": c.bus, "size": gb(256)}
		for k, v := range c.files {
			files[k] = v
		}
		got := no
		switch disks := listDisks(t, "", map[string]map[string]string{c.name: files}); {
		case len(disks) == 1 && disks[0].Unfit != "":
			got = disks[0].Unfit
		case len(disks) == 1 && disks[0].External == "":
			got = built
		case len(disks) == 1:
			got = disks[0].External
		}
		if got != c.want {
			t.Errorf("%s on %s %v: %s; want %s", c.name, c.bus, c.files, got, c.want)
		}
	}
}

// If several paths lead to one disk, the installer counts it only once, so that the default disk
// rule can choose it.
func TestChoosesADiskWithSeveralPathsOnce(t *testing.T) {
	t.Parallel()
	nvme := func(more map[string]string) map[string]string {
		files := map[string]string{"size": gb(256), "device/model": "SAMSUNG MZQL2256", "device/serial": "S63ENX0R1"}
		for k, v := range more {
			files[k] = v
		}
		return files
	}
	for what, c := range map[string]struct {
		disks map[string]map[string]string
		want  string
	}{
		"NVMe with multipath": {map[string]map[string]string{
			"nvme0n1":   nvme(map[string]string{"bus": "virtual/nvme-subsystem/nvme-subsys0", "hidden": "0"}),
			"nvme0c0n1": nvme(map[string]string{"bus": "pci0/nvme/nvme0", "hidden": "1"}),
			"nvme0c1n1": nvme(map[string]string{"bus": "pci1/nvme/nvme1", "hidden": "1"}),
		}, "nvme0n1"},
		"NVMe, multipath off": {map[string]map[string]string{
			"nvme0n1": nvme(map[string]string{"bus": "pci0/nvme/nvme0", "wwid": "eui.0025384b31401e43"}),
			"nvme1n1": nvme(map[string]string{"bus": "pci1/nvme/nvme1", "wwid": "eui.0025384b31401e43"}),
		}, "nvme0n1"},
		"a SAS disk with two ports": {map[string]map[string]string{
			"sda": nvme(map[string]string{"bus": "pci0/host0/port-0:0/end_device-0:0", "device/wwid": "naa.5000c500a1b2c3d4"}),
			"sdb": nvme(map[string]string{"bus": "pci0/host1/port-1:0/end_device-1:0", "device/wwid": "naa.5000c500a1b2c3d4"}),
		}, "sda"},
		"namespaces of one controller, one the larger": {map[string]map[string]string{
			"nvme0n1": nvme(map[string]string{"bus": "pci0/nvme/nvme0", "wwid": "eui.01"}),
			"nvme0n2": nvme(map[string]string{"bus": "pci0/nvme/nvme0", "wwid": "eui.02", "size": gb(300)}),
		}, "nvme0n2"},
		// Some makers give several disks the same identifier. Two USB disks with the same
		// identifier count as two disks.
		"two sticks with the same names": {map[string]map[string]string{
			"sda": nvme(map[string]string{"bus": "pci0/usb1/1-1/1-1:1.0", "device/wwid": "t10.Generic Flash Disk"}),
			"sdb": nvme(map[string]string{"bus": "pci0/usb1/1-2/1-2:1.0", "device/wwid": "t10.Generic Flash Disk"}),
		}, "sda sdb"},
		"two serial numbers": {map[string]map[string]string{
			"nvme0n1": nvme(map[string]string{"bus": "pci0/nvme/nvme0", "wwid": "eui.0000000000000001"}),
			"nvme1n1": nvme(map[string]string{"bus": "pci1/nvme/nvme1", "wwid": "eui.0000000000000001", "device/serial": "S63ENX0R2"}),
		}, "nvme0n1 nvme1n1"},
		"neither name": {map[string]map[string]string{
			"vda": {"bus": "pci0/virtio0", "size": gb(256)},
			"vdb": {"bus": "pci0/virtio1", "size": gb(256)},
		}, "vda vdb"},
		"two sizes": {map[string]map[string]string{
			"sda": nvme(map[string]string{"bus": "pci0/ata1", "device/wwid": "naa.1"}),
			"sdb": nvme(map[string]string{"bus": "pci0/ata2", "device/wwid": "naa.1", "size": gb(300)}),
		}, "sdb"},
	} {
		got, err := Choose(Largest, listDisks(t, "", c.disks))
		var names []string
		for _, d := range got {
			names = append(names, d.Name)
		}
		if s := strings.Join(names, " "); s != c.want || (err != nil) != (len(got) > 1) {
			t.Errorf("%s: %s, %v; want %s", what, s, err, c.want)
		}
	}
}

// devWithTables makes a folder like /dev, in which each disk has a GUID partition table with one
// partition. `guids` maps the name of each disk to the GUID of its partition.
func devWithTables(t *testing.T, guids map[string]string) string {
	t.Helper()
	dev := t.TempDir()
	for name, guid := range guids {
		path := filepath.Join(dev, name)
		if err := os.WriteFile(path, make([]byte, 8*mib), 0o600); err != nil {
			t.Fatal(err)
		}
		target, err := OpenDevice(path)
		if err != nil {
			t.Fatal(err)
		}
		defer target.Close()
		table := &gpt.Table{LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true, Partitions: []*gpt.Partition{
			{Index: 1, Start: 2048, End: 4095, Size: mib, Type: gpt.EFISystemPartition, Name: "GANGWAY", GUID: guid},
		}}
		if err := table.Write(tableFile{Target: target}, 8*mib); err != nil {
			t.Fatal(err)
		}
	}
	return dev
}

// The installer never installs to the stick from which it was started, by whatever name it knows
// the stick. It also never installs to a disk that may be that stick: a copy of it, or another path
// to it.
func TestNeverInstallsToTheStickHoweverItIsKnown(t *testing.T) {
	t.Parallel()
	const guid, other = "9B5FD7F6-0A3C-4C58-9A83-4B2E6C1D0001", "9B5FD7F6-0A3C-4C58-9A83-4B2E6C1D0002"
	removable := func(serial string) map[string]string {
		return map[string]string{"bus": "pci0/host" + serial, "size": gb(64), "removable": "1", "device/serial": serial, "device/wwid": "naa.1"}
	}
	for what, c := range map[string]struct {
		stick []string
		guids map[string]string
		want  string // names of the disks that are not unfit
	}{
		"by its name":                     {[]string{"sda"}, nil, "sdb sdd"},
		"by its partition's GUID":         {[]string{strings.ToLower(guid)}, map[string]string{"sda": guid, "sdb": other, "sdd": other}, "sdb sdd"},
		"by its GUID, under another name": {[]string{"sdz", strings.ToLower(guid)}, map[string]string{"sdb": guid}, "sda sdd"},
		"with a copy":                     {[]string{"sda"}, map[string]string{"sda": guid, "sdd": guid, "sdb": other}, "sdb"},
		"with two copies":                 {[]string{"sda"}, map[string]string{"sda": guid, "sdb": guid, "sdd": guid}, ""},
		"by two names":                    {[]string{"sda", "sdb"}, nil, "sdd"},
		"by its other path":               {[]string{"sdc"}, nil, "sdb sdd"},
		"unknown":                         {[]string{"", ""}, map[string]string{"sda": guid}, "sda sdb sdd"},
	} {
		block := sysBlock(t, map[string]map[string]string{"sda": removable("A"), "sdb": removable("B"), "sdc": removable("A"), "sdd": removable("D")})
		disks, err := Disks(block, devWithTables(t, c.guids), c.stick...)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range disks {
			chosen, err := Choose(Rule(d.Path()), disks)
			if (err == nil) != (d.Unfit == "") {
				t.Errorf("%s: %s is unfit: %q, but the rule that names it chooses %v, %v", what, d.Name, d.Unfit, chosen, err)
			}
			if err == nil {
				got = append(got, d.Name)
			}
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: disks that can be chosen: %q; want %q", what, s, c.want)
		}
	}
}

// A disk rule can name a disk by the disk's serial number. Disks finds the serial number in each
// place where the kernel may store it.
func TestFindsTheSerialNumber(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, bus string
		files     map[string]string
		want      string
	}{
		{"nvme0n1", "pci0/nvme/nvme0", map[string]string{"device/serial": "S63E  "}, "S63E"},
		{"vda", "pci0/virtio0", map[string]string{"serial": "V1"}, "V1"},
		{"sda", "pci0/ata1", map[string]string{"device/vpd_pg80": "\x00\x80\x00\x04 WD1"}, "WD1"},
		{"sda", "pci0/ata1", map[string]string{"device/vpd_pg80": "\x00\x80"}, ""},
		{"mmcblk0", "pci0/mmc0", map[string]string{"device/serial": "0x1a2b"}, "0x1a2b"},
		{"sdb", "pci0/usb1/1-2/1-2:1.0/host1/block", map[string]string{"../../../idVendor": "0781", "../../../serial": "4C53", "../../../../serial": "0000:00:14.0", "../../../../idVendor": "1d6b"}, "4C53"},
		{"sdb", "pci0/usb1/1-2/1-2:1.0/host1/block", map[string]string{"../../../idVendor": "0781", "../../../../serial": "0000:00:14.0", "../../../../idVendor": "1d6b"}, ""}, // not the controller's serial number
		{"sdb", "pci0/usb1/1-2/1-2:1.0/host1/block", map[string]string{"../../../idVendor": "0781", "../../../serial": "bridge", "device/vpd_pg80": "\x00\x80\x00\x04disk"}, "disk"},
	} {
		files := map[string]string{"bus": c.bus, "size": gb(256)}
		for k, v := range c.files {
			files[k] = v
		}
		if got := listDisks(t, "", map[string]map[string]string{c.name: files}); len(got) != 1 || got[0].Serial != c.want {
			t.Errorf("%s on %s: %+v; want %s", c.name, c.bus, got, c.want)
		}
	}
}

func TestDiskInUseIsLeftAlone(t *testing.T) {
	t.Parallel()
	got := listDisks(t, "", map[string]map[string]string{
		"sda": {"bus": "pci0/ata1", "size": gb(256), "holders/md0/x": ""},
		"sdb": {"bus": "pci0/ata2", "size": gb(256), "sdb1/partition": "1", "sdb1/holders/bcache0/x": ""},
		"sdc": {"bus": "pci0/ata3", "size": gb(256), "sdc1/partition": "1"},
	})
	var lines []string
	for _, d := range got {
		lines = append(lines, d.Name+": "+d.Unfit)
	}
	if s := strings.Join(lines, "\n"); s != "sda: in use by md0\nsdb: in use by bcache0\nsdc: " {
		t.Errorf("got:\n%s", s)
	}
}

// If a person replugs disks after a disk was chosen and before the installation, another disk may
// get the chosen disk's name. Open refuses that other disk.
func TestRefusesADiskThatTookTheNameOfTheChosenOne(t *testing.T) {
	t.Parallel()
	chosen := Disk{Name: "sdb", Size: 4 * mib, Seq: 7}
	for _, c := range []struct {
		seq  uint64
		size int64
		same bool
	}{
		{7, 4 * mib, true},
		{0, 4 * mib, true}, // a kernel that has no sequence numbers
		{8, 4 * mib, false},
		{7, 5 * mib, false},
		{0, 5 * mib, false},
	} {
		if err := chosen.check(c.seq, c.size); (err == nil) != c.same {
			t.Errorf("number %d, %d bytes: %v", c.seq, c.size, err)
		}
	}
	dev := t.TempDir()
	if err := os.WriteFile(filepath.Join(dev, "sdb"), make([]byte, 2*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := chosen.Open(dev); err == nil {
		d.Close()
		t.Error("a disk of another size is opened")
	}
	chosen.Size = 2 * mib
	d, err := chosen.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	if _, err := (Disk{Name: "sdc"}).Open(dev); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an unplugged disk: %v", err)
	}
}

// A USB disk has a copy of the running system, and its name sorts before the name of the built-in
// disk. Find must still return the system on the built-in disk.
func TestFindsTheSystemOnTheDiskThatIsBuiltIn(t *testing.T) {
	t.Parallel()
	m, stick, _ := smallStick(t)
	dev := t.TempDir()
	for _, name := range []string{"sda", "sdb", "sdc"} {
		f := filepath.Join(dev, name)
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(f, 16*mib); err != nil {
			t.Fatal(err)
		}
	}
	target, err := OpenDevice(filepath.Join(dev, "sdb"))
	if err != nil {
		t.Fatal(err)
	}
	if err := (Job{Manifest: m, Stick: stick, Target: target}).Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	target.Close()
	b, err := os.ReadFile(filepath.Join(dev, "sdb"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dev, "sda"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	at, err := Look(dev, "sdb")
	if err != nil {
		t.Fatal(err)
	}
	usb := map[string]string{"bus": "pci0/usb1", "size": gb(256)}
	for _, c := range []struct {
		disks map[string]map[string]string
		guid  string
		want  string
	}{
		{map[string]map[string]string{"sda": usb, "sdb": {"bus": "pci0/ata1", "size": gb(256)}}, at.ESPGUID, "sdb"},
		{map[string]map[string]string{"sda": usb, "sdc": {"bus": "pci0/ata1", "size": gb(256)}}, at.ESPGUID, "sda"}, // installed to USB, by name
		{map[string]map[string]string{"sdc": {"bus": "pci0/ata1", "size": gb(256)}}, at.ESPGUID, ""},
		{map[string]map[string]string{"sdb": {"bus": "pci0/ata1", "size": gb(256)}}, "00000000-0000-0000-0000-000000000000", ""},
		{map[string]map[string]string{"loop0": {"bus": "virtual/block", "size": gb(256)}}, at.ESPGUID, ""},
	} {
		i, err := Find(sysBlock(t, c.disks), dev, c.guid)
		switch {
		case c.want == "" && !errors.Is(err, fs.ErrNotExist):
			t.Errorf("with the disks %v, Find returns %+v, %v; want no system", c.disks, i, err)
		case c.want != "" && (err != nil || i.Disk != c.want):
			t.Errorf("%v: %+v, %v; want %s", c.disks, i, err, c.want)
		}
	}
}

func TestPartitionsOfDisksWithOddNames(t *testing.T) {
	t.Parallel()
	for disk, want := range map[string]string{
		"sda": "sda2", "sdaa": "sdaa2", "xvda": "xvda2", "vdb": "vdb2", "hda": "hda2",
		"nvme0n1": "nvme0n1p2", "nvme10n12": "nvme10n12p2", "mmcblk0": "mmcblk0p2",
	} {
		if got := (Installed{Disk: disk}).Data(); got != want {
			t.Errorf("%s: %s; want %s", disk, got, want)
		}
		if _, err := ParseRule("/dev/" + disk); err != nil {
			t.Error(err)
		}
	}
}
