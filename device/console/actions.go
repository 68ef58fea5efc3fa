package console

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"gangway/device/agent"
	"gangway/device/console/access"
	"gangway/device/install/netfile"

	"github.com/gdamore/tcell/v2"
)

// action is an action on the machine that a person can request.
type action struct {
	key    rune
	page   string // the page on which the key works
	what   string
	needs  access.Level
	native bool // the action works only on a system that Gangway installed
	start  func(c *console, ctx context.Context)
}

// actions is filled by init, because the table and the functions refer to each other.
var actions []action

func init() {
	actions = []action{
		{'e', "Network", "edit the network settings, on page 2", access.On, true, (*console).editNetwork},
		{'r', "Machine", "restart this machine", access.On, false, (*console).askRestart},
		{'p', "Machine", "set, change or remove the PIN of this machine's disk", access.On, true, (*console).askPIN},
		{'w', "Machine", "wipe this machine for another owner", access.Full, true, (*console).askWipe},
	}
}

// Reasons why an action is not offered.
var (
	errLevel = errors.New("switched off by the image or by the owner")
	errOwned = errors.New("not while the machine has an owner: delete the device at its hub first, or allow the wipe with the user-meta gangway.console=full")
)

// The method `allowed` returns the reason why an action is not allowed, or nil. It reads the level
// again, because the owner may have changed the level.
func (c *console) allowed(a action) error {
	if _, elsewhere := c.cfg.Machine.(System); (elsewhere || c.cfg.Machine == nil) && a.native {
		return ErrElsewhere
	}
	switch level := c.cfg.level(readState(&c.cfg)); {
	case level >= a.needs:
		return nil
	case a.needs == access.Full && level == access.On && c.cfg.Limit == access.Full:
		return errOwned
	}
	return errLevel
}

func readState(cfg *Config) (*agent.State, error) {
	s, err := agent.ReadState(cfg.Doctor.StateDir)
	if s == nil {
		s = &agent.State{}
	}
	return s, err
}

// start begins an action. If the action is not allowed, start shows the reason.
func (c *console) start(ctx context.Context, a action) {
	if err := c.allowed(a); err != nil {
		c.message = "Not possible: " + err.Error()
		return
	}
	a.start(c, ctx)
}

// The method `run` calls the function `do` in the background. When `do` returns, the console shows
// its error or, if there is none, the text `done`.
func (c *console) run(ctx context.Context, done string, do func(context.Context) error) {
	c.busy, c.modal = true, nil
	go func() { c.send(ctx, doneEvent{message: done, err: do(ctx)}) }()
}

// The method `confirmed` is called when the person has confirmed the action of the key `key`. It
// checks once more that the action is allowed, and then runs `do`.
func (c *console) confirmed(ctx context.Context, key rune, done string, do func(context.Context) error) {
	for _, a := range actions {
		if a.key != key {
			continue
		}
		if err := c.allowed(a); err != nil {
			c.modal, c.message = nil, "Not possible: "+err.Error()
			return
		}
		c.run(ctx, done, do)
	}
}

func (c *console) askRestart(ctx context.Context) {
	c.modal = &question{
		rows: []row{para(strong, "Restart this machine?"), blank, para(plain, "This stops all programs on the machine. The restart takes a minute or two."), blank, para(plain, "To restart the machine, type yes and press Enter.")},
		want: "yes", yes: func() { c.confirmed(ctx, 'r', "The machine restarts.", c.cfg.Machine.Restart) },
	}
}

func (c *console) askWipe(ctx context.Context) {
	want := ownNick(c.facts.state)
	c.modal = &question{
		rows: []row{
			para(bad, "Wipe this machine: %s", want), blank,
			para(plain, "The machine restarts. Before its system starts, it destroys the keys and the data of its disk, clears the TPM, and switches off. All data is lost and cannot be recovered."),
			para(plain, "The endorsement key stays: if the machine is installed again, it stays the same device. So delete the device at its hub too."), blank,
			para(strong, "To wipe the machine, type %s and press Enter.", want),
		},
		want: want, yes: func() { c.confirmed(ctx, 'w', "The machine restarts, and wipes itself.", c.cfg.Machine.Wipe) },
	}
}

// editNetwork opens the editor with the network settings that are in force.
func (c *console) editNetwork(ctx context.Context) {
	c.busy = true
	go func() {
		text, err := c.cfg.Machine.NetworkSettings(ctx)
		c.send(ctx, doneEvent{err: err, then: newEditor(text, func(text string) error { return checkNetwork(text) }, func(c *console, text string) { c.askTry(ctx, text) })})
	}()
}

// checkNetwork returns an error that describes the first mistake in network settings.
func checkNetwork(text string) error {
	if strings.Contains(text, access.Placeholder) {
		return fmt.Errorf("type the proxy's password in place of %s", access.Placeholder)
	}
	_, err := netfile.Parse([]byte(text))
	return err
}

func (c *console) askTry(ctx context.Context, text string) {
	settings, err := netfile.Parse([]byte(text))
	if err != nil {
		c.message = err.Error()
		return
	}
	editor := c.modal
	rows := []row{para(strong, "Try these network settings?"), blank}
	for _, line := range settings.Masked() {
		rows = append(rows, para(plain, "  %s", line))
	}
	if settings.Empty() {
		rows = append(rows, para(plain, "  automatic"))
	}
	c.modal = &question{
		rows: append(rows, blank, para(plain, "The machine restarts to try these settings. If it does not reach its hub within 10 minutes, it restarts with the previous settings. If the machine was never onboarded, it keeps the new settings without a trial."), blank,
			para(plain, "To try the settings, type yes and press Enter.")),
		want: "yes", no: func() { c.modal = editor },
		yes: func() {
			c.confirmed(ctx, 'e', "The machine restarts to try the settings.", func(ctx context.Context) error { return c.cfg.Machine.TryNetwork(ctx, text) })
		},
	}
}

// question is a modal that asks the person to type a word.
type question struct {
	rows   []row
	want   string
	typed  []rune
	scroll int
	yes    func()
	no     func() // nil: return to the page
}

// maxAnswer is the maximum length of the typed word, in characters.
const maxAnswer = 64

func (q *question) keys() string { return "Enter: answer  Esc: cancel" }

func (q *question) draw(c *console, w, top, height int) {
	all := layout(q.rows, w)
	room := max(1, height-1)
	q.scroll = min(q.scroll, max(0, len(all)-room))
	for i := range min(room, len(all)-q.scroll) {
		c.put(0, top+i, w, all[q.scroll+i].text, c.style(all[q.scroll+i].look))
	}
	prompt := "> " + string(q.typed)
	c.put(0, top+height-1, w, prompt, c.style(strong))
	c.screen.ShowCursor(min(len([]rune(prompt)), w-1), top+height-1)
}

func (q *question) key(c *console, k *tcell.EventKey) {
	switch k.Key() {
	case tcell.KeyUp:
		q.scroll = max(0, q.scroll-1)
	case tcell.KeyDown:
		q.scroll++
	case tcell.KeyEscape:
		q.cancel(c)
	case tcell.KeyBackspace, tcell.KeyBackspace2:
		q.typed = q.typed[:max(0, len(q.typed)-1)]
	case tcell.KeyRune:
		if len(q.typed) < maxAnswer {
			q.typed = append(q.typed, k.Rune())
		}
	case tcell.KeyEnter:
		if strings.TrimSpace(string(q.typed)) != q.want {
			q.typed = nil
			c.message = "That is not " + q.want + ": nothing was done."
			return
		}
		q.yes()
	}
}

func (q *question) cancel(c *console) {
	c.modal, c.message = nil, "Nothing was done."
	if q.no != nil {
		q.no()
	}
}
