package sqlite_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gangway/hub/store"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/storetest"
)

// victim is the name of an environment variable. If it is set, the test binary runs as the process
// that TestKilledHubForgetsNothing kills, and its value is the path of the database.
const victim = "GANGWAY_TEST_SQLITE_VICTIM"

func TestMain(m *testing.M) {
	if path := os.Getenv(victim); path != "" {
		sqlite.CheckpointOften() // so that it is often killed during a checkpoint
		if err := onboardForEver(path, os.Args[len(os.Args)-1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// onboardForEver onboards one machine after another, and prints the number of each one after
// Activate has returned. It returns only if there is an error.
func onboardForEver(path, round string) error {
	ctx := context.Background()
	s, err := sqlite.Open(ctx, path)
	if err != nil {
		return err
	}
	owner := storetest.Account("harbourmaster").ID
	token := storetest.JoinToken(owner, "fleet", 0).ID
	const workers = 16
	errs := make(chan error)
	for w := range workers {
		go func() {
			for n := w; ; n += workers {
				e := storetest.Machine{Name: fmt.Sprint(round, "/", n)}.Enrolment(owner, token)
				if _, err := s.BeginEnrolment(ctx, e, storetest.Epoch); err != nil {
					errs <- err
					return
				}
				if _, err := s.Activate(ctx, store.Activation{
					IDevIDHash: e.IDevIDHash, Nick: "otter", Now: storetest.Epoch,
				}); err != nil {
					errs <- err
					return
				}
				// The number is printed with one short write, so the pipe gets either the whole
				// number or nothing.
				fmt.Fprintf(os.Stdout, "%d\n", n)
			}
		}()
	}
	return <-errs
}

func TestKilledHubForgetsNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "hub.db")
	s, token := harbour(t, path)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var acknowledged []store.Enrolment
	for round := range 3 {
		for _, n := range onboardUntilKilled(t, path, fmt.Sprint(round)) {
			acknowledged = append(acknowledged,
				storetest.Machine{Name: fmt.Sprint(round, "/", n)}.Enrolment(token.Owner, token.ID))
		}
		afterTheKill(t, path, token, acknowledged)
	}
}

// onboardUntilKilled starts the process that is to be killed (see the constant victim), and kills
// it with SIGKILL after a random number of onboardings. It returns the numbers that the process
// printed before.
func onboardUntilKilled(t *testing.T, path, round string) (numbers []string) {
	cmd := exec.Command(os.Args[0], round)
	cmd.Env = append(os.Environ(), victim+"="+path)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := 20 + rand.IntN(200)
	var once sync.Once
	kill := func() { once.Do(func() { _ = cmd.Process.Kill() }) }
	defer kill()
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break // the process has ended, and the test has read the whole output
		}
		numbers = append(numbers, strings.TrimSpace(line))
		if len(numbers) == last {
			kill()
		}
	}
	_ = cmd.Wait()
	if len(numbers) < last {
		t.Fatalf("the victim died by itself after %d: %s", len(numbers), stderr.String())
	}
	return numbers
}

func afterTheKill(t *testing.T, path string, token store.JoinToken, acknowledged []store.Enrolment) {
	ctx := context.Background()
	s, err := sqlite.Open(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range acknowledged {
		d, err := s.DeviceByCertificate(ctx, e.IDevIDHash)
		if err != nil || d.ID != e.DeviceID {
			t.Errorf("an acknowledged device is lost: %q, %v", d.ID, err)
		}
	}
	devices, err := s.CountDevices(ctx, token.Owner)
	if err != nil {
		t.Fatal(err)
	}
	after, err := s.JoinToken(ctx, token.ID)
	if err != nil {
		t.Fatal(err)
	}
	if after.Uses != devices || devices < len(acknowledged) {
		t.Errorf("%d devices, %d uses of the token, %d acknowledged", devices, after.Uses, len(acknowledged))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if answer := query(t, path, `PRAGMA integrity_check`); answer != "ok" {
		t.Errorf("integrity check: %s", answer)
	}
	if answer := query(t, path, `PRAGMA foreign_key_check`); answer != "" {
		t.Errorf("rows without their parent in %s", answer)
	}
}
