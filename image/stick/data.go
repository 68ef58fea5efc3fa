package stick

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const mke2fsConf = `[defaults]
	base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
	blocksize = 4096
	inode_size = 256
	inode_ratio = 16384
[fs_types]
	ext4 = {
		features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
	}
`

// dataImage makes the data partition's file system: ext4, empty, which the
// system grows to the disk. It is made by e2fsprogs, whose work a machine's
// life depends on, and which every Debian has.
func dataImage() ([]byte, error) {
	program, err := exec.LookPath("mke2fs")
	if err != nil {
		program = "/usr/sbin/mke2fs"
	}
	dir, err := os.MkdirTemp("", "gangway-data")
	if err != nil {
		return nil, fmt.Errorf("image: data partition: %w", err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "data.img")
	// Tables are kept free for a disk of 1 TiB; beyond that the kernel changes
	// their form. More would ask for larger transactions than the journal has.
	const id = "9a1f5f6e-6b0c-4f7e-8a53-0d0c5a3f7c01" // any; partitions are told apart by their GUIDs
	// The settings of this system's mke2fs.conf must not make a difference.
	config := filepath.Join(dir, "conf")
	if err := os.WriteFile(config, []byte(mke2fsConf), 0o600); err != nil {
		return nil, fmt.Errorf("image: data partition: %w", err)
	}
	cmd := exec.Command(program, "-q", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "gangway-data", "-U", id,
		"-J", "size=8", "-E", "hash_seed="+id+",lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,resize=268435456",
		name, fmt.Sprintf("%dM", dataSize/mib))
	cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=315532800", "MKE2FS_CONFIG="+config, "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("image: data partition: mke2fs: %w: %s (apt-get install e2fsprogs)", err, strings.TrimSpace(string(out)))
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("image: data partition: %w", err)
	}
	return b, nil
}
