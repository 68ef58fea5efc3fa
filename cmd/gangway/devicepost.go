package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"gangway/hub/api"
	wiretrail "gangway/wire/trail"

	"github.com/spf13/cobra"
)

// posting has the options shared by the commands that post a revision.
type posting struct {
	message           string
	yes, dryRun, wait bool
	stdinUsed         bool // the state was read from standard input, so standard input has no confirmation
}

func (p *posting) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVarP(&p.message, "message", "m", "", "purpose of the revision, which the list of revisions shows")
	f.BoolVarP(&p.yes, "yes", "y", false, "do not ask for confirmation")
	f.BoolVar(&p.dryRun, "dry-run", false, "show what would change, and post nothing")
	f.BoolVar(&p.wait, "wait", false, "wait until the device has installed the revision; the exit code is 1 if the revision fails")
}

func (a *app) devicePost() *cobra.Command {
	var p posting
	c := &cobra.Command{
		Use: "post ID|NICK STATE.json", Short: "Post a new revision to a device", Args: args("the device's id or nick", "the file of the state, or - for standard input,"),
		Long: `Post gives a device a new state to run, as its next revision. It first shows what would
change in the newest revision, and asks for confirmation. The objects that the state
names must be uploaded already, for example with pvr.

If another revision is posted meanwhile, the hub refuses this revision, because the
difference that post showed is no longer correct.`,
		Example: `  gangway device state oslo-gate-1 > state.json
  gangway device post oslo-gate-1 state.json --message 'new kernel'
  gangway device post oslo-gate-1 state.json --dry-run
  gangway device post 65f0c1 - --yes --wait < state.json`,
		RunE: func(c *cobra.Command, arg []string) error {
			p.stdinUsed = arg[1] == "-"
			state, err := a.readState(arg[1])
			if err != nil {
				return err
			}
			d, err := findDevice(c.Context(), arg[0])
			if err != nil {
				return err
			}
			newest, err := newestRevision(c.Context(), d)
			if err != nil {
				return err
			}
			return a.post(c.Context(), d, newest, state, p)
		},
	}
	p.flags(c)
	return c
}

func (a *app) readState(path string) (*wiretrail.State, error) {
	in, err := a.input(path, "name the file of the state, or - for standard input")
	if err != nil {
		return nil, err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, wiretrail.MaxState+1))
	if err != nil {
		return nil, err
	}
	name := path
	if name == "-" {
		name = "standard input"
	}
	if len(strings.TrimSpace(string(text))) == 0 {
		return nil, fmt.Errorf("%s is empty: a state is a JSON object, as 'gangway device state' prints it", name)
	}
	state, err := wiretrail.ParseState(text)
	if err != nil {
		return nil, fmt.Errorf("%s does not contain a state: %s. See docs/trails.md", name, strings.TrimPrefix(plainJSON(err), "the state: "))
	}
	return state, nil
}

// plainJSON returns the text of a JSON error without the names of Go types.
func plainJSON(err error) string {
	text := err.Error()
	if strings.Contains(text, "invalid character") || strings.Contains(text, "unexpected end") || strings.Contains(text, "cannot unmarshal") {
		return "it is not a JSON object"
	}
	return text
}

func (a *app) deviceRollback() *cobra.Command {
	var p posting
	c := &cobra.Command{
		Use: "rollback ID|NICK [REV]", Short: "Post the state of an earlier revision again", Args: oneOrTwo("the device's id or nick"),
		Long: `Rollback posts the state of an earlier revision as a new revision. Without REV, it uses
the newest earlier revision that the device installed. It shows the difference and
asks for confirmation, as 'gangway device post' does.

After a failed revision, you need no rollback: the device returns to its former state by
itself.`,
		Example: `  gangway device rollback oslo-gate-1
  gangway device rollback oslo-gate-1 3 --yes --wait`,
		RunE: func(c *cobra.Command, arg []string) error {
			rev := -1
			if len(arg) == 2 {
				var err error
				if rev, err = readRev(arg[1]); err != nil {
					return err
				}
			}
			d, err := findDevice(c.Context(), arg[0])
			if err != nil {
				return err
			}
			newest, err := newestRevision(c.Context(), d)
			if err != nil {
				return err
			}
			if rev < 0 {
				if rev, err = lastInstalled(c.Context(), d, newest); err != nil {
					return err
				}
			}
			if rev == newest {
				return fmt.Errorf("revision %d is already the newest of %s; name an earlier revision from 'gangway device revisions %s'", rev, d.Nick, d.Nick)
			}
			_, state, err := revision(c.Context(), d, rev)
			if err != nil {
				return err
			}
			if p.message == "" {
				p.message = fmt.Sprintf("Roll back to revision %d", rev)
			}
			return a.post(c.Context(), d, newest, state, p)
		},
	}
	p.flags(c)
	return c
}

// lastInstalled returns the revision to which 'gangway device rollback' goes back, if the person
// names no revision. It is the newest revision that the device installed and whose state differs
// from the state of revision `newest`.
func lastInstalled(ctx context.Context, d api.DeviceView, newest int) (int, error) {
	rows, err := revisions(ctx, d, 0)
	if err != nil {
		return 0, err
	}
	for _, r := range rows {
		if r.Rev < newest && r.isDone() && r.StateSha != rows[0].StateSha {
			return r.Rev, nil
		}
	}
	return 0, fmt.Errorf("%s has installed no other state before revision %d; name a revision from 'gangway device revisions %s'", d.Nick, newest, d.Nick)
}

// posted is the output of 'gangway device post' and 'gangway device rollback'.
type posted struct {
	Device  string       `json:"device"`
	Rev     int          `json:"rev"` // 0 with --dry-run
	DryRun  bool         `json:"dry-run,omitempty"`
	Changes []changeView `json:"changes"`
}

// post shows the difference between a device's newest revision and a new state, asks for
// confirmation, and posts the state as the next revision.
func (a *app) post(ctx context.Context, d api.DeviceView, newest int, state *wiretrail.State, p posting) error {
	_, before, err := revision(ctx, d, newest)
	if err != nil {
		return err
	}
	changes := wiretrail.Diff(before, state)
	if a.forPeople() {
		a.printf("Differences between revision %d of %s and the new revision %d:\n", newest+1, d.Nick, newest)
		a.printChanges(changes)
	}
	out := posted{Device: d.ID, DryRun: p.dryRun, Changes: changeViews(changes)}
	if p.dryRun {
		_, err := a.json(out)
		return err
	}
	if !p.yes {
		if err := a.confirmPost(d, p); err != nil {
			return err
		}
	}
	// Send the revision number: if another revision was posted after the comparison, the hub then
	// refuses the post.
	rev := newest + 1
	added, err := call[api.RevisionView](ctx, http.MethodPost, "/trails/"+d.ID+"/steps", map[string]any{"rev": rev, "commit-msg": p.message, "state": json.RawMessage(state.JSON)})
	if err != nil {
		return err
	}
	out.Rev = added.Rev
	if !p.wait {
		if done, err := a.json(out); done {
			return err
		}
		a.note("Revision %d is posted. The device installs it when it next contacts the hub. 'gangway device revisions %s' shows its status.", added.Rev, d.Nick)
		return nil
	}
	a.note("Revision %d is posted; waiting for %s.", added.Rev, d.Nick)
	err = a.watchRevision(ctx, d, added.Rev)
	if err == nil {
		_, err = a.json(out)
	}
	return err
}

func (a *app) confirmPost(d api.DeviceView, p posting) error {
	if p.stdinUsed {
		return usagef("standard input has the state, so the confirmation cannot be read from it: check the state with --dry-run, then give --yes")
	}
	fmt.Fprintf(a.stderr, "Post it to %s? Type yes: ", visible(d.Nick))
	line, err := bufio.NewReader(io.LimitReader(a.stdin, 256)).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); err != nil && answer == "" || answer != "yes" && answer != "y" {
		return errors.New("not confirmed: nothing was posted; give --yes in a script")
	}
	return nil
}
