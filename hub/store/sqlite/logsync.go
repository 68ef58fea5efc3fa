package sqlite

import (
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// While a goroutine waits in a system call such as fdatasync, Go's scheduler keeps a processor for
// it, for up to 10 ms. So with two processors, half of the hub would wait for the disk at each
// commit. A backgroundSync instead asks Linux to sync the file (io_submit with IOCB_CMD_FDSYNC, since
// Linux 4.18), and then waits as for a network connection: other goroutines use the processor.
//
// If the kernel or a filter of system calls does not permit this, the log is synced with fdatasync.
type backgroundSync struct {
	context uintptr  // aio_context_t
	done    *os.File // eventfd; the kernel adds 1 when the file has been synced
	request iocb
}

// Constants of linux/aio_abi.h.
const (
	iocbCmdFdsync = 3
	iocbFlagResfd = 1
)

// iocb is a `struct iocb` of linux/aio_abi.h. To sync a file, its other fields must be 0.
type iocb struct {
	_      [2]uint64 // aio_data, aio_key and aio_rw_flags
	opcode uint16
	_      uint16 // aio_reqprio
	fd     uint32
	_      [4]uint64 // aio_buf, aio_nbytes, aio_offset and aio_reserved2
	flags  uint32
	resfd  uint32
}

// ioEvent is a `struct io_event` of linux/aio_abi.h.
type ioEvent struct {
	_      [2]uint64 // data and obj
	result int64
	_      int64 // res2
}

// newBackgroundSync returns an error if the kernel does not permit it.
func newBackgroundSync() (*backgroundSync, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd2", err)
	}
	b := &backgroundSync{
		done:    os.NewFile(uintptr(fd), "eventfd"),
		request: iocb{opcode: iocbCmdFdsync, flags: iocbFlagResfd, resfd: uint32(fd)},
	}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&b.context)), 0); errno != 0 {
		_ = b.done.Close()
		return nil, os.NewSyscallError("io_setup", errno)
	}
	return b, nil
}

func (b *backgroundSync) close() {
	_, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, b.context, 0, 0)
	b.context = 0 // the kernel may give the same number to another one
	_ = b.done.Close()
}

// The method `fdatasync` makes the content of a file durable, and returns the error of fdatasync.
// If the kernel cannot sync this file in the background, `begun` is false, and nothing was synced.
// It must not be called again after an error without writing the content again, because the kernel
// reports an error only once.
func (b *backgroundSync) fdatasync(fd int32) (begun bool, err error) {
	b.request.fd = uint32(fd)
	list := [1]*iocb{&b.request}
	if n, _, _ := unix.Syscall(unix.SYS_IO_SUBMIT, b.context, 1, uintptr(unsafe.Pointer(&list))); n != 1 {
		return false, nil
	}
	// If this fails, io_getevents waits.
	var count [8]byte
	_, _ = b.done.Read(count[:])
	for {
		var event ioEvent
		n, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, b.context, 1, 1, uintptr(unsafe.Pointer(&event)), 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return true, os.NewSyscallError("io_getevents", errno)
		case n == 1 && event.result == 0:
			return true, nil
		default:
			return true, os.NewSyscallError("fdatasync", unix.Errno(-event.result))
		}
	}
}

// backgroundSyncs has the backgroundSync of each open log, by the address of SQLite's file: a walFile
// is in memory of SQLite, where a Go pointer would not keep it alive.
var backgroundSyncs sync.Map
