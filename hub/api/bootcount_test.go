package api_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"gangway/hub/api"
	"gangway/hub/boot"
	"gangway/hub/store"
	"gangway/internal/brief"
)

// countedStore counts the questions about boots, and the rows of their results. `stale` is the
// largest number of boots that one request judges again.
type countedStore struct {
	api.Store
	questions, rows, stale atomic.Int64
}

func counting[T any](c *countedStore, list []T, err error) ([]T, error) {
	c.questions.Add(1)
	c.rows.Add(int64(len(list)))
	return list, err
}

func (c *countedStore) BadBootCohorts(ctx context.Context, owner string, most bool, limit int) ([]store.BootCohort, error) {
	list, err := c.Store.BadBootCohorts(ctx, owner, most, limit)
	return counting(c, list, err)
}

func (c *countedStore) RareBootCohorts(ctx context.Context, owner, part string, limit int) ([]store.BootCohort, error) {
	list, err := c.Store.RareBootCohorts(ctx, owner, part, limit)
	return counting(c, list, err)
}

func (c *countedStore) BootCohorts(ctx context.Context, owner, part, model string, limit int) ([]store.BootCohort, error) {
	list, err := c.Store.BootCohorts(ctx, owner, part, model, limit)
	return counting(c, list, err)
}

func (c *countedStore) BootMembers(ctx context.Context, owner string, q store.BootMembers) ([]store.BootMember, error) {
	list, err := c.Store.BootMembers(ctx, owner, q)
	return counting(c, list, err)
}

func (c *countedStore) StaleBoots(ctx context.Context, owner string, limit int) ([]string, error) {
	if owner != "" { // not the sweep
		c.stale.Store(max(c.stale.Load(), int64(limit)))
	}
	list, err := c.Store.StaleBoots(ctx, owner, limit)
	return counting(c, list, err)
}

// The work for an answer does not grow with the number of devices that have a value.
func TestAnswersAboutCohortsTouchBoundedRows(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("writes 450 boots; TestCohortQuestionsTouchBoundedRows checks the store's questions")
	}
	counts := &countedStore{}
	s := newSceneWith(t, func(c *api.Config) {
		counts.Store = c.Store
		c.Store = counts
	})
	s.Server.Unlimited()
	s.Policy(t, store.HubWide, "version: 1\nwithout_tpm: accept\n")
	ada := s.person(t, "ada")
	const listed, previewed = 24, 2 // questions: two of bad cohorts, two of rare ones, and members of at most 20
	for _, fleet := range []int{30, 420} {
		shared, outlier := s.cohortsOf(t, ada, fleet)
		var list api.CohortList
		for _, answer := range []struct {
			what            string
			ask             func()
			questions, rows int64
		}{
			{"list", func() { list = want[api.CohortList](ada, "GET", "/boots/cohorts", nil, 200) }, listed, 2*60 + 2*20 + 20*3},
			{"values of a part", func() { want[api.CohortList](ada, "GET", "/boots/cohorts?part="+boot.FirmwareCode, nil, 200) }, 21, 101 + 20*3},
			{"preview", func() {
				want[api.CohortDetail](ada, "GET", "/boots/cohorts/"+boot.FirmwareCode+"/"+shared, nil, 200)
			}, previewed, 200},
			{"decision", func() {
				made := want[api.BootDecisionView](ada, "POST", "/boots/decisions", api.NewBootDecision{Part: boot.FirmwareCode, Value: shared}, 200)
				want[any](ada, "DELETE", fmt.Sprint("/boots/decisions/", made.ID), nil, 200)
			}, 2 * (previewed + 1), 200 + 2*20},
		} {
			counts.questions.Store(0)
			counts.rows.Store(0)
			answer.ask()
			questions, rows := counts.questions.Load(), counts.rows.Load()
			if questions == 0 || questions > answer.questions || rows > answer.rows {
				t.Errorf("%s of %d devices: %d questions, %d rows", answer.what, fleet, questions, rows)
			}
		}
		if len(list.Items) == 0 || list.Items[0].Value != outlier || !list.Items[0].Outlier {
			t.Errorf("the outlier is not the first: %s", brief.Of(list))
		}
	}
	if stale := counts.stale.Load(); stale == 0 || stale > 20 {
		t.Errorf("a decision judges up to %d boots before its answer", stale)
	}
}
