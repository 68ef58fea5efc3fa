package process

import (
	"os/exec"
	"testing"
	"time"
)

// Stop kills a program that ignores SIGTERM. On a nil Process, Stop does nothing.
func TestStopEndsAProgramThatDoesNotListen(t *testing.T) {
	t.Parallel()
	p, err := Start(exec.Command("sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"))
	if err != nil {
		t.Fatal(err)
	}
	for p.Tail() != "deaf" {
		time.Sleep(time.Millisecond)
	}
	p.Stop(50 * time.Millisecond)
	select {
	case <-p.Done():
	default:
		t.Fatal("the program still runs after Stop")
	}
	if p.Err() == nil || p.Err().Error() != "signal: killed" {
		t.Errorf("the program ended with %v; want \"signal: killed\"", p.Err())
	}
	(*Process)(nil).Stop(0)
}
