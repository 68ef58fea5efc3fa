package cmdline

import (
	"time"

	"gangway/internal/span"

	"github.com/spf13/pflag"
)

type spanValue time.Duration

func (s *spanValue) String() string { return span.Format(time.Duration(*s)) }
func (s *spanValue) Type() string   { return "duration" }

func (s *spanValue) Set(text string) error {
	d, err := span.Parse(text)
	if err == nil {
		*s = spanValue(d)
	}
	return err
}

// SpanVar adds a flag whose value is a duration in the form of span.Parse.
func SpanVar(f *pflag.FlagSet, p *time.Duration, name string, value time.Duration, usage string) {
	*p = value
	f.Var((*spanValue)(p), name, usage)
	if value == 0 {
		f.Lookup(name).DefValue = "" // pflag would print "(default 0s)", as it does not know that 0s is this type's zero
	}
}
