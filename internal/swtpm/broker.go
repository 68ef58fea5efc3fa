package swtpm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"gangway/internal/process"
)

// Broker is a resource manager for a TPM: tpm2-abrmd on a private message bus. A TPM can store only
// three transient objects at the same time, which is too few for OpenSSL's TPM provider in a TLS
// handshake. Real machines use the kernel's resource manager (/dev/tpmrm0) for this. While the
// broker runs, no other program can use the TPM's socket.
type Broker struct {
	dir       string
	bus, proc *process.Process
}

// MissingBroker returns "" if all programs that a Broker needs are installed. If some are missing,
// it returns one sentence that names the missing programs.
func MissingBroker() string {
	for program, deb := range map[string]string{
		"dbus-daemon": "dbus-daemon", "tpm2-abrmd": "tpm2-abrmd libtss2-tcti-tabrmd0", "tpm2_getcap": "tpm2-tools",
	} {
		if _, err := lookSbin(program); err != nil {
			return fmt.Sprintf("a TPM's broker needs %s: install it with `apt-get install %s`", program, deb)
		}
	}
	return ""
}

// lookSbin does the same as exec.LookPath, but also searches /usr/sbin, where Debian installs
// daemons.
func lookSbin(program string) (string, error) {
	if p, err := exec.LookPath(program); err == nil {
		return p, nil
	}
	return exec.LookPath("/usr/sbin/" + program)
}

// Broker starts a broker. The context `ctx` limits only the start. The broker runs until Stop is
// called or this process ends.
func (t *TPM) Broker(ctx context.Context) (*Broker, error) {
	if m := MissingBroker(); m != "" {
		return nil, errors.New("swtpm: " + m)
	}
	dir, err := os.MkdirTemp("", "broker")
	if err != nil {
		return nil, fmt.Errorf("swtpm: %w", err)
	}
	b := &Broker{dir: dir}
	if err := b.start(ctx, t.TCTI()); err != nil {
		b.Stop()
		return nil, err
	}
	return b, nil
}

func (b *Broker) start(ctx context.Context, tcti string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var err error
	b.bus, err = process.Start(exec.Command("dbus-daemon", "--session", "--nofork", "--nopidfile", "--address="+b.address()))
	if err != nil {
		return fmt.Errorf("swtpm: starting a message bus: %w", err)
	}
	err = b.await(ctx, b.bus, "the message bus", func() bool {
		// The socket file exists shortly before the program listens on it, so try to connect.
		c, err := net.Dial("unix", filepath.Join(b.dir, "bus"))
		if err != nil {
			return false
		}
		c.Close()
		return true
	})
	if err != nil {
		return err
	}
	program, err := lookSbin("tpm2-abrmd")
	if err != nil {
		return fmt.Errorf("swtpm: %w", err)
	}
	args := []string{"--session", "--tcti=" + tcti}
	if os.Geteuid() == 0 {
		args = append(args, "--allow-root")
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), b.Env()...)
	if b.proc, err = process.Start(cmd); err != nil {
		return fmt.Errorf("swtpm: starting the broker: %w", err)
	}
	return b.await(ctx, b.proc, "the TPM's broker", func() bool {
		c := exec.CommandContext(ctx, "tpm2_getcap", "properties-fixed")
		c.Env = append(os.Environ(), b.Env()...)
		return c.Run() == nil
	})
}

// await waits until the function `ready` returns true. `what` names the program in the error
// message.
func (b *Broker) await(ctx context.Context, p *process.Process, what string, ready func() bool) error {
	for !ready() {
		select {
		case <-p.Done():
			return fmt.Errorf("swtpm: %s ended at once (%v)\n%s", what, p.Err(), p.Tail())
		case <-ctx.Done():
			return fmt.Errorf("swtpm: %s does not answer: %w\n%s", what, ctx.Err(), p.Tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

func (b *Broker) address() string { return "unix:path=" + filepath.Join(b.dir, "bus") }

// TCTI returns the broker's address for tpm2-tools and OpenSSL's TPM provider. These programs also
// need Env in their environment.
func (b *Broker) TCTI() string { return "tabrmd:bus_type=session" }

// Env returns the environment variables for a program that uses the broker.
func (b *Broker) Env() []string {
	return []string{
		"DBUS_SESSION_BUS_ADDRESS=" + b.address(),
		"TPM2TOOLS_TCTI=" + b.TCTI(), "TPM2OPENSSL_TCTI=" + b.TCTI(), "TSS2_LOG=all+NONE",
	}
}

// Stop ends the broker. Then other programs can use the TPM's socket again.
func (b *Broker) Stop() {
	b.proc.Stop(grace)
	b.bus.Stop(grace)
	os.RemoveAll(b.dir)
}
