package stick

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"gangway/device/install"
	"gangway/image/factory"
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

// dataImage makes the data partition's file system, which is ext4 and empty except for the first
// revision, if there is one. The installed system later grows it to the size of the disk. Because
// the machine will use the file system for many years, dataImage leaves the work to well-tested
// programs: those of e2fsprogs, which every Debian system has.
func dataImage(r *factory.Revision) ([]byte, error) {
	program, err := exec.LookPath("mke2fs")
	if err != nil {
		program = "/usr/sbin/mke2fs"
	}
	dir, err := os.MkdirTemp("", "gangway-data")
	if err != nil {
		return nil, fmt.Errorf("image: making the data partition: %w", err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "data.img")
	const id = "9a1f5f6e-6b0c-4f7e-8a53-0d0c5a3f7c01" // the same for all machines; partitions are identified by their GUIDs
	// Use these fixed settings instead of the mke2fs.conf of the building machine, so that builds
	// are reproducible.
	config := filepath.Join(dir, "conf")
	if err := os.WriteFile(config, []byte(mke2fsConf), 0o600); err != nil {
		return nil, fmt.Errorf("image: making the data partition: %w", err)
	}
	// The extended option resize reserves space in the file system's tables, so that the file
	// system can grow to 1 TiB. For a larger disk, the kernel converts the tables when it grows the
	// file system. A larger reserve would need transactions that are too large for the journal.
	cmd := exec.Command(program, "-q", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "gangway-data", "-U", id,
		"-J", "size=8", "-E", "hash_seed="+id+",lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,resize=268435456",
		name, fmt.Sprintf("%dM", dataMiB(r)))
	cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=315532800", "MKE2FS_CONFIG="+config, "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("image: making the data partition: mke2fs: %w: %s (if mke2fs is missing, run apt-get install e2fsprogs)", err, strings.TrimSpace(string(out)))
	}
	if r != nil {
		if err := addFirst(name, dir, r, cmd.Env); err != nil {
			return nil, err
		}
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("image: making the data partition: %w", err)
	}
	return b, nil
}

// dataMiB returns the size in MiB that the file system needs. It includes space for the objects,
// and for the copies that the device makes of them when it installs the revision.
func dataMiB(r *factory.Revision) int64 {
	if r == nil {
		return dataSize / mib
	}
	return dataSize/mib + (r.Size()+r.Size()/16+int64(len(r.Objects))*4096)/mib + 1
}

// addFirst writes the first revision into the file system with debugfs of e2fsprogs, because
// debugfs needs no privileges, does not copy the owners and times of the building machine's files,
// and writes the files in the given order.
func addFirst(fs, dir string, r *factory.Revision, env []string) error {
	program, err := exec.LookPath("debugfs")
	if err != nil {
		program = "/usr/sbin/debugfs"
	}
	if err := os.WriteFile(filepath.Join(dir, "state.json"), r.State, 0o600); err != nil {
		return fmt.Errorf("image: adding the first revision: %w", err)
	}
	objects, err := filepath.Abs(r.Dir)
	if err != nil {
		return fmt.Errorf("image: adding the first revision: %w", err)
	}
	if strings.ContainsAny(dir+objects, " \t\n\"'\\") {
		return fmt.Errorf("image: adding the first revision: the name of the folder for temporary files, %s, has spaces or quotes: set TMPDIR to another folder", objects)
	}
	var script strings.Builder
	fmt.Fprintf(&script, "mkdir %[1]s\ncd %[1]s\nmkdir objects\nwrite %[2]s state.json\ncd objects\n", install.FirstPath, filepath.Join(dir, "state.json"))
	for _, o := range r.Objects {
		fmt.Fprintf(&script, "write %s %s\n", filepath.Join(objects, o.Sum), o.Sum)
	}
	cmd := exec.Command(program, "-w", "-f", "-", fs)
	cmd.Stdin, cmd.Env = strings.NewReader(script.String()), env
	var complaints strings.Builder
	cmd.Stderr = &complaints
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("image: adding the first revision: debugfs: %w: %s (if debugfs is missing, run apt-get install e2fsprogs)", err, strings.TrimSpace(complaints.String()))
	}
	// debugfs exits with code 0 even after an error, so check its output.
	if said := strings.TrimSpace(withoutVersion(complaints.String())); said != "" {
		return fmt.Errorf("image: adding the first revision: debugfs: %s", said)
	}
	return nil
}

func withoutVersion(s string) string {
	if strings.HasPrefix(s, "debugfs ") {
		_, s, _ = strings.Cut(s, "\n")
	}
	return s
}
