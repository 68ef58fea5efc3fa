package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"gangway/hub/policy"
	"gangway/hub/store"
	"gangway/hub/ui"
)

const (
	ekListPath = "/ui/trust/eks"
	// ekRows is the number of lines on a page. The page counts at most ekCounted lines.
	ekRows, ekCounted = 50, 10_000
	// ekListForm bounds the form that uploads a list, in bytes.
	ekListForm = policy.MaxListSize + 64<<10
)

// showEKListPage serves the page of the EK list.
func (s *Server) showEKListPage(w http.ResponseWriter, r *http.Request) error {
	return s.renderEKList(w, r, http.StatusOK, nil)
}

// renderEKList answers with the page of the EK list. If `change` is not nil, it changes the filled
// page.
func (s *Server) renderEKList(w http.ResponseWriter, r *http.Request, status int, change func(*ui.EKListPage)) error {
	ctx, owner, q := r.Context(), accountOf(r).ID, r.URL.Query()
	p := &ui.EKListPage{Tabs: trustTabs(ekListPath), Query: cutTo(q.Get("q"), 200), CSV: ekListPath + ".csv"}
	n, err := s.cfg.Store.CountEKList(ctx, owner, ekCounted+1)
	if err != nil {
		return err
	}
	p.Count, p.Many = min(n, ekCounted), n > ekCounted
	if p.HubList, err = s.cfg.Store.HasEKList(ctx, store.HubWide); err != nil {
		return err
	}
	if err := s.fillEKList(r, p, owner, q.Get("after")); err != nil {
		return err
	}
	if change != nil {
		change(p)
	}
	return s.renderPage(w, r, status, "eks", ui.Page{Title: "Expected TPMs", Section: ui.SectionTrust, Data: p, Wide: true})
}

// fillEKList fills in the lines of the list. If there is a search, it fills in only lines with a
// hash or serial number that begins with the digits of the search.
func (s *Server) fillEKList(r *http.Request, p *ui.EKListPage, owner, after string) error {
	prefix := hexDigits(p.Query)
	if strings.Trim(prefix, "0123456789abcdef") != "" {
		p.QueryProblem = "Type hexadecimal digits, such as 3fa2."
		return nil
	}
	lines, next, err := s.cfg.Store.EKListPage(r.Context(), owner, prefix, after, ekRows)
	if err != nil {
		return err
	}
	for _, l := range lines {
		e := policy.NewListEntry(l)
		row := ui.EKRow{Value: e.EK, Note: e.Note, Required: l.CertificateRequired}
		if l.Key == nil {
			row.Value, row.Serial = e.Serial, true
		}
		p.Rows = append(p.Rows, row)
	}
	v := url.Values{}
	if p.Query != "" {
		v.Set("q", p.Query)
	}
	if after != "" {
		p.First = ekListPath + "?" + v.Encode()
	}
	if next != "" {
		v.Set("after", next)
		p.Next = ekListPath + "?" + v.Encode()
	}
	return nil
}

// hexDigits returns the hexadecimal digits of a text in lower case, without 0x, colons and white
// space.
func hexDigits(text string) string {
	return strings.NewReplacer(":", "", " ", "", "\t", "").Replace(strings.TrimPrefix(strings.ToLower(strings.TrimSpace(text)), "0x"))
}

// entryOfForm reads one line of the EK list from the form: from its fields, or from the hidden
// field with which a notice undoes a change.
func entryOfForm(r *http.Request) (store.ListedEK, error) {
	e := policy.ListEntry{Note: r.PostForm.Get("note")}
	if undo := r.PostForm.Get(undoField); undo != "" {
		if err := json.Unmarshal([]byte(undo), &e); err != nil {
			return store.ListedEK{}, problem(http.StatusBadRequest, "ek-list-malformed", "Add the line with the form.", "The removed line cannot be read.")
		}
	} else {
		if r.PostForm.Get("required") != "" {
			e.Certificate = policy.CertificateRequired
		}
		if value := cutTo(r.PostForm.Get("value"), 256); r.PostForm.Get("serial") == "" && len(hexDigits(value)) == 64 {
			e.EK = value
		} else {
			e.Serial = value
		}
	}
	text, err := json.Marshal([]policy.ListEntry{e})
	if err != nil {
		return store.ListedEK{}, err
	}
	list, err := policy.ParseEKList(text)
	if err != nil {
		return store.ListedEK{}, problem(http.StatusBadRequest, "ek-list-malformed", "Write the SHA-256 of the EK, 64 digits, or the serial number of its certificate.", "%s.", upperFirst(strings.TrimPrefix(err.Error(), "EK list, entry 1: ")))
	}
	return list[0], nil
}

// addEKOnPage adds a line to the list, or changes the line with the same hash or serial number.
func (s *Server) addEKOnPage(w http.ResponseWriter, r *http.Request) error {
	return s.changeEKOnPage(w, r, false)
}

// removeEKOnPage removes a line from the list.
func (s *Server) removeEKOnPage(w http.ResponseWriter, r *http.Request) error {
	return s.changeEKOnPage(w, r, true)
}

func (s *Server) changeEKOnPage(w http.ResponseWriter, r *http.Request, remove bool) error {
	if err := readForm(r); err != nil {
		return err
	}
	a := accountOf(r)
	l, err := entryOfForm(r)
	if err == nil {
		err = s.cfg.Store.ChangeEKList(r.Context(), a.ID, l, remove, policy.MaxListed)
	}
	if errors.Is(err, store.ErrFull) {
		err = problem(http.StatusConflict, "ek-list-full", "Remove lines that are not needed.", "The EK list has %d lines, which is the maximum.", policy.MaxListed)
	}
	if err != nil {
		text, status, ok := s.formProblem(r, err)
		if !ok || remove {
			return err
		}
		return s.renderEKList(w, r, status, func(p *ui.EKListPage) {
			p.Value, p.Note, p.Required, p.ValueProblem = r.PostForm.Get("value"), r.PostForm.Get("note"), r.PostForm.Get("required") != "", text
		})
	}
	verb, back, said := "added a line to", "/remove", "The line is added."
	if remove {
		verb, back, said = "removed a line from", "/add", "The line is removed."
	}
	s.record(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "ek-list.changed", Owner: a.ID, Message: a.Nick + " " + verb + " the EK list."})
	notice := ui.Notice{Tone: "ok", Text: said}
	if undo, err := json.Marshal(policy.NewListEntry(l)); err == nil && len(undo) <= maxUndo && r.PostForm.Get("no-undo") == "" {
		notice.UndoPath, notice.UndoValue = ekListPath+back, string(undo)
	}
	return s.redirect(w, r, ekListPath, notice)
}

// uploadEKList replaces the list with the list in a file.
func (s *Server) uploadEKList(w http.ResponseWriter, r *http.Request) error {
	again := func(status int, text string) error {
		return s.renderEKList(w, r, status, func(p *ui.EKListPage) { p.UploadProblem = text })
	}
	if err := readFileForm(r); err != nil {
		return err
	}
	f, _, err := r.FormFile("list")
	if err != nil {
		return again(http.StatusBadRequest, "Choose a file.")
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return badBody(err)
	}
	list, err := policy.ParseEKList(text)
	if err != nil {
		return again(http.StatusBadRequest, upperFirst(err.Error())+". The list did not change.")
	}
	has, err := s.cfg.Store.HasEKList(r.Context(), accountOf(r).ID)
	if err != nil {
		return err
	}
	if has && r.PostFormValue("replace") == "" {
		return again(http.StatusConflict, "You already have an EK list. Select the checkbox to replace the list, and choose the file again.")
	}
	if err := s.storeEKList(r, list, "changed"); err != nil {
		return err
	}
	said := fmt.Sprintf("%s on the EK list now. The hub refuses other TPMs.", upperFirst(counted(len(list), "TPM"))+map[bool]string{true: " is", false: " are"}[len(list) == 1])
	n := 0
	for _, l := range list {
		if l.Key != nil && !l.CertificateRequired {
			n++
		}
	}
	if n > 0 {
		said += fmt.Sprintf(" %s also approve a TPM that has no trusted certificate.", upperFirst(counted(n, "line")))
	}
	return s.redirect(w, r, ekListPath, ui.Notice{Tone: "ok", Text: said})
}

// clearEKList removes the whole list, if the person typed the nick of their account.
func (s *Server) clearEKList(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	if r.PostForm.Get("confirm") != accountOf(r).Nick {
		return s.renderEKList(w, r, http.StatusBadRequest, func(p *ui.EKListPage) { p.ConfirmProblem = "This is not your nick. The list did not change." })
	}
	if err := s.storeEKList(r, nil, "removed"); err != nil {
		return err
	}
	return s.redirect(w, r, ekListPath, ui.Notice{Tone: "ok", Text: "The EK list is removed. Only the policy decides which TPMs the hub accepts."})
}

// exportEKList writes the whole list as CSV, in the form that uploadEKList accepts.
func (s *Server) exportEKList(w http.ResponseWriter, r *http.Request) error {
	owner, after := accountOf(r).ID, ""
	head := []string{"ek_sha256", "serial", "note", "certificate"}
	return exportAll(s, w, r, csvExporter("ek-list.csv", head, func(l *store.ListedEK) []string {
		e := policy.NewListEntry(*l)
		return []string{e.EK, e.Serial, e.Note, e.Certificate}
	}), func() ([]store.ListedEK, bool, error) {
		lines, next, err := s.cfg.Store.EKListPage(r.Context(), owner, "", after, exportRows)
		after = next
		return lines, next != "", err
	})
}
