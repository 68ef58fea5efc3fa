package qemu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
)

// Wire is the network between the machine and QEMU's emulated network (10.0.2.0/24 and fec0::/64).
// It can drop packets in both directions.
type Wire struct {
	VLAN int // id of the VLAN (IEEE 802.1Q); frames with another tag or without a tag are lost; 0: no VLAN
	MTU  int // longer packets are lost without an ICMP message; 0 means no limit
	// NoDHCP makes the network drop DHCP requests.
	NoDHCP bool
	// Only lists the TCP ports that the machine can reach. Nil means all ports.
	Only []int

	mu   sync.Mutex
	lost map[string]int
	mss  map[uint16]int // maximum segment size, by the machine's TCP port
}

// Lost returns the number of frames from the machine that were lost for this reason: "short",
// "vlan", "mtu", "dhcp" or "port".
func (w *Wire) Lost(reason string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost[reason]
}

// Offsets and values of an Ethernet frame (IEEE 802.3, 802.1Q).
const (
	etherHeader = 14
	etherTag    = 4
	typeVLAN    = 0x8100
	typeIPv4    = 0x0800
	protocolTCP = 6
	protocolUDP = 17
)

// reasonLost returns the reason why a frame without a tag is lost, or "" if the frame is not lost.
// `up` reports whether the frame comes from the machine.
func (w *Wire) reasonLost(frame []byte, up bool) string {
	if len(frame) < etherHeader {
		return "short"
	}
	if w.MTU != 0 && len(frame) > etherHeader+w.MTU {
		return "mtu"
	}
	packet := frame[etherHeader:]
	if binary.BigEndian.Uint16(frame[12:]) != typeIPv4 || len(packet) < 20 {
		return ""
	}
	segment := packet[min(len(packet), int(packet[0]&15)*4):]
	if len(segment) < 4 {
		return ""
	}
	port := int(binary.BigEndian.Uint16(segment[2:]))
	if !up {
		port = int(binary.BigEndian.Uint16(segment))
	}
	switch {
	case w.NoDHCP && packet[9] == protocolUDP && port == 67:
		return "dhcp"
	case w.Only != nil && packet[9] == protocolTCP && !slices.Contains(w.Only, port):
		return "port"
	}
	return ""
}

// The method `up` converts a frame from the machine to the form that QEMU's emulated network
// expects. It returns nil if the frame is lost.
func (w *Wire) up(frame []byte) []byte {
	if w.VLAN != 0 {
		if len(frame) < etherHeader+etherTag || binary.BigEndian.Uint16(frame[12:]) != typeVLAN || int(binary.BigEndian.Uint16(frame[14:])&0xFFF) != w.VLAN {
			return w.lose("vlan")
		}
		frame = append(frame[:12:12], frame[12+etherTag:]...)
	}
	if reason := w.reasonLost(frame, true); reason != "" {
		return w.lose(reason)
	}
	w.noteMSS(frame)
	return frame
}

// The method `down` converts a frame from QEMU's emulated network to the form that the machine
// expects. It returns nil if the frame is lost.
func (w *Wire) down(frame []byte) []byte {
	if w.reasonLost(frame, false) != "" {
		return nil
	}
	if w.VLAN == 0 {
		return frame
	}
	tagged := append([]byte(nil), frame[:12]...)
	tagged = binary.BigEndian.AppendUint16(tagged, typeVLAN)
	tagged = binary.BigEndian.AppendUint16(tagged, uint16(w.VLAN))
	return append(tagged, frame[12:]...)
}

// segment contains the position of a TCP segment in an IPv4 frame without a VLAN tag.
type segment struct {
	ip, tcp, data int // offsets in the frame
	end           int // end of the data; padding may follow in the frame
}

func segmentOf(frame []byte) (s segment, ok bool) {
	if len(frame) < etherHeader+20 || binary.BigEndian.Uint16(frame[12:]) != typeIPv4 || frame[etherHeader+9] != protocolTCP {
		return s, false
	}
	s.ip = etherHeader
	s.tcp = s.ip + int(frame[s.ip]&15)*4
	s.end = s.ip + int(binary.BigEndian.Uint16(frame[s.ip+2:]))
	if len(frame) < s.tcp+20 || s.end > len(frame) {
		return s, false
	}
	s.data = s.tcp + int(frame[s.tcp+12]>>4)*4
	return s, s.data <= s.end
}

// noteMSS records the maximum segment size that the machine announces in a SYN (RFC 9293,
// 3.7.1).
func (w *Wire) noteMSS(frame []byte) {
	s, ok := segmentOf(frame)
	if !ok || frame[s.tcp+13]&2 == 0 {
		return
	}
	for o := frame[s.tcp+20 : s.data]; len(o) >= 4; {
		switch {
		case o[0] == 0:
			return
		case o[0] == 1:
			o = o[1:]
			continue
		case o[0] == 2:
			w.mu.Lock()
			if w.mss == nil {
				w.mss = map[uint16]int{}
			}
			w.mss[binary.BigEndian.Uint16(frame[s.tcp:])] = int(binary.BigEndian.Uint16(o[2:]))
			w.mu.Unlock()
			return
		}
		o = o[min(len(o), max(int(o[1]), 2)):]
	}
}

// resegment splits a segment as a real TCP peer would split it. It is needed because QEMU's network
// ignores the machine's maximum segment size.
func (w *Wire) resegment(frame []byte) [][]byte {
	s, ok := segmentOf(frame)
	if !ok {
		return [][]byte{frame}
	}
	w.mu.Lock()
	most := w.mss[binary.BigEndian.Uint16(frame[s.tcp+2:])]
	w.mu.Unlock()
	if most == 0 || s.end-s.data <= most {
		return [][]byte{frame}
	}
	var out [][]byte
	for at := s.data; at < s.end; at += most {
		piece := append(append([]byte(nil), frame[:s.data]...), frame[at:min(at+most, s.end)]...)
		binary.BigEndian.PutUint16(piece[s.ip+2:], uint16(len(piece)-s.ip))
		binary.BigEndian.PutUint32(piece[s.tcp+4:], binary.BigEndian.Uint32(frame[s.tcp+4:])+uint32(at-s.data))
		if at+most < s.end {
			piece[s.tcp+13] &^= 1 | 8 // only the last piece keeps FIN and PSH
		}
		clear(piece[s.ip+10 : s.ip+12])
		binary.BigEndian.PutUint16(piece[s.ip+10:], checksum(piece[s.ip:s.tcp]))
		clear(piece[s.tcp+16 : s.tcp+18])
		pseudo := append([]byte(nil), piece[s.ip+12:s.ip+20]...)
		pseudo = append(pseudo, 0, protocolTCP)
		pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(piece)-s.tcp))
		binary.BigEndian.PutUint16(piece[s.tcp+16:], checksum(append(pseudo, piece[s.tcp:]...)))
		out = append(out, piece)
	}
	return out
}

// checksum computes the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xFFFF {
		sum = sum>>16 + sum&0xFFFF
	}
	return ^uint16(sum)
}

func (w *Wire) lose(reason string) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost == nil {
		w.lost = map[string]int{}
	}
	w.lost[reason]++
	return nil
}

// Names of the sockets in the machine's folder. QEMU creates cardSocket and hereSocket; Wire
// creates cardEnd and hereEnd.
const (
	cardSocket, cardEnd = "card", "card-far"
	hereSocket, hereEnd = "here", "here-far"
)

// lay connects the machine's network card and QEMU's emulated network, through sockets in the
// folder `dir`, until the function `stop` is called.
func (w *Wire) lay(dir string) (stop func(), err error) {
	listen := func(name string) (*net.UnixConn, error) {
		return net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unixgram"})
	}
	card, err := listen(cardEnd)
	if err != nil {
		return nil, fmt.Errorf("qemu: %w", err)
	}
	here, err := listen(hereEnd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("qemu: %w", err), card.Close())
	}
	go carry(card, here, filepath.Join(dir, hereSocket), func(frame []byte) [][]byte { return [][]byte{w.up(frame)} })
	go carry(here, card, filepath.Join(dir, cardSocket), func(frame []byte) (out [][]byte) {
		for _, f := range w.resegment(frame) {
			out = append(out, w.down(f))
		}
		return out
	})
	return func() { card.Close(); here.Close() }, nil
}

// carry reads each frame from the socket `from`, calls `change` with the frame, and sends the
// resulting frames through the socket `by` to QEMU's socket with the path `to`. It ends when `from`
// is closed. It ignores send errors, because QEMU may not have started yet or may have ended.
func carry(from, by *net.UnixConn, to string, change func([]byte) [][]byte) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		for _, frame := range change(buf[:n]) {
			if frame != nil { // nil: lost
				by.WriteToUnix(frame, &net.UnixAddr{Name: to, Net: "unixgram"})
			}
		}
	}
}

// netdevs returns QEMU's arguments for the network. They name the socket of the machine's network
// card. They also make a network hub in QEMU, which connects the emulated network to the other
// socket.
func netdevs(dir, user string) []string {
	dgram := func(id, local, remote string) string {
		return fmt.Sprintf("dgram,id=%s,local.type=unix,local.path=%s,remote.type=unix,remote.path=%s", id,
			value(filepath.Join(dir, local)), value(filepath.Join(dir, remote)))
	}
	return []string{
		"-netdev", user, "-netdev", dgram("far", hereSocket, hereEnd),
		"-netdev", "hubport,id=port0,hubid=0,netdev=emulated", "-netdev", "hubport,id=port1,hubid=0,netdev=far",
		"-netdev", dgram("net", cardSocket, cardEnd),
	}
}
