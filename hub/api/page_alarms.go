package api

import (
	"net/http"
	"slices"
	"time"

	"gangway/hub/alarm"
	"gangway/hub/ui"
)

// fillAlarms fills in the alarms: the conditions that the operator must look at now. Alarms contain
// no text from an owner or a device.
func (s *Server) fillAlarms(r *http.Request, p *ui.OperatorPage) error {
	recorded, err := s.cfg.Store.Alarms(r.Context())
	if err != nil {
		return err
	}
	since := map[string]time.Time{}
	for _, a := range recorded {
		since[a.Name] = a.Since
	}
	lasting, unknown := alarm.Check(s.reading(r.Context(), false))
	p.Alarms = &ui.OperatorAlarms{}
	for _, rule := range alarm.Rules {
		row := ui.OperatorAlarm{Name: rule.Name, Title: rule.Title, Remedy: rule.Remedy, Section: rule.Alert, Since: since[rule.Name]}
		i := slices.IndexFunc(lasting, func(c alarm.Condition) bool { return c.Name == rule.Name })
		switch {
		case i >= 0:
			row.State, row.Fact = ui.Badge{Tone: "bad", Text: "needs you"}, lasting[i].Fact
			p.Alarms.Lasting = append(p.Alarms.Lasting, row)
		case slices.Contains(unknown, rule.Name):
			row.State = ui.Badge{Tone: "off", Text: "not known now"}
			p.Alarms.Others = append(p.Alarms.Others, row)
		default:
			row.State = ui.Badge{Tone: "ok", Text: "well"}
			p.Alarms.Others = append(p.Alarms.Others, row)
		}
	}
	return nil
}
