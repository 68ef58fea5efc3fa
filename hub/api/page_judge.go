package api

import (
	"net/http"
	"net/url"
	"time"

	"gangway/hub/ui"
)

const (
	judgePath = "/ui/trust/judge"
	// judgeRows bounds the devices on a page, which lists the devices that the hub would not accept
	// today. To find them, a page judges at most judgeDevices devices, and stops after judgeTime.
	judgeRows, judgeDevices = 50, 500
	judgeStep               = 50
	judgeTime               = 2 * time.Second
)

// showJudge serves the page that judges the stored evidence of an owner's devices again. It changes
// nothing: devices that the hub would not accept stay active until their owner deletes them.
func (s *Server) showJudge(w http.ResponseWriter, r *http.Request) error {
	owner := accountOf(r).ID
	if !s.previews.acquire(owner) {
		return errPreviews
	}
	defer s.previews.release(owner)
	p := &ui.JudgePage{Tabs: trustTabs(judgePath)}
	after, begun := r.URL.Query().Get("after"), time.Now()
	if after != "" {
		p.First = judgePath
	}
	// Each step examines judgeStep devices, and may add a row for each of them. So stop when the
	// page has room for fewer than judgeStep more rows.
	for p.Examined() < judgeDevices && len(p.Rows) <= judgeRows-judgeStep && time.Since(begun) < judgeTime {
		page, err := Rejudge(r.Context(), s.cfg.Store, s.cfg.Onboard, owner, after, judgeStep)
		if err != nil {
			return err
		}
		for _, j := range page.Devices {
			row := ui.JudgedDevice{ID: j.ID, Nick: j.Nick, Code: j.Code, Reason: j.Reason, State: ui.Badge{Tone: "bad", Text: "would be refused"}}
			if j.Outcome == wouldWait {
				row.State = ui.Badge{Tone: "ask", Text: "would wait for you"}
				p.Waiting++
			} else {
				p.Refused++
			}
			p.Rows = append(p.Rows, row)
		}
		p.Accepted += page.Accepted
		p.WithoutTPM += page.WithoutEvidence
		after, p.Next = page.Next, ""
		if after == "" {
			break
		}
		p.Next = judgePath + "?after=" + url.QueryEscape(after)
	}
	return s.renderPage(w, r, http.StatusOK, "judge", ui.Page{Title: "Judge again", Section: ui.SectionTrust, Data: p, Wide: true})
}
