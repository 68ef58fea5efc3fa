package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// node is a simulated machine: a thread with a network namespace and a mount namespace of its own.
// Programs that the thread starts are in these namespaces, and end with the thread.
type node struct {
	t       *testing.T
	number  byte // last byte of its addresses
	addr    string
	calls   chan func()
	net     int // file descriptor of the network namespace
	network *netlink.Handle
	link    netlink.Link // nil: no network card
}

// newNode makes a node, which ends with the test. If this kernel or this user allows no namespaces,
// the test is skipped.
func newNode(t *testing.T, number byte) *node {
	t.Helper()
	n := &node{t: t, number: number, addr: fmt.Sprintf("10.73.0.%d", number), calls: make(chan func())}
	ready := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so that the thread ends with the goroutine
		ready <- n.separate()
		for call := range n.calls {
			call()
		}
	}()
	if err := <-ready; err != nil {
		close(n.calls)
		t.Skipf("no second machine: %v: run the test as root", err)
	}
	t.Cleanup(func() {
		n.network.Close()
		unix.Close(n.net)
		close(n.calls)
	})
	return n
}

// The method `separate` moves the current thread to new namespaces.
func (n *node) separate() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("new namespaces: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("separate the mounts: %w", err)
	}
	if n.net, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	n.network, err = netlink.NewHandleAt(netns.NsHandle(n.net))
	return err
}

// The method `do` calls the function f on the node's thread.
func (n *node) do(f func() error) error {
	done := make(chan error, 1)
	n.calls <- func() { done <- f() }
	return <-done
}

// start starts a program on the node. The kernel kills the program when the node ends.
func (n *node) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &unix.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	return n.do(cmd.Start)
}

// smallDisk mounts an empty disk of `size` bytes at the folder `at`. Only this node sees the disk.
func (n *node) smallDisk(at string, size int, uid, gid int) error {
	return n.do(func() error {
		return unix.Mount("disk", at, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700,uid=%d,gid=%d", size, uid, gid))
	})
}

// plugIn connects the nodes to a switch.
func plugIn(t *testing.T, nodes ...*node) {
	t.Helper()
	center := newNode(t, 0)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}
	err := center.network.LinkAdd(bridge)
	if err == nil {
		err = center.network.LinkSetUp(bridge)
	}
	for _, n := range nodes {
		if err == nil {
			err = n.plugInto(center, bridge)
		}
	}
	if err != nil {
		t.Skipf("this kernel makes no networks: %v", err)
	}
	for _, n := range nodes {
		for _, peer := range nodes {
			if n != peer {
				if err := n.reach(peer, true); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func (n *node) plugInto(center *node, bridge netlink.Link) error {
	name := fmt.Sprintf("port%d", n.number)
	if err := center.network.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "card", PeerHardwareAddr: n.mac()}); err != nil {
		return err
	}
	port, err := center.network.LinkByName(name)
	if err != nil {
		return err
	}
	card, err := center.network.LinkByName("card")
	if err != nil {
		return err
	}
	if err := errors.Join(center.network.LinkSetMaster(port, bridge), center.network.LinkSetUp(port), center.network.LinkSetNsFd(card, n.net)); err != nil {
		return err
	}
	lo, err := n.network.LinkByName("lo")
	if err != nil {
		return err
	}
	if n.link, err = n.network.LinkByName("card"); err != nil {
		return err
	}
	address, err := netlink.ParseAddr(n.addr + "/24")
	if err != nil {
		return err
	}
	return errors.Join(n.network.LinkSetUp(lo), n.network.AddrAdd(n.link, address), n.network.LinkSetUp(n.link))
}

func (n *node) mac() net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, n.number} }

// reach sets the hardware address to which the node sends its packets to a peer. If `whole` is
// true, this is the peer's address. If `whole` is false, no network card has the address, so that
// all packets to the peer are lost, and the sender gets no error.
func (n *node) reach(peer *node, whole bool) error {
	mac := peer.mac()
	if !whole {
		mac[1] = 0xff
	}
	return n.network.NeighSet(&netlink.Neigh{LinkIndex: n.link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(peer.addr), HardwareAddr: mac})
}

// The method `cut` makes the network lose all packets between the node and the peers, until the
// returned function is called.
func (n *node) cut(peers ...*node) (heal func()) {
	set := func(whole bool) {
		n.t.Helper()
		for _, peer := range peers {
			if err := errors.Join(n.reach(peer, whole), peer.reach(n, whole)); err != nil {
				n.t.Error(err)
			}
		}
	}
	set(false)
	return func() { set(true) }
}
