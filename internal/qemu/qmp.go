package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"
)

// qmpTime is the time limit of a QMP command.
const qmpTime = 20 * time.Second

// command sends one command of the QEMU Machine Protocol (QEMU's docs/interop/qmp-spec) on a new
// connection and waits for the response.
func (m *Machine) command(ctx context.Context, name string, arguments any) error {
	c, err := m.dial(ctx)
	if err != nil {
		return fmt.Errorf("qemu: %s: %w", name, err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(qmpTime))
	type message struct {
		QMP    json.RawMessage `json:"QMP"`
		Return json.RawMessage `json:"return"`
		Error  *struct {
			Desc string `json:"desc"`
		} `json:"error"`
	}
	in, out := json.NewDecoder(c), json.NewEncoder(c)
	answer := func(greeting bool) error {
		for {
			var r message
			switch err := in.Decode(&r); {
			case err != nil:
				return err
			case r.Error != nil:
				return errors.New(r.Error.Desc)
			case greeting && r.QMP != nil, !greeting && r.Return != nil:
				return nil
			} // ignore other messages: they are events
		}
	}
	type call struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}
	err = answer(true)
	for _, say := range []call{{Execute: "qmp_capabilities"}, {name, arguments}} {
		if err == nil {
			err = out.Encode(say)
		}
		if err == nil {
			err = answer(false)
		}
	}
	if err != nil {
		return fmt.Errorf("qemu: %s: %w", name, err)
	}
	return nil
}

// dial connects to QEMU's control socket. It retries, because QEMU may have just started.
func (m *Machine) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, qmpTime)
	defer cancel()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", m.qmp)
		if err == nil {
			return c, nil
		}
		select {
		case <-m.Off:
			return nil, errors.New("the machine is off")
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Reset resets the machine and its TPM, as the reset button does. If Config.Reboot is false, the
// machine switches off instead.
func (m *Machine) Reset(ctx context.Context) error { return m.command(ctx, "system_reset", nil) }

// Press presses these keys on the machine's keyboard, one after the other. Use QEMU's names of the
// keys, such as "a", "9" or "ret".
func (m *Machine) Press(ctx context.Context, keys ...string) error {
	type key struct {
		Type string `json:"type"`
		Data string `json:"data"`
	}
	for _, k := range keys {
		if err := m.command(ctx, "send-key", map[string][]key{"keys": {{"qcode", k}}}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond): // QEMU holds a key for 100 ms
		}
	}
	return nil
}

// Screenshot writes the screen's content to a PNG file. The machine needs Config.Screen.
func (m *Machine) Screenshot(ctx context.Context, name string) error {
	name, err := filepath.Abs(name)
	if err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	return m.command(ctx, "screendump", map[string]string{"filename": name, "format": "png"})
}
