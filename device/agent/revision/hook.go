package revision

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ExitReboot is the hook's exit code for "successful, but the machine must reboot before the next
// call". Only the calls install and rollback may end with this code.
const ExitReboot = 10

// Limits of a hook's output.
const (
	maxLine  = 2 << 10 // bytes; the rest of a longer line is dropped
	maxLines = 2000    // lines of one call that are passed to Config.Line
	tailSize = 8       // number of last lines that the reason of a failure quotes
	maxTail  = 1 << 10 // bytes of these last lines
)

// callMark is the name of an environment variable that is set for each call of the hook. Its value
// identifies the call, so that a restarted agent can find the processes of an interrupted call.
const callMark = "GANGWAY_CALL"

// hookWaitDelay is how long a call waits, after the hook has exited, for the hook's output to end.
// A process that the hook left running may keep the output's pipe open.
const hookWaitDelay = 10 * time.Second

// verdict is the result of a call of the hook.
type verdict struct {
	ok     bool
	reboot bool   // the hook ended with ExitReboot
	reason string // if not ok: the reason, for a person, with the hook's last lines of output
}

// The method `refused` returns the reason why a call of the hook failed. Use it for calls that must
// not end with ExitReboot. `verb` is the call's verb.
func (v verdict) refused(verb string) string {
	if v.reboot {
		return fmt.Sprintf("The hook's %s ended with code %d, which is valid only for install and rollback.", verb, ExitReboot)
	}
	return v.reason
}

// call runs HOOK VERB FOLDER. The journal records the call before the call begins. The verdict says
// whether the hook failed; the error is not nil only if the disk failed or ctx ended.
func (f *Follower) call(ctx context.Context, verb string) (verdict, error) {
	id := fmt.Sprintf("%d-%s-%d", f.journal.Step.Rev, verb, time.Now().UnixNano())
	if err := f.change(func(w *work) { w.Tries++; w.Call = id }); err != nil {
		return verdict{}, err
	}
	w := f.journal.Step
	bounded, cancel := context.WithTimeout(ctx, f.cfg.HookTimeout)
	defer cancel()
	former, formerRev := "", ""
	if r := f.journal.Current; r != nil && exists(f.folderOf(*r)) {
		former, formerRev = f.folderOf(*r), strconv.Itoa(r.Rev)
	}
	out := &output{line: f.cfg.Line}
	cmd := exec.CommandContext(bounded, f.cfg.Hook, verb, f.folderOf(w.revision))
	cmd.Dir = f.dir
	cmd.Env = append(os.Environ(), callMark+"="+id, "GANGWAY_REV="+strconv.Itoa(w.Rev), "GANGWAY_TRY="+strconv.Itoa(w.Tries),
		"GANGWAY_FORMER="+former, "GANGWAY_FORMER_REV="+formerRev)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = f.cfg.waitDelay
	err := runLocked(cmd)
	out.end()
	if ctx.Err() != nil {
		// The agent is being stopped. The journal counts the interrupted call as a try, because the
		// hook itself may have stopped the agent.
		f.killGroup(cmd)
		return verdict{}, ctx.Err()
	}
	code := -1
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	switch {
	case bounded.Err() != nil:
		f.killGroup(cmd)
		return verdict{reason: fmt.Sprintf("The hook's %s took longer than %s.%s", verb, f.cfg.HookTimeout, out.said())}, nil
	case code == 0:
		return verdict{ok: true}, nil
	case code == ExitReboot:
		return verdict{ok: true, reboot: true}, nil
	case code > 0:
		return verdict{reason: fmt.Sprintf("The hook's %s ended with code %d.%s", verb, code, out.said())}, nil
	}
	return verdict{reason: fmt.Sprintf("The hook's %s failed: %v.%s", verb, err, out.said())}, nil
}

// killGroup kills those processes of a call that are still running.
func (f *Follower) killGroup(cmd *exec.Cmd) {
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // an error means that no process is left
	}
}

// runLocked runs the command `cmd` from a separate thread, which exists until `cmd` ends. If the
// thread that started the process ended earlier, the kernel would take this for the death of the
// parent and send the process its parent-death signal.
func runLocked(cmd *exec.Cmd) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	return <-done
}

// stopOrphans kills the processes of an interrupted call, because the agent will make that call
// again.
func (f *Follower) stopOrphans() error {
	if f.journal.Step == nil || f.journal.Step.Call == "" {
		return nil
	}
	mark := []byte(callMark + "=" + f.journal.Step.Call)
	list, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return err
	}
	for _, path := range list {
		env, err := os.ReadFile(path)
		if err != nil {
			continue // the process has ended, or another user's process
		}
		for word := range bytes.SplitSeq(env, []byte{0}) {
			if !bytes.Equal(word, mark) {
				continue
			}
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil || pid == os.Getpid() {
				continue
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("trail: stopping process %d of the hook's last call: %w", pid, err)
			}
		}
	}
	return nil
}

// The type `output` passes each line that a hook prints to Config.Line. It keeps the last lines,
// which become part of the reason if the hook fails. A process that the hook left running may write
// more lines after the call has ended; output ignores them.
type output struct {
	line func(string)

	mu      sync.Mutex // guards the fields below
	over    bool       // the call has ended
	partial []byte
	long    bool // the rest of this line is dropped
	passed  int
	tail    []string
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return len(p), nil
	}
	for _, c := range p {
		switch {
		case c == '\n':
			o.emit()
		case len(o.partial) < maxLine:
			o.partial = append(o.partial, c)
		default:
			o.long = true
		}
	}
	return len(p), nil
}

// emit ends the current line and passes it to Config.Line. The caller holds mu.
func (o *output) emit() {
	text := strings.TrimRight(strings.ToValidUTF8(string(o.partial), "\ufffd"), "\r")
	if o.long {
		text += "…"
	}
	o.partial, o.long = o.partial[:0], false
	if text == "" {
		return
	}
	if o.passed++; o.passed <= maxLines {
		o.line(text)
	}
	if o.tail = append(o.tail, text); len(o.tail) > tailSize {
		o.tail = o.tail[1:]
	}
}

func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.emit()
	o.over = true
	if o.passed > maxLines {
		o.line(fmt.Sprintf("(%d more lines were dropped)", o.passed-maxLines))
	}
}

// The method `said` returns the last lines of the output, for use in the reason of a failure. Call
// the method `end` before `said`.
func (o *output) said() string {
	text := strings.Join(o.tail, " | ")
	if text == "" {
		return ""
	}
	if len(text) > maxTail {
		text = "…" + strings.ToValidUTF8(text[len(text)-maxTail:], "")
	}
	return " It said: " + text
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func syncFS(d *os.File) error { return unix.Syncfs(int(d.Fd())) }
