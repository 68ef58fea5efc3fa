package identity

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// maxResponse is the maximum size of a response, in bytes. The largest response of a TPM has 4096
// bytes (TPM_PT_MAX_RESPONSE_SIZE of the PC client profile).
const maxResponse = 8192

// A link sends commands to a TPM, one at a time. After an error, the link closes its connection,
// and opens a new one for the next command, so that it never takes a late response for the response
// to another command.
type link interface {
	// exchange sends one command and returns its whole response. It returns within the time
	// `limit`, and soon after ctx ends.
	exchange(ctx context.Context, command []byte, limit time.Duration) ([]byte, error)
	// idle informs the link that no other command follows immediately.
	idle()
	close() error
}

// socket is a link to a TPM that reads raw commands from a stream.
type socket struct {
	network, address string
	conn             net.Conn // nil while not connected
}

func (s *socket) connect(ctx context.Context) error {
	if s.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, s.network, s.address)
		if err == nil {
			s.conn = conn
			return nil
		}
		// If the queue of a Unix socket is full, connect(2) does not wait but fails with EAGAIN.
		// The queue of swtpm is full as soon as one client is waiting.
		if !errors.Is(err, syscall.EAGAIN) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Millisecond):
		}
	}
}

// connectTimeout is the longest time to wait for a connection to a socket.
const connectTimeout = 30 * time.Second

func (s *socket) exchange(ctx context.Context, command []byte, limit time.Duration) ([]byte, error) {
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	rsp, err := s.converse(ctx, command, limit)
	if err != nil {
		s.idle()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, fmt.Errorf("identity: the TPM at %s did not answer within %v", s.address, limit)
		}
		return nil, fmt.Errorf("identity: the TPM at %s: %w", s.address, err)
	}
	return rsp, nil
}

func (s *socket) converse(ctx context.Context, command []byte, limit time.Duration) ([]byte, error) {
	conn := s.conn
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(command); err != nil {
		return nil, err
	}
	head := make([]byte, 10)
	if _, err := io.ReadFull(conn, head); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[2:])
	if size < 10 || size > maxResponse {
		return nil, fmt.Errorf("the response has %d bytes, more than a TPM sends; check that the address belongs to a TPM 2.0", size)
	}
	rsp := make([]byte, size)
	copy(rsp, head)
	if _, err := io.ReadFull(conn, rsp[10:]); err != nil {
		return nil, err
	}
	return rsp, nil
}

// idle disconnects from the TPM, because swtpm serves one client at a time.
func (s *socket) idle() {
	if s.conn != nil {
		s.conn.Close() // no data are buffered, so closing loses none
		s.conn = nil
	}
}

func (s *socket) close() error { s.idle(); return nil }

// device is a link to a character device of the kernel. One write sends a command, and one read
// returns the whole response.
type device struct {
	open func() (io.ReadWriteCloser, error)
	file io.ReadWriteCloser // nil while not open
}

func (d *device) connect() error {
	if d.file != nil {
		return nil
	}
	f, err := d.open()
	if err != nil {
		return err
	}
	d.file = f
	return nil
}

// exchange writes and reads in a separate goroutine, because a write to the device blocks in the
// kernel and no deadline can interrupt it. If `ctx` ends or the time `limit` has passed, exchange
// closes the file and returns. The goroutine ends later, after the kernel's own time limit.
func (d *device) exchange(ctx context.Context, command []byte, limit time.Duration) ([]byte, error) {
	if err := d.connect(); err != nil {
		return nil, err
	}
	type result struct {
		rsp []byte
		err error
	}
	file := d.file
	done := make(chan result, 1)
	go func() {
		rsp, err := converse(file, command)
		done <- result{rsp, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var r result
	select {
	case r = <-done:
	case <-timer.C:
		r.err = fmt.Errorf("identity: the TPM did not answer within %v", limit)
	case <-ctx.Done():
		r.err = ctx.Err()
	}
	if r.err != nil {
		d.close()
	}
	return r.rsp, r.err
}

func converse(file io.ReadWriter, command []byte) ([]byte, error) {
	if _, err := file.Write(command); err != nil {
		return nil, fmt.Errorf("identity: sending to the TPM: %w", err)
	}
	buf := make([]byte, maxResponse)
	n, err := file.Read(buf)
	if err != nil {
		return nil, fmt.Errorf("identity: reading from the TPM: %w", err)
	}
	return buf[:n], nil
}

func (d *device) idle() {}

func (d *device) close() error {
	if d.file == nil {
		return nil
	}
	err := d.file.Close()
	d.file = nil
	return err
}
