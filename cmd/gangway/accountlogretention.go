package main

import (
	"time"

	"gangway/hub/api"
	"gangway/hub/ui"
	"gangway/internal/span"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// hubsBound is the flag value that stands for the hub's own limit.
const hubsBound = "hub"

func (a *app) accountLogRetention() *cobra.Command {
	var age, size string
	c := &cobra.Command{
		Use: "log-retention", Short: "Show or choose how much of your devices' logs the hub keeps", Args: args(),
		Long: `Log-retention shows how long the hub keeps the log lines of your devices, and how much
of each device's log. With --age or --size, it changes these limits. The hub's operator
sets the bounds ('gangway serve --log-age', '--log-size'), and you can choose less. The
hub removes the lines beyond your choice within an hour.`,
		Example: `  gangway account log-retention
  gangway account log-retention --age 7d --size 1MiB
  gangway account log-retention --age hub`,
		RunE: func(c *cobra.Command, _ []string) error {
			kept, err := call[api.LogRetention](c.Context(), "GET", "/logs/retention", nil)
			if err != nil {
				return err
			}
			if age != "" || size != "" {
				if err := readLogFlags(&kept, age, size); err != nil {
					return err
				}
				// The request has only these two fields. The other fields of LogRetention occur
				// only in answers.
				in := map[string]int64{"max-age": kept.Age, "max-bytes": kept.Bytes}
				if kept, err = call[api.LogRetention](c.Context(), "PUT", "/logs/retention", in); err != nil {
					return err
				}
			}
			return a.printLogRetention(kept)
		},
	}
	f := c.Flags()
	f.StringVar(&age, "age", "", "how long to keep log lines, such as 7d; \"hub\": as long as the hub allows")
	f.StringVar(&size, "size", "", "how many bytes of each device's log to keep, such as 1MiB; \"hub\": as many as the hub allows")
	return c
}

// readLogFlags changes `kept` as the flags say. An empty flag changes nothing.
func readLogFlags(kept *api.LogRetention, age, size string) error {
	switch age {
	case "":
	case hubsBound:
		kept.Age = 0
	default:
		d, err := span.Parse(age)
		if err != nil || d < time.Second {
			return usagef("--age %q is not a duration such as 7d or 12h", age)
		}
		kept.Age = int64(d / time.Second)
	}
	switch size {
	case "":
	case hubsBound:
		kept.Bytes = 0
	default:
		n, err := humanize.ParseBytes(size)
		if err != nil || n == 0 || n > 1<<60 {
			return usagef("--size %q is not a size such as 1MiB", size)
		}
		kept.Bytes = int64(n)
	}
	return nil
}

func (a *app) printLogRetention(kept api.LogRetention) error {
	if done, err := a.json(kept); done {
		return err
	}
	age, size := seconds(kept.HubAge)+" (the hub's bound)", ui.Bytes(uint64(kept.HubBytes))+" (the hub's bound)"
	if kept.Age > 0 && kept.Age < kept.HubAge {
		age = seconds(kept.Age) + " (the hub allows " + seconds(kept.HubAge) + ")"
	}
	if kept.Bytes > 0 && kept.Bytes < kept.HubBytes {
		size = ui.Bytes(uint64(kept.Bytes)) + " (the hub allows " + ui.Bytes(uint64(kept.HubBytes)) + ")"
	}
	a.printf("Log lines are kept for:  %s\nOf each device's log:    %s\n", age, size)
	return nil
}

func seconds(n int64) string { return span.Format(time.Duration(n) * time.Second) }
