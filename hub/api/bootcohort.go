package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"gangway/hub/boot"
	"gangway/hub/store"
	"gangway/wire"
)

// A cohort is a group of devices that have the same model and measured the same value for a part of
// the boot, such as the same boot loader. These constants bound the answers about cohorts. They
// also bound the number of rows that the hub reads for an answer.
const (
	listedCohorts  = 100
	listedBad      = 60 // cohorts with the fewest changed devices, and as many cohorts with the most changed devices
	listedRare     = 20 // cohorts for each part of the boot; the hub looks for outliers among them
	listedMembers  = 200
	listedVersions = 20
	sampledMembers = 3 // nicks in each of the first sampledCohorts cohorts of a list
	sampledCohorts = 20
)

// A cohort is an outlier if its model has at least outlierOf measured devices, and at most
// 1/outlierIn of these devices are in the cohort.
const (
	outlierOf = 10
	outlierIn = 20
)

// CohortView counts the devices with the same model that measured the same value for a part of the
// boot, such as the same boot loader.
type CohortView struct {
	Part     string    `json:"part"`
	Value    string    `json:"value"`
	Model    string    `json:"model"`
	Devices  int       `json:"devices"`
	Bad      int       `json:"changed"` // devices on which the part is neither expected nor known
	Of       int       `json:"of"`      // measured devices of the model
	First    time.Time `json:"first"`   // when a device first measured the value
	Outlier  bool      `json:"outlier"`
	Cause    string    `json:"cause,omitempty"`    // one of the constants boot.Cause...
	Words    string    `json:"words"`              // a sentence for a person
	Firmware string    `json:"firmware,omitempty"` // the firmware's version, as it was measured
	Nicks    []string  `json:"nicks"`              // nicks of some devices; only in the first 20 cohorts of a list
}

// CohortList has the cohorts that an owner should look at: first the outliers, which have few of a
// model's devices, then the cohorts with many changed devices.
type CohortList struct {
	Items []CohortView `json:"items"`
	More  bool         `json:"more"` // there are more cohorts than the answer has
}

// CohortDetail is a cohort with its devices. It is the preview that a person sees before a decision
// about the cohort.
type CohortDetail struct {
	Part  string `json:"part"`
	Value string `json:"value"`
	Model string `json:"model,omitempty"`
	Token string `json:"token,omitempty"`
	// Firmware is the version of the firmware to which the cohort is limited; empty: all versions.
	Firmware string         `json:"firmware,omitempty"`
	Devices  int            `json:"devices"`
	Bad      int            `json:"changed"`
	Members  []CohortMember `json:"members"` // at most 200
	// Versions counts the model's devices with this value, by the version of their firmware. It has
	// at most 20 versions, the most frequent first. The fields Token and Firmware do not limit this
	// list.
	Versions []FirmwareVersion `json:"versions"`
}

// FirmwareVersion is a version of the firmware, and the number of devices in a cohort with this
// version.
type FirmwareVersion struct {
	Firmware string `json:"firmware"` // as it was measured; empty: not known
	Devices  int    `json:"devices"`
	Bad      int    `json:"changed"`
}

// CohortMember is a device of a cohort.
type CohortMember struct {
	Device string `json:"device"`
	Nick   string `json:"nick"`
	Bad    bool   `json:"changed"`
}

func (s *Server) listCohorts(w http.ResponseWriter, r *http.Request) error {
	part, model := r.URL.Query().Get("part"), r.URL.Query().Get("model")
	if part != "" && !isPart(part) || part == "" && model != "" {
		return errPart
	}
	list, err := s.cohorts(r.Context(), accountOf(r).ID, part, model)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

var errPart = problem(http.StatusBadRequest, "boot-part", "Use firmware, firmware-code, keys, boot-path, system or rest.", "The name of the part of the boot is not valid.")

// cohorts lists the cohorts for the part of the boot that `part` names. If `part` is empty, it
// lists the cohorts that the owner should look at, the outliers first.
func (s *Server) cohorts(ctx context.Context, owner, part, model string) (list CohortList, err error) {
	var rows []store.BootCohort
	if part != "" {
		rows, err = s.cfg.Store.BootCohorts(ctx, owner, part, model, listedCohorts+1)
	} else {
		rows, list.More, err = s.notableCohorts(ctx, owner)
	}
	if err != nil {
		return list, err
	}
	list.More = list.More || len(rows) > listedCohorts
	list.Items = []CohortView{}
	for i, row := range rows[:min(len(rows), listedCohorts)] {
		v := viewCohort(row)
		if i >= sampledCohorts {
			list.Items = append(list.Items, v)
			continue
		}
		members, err := s.cfg.Store.BootMembers(ctx, owner, store.BootMembers{Part: row.Part, Value: row.Value, Model: row.Model, Limit: sampledMembers})
		if err != nil {
			return list, err
		}
		for _, m := range members {
			v.Nicks = append(v.Nicks, m.Nick)
		}
		list.Items = append(list.Items, v)
	}
	return list, nil
}

// notableCohorts returns the outliers, and then the other cohorts with changed devices, those with
// the most changed devices first. An outlier is notable even if the boot of its devices never
// changed: this boot may have been wrong from the start. The result `more` is true if there may be
// other cohorts.
func (s *Server) notableCohorts(ctx context.Context, owner string) (list []store.BootCohort, more bool, err error) {
	var outliers, common []store.BootCohort
	for _, most := range []bool{false, true} {
		bad, err := s.cfg.Store.BadBootCohorts(ctx, owner, most, listedBad)
		if err != nil {
			return nil, false, err
		}
		more = more || len(bad) == listedBad
		for _, c := range bad {
			to := &common
			if isOutlier(c) {
				to = &outliers
			}
			if !slices.Contains(*to, c) {
				*to = append(*to, c)
			}
		}
	}
	for _, part := range []string{boot.FirmwareCode, boot.PartKeys} {
		rare, err := s.cfg.Store.RareBootCohorts(ctx, owner, part, listedRare)
		if err != nil {
			return nil, false, err
		}
		for _, c := range rare {
			if isOutlier(c) && c.Bad == 0 {
				outliers = append(outliers, c)
			}
		}
	}
	slices.SortStableFunc(common, func(a, b store.BootCohort) int { return b.Bad - a.Bad })
	return append(outliers, common...), more, nil
}

func isOutlier(c store.BootCohort) bool {
	return c.Of >= outlierOf && c.Devices*outlierIn <= c.Of
}

func viewCohort(c store.BootCohort) CohortView {
	v := CohortView{Part: c.Part, Value: c.Value, Model: c.Model, Devices: c.Devices, Bad: c.Bad, Of: c.Of, First: c.First.UTC(), Outlier: isOutlier(c), Firmware: c.Firmware, Nicks: []string{}}
	model := c.Model
	if model == "" {
		model = "no model"
	}
	v.Words = fmt.Sprintf("%d of %d measured devices of %s have this value of %s. The value was first measured on %s.", c.Devices, c.Of, model, partWords(c.Part), c.First.UTC().Format("2 January 2006"))
	if c.Bad > 0 {
		v.Cause = c.Cause
		v.Words += " " + c.Words
	}
	return v
}

// partWords describes a part of the boot for use in the middle of a sentence, such as "the boot
// loader".
func partWords(name string) string {
	if name == boot.FirmwareCode {
		return "the firmware's code"
	}
	p, _ := boot.PartNamed(name)
	return p.Words
}

func (s *Server) showCohort(w http.ResponseWriter, r *http.Request) error {
	v, err := s.cohort(r.Context(), accountOf(r).ID, cohortIn(r))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, v)
	return nil
}

// cohortIn returns the cohort that the URL of a preview names.
func cohortIn(r *http.Request) store.BootMembers {
	q := r.URL.Query()
	return store.BootMembers{Part: r.PathValue("part"), Value: r.PathValue("value"), Model: q.Get("model"), Token: q.Get("token"), Firmware: q.Get("firmware")}
}

// cohort returns a cohort with its devices. A person sees this preview before a decision about the
// cohort.
func (s *Server) cohort(ctx context.Context, owner string, q store.BootMembers) (v CohortDetail, err error) {
	if _, ok := hashNamed(q.Value); !ok || !isPart(q.Part) {
		return v, store.ErrNotFound
	}
	v = CohortDetail{Part: q.Part, Value: q.Value, Model: q.Model, Token: q.Token, Firmware: q.Firmware, Members: []CohortMember{}, Versions: []FirmwareVersion{}}
	q.Limit = listedMembers
	if q.Token != "" {
		q.Limit = maxTokenCohort
	}
	members, err := s.cfg.Store.BootMembers(ctx, owner, q)
	if err != nil {
		return v, err
	}
	for _, m := range members[:min(len(members), listedMembers)] {
		v.Members = append(v.Members, CohortMember(m))
	}
	if v.Devices, v.Bad, err = s.countCohort(ctx, owner, q, members); err != nil {
		return v, err
	}
	if v.Devices == 0 {
		return v, store.ErrNotFound
	}
	q.Limit = listedVersions
	versions, err := s.cfg.Store.BootVersions(ctx, owner, q)
	for _, one := range versions {
		v.Versions = append(v.Versions, FirmwareVersion(one))
	}
	return v, err
}

// countCohort returns the number of devices in a cohort, and how many of them have a changed part
// of the boot. If the cohort is limited to a join token, countCohort reads and counts the devices,
// because the store has no counters for join tokens.
func (s *Server) countCohort(ctx context.Context, owner string, q store.BootMembers, members []store.BootMember) (devices, bad int, err error) {
	if q.Token == "" {
		c, err := s.cfg.Store.BootCohortOf(ctx, owner, q)
		return c.Devices, c.Bad, err
	}
	for _, m := range members {
		if m.Bad {
			bad++
		}
	}
	return len(members), bad, nil
}

// maxTokenCohort is the largest number of devices that the hub counts in a cohort that is limited
// to a join token.
const maxTokenCohort = 1000

// BootDecisionView is an owner's decision to accept a measured value for the devices of a cohort.
// The value is that of one part of the boot, such as the boot loader.
type BootDecisionView struct {
	ID    int64  `json:"id"`
	Part  string `json:"part"`
	Value string `json:"value"`
	Model string `json:"model,omitempty"` // empty: all models
	Token string `json:"token,omitempty"` // id of a join token; empty: devices of all tokens
	// Firmware is the version of the firmware, as it was measured; empty: all versions.
	Firmware string    `json:"firmware,omitempty"`
	Made     time.Time `json:"made"`
	By       string    `json:"by"`
	Words    string    `json:"words"`
	Devices  int       `json:"devices"` // number of devices in the cohort at the time of the decision
}

// NewBootDecision is the body of a request to accept a measured value for the devices of a cohort.
// The value is that of one part of the boot, such as the boot loader.
type NewBootDecision struct {
	Part  string `json:"part"`
	Value string `json:"value"`
	Model string `json:"model"`
	Token string `json:"token"`
	// Firmware limits the decision to devices whose firmware has this version, as it was measured.
	Firmware string `json:"firmware"`
	// Devices is the number of devices in the preview. If the cohort has more devices now, the
	// decision fails. If Devices is 0, the hub does not check this.
	Devices int `json:"devices"`
}

func viewDecision(d store.BootDecision) BootDecisionView {
	return BootDecisionView{ID: d.ID, Part: d.Part, Value: d.Value, Model: d.Model, Token: d.Token, Firmware: d.Firmware, Made: d.Made.UTC(), By: d.MadeBy, Words: d.Words, Devices: d.Devices}
}

func (s *Server) listBootDecisions(w http.ResponseWriter, r *http.Request) error {
	rows, err := s.cfg.Store.BootDecisions(r.Context(), accountOf(r).ID)
	if err != nil {
		return err
	}
	list := BootList[BootDecisionView]{Items: []BootDecisionView{}}
	for _, row := range rows {
		list.Items = append(list.Items, viewDecision(row))
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

func (s *Server) addBootDecision(w http.ResponseWriter, r *http.Request) error {
	var body NewBootDecision
	if err := readJSON(r, &body); err != nil {
		return err
	}
	d, err := s.putBootDecision(r, body)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, viewDecision(d))
	return nil
}

// putBootDecision stores the caller's decision to accept a measured value for one part of the boot,
// such as the boot loader. At least one of the caller's devices must have measured this value.
func (s *Server) putBootDecision(r *http.Request, body NewBootDecision) (d store.BootDecision, err error) {
	a := accountOf(r)
	if !isPart(body.Part) {
		return d, errPart
	}
	if body.Token != "" && !wire.IsID(body.Token) {
		return d, store.ErrNotFound
	}
	preview, err := s.cohort(r.Context(), a.ID, store.BootMembers{Part: body.Part, Value: body.Value, Model: body.Model, Token: body.Token, Firmware: body.Firmware})
	if err != nil {
		return d, err
	}
	if body.Devices != 0 && preview.Devices > body.Devices {
		return d, problem(http.StatusConflict, "boot-cohort-grew", "Look at the cohort again, and decide about all its devices.", "The cohort has %d devices now, and had %d in the preview.", preview.Devices, body.Devices)
	}
	d = store.BootDecision{Owner: a.ID, Part: body.Part, Value: body.Value, Model: body.Model, Token: body.Token, Firmware: body.Firmware, Made: s.cfg.Now(), MadeBy: a.Nick, Devices: preview.Devices}
	d.Words = fmt.Sprintf("This value of %s counts as known for %s: %s.", partWords(body.Part), cohortWords(body), counted(preview.Devices, "device"))
	e := s.bootRuleEvent(r, "boot.accepted", "%s accepted a boot for a cohort. %s The value is %s.", a.Nick, d.Words, body.Value)
	d.ID, err = s.cfg.Store.PutBootDecision(r.Context(), d, e)
	switch {
	case errors.Is(err, store.ErrExists):
		return d, problem(http.StatusConflict, "exists", "List the decisions with 'gangway boot decisions'.", "You made this decision already.")
	case errors.Is(err, store.ErrFull):
		return d, problem(http.StatusConflict, "too-many-decisions", "Remove decisions about values that no device has any more.", "The account has %d decisions, which is the maximum.", store.MaxBootDecisions)
	case err != nil:
		return d, err
	}
	return d, s.rulesChanged(r)
}

// cohortWords names the devices that a decision covers.
func cohortWords(d NewBootDecision) string {
	words := "devices"
	if d.Model != "" {
		words += " of " + d.Model
	}
	if d.Firmware != "" {
		words += fmt.Sprintf(" with the firmware version %q", d.Firmware)
	}
	if d.Token != "" {
		words += " that joined with the token " + d.Token
	}
	if words == "devices" {
		return "all devices"
	}
	return words
}

func (s *Server) removeBootDecision(w http.ResponseWriter, r *http.Request) error {
	if err := s.dropBootDecision(r, r.PathValue("id")); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "OK"})
	return nil
}

func (s *Server) dropBootDecision(r *http.Request, name string) error {
	id, err := strconv.ParseInt(name, 10, 64)
	if err != nil {
		return store.ErrNotFound
	}
	e := s.bootRuleEvent(r, "boot.accept-undone", "%s undid decision %d about the boots of a cohort.", accountOf(r).Nick, id)
	if err := s.cfg.Store.DeleteBootDecision(r.Context(), accountOf(r).ID, id, e); err != nil {
		return err
	}
	return s.rulesChanged(r)
}
