// Command addkey replaces gangway-agent in an installed system, and starts the real agent. At the
// first start of the system, addkey binds a control disk to PCR 7 with Debian's
// systemd-cryptenroll. At each start, it tries to open this disk. At the second start, while the
// real agent runs, it adds certificates to the firmware's variable db, as an update program such as
// fwupd does. It carries three files:
//
//	gangway-agent   the real agent
//	db.auth         a signed addition to db
//	control.tar     Debian's programs, their libraries and an empty LUKS2 volume
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"gangway/internal/carry"

	"golang.org/x/sys/unix"
)

const (
	agent    = "/real-agent" // not in /run, from which no program may run
	started  = "/data/started-before"
	added    = "/data/added-before"
	variable = "/sys/firmware/efi/efivars/db-d719b2cb-3d3a-4596-a3bc-dad00e67656f"
	// attributes are those of a signed addition to a variable: non-volatile, for the boot services,
	// for the running system, with a timestamp and a signature, and append.
	attributes = 0x01 | 0x02 | 0x04 | 0x20 | 0x40
	// pause is long enough for the system to read the variables for the first time.
	pause = 20 * time.Second
)

func main() {
	if err := run(); err != nil {
		fmt.Println("addkey:", err)
		os.Exit(1)
	}
}

func run() error {
	files, err := carry.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	if len(os.Args) == 2 && os.Args[1] == "first-start" {
		if err := enrolControl(files); err != nil {
			return err
		}
		return openControl(files)
	}
	if len(os.Args) == 2 && os.Args[1] == "later-start" {
		if err := openControl(files); err != nil {
			return err
		}
		if _, err := os.Stat(added); err == nil {
			return nil
		}
		time.Sleep(pause)
		if err := addKey(files); err != nil {
			return err
		}
		return os.WriteFile(added, nil, 0o600)
	}
	if _, err := os.Stat(agent); err != nil {
		if err := unpack(files); err != nil {
			return err
		}
	}
	if len(os.Args) > 1 && os.Args[1] == "run" {
		work := "later-start"
		if _, err := os.Stat(started); err != nil {
			work = "first-start"
			if err := os.WriteFile(started, nil, 0o600); err != nil {
				return err
			}
		}
		child := exec.Command("/proc/self/exe", work)
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			return err
		}
	}
	return syscall.Exec(agent, append([]string{"gangway-agent"}, os.Args[1:]...), os.Environ())
}

// unpack writes the real agent. It writes a new file and then renames it, because another instance
// of this program may be unpacking the agent at the same time.
func unpack(files *carry.Files) error {
	from, err := files.Open("gangway-agent")
	if err != nil {
		return err
	}
	defer from.Close()
	b, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	part := fmt.Sprint(agent, os.Getpid())
	if err := os.WriteFile(part, b, 0o700); err != nil {
		return err
	}
	return os.Rename(part, agent)
}

func addKey(files *carry.Files) error {
	from, err := files.Open("db.auth")
	if err != nil {
		return err
	}
	defer from.Close()
	signed, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	f, err := os.Open(variable)
	if err != nil {
		return err
	}
	err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0) // efivarfs makes the file immutable
	f.Close()
	if err != nil {
		return err
	}
	w, err := os.OpenFile(variable, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer w.Close()
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, uint32(attributes))
	b.Write(signed)
	if _, err := w.Write(b.Bytes()); err != nil { // efivarfs requires a single write
		return err
	}
	fmt.Println("addkey: added the certificate to db")
	return nil
}
