package console

import (
	"context"
	"strings"

	"gangway/device/console/access"

	"github.com/gdamore/tcell/v2"
)

// pinForm is a modal that asks for the present PIN and for the new one. It never shows what the
// person types.
type pinForm struct {
	typed [3][]rune // the present PIN or recovery key, the new PIN, and the new PIN again
	at    int
	done  func(access.PINChange)
}

var pinPrompts = [...]string{"Present PIN, or recovery key (empty: the disk has no PIN): ", "New PIN (empty: the disk needs no PIN any more): ", "New PIN again: "}

// maxSecret is the maximum length of a typed line, in characters. A recovery key has 71.
const maxSecret = 100

var pinRows = []row{
	para(strong, "PIN of this machine's disk"), blank,
	para(plain, "With a PIN, the machine asks for the PIN at each start, and waits for it before it does anything else. So set a PIN only if a person is at the machine at each start, also after an update."),
	para(plain, "After a few wrong PINs, the TPM accepts no PIN for some time. The recovery key of the disk always works: have it ready before you set a PIN."),
}

func (c *console) askPIN(ctx context.Context) {
	c.modal = &pinForm{done: func(change access.PINChange) {
		done := "The disk has a new PIN. The machine asks for it at its next start."
		if change.PIN == "" {
			done = "The disk needs no PIN any more."
		}
		c.confirmed(ctx, 'p', done, func(ctx context.Context) error { return c.cfg.Machine.SetPIN(ctx, change) })
	}}
}

func (p *pinForm) keys() string { return "Enter: next  Esc: cancel" }

func (p *pinForm) draw(c *console, w, top, height int) {
	rows := layout(pinRows, w)
	for i := range min(max(0, height-1), len(rows)) {
		c.put(0, top+i, w, rows[i].text, c.style(rows[i].look))
	}
	prompt := pinPrompts[p.at] + strings.Repeat("*", len(p.typed[p.at]))
	c.put(0, top+height-1, w, prompt, c.style(strong))
	c.screen.ShowCursor(min(len(prompt), w-1), top+height-1)
}

func (p *pinForm) key(c *console, k *tcell.EventKey) {
	line := &p.typed[p.at]
	switch k.Key() {
	case tcell.KeyEscape:
		c.modal, c.message = nil, "Nothing was done."
	case tcell.KeyBackspace, tcell.KeyBackspace2:
		*line = (*line)[:max(0, len(*line)-1)]
	case tcell.KeyRune:
		if len(*line) < maxSecret {
			*line = append(*line, k.Rune())
		}
	case tcell.KeyEnter:
		if p.at++; p.at < len(p.typed) {
			return
		}
		if string(p.typed[1]) != string(p.typed[2]) {
			p.at, p.typed[1], p.typed[2] = 1, nil, nil
			c.message = "The two new PINs differ: type the new PIN again."
			return
		}
		p.done(access.PINChange{Current: string(p.typed[0]), PIN: string(p.typed[1])})
	}
}
