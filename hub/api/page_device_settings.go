package api

import (
	"fmt"
	"net/http"
	"strconv"

	"gangway/hub/store"
	"gangway/hub/ui"
)

// eventsOnTab is how many events the tab "Events" shows.
const eventsOnTab = 50

// fillEvents fills the tab "Events". ?routine=1 adds the counts of frequent events. ?before=N lists
// the events before the event with number N.
func (s *Server) fillEvents(r *http.Request, v *deviceView) error {
	q := r.URL.Query()
	t := &ui.DeviceEvents{Routine: q.Get("routine") != ""}
	f := store.EventFilter{Owner: v.Device.Owner, Device: v.Device.ID, NoRoutine: !t.Routine, Limit: eventsOnTab + 1}
	if before, err := strconv.ParseInt(q.Get("before"), 10, 64); err == nil && before > 0 {
		f.Before = before
	}
	events, err := s.cfg.Store.Events(r.Context(), f)
	if err != nil {
		return err
	}
	routine := ""
	t.Toggle = tabPath(v.Device.ID, tabEvents, "routine", "1")
	if t.Routine {
		routine, t.Toggle = "1", tabPath(v.Device.ID, tabEvents)
	}
	if len(events) > eventsOnTab {
		events = events[:eventsOnTab]
		t.Next = tabPath(v.Device.ID, tabEvents, "routine", routine, "before", strconv.FormatInt(events[len(events)-1].Seq, 10))
	}
	t.Events, v.Events = events, t
	return nil
}

// fillSettings fills the tab "Settings".
func (s *Server) fillSettings(_ *http.Request, v *deviceView) error {
	d := v.Device
	t := &ui.DeviceSettings{Nick: d.Nick, TokenID: d.TokenID, HasTPM: d.Enrolment != (store.Hash{})}
	if t.HasTPM {
		t.Lost = append(t.Lost, "The device's certificates are revoked at once: the hub refuses the device from now on.",
			"The device's TPM becomes free: any owner can onboard the machine as a new device, with a join token.")
	} else {
		t.Lost = append(t.Lost, "The device's secret stops working at once: the hub refuses the device from now on.")
	}
	if v.newest != nil {
		t.Lost = append(t.Lost, fmt.Sprintf("The device's trail with %s is removed. The newest revision has the number %d.", counted(v.newest.Rev+1, "revision"), v.newest.Rev))
	}
	if n := len(d.UserMeta) + len(d.DeviceMeta); n > 0 {
		t.Lost = append(t.Lost, fmt.Sprintf("The device's metadata is deleted: %s in the user-meta, %s in the device-meta.", counted(len(d.UserMeta), "key"), counted(len(d.DeviceMeta), "key")))
	}
	t.Lost = append(t.Lost, "The device's log, boot measurements and boot reference are deleted. The audit trail keeps the device's events.")
	v.Settings = t
	return nil
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return ui.Number(n) + " " + what + "s"
}

// renameOnPage gives a device a new nick.
func (s *Server) renameOnPage(w http.ResponseWriter, r *http.Request) error {
	d, err := s.deviceOfForm(r)
	if err != nil {
		return err
	}
	nick := typedOrUndone(r, "nick")
	if err = error(errNickForm); nickForm().MatchString(nick) {
		err = s.rename(r, d, nick)
	}
	if err != nil {
		text, status, ok := s.formProblem(r, err)
		if !ok {
			return err
		}
		return s.renderDevice(w, r, status, d, tabSettings, func(p *ui.DevicePage) { p.Settings.Nick, p.Settings.NickProblem = nick, text })
	}
	return s.redirect(w, r, tabPath(d.ID, tabSettings), ui.Notice{Tone: "ok", Text: fmt.Sprintf("The device's nick is now %q.", nick),
		UndoPath: devicePath(d.ID) + "/rename", UndoValue: d.Nick})
}

// publishOnPage makes a device public, or private again.
func (s *Server) publishOnPage(w http.ResponseWriter, r *http.Request) error {
	d, err := s.deviceOfForm(r)
	if err != nil {
		return err
	}
	public := typedOrUndone(r, "public") == "yes"
	if err := s.changePublic(r, d, public); err != nil {
		return err
	}
	said, before := "The device is private: only you can read its states.", "no"
	if d.Public {
		before = "yes"
	}
	if public {
		said = "The device is public: every signed-in account can read its states and objects."
	}
	return s.redirect(w, r, tabPath(d.ID, tabSettings), ui.Notice{Tone: "ok", Text: said, UndoPath: devicePath(d.ID) + "/public", UndoValue: before})
}

// deleteOnPage deletes a device, if the person typed its nick.
func (s *Server) deleteOnPage(w http.ResponseWriter, r *http.Request) error {
	d, err := s.deviceOfForm(r)
	if err != nil {
		return err
	}
	if r.PostFormValue("confirm") != ui.Visible(d.Nick) {
		return s.renderDevice(w, r, http.StatusBadRequest, d, tabSettings, func(p *ui.DevicePage) {
			p.Settings.ConfirmProblem = "This is not the nick of the device. The device was not deleted."
		})
	}
	now := s.cfg.Now()
	if err := s.cfg.Store.DeleteDevice(r.Context(), accountOf(r).ID, d.ID, now); err != nil {
		return err
	}
	s.record(r.Context(), deviceDeleted(d, now))
	return s.redirect(w, r, overviewPath, ui.Notice{Tone: "ok", Text: fmt.Sprintf("%s is deleted. Its machine can onboard to any account.", ui.Visible(d.Nick))})
}
