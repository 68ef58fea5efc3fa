package api_test

import (
	"fmt"
	"testing"

	"gangway/hub/api"
	"gangway/hub/boot"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/race"
)

// The work for an answer about cohorts does not grow with the number of devices that have the same
// value. The counts include the hub's background work, so each bound is a little higher than the
// answer needs.
func TestAnswersAboutCohortsTouchBoundedRows(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("writes 450 boots; TestCohortQuestionsTouchBoundedRows checks the queries of the store")
	}
	s := newScene(t)
	s.Server.Unlimited()
	s.Policy(t, store.HubWide, "version: 1\nwithout_tpm: accept\n")
	ada := s.person(t, "ada")
	const each = 10 // statements and rows of any request: session, account, policy, event
	for _, fleet := range []int{30, 420} {
		shared, outlier := s.cohortsOf(t, ada, fleet)
		var list api.CohortList
		for _, answer := range []struct {
			what             string
			ask              func()
			statements, rows uint64
		}{
			// There are 4 + 20 statements: two for lists of changed cohorts, two for lists of rare
			// cohorts, and one for some devices of each of the first 20 cohorts.
			{"list", func() { list = want[api.CohortList](ada, "GET", "/boots/cohorts", nil, 200) }, 4 + 20, 20},
			{"values of a part", func() { want[api.CohortList](ada, "GET", "/boots/cohorts?part="+boot.FirmwareCode, nil, 200) }, 1 + 20, 20},
			{"preview", func() {
				want[api.CohortDetail](ada, "GET", "/boots/cohorts/"+boot.FirmwareCode+"/"+shared, nil, 200)
			}, 2, 200},
			{"decision", func() {
				made := want[api.BootDecisionView](ada, "POST", "/boots/decisions", api.NewBootDecision{Part: boot.FirmwareCode, Value: shared}, 200)
				want[any](ada, "DELETE", fmt.Sprint("/boots/decisions/", made.ID), nil, 200)
			}, 30, 200 + 10},
		} {
			before := s.Store.Work()
			answer.ask()
			after := s.Store.Work()
			statements, rows := after.Statements-before.Statements, after.Rows-before.Rows
			if statements == 0 || statements > answer.statements+each || rows > answer.rows+each {
				t.Errorf("%s of %d devices: %d statements, %d rows", answer.what, fleet, statements, rows)
			}
			t.Logf("%s of %d devices: %d statements, %d rows", answer.what, fleet, statements, rows)
		}
		if len(list.Items) == 0 || list.Items[0].Value != outlier || !list.Items[0].Outlier {
			t.Errorf("the outlier is not the first: %s", brief.Of(list))
		}
	}
}
