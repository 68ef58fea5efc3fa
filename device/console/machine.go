package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"gangway/device/console/access"
	"gangway/tcg"
)

// Machine carries out actions on the machine. The errors of its methods are sentences for a
// person.
type Machine interface {
	// Restart restarts the machine. It may return before the machine is off.
	Restart(context.Context) error
	// NetworkReport returns a description of the network settings, without secrets.
	NetworkReport(context.Context) (string, error)
	// NetworkSettings returns the text of the file with the network settings in force. In this
	// text, access.Placeholder replaces the proxy's password.
	NetworkSettings(context.Context) (string, error)
	// TryNetwork stores new network settings and restarts the machine, which tries them when it
	// starts.
	TryNetwork(ctx context.Context, text string) error
	// Wipe requests a wipe and restarts the machine. When it starts again, the machine destroys the
	// keys and the data of its disk.
	Wipe(context.Context) error
	// SetPIN sets, changes or removes the PIN of the machine's disk.
	SetPIN(context.Context, access.PINChange) error
}

// Hook is a Machine that calls a program for each action: PROGRAM console ACTION. Gangway's images
// have such a program, gangway-hook.
type Hook struct{ Program string }

// maxHookOutput is the maximum number of bytes of the hook's output that the console uses.
const maxHookOutput = 64 << 10

// hookTime is the time limit for a call of the hook.
const hookTime = 30 * time.Second

func (h Hook) call(ctx context.Context, action, input string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, hookTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Program, "console", action)
	var out, said limited
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &said
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		text := strings.TrimSpace(said.String())
		if text == "" {
			text = fmt.Sprintf("%s %s ended with code %d", h.Program, action, exit.ExitCode())
		}
		return "", errors.New(tcg.Printable(strings.ReplaceAll(text, "\n", " ")))
	}
	return out.String(), err
}

func (h Hook) do(ctx context.Context, action, input string) error {
	_, err := h.call(ctx, action, input)
	return err
}

// Restart implements Machine.
func (h Hook) Restart(ctx context.Context) error { return h.do(ctx, access.ActionRestart, "") }

// NetworkReport implements Machine.
func (h Hook) NetworkReport(ctx context.Context) (string, error) {
	return h.call(ctx, access.ActionReport, "")
}

// NetworkSettings implements Machine.
func (h Hook) NetworkSettings(ctx context.Context) (string, error) {
	return h.call(ctx, access.ActionSettings, "")
}

// TryNetwork implements Machine.
func (h Hook) TryNetwork(ctx context.Context, text string) error {
	return h.do(ctx, access.ActionTry, text)
}

// Wipe implements Machine.
func (h Hook) Wipe(ctx context.Context) error { return h.do(ctx, access.ActionWipe, "") }

// SetPIN implements Machine.
func (h Hook) SetPIN(ctx context.Context, change access.PINChange) error {
	text, err := json.Marshal(change)
	if err != nil {
		return err
	}
	return h.do(ctx, access.ActionPIN, string(text))
}

// limited stores the first maxHookOutput bytes that are written to it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if room := maxHookOutput - l.Len(); room > 0 {
		l.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

var _ io.Writer = (*limited)(nil)

// System is the Machine of an operating system that Gangway did not install. A person sets its
// network and wipes it with the system's own tools.
type System struct{}

// ErrElsewhere means that the action is possible only with the system's own tools.
var ErrElsewhere = errors.New("Gangway did not install this system: use the system's own tools.") //lint:ignore ST1005 shown to a person

// Restart implements Machine.
func (System) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hookTime)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "systemctl", "reboot").CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl reboot: %w %s", err, tcg.Printable(strings.TrimSpace(string(out[:min(len(out), 200)]))))
	}
	return nil
}

// NetworkReport implements Machine.
func (System) NetworkReport(context.Context) (string, error) { return "", ErrElsewhere }

// NetworkSettings implements Machine.
func (System) NetworkSettings(context.Context) (string, error) { return "", ErrElsewhere }

// TryNetwork implements Machine.
func (System) TryNetwork(context.Context, string) error { return ErrElsewhere }

// Wipe implements Machine.
func (System) Wipe(context.Context) error { return ErrElsewhere }

// SetPIN implements Machine.
func (System) SetPIN(context.Context, access.PINChange) error { return ErrElsewhere }
