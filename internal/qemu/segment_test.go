package qemu

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// tcpFrame makes an Ethernet frame with IPv4 and TCP. Its checksums are zero.
func tcpFrame(from, to uint16, seq uint32, flags byte, options, data []byte) []byte {
	f := make([]byte, etherHeader+20+20)
	binary.BigEndian.PutUint16(f[12:], typeIPv4)
	ip := f[etherHeader:]
	ip[0], ip[9] = 0x45, protocolTCP
	copy(ip[12:], []byte{10, 0, 2, 2, 10, 0, 2, 15})
	binary.BigEndian.PutUint16(ip[2:], uint16(40+len(options)+len(data)))
	tcp := ip[20:]
	binary.BigEndian.PutUint16(tcp, from)
	binary.BigEndian.PutUint16(tcp[2:], to)
	binary.BigEndian.PutUint32(tcp[4:], seq)
	tcp[12], tcp[13] = byte(20+len(options))/4<<4, flags
	return append(append(f, options...), data...)
}

// If a segment is larger than the machine's maximum segment size, Wire splits it into several
// segments with the same data. If the machine announced no maximum segment size, the segment is
// lost.
func TestWireCutsSegmentsAsTheMachineWantsThem(t *testing.T) {
	t.Parallel()
	w := &Wire{MTU: 1280}
	if w.up(tcpFrame(50000, 443, 1, 2, []byte{1, 1, 2, 4, 0x04, 0xD8, 1, 1}, nil)) == nil { // MSS 1240
		t.Fatal("the SYN is lost")
	}
	data := make([]byte, 1440)
	for i := range data {
		data[i] = byte(i * 7)
	}
	var got []byte
	for _, f := range w.resegment(tcpFrame(443, 50000, 1000, 0x19, nil, data)) {
		if f = w.down(f); f == nil {
			t.Fatal("a piece is lost")
		}
		s, ok := segmentOf(f)
		if !ok || s.end != len(f) || binary.BigEndian.Uint32(f[s.tcp+4:]) != uint32(1000+len(got)) {
			t.Fatalf("a piece has a wrong length or sequence number: %x", f[:54])
		}
		pseudo := append(append([]byte(nil), f[s.ip+12:s.ip+20]...), 0, protocolTCP, byte((len(f)-s.tcp)>>8), byte(len(f)-s.tcp))
		if checksum(f[s.ip:s.tcp]) != 0 || checksum(append(pseudo, f[s.tcp:]...)) != 0 {
			t.Error("a piece has a wrong checksum")
		}
		got = append(got, f[s.data:]...)
		if last := len(got) == len(data); (f[s.tcp+13]&1 != 0) != last {
			t.Error("FIN is not only on the last piece")
		}
	}
	if !bytes.Equal(got, data) {
		t.Error("the pieces hold other data")
	}
	if f := w.resegment(tcpFrame(443, 50001, 1000, 0x18, nil, data)); len(f) != 1 || w.down(f[0]) != nil {
		t.Error("a segment above the network's MTU arrives")
	}
}

// With a VLAN, Wire removes the VLAN's tag from the machine's frames, and adds the tag to frames
// for the machine. It drops a frame of the machine that has another tag or none.
func TestWireIsOneVLAN(t *testing.T) {
	t.Parallel()
	w := &Wire{VLAN: 42}
	plain := tcpFrame(443, 50000, 1, 0x10, nil, []byte("hello"))
	tagged := w.down(plain)
	if len(tagged) != len(plain)+etherTag || !bytes.Equal(w.up(tagged), plain) {
		t.Errorf("the tagged frame is %x", tagged)
	}
	tagged[15] = 43
	if w.up(tagged) != nil || w.up(plain) != nil || w.Lost("vlan") != 2 {
		t.Error("a frame of another network is not lost")
	}
}
