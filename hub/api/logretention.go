package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/internal/span"

	"github.com/dustin/go-humanize"
)

// The smallest values that an owner may choose for the age and the size of logs. With smaller
// values, a device's log would not even cover one update of the device.
const (
	MinLogAge   = time.Hour
	MinLogBytes = 64 << 10
)

// DefaultLogAge is the hub's bound of the age of log lines.
const DefaultLogAge = 30 * 24 * time.Hour

// DefaultLogBounds are the hub's bounds of the log of one device.
var DefaultLogBounds = store.LogBounds{Rows: 20_000, Bytes: 8 << 20}

// LogRetention says how much of their devices' logs an owner keeps. In a request, the value 0 for
// Age or Bytes means the hub's bound, and HubAge and HubBytes are ignored.
type LogRetention struct {
	Age      int64 `json:"max-age"`   // seconds
	Bytes    int64 `json:"max-bytes"` // for each device
	HubAge   int64 `json:"hub-max-age"`
	HubBytes int64 `json:"hub-max-bytes"`
}

func (s *Server) viewLogRetention(r store.LogRule) LogRetention {
	return LogRetention{int64(r.Age / time.Second), r.Bytes, int64(s.cfg.LogAge / time.Second), s.cfg.LogBounds.Bytes}
}

func (s *Server) showLogRetention(w http.ResponseWriter, r *http.Request) error {
	rule, err := s.cfg.Store.LogRule(r.Context(), accountOf(r).ID)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, s.viewLogRetention(rule))
	return nil
}

func (s *Server) putLogRetention(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Age   int64 `json:"max-age"`
		Bytes int64 `json:"max-bytes"`
	}
	if err := readJSON(r, &in); err != nil {
		return err
	}
	if err := s.checkLogAge(in.Age); err != nil {
		return err
	}
	if err := s.checkLogBytes(in.Bytes); err != nil {
		return err
	}
	rule := store.LogRule{Owner: accountOf(r).ID, Age: time.Duration(in.Age) * time.Second, Bytes: in.Bytes}
	if err := s.setLogRule(r, rule); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, s.viewLogRetention(rule))
	return nil
}

// checkLogAge refuses an age, in seconds, that the hub does not allow.
func (s *Server) checkLogAge(seconds int64) error {
	if most := int64(s.cfg.LogAge / time.Second); seconds != 0 && (seconds < int64(MinLogAge/time.Second) || seconds > most) {
		return problem(http.StatusBadRequest, "log-retention-bound", "Choose an age within these bounds, or 0 for the hub's bound.", "This hub keeps log lines for at least %s and at most %s.", span.Format(MinLogAge), span.Format(s.cfg.LogAge))
	}
	return nil
}

// checkLogBytes refuses a size that the hub does not allow.
func (s *Server) checkLogBytes(n int64) error {
	if n != 0 && (n < MinLogBytes || n > s.cfg.LogBounds.Bytes) {
		return problem(http.StatusBadRequest, "log-retention-bound", "Choose a size within these bounds, or 0 for the hub's bound.", "This hub keeps at least %s and at most %s of each device's log.", ui.Bytes(MinLogBytes), ui.Bytes(uint64(s.cfg.LogBounds.Bytes)))
	}
	return nil
}

// setLogRule stores the caller's limits for the age and the size of the devices' logs.
func (s *Server) setLogRule(r *http.Request, rule store.LogRule) error {
	a, now := accountOf(r), s.cfg.Now()
	e := store.Event{Time: now, Kind: "logs.retention-changed", Owner: a.ID, Message: a.Nick + " changed how much of the devices' logs is kept: " + logRuleWords(rule) + "."}
	return s.cfg.Store.PutLogRule(r.Context(), rule, e.By(store.ActorIn(r.Context())))
}

// logRuleWords describes for a person how long the hub keeps the logs, and how many bytes of each
// device's log.
func logRuleWords(r store.LogRule) string {
	age, size := "as long as the hub allows", "as many bytes as the hub allows"
	if r.Age > 0 {
		age = "for " + span.Format(r.Age)
	}
	if r.Bytes > 0 {
		size = ui.Bytes(uint64(r.Bytes)) + " of each device"
	}
	return age + ", " + size
}

// rulesAtOnce is how many owners' limits for logs the hub reads with one query.
const rulesAtOnce = 100

// keepOwnersLogs removes the log lines that are older than their owner wants to keep. Each database
// write removes a bounded number of lines.
func (s *Server) keepOwnersLogs(ctx context.Context, now time.Time) error {
	for after := ""; ; {
		rules, err := s.cfg.Store.LogRules(ctx, after, rulesAtOnce)
		if err != nil {
			return err
		}
		for _, rule := range rules {
			if err := s.keepLogsOf(ctx, rule, now); err != nil {
				return fmt.Errorf("logs of the owner %s: %w", rule.Owner, err)
			}
			after = rule.Owner
		}
		if len(rules) < rulesAtOnce {
			return nil
		}
	}
}

func (s *Server) keepLogsOf(ctx context.Context, rule store.LogRule, now time.Time) error {
	age, _ := rule.Within(s.cfg.LogAge, s.cfg.LogBounds)
	for {
		n, err := s.cfg.Store.ExpireOwnerLogs(ctx, rule.Owner, now.Add(-age), 1000)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	for more := true; more; {
		var err error
		if more, err = s.cfg.Store.TrimLogs(ctx, rule.Owner, s.cfg.LogBounds, 1000); err != nil {
			return err
		}
	}
	return nil
}

// setLogRetentionOnPage stores the limits for logs from the form on the settings page.
func (s *Server) setLogRetentionOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	rule := store.LogRule{Owner: accountOf(r).ID}
	age, size := r.PostForm.Get("age"), r.PostForm.Get("size")
	ageProblem, sizeProblem := s.readLogAge(r, age, &rule), s.readLogSize(r, size, &rule)
	if ageProblem != "" || sizeProblem != "" {
		return s.renderSettings(w, r, http.StatusBadRequest, settingsPath, func(p *ui.SettingsPage) {
			l := &p.Account.Logs
			l.Age, l.Size, l.AgeProblem, l.SizeProblem = age, size, ageProblem, sizeProblem
		})
	}
	if err := s.setLogRule(r, rule); err != nil {
		return err
	}
	return s.redirect(w, r, settingsPath, ui.Notice{Tone: "ok", Text: "The log retention is changed. Within an hour, the hub removes the lines that are beyond the new limits."})
}

// readLogAge reads the form's field for the age. If the text is wrong, `said` tells the person what
// is wrong.
func (s *Server) readLogAge(r *http.Request, text string, rule *store.LogRule) (said string) {
	if text == "" {
		return ""
	}
	age, err := span.Parse(text)
	if err != nil {
		return "This age " + err.Error() + "."
	}
	rule.Age = age.Truncate(time.Second)
	if err := s.checkLogAge(int64(rule.Age / time.Second)); err != nil {
		said, _, _ = s.formProblem(r, err)
	}
	return said
}

// readLogSize reads the form's field for the size, as readLogAge does for the age.
func (s *Server) readLogSize(r *http.Request, text string, rule *store.LogRule) (said string) {
	if text == "" {
		return ""
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n > 1<<60 {
		return "This is not a size. Write a number and a unit, such as 512 KiB or 4 MiB."
	}
	rule.Bytes = int64(n)
	if err := s.checkLogBytes(rule.Bytes); err != nil {
		said, _, _ = s.formProblem(r, err)
	}
	return said
}

// fillLogRetention fills in the form for the retention of logs.
func (s *Server) fillLogRetention(r *http.Request, a *ui.SettingsAccount) error {
	rule, err := s.cfg.Store.LogRule(r.Context(), a.ID)
	a.Logs = ui.SettingsLogs{HubAge: span.Format(s.cfg.LogAge), HubSize: ui.Bytes(uint64(s.cfg.LogBounds.Bytes))}
	if rule.Age > 0 {
		a.Logs.Age = span.Format(rule.Age)
	}
	if rule.Bytes > 0 {
		a.Logs.Size = ui.Bytes(uint64(rule.Bytes))
	}
	return err
}
