package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"

	"github.com/gdamore/tcell/v2"
	"github.com/spf13/cobra"
)

const (
	topEvery = 3 * time.Second
	// topRows is the number of devices that the command top requests for each state.
	topRows = 50
	topDays = 30
)

func (a *app) topCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "top", Short: "Watch the fleet in a terminal: counts, new devices, and devices that need a person", Args: args(),
		Long: `Top shows the live fleet: the number of devices in each state, new devices by day, the
machines and devices that need a person, and the newest devices. It asks the hub every
3 seconds.

Keys: j and k or the arrows move, Enter shows the whole evidence, o opens the page in a
browser, r refreshes, q quits.`,
		Example: "  gangway top\n  gangway --context oslo top",
		RunE: func(c *cobra.Command, _ []string) error {
			if !a.forPeople() {
				return usagef("top is for people: 'gangway device ls --watch' and 'gangway device ls --output %s' are for programs", a.output)
			}
			if a.terminal() == nil {
				return usagef("top needs a terminal; without one, use 'gangway device ls --watch'")
			}
			s, err := loadSignIn(c.Context())
			if err != nil {
				return err
			}
			t := &top{hub: s.Hub, pages: s.pages(c.Context()), nick: s.Nick}
			// Request the first answer before opening the screen, so that an error stays visible in
			// the terminal.
			if t.data = loadTop(c.Context()); t.data.err != nil {
				return t.data.err
			}
			screen, err := tcell.NewScreen()
			if err != nil {
				return fmt.Errorf("the terminal cannot be used (TERM=%s): %w; try TERM=xterm-256color", os.Getenv("TERM"), err)
			}
			// SIGHUP and SIGQUIT would end the process before the terminal is restored.
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGHUP, syscall.SIGQUIT)
			defer stop()
			return t.run(ctx, screen)
		},
	}
	return c
}

// topRow is a line of a list: a device or a waiting machine.
type topRow struct {
	id    string
	state string // in words
	style tcell.Style
	name  string
	about string
	since time.Time
}

// topData is one answer of the hub.
type topData struct {
	at     time.Time
	fleet  api.FleetSummary
	needs  []topRow
	newest []topRow
	err    error
}

var (
	plainStyle = tcell.StyleDefault
	faintStyle = plainStyle.Dim(true)
	boldStyle  = plainStyle.Bold(true)
	goodStyle  = plainStyle.Foreground(tcell.ColorGreen)
	warnStyle  = plainStyle.Foreground(tcell.ColorYellow)
	badStyle   = plainStyle.Foreground(tcell.ColorRed)
)

// stateWord returns the word for a state on the screen, and its style.
func stateWord(state string) (string, tcell.Style) {
	switch state {
	case store.StateActive:
		return "active", goodStyle
	case store.StateQuiet:
		return "quiet", faintStyle
	case store.StateBootChanged:
		return "boot changed", badStyle
	case store.StateUpdating:
		return "updating", warnStyle
	case store.StateFailed:
		return "failed", badStyle
	case store.StateCloned:
		return "cloned", badStyle
	}
	return state, plainStyle
}

// loadTop requests the data of top from the hub. However large the fleet is, the numbers of
// requests and rows stay the same.
func loadTop(ctx context.Context) (d topData) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	d.at = time.Now()
	d.fleet, d.err = call[api.FleetSummary](ctx, http.MethodGet, fmt.Sprintf("/fleet/summary?top=1&days=%d", topDays), nil)
	if d.err != nil {
		return d
	}
	var waiting []api.WaitingView
	if waiting, d.err = allWaiting(ctx); d.err != nil {
		return d
	}
	for _, w := range waiting[:min(len(waiting), topRows)] {
		d.needs = append(d.needs, topRow{w.ID, "waiting for you", warnStyle, cmp.Or(w.Machine.Serial, w.ID),
			strings.TrimSpace(w.Machine.Model + "  " + strings.Join(w.Questions, ", ")), w.Since})
	}
	for _, state := range []string{store.StateCloned, store.StateBootChanged, store.StateFailed, store.StateQuiet} {
		if d.fleet.States[state] == 0 {
			continue
		}
		q := url.Values{"q": {"state:" + state}, "limit": {strconv.Itoa(topRows)}}
		if state == store.StateQuiet {
			q.Set("sort", "seen")
		}
		page, err := fleetPage(ctx, q)
		if err != nil {
			d.err = err
			return d
		}
		word, style := stateWord(state)
		for _, dev := range page.Devices {
			d.needs = append(d.needs, topRow{dev.ID, word, style, dev.Nick, aboutDevice(dev), dev.LastSeen})
		}
	}
	page, err := fleetPage(ctx, url.Values{"sort": {"-created"}, "limit": {strconv.Itoa(topRows)}})
	for _, dev := range page.Devices {
		word, style := stateWord(strings.Join(dev.States[max(0, len(dev.States)-1):], ""))
		d.newest = append(d.newest, topRow{dev.ID, word, style, dev.Nick, aboutDevice(dev), dev.Created})
	}
	d.err = err
	return d
}

func aboutDevice(d api.FleetDevice) string {
	about := d.Machine.Model
	if d.Revision >= 0 {
		about += "  revision " + revisionWords(d.Revision, d.Status, d.Progress)
	}
	return strings.TrimSpace(about)
}

// top is the state of the screen.
type top struct {
	hub, pages string // URLs
	nick       string
	data       topData
	failed     error // the error of the newest request; `data` is from an earlier request

	list   int    // the list that contains the chosen row: 0 for `needs`, 1 for `newest`
	chosen string // the id of the chosen row
	row    int    // the index of the chosen row, so that the choice stays at this index if the row disappears

	detail []string // the lines about the chosen row; nil: the screen shows the lists
	scroll int      // the first line of `detail` on the screen
	said   string   // the message about the last key
}

// lists returns the two lists of rows.
func (t *top) lists() [2][]topRow { return [2][]topRow{t.data.needs, t.data.newest} }

// place returns the list of the chosen row, and the row's index in that list.
func (t *top) place() (list, row int) {
	lists := t.lists()
	if t.list > 1 || len(lists[t.list]) == 0 {
		t.list = 0
		if len(lists[0]) == 0 {
			t.list = 1
		}
	}
	rows := lists[t.list]
	for i, r := range rows {
		if r.id == t.chosen && t.chosen != "" {
			t.row = i
			return t.list, i
		}
	}
	t.row = max(0, min(t.row, len(rows)-1))
	if len(rows) > 0 {
		t.chosen = rows[t.row].id
	}
	return t.list, t.row
}

// move chooses the row that is `by` rows below the chosen row. At the end of one list, it continues
// in the other list.
func (t *top) move(by int) {
	list, row := t.place()
	lists := t.lists()
	n := len(lists[0])
	at := row
	if list == 1 {
		at += n
	}
	at = max(0, min(at+by, n+len(lists[1])-1))
	t.list, t.row = 0, at
	if at >= n {
		t.list, t.row = 1, at-n
	}
	if rows := lists[t.list]; len(rows) > 0 {
		t.chosen = rows[t.row].id
	}
}

// act is the action that a key requests.
type act int

const (
	nothing act = iota
	quit
	again
	show
	browse
	suspend
)

// key handles a key press: it changes the state of the screen, and returns the action for the
// caller.
func (t *top) key(ev *tcell.EventKey, height int) act {
	t.said = ""
	page := max(1, height-3)
	step := map[tcell.Key]int{tcell.KeyDown: 1, tcell.KeyUp: -1, tcell.KeyPgDn: page, tcell.KeyPgUp: -page, tcell.KeyHome: -1 << 20, tcell.KeyEnd: 1 << 20, tcell.KeyCtrlF: page, tcell.KeyCtrlB: -page}[ev.Key()]
	r := rune(0)
	if ev.Key() == tcell.KeyRune {
		r = ev.Rune()
		step = map[rune]int{'j': 1, 'k': -1, ' ': page, 'g': -1 << 20, 'G': 1 << 20}[r]
	}
	back := ev.Key() == tcell.KeyEscape || r == 'q' || ev.Key() == tcell.KeyLeft || ev.Key() == tcell.KeyBackspace || ev.Key() == tcell.KeyBackspace2
	switch {
	case ev.Key() == tcell.KeyCtrlC:
		return quit
	case ev.Key() == tcell.KeyCtrlZ:
		return suspend
	case t.detail != nil && back:
		t.detail, t.scroll = nil, 0
	case ev.Key() == tcell.KeyEscape || r == 'q':
		return quit
	case t.detail != nil && step != 0:
		t.scroll = max(0, t.scroll+step)
	case step != 0:
		t.move(step)
	case r == 'r':
		return again
	case r == 'o':
		return browse
	case t.detail == nil && (ev.Key() == tcell.KeyEnter || ev.Key() == tcell.KeyRight):
		return show
	}
	return nothing
}

// run shows the fleet until the person presses the key q, or until `ctx` ends. run always restores
// the terminal.
func (t *top) run(ctx context.Context, screen tcell.Screen) error {
	if err := screen.Init(); err != nil {
		return err
	}
	defer screen.Fini() // also on a panic
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := make(chan tcell.Event, 16)
	go func() {
		for ev := screen.PollEvent(); ev != nil; ev = screen.PollEvent() {
			select {
			case events <- ev:
			case <-ctx.Done():
				return
			}
		}
		cancel() // the terminal was closed
	}()
	loaded, shown := make(chan topData, 1), make(chan []string, 1)
	loading, tick := false, time.NewTicker(topEvery)
	defer tick.Stop()
	load := func() {
		if !loading {
			loading = true
			go func() { loaded <- loadTop(ctx) }()
		}
	}
	for {
		t.draw(screen)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			load()
		case d := <-loaded:
			loading = false
			if t.failed = d.err; d.err == nil {
				t.data = d
			}
		case text := <-shown:
			t.said, t.detail, t.scroll = "", text, 0
		case ev := <-events:
			switch ev := ev.(type) {
			case *tcell.EventResize:
				screen.Sync()
			case *tcell.EventKey:
				_, height := screen.Size()
				switch t.key(ev, height) {
				case quit:
					return nil
				case again:
					load()
				case show:
					if id := t.chosenID(); id != "" {
						t.said = "asking the hub…"
						go func() { shown <- detailOf(ctx, id) }()
					}
				case browse:
					t.browse()
				case suspend:
					if err := suspendSelf(screen); err != nil {
						return err
					}
				}
			}
		}
	}
}

func suspendSelf(screen tcell.Screen) error {
	if err := screen.Suspend(); err != nil {
		return err
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGSTOP); err != nil {
		return err
	}
	return screen.Resume()
}

func (t *top) chosenID() string {
	list, row := t.place()
	if rows := t.lists()[list]; row < len(rows) {
		return rows[row].id
	}
	return ""
}

func (t *top) browse() {
	address := t.pages + "/ui/overview"
	list, row := t.place()
	if rows := t.lists()[list]; row < len(rows) && rows[row].state != "waiting for you" {
		address = t.pages + "/ui/devices/" + rows[row].id
	}
	if t.said = "opened " + address; openBrowser(address) != nil {
		t.said = address
	}
}

// detailOf returns the lines that 'gangway device show' prints.
func detailOf(ctx context.Context, id string) []string {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var b bytes.Buffer
	if err := (&app{stdout: &b, stderr: &b}).showDevice(ctx, id); err != nil {
		fmt.Fprintf(&b, "\n%s\n", visibleText(err.Error()))
	}
	return strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
}
