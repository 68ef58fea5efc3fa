package sqlite

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"testing"

	"gangway/hub/store"
	"gangway/hub/store/storetest"
	"gangway/internal/race"

	"golang.org/x/sync/errgroup"
)

// The test has 1,000 devices of 5 models, with 3 firmware versions, and one device has firmware
// that no other device has. The work for a query does not depend on the number of devices in a
// cohort.
func TestCohortQuestionsTouchBoundedRows(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	s, owner := withOwner(t)
	const fleet, outlier = 1000, 777
	if err := s.writer.do(t.Context(), func(c *conn) error {
		_, err := c.Exec(manyOwned, owner.ID, int64(fleet))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var calls errgroup.Group // concurrent calls, so that several writes share one flush to disk
	calls.SetLimit(100)      // a slow machine may refuse calls that wait for seconds
	for i := 1; i <= fleet; i++ {
		calls.Go(func() error {
			_, err := s.PutBoot(t.Context(), bootOf(i, i == outlier), []byte("{}"))
			return err
		})
	}
	if err := calls.Wait(); err != nil {
		t.Fatal(err)
	}
	common := valueOfModel(0, 2)
	ask := map[string]func(ctx context.Context) (int, error){
		"fewest": func(ctx context.Context) (int, error) {
			list, err := s.BadBootCohorts(ctx, owner.ID, false, 60)
			if err == nil && (len(list) == 0 || list[0].Bad != 1 || list[0].Devices != 1) {
				t.Errorf("the outlier is not the first: %+v", list)
			}
			return len(list), err
		},
		"most": func(ctx context.Context) (int, error) {
			list, err := s.BadBootCohorts(ctx, owner.ID, true, 60)
			return len(list), err
		},
		"rare": func(ctx context.Context) (int, error) {
			list, err := s.RareBootCohorts(ctx, owner.ID, "firmware-code", 20)
			return len(list), err
		},
		"all": func(ctx context.Context) (int, error) {
			return count(s.BootCohorts(ctx, owner.ID, "firmware-code", "", 100))
		},
		"of a model": func(ctx context.Context) (int, error) {
			return count(s.BootCohorts(ctx, owner.ID, "firmware-code", "model 0", 100))
		},
		"the numbers": func(ctx context.Context) (int, error) {
			c, err := s.BootCohortOf(ctx, owner.ID, store.BootMembers{Part: "firmware-code", Value: common})
			if err == nil && c.Devices < 60 {
				t.Errorf("%d devices", c.Devices)
			}
			return 1, err
		},
		"members": func(ctx context.Context) (int, error) {
			return count(s.BootMembers(ctx, owner.ID, store.BootMembers{Part: "firmware-code", Value: common, Limit: 3}))
		},
		"members of model": func(ctx context.Context) (int, error) {
			return count(s.BootMembers(ctx, owner.ID, store.BootMembers{Part: "firmware-code", Value: common, Model: "model 0", Limit: 3}))
		},
		"the numbers of a version": func(ctx context.Context) (int, error) {
			c, err := s.BootCohortOf(ctx, owner.ID, store.BootMembers{Part: "firmware-code", Value: common, Firmware: "2"})
			if err == nil && c.Devices < 60 {
				t.Errorf("%d devices", c.Devices)
			}
			return 1, err
		},
		"versions": func(ctx context.Context) (int, error) {
			return count(s.BootVersions(ctx, owner.ID, store.BootMembers{Part: "keys", Value: valueOfModel(0, 0), Model: "model 0", Limit: 20}))
		},
		"members of version": func(ctx context.Context) (int, error) {
			return count(s.BootMembers(ctx, owner.ID, store.BootMembers{Part: "keys", Value: valueOfModel(0, 0), Firmware: "1", Limit: 3}))
		},
		"members of token": func(ctx context.Context) (int, error) {
			return count(s.BootMembers(ctx, owner.ID, store.BootMembers{Part: "keys", Value: valueOfModel(0, 0), Token: "other", Limit: 3}))
		},
		"stale": func(ctx context.Context) (int, error) {
			list, err := s.StaleBoots(ctx, owner.ID, 20)
			return len(list) + 1, err
		},
		"decisions": func(ctx context.Context) (int, error) {
			list, err := s.BootDecisionsFor(ctx, owner.ID, []string{common})
			return len(list) + 1, err
		},
	}
	for name, question := range ask {
		s.steps(t)
		rows, err := question(t.Context())
		if err != nil || rows == 0 {
			t.Errorf("%s: %d rows, %v", name, rows, err)
		}
		// SQLite needs about 60 operations for each row of a result, some of which look up how many
		// devices there are of the model.
		operations, scanned, sorted := s.steps(t)
		if operations > 100+80*int32(rows) || name != "decisions" && scanned > 0 || sorted > 0 {
			t.Errorf("%s: %d operations for %d rows, %d rows scanned, %d sorts", name, operations, rows, scanned, sorted)
		}
	}
}

func count[T any](list []T, err error) (int, error) { return len(list), err }

func valueOfModel(model, firmware int) string {
	sum := sha256.Sum256(fmt.Append(nil, model, firmware))
	return hex.EncodeToString(sum[:])
}

// bootOf returns the newest boot of device number `i`. A boot with firmware version 2, which is
// new, counts as changed. If `outlier` is true, the firmware's code is a version that no other
// device has.
func bootOf(i int, outlier bool) store.Boot {
	model, firmware := i%5, i/5%3
	value, bad := valueOfModel(model, firmware), firmware == 2
	if outlier {
		value, bad = valueOfModel(model, 99), true
	}
	token := "tok"
	if i%100 == 50 {
		token = "other"
	}
	own := valueOfModel(i, -1) // the settings of each machine differ
	return store.Boot{Device: fmt.Sprintf("%024x", i), Time: storetest.Epoch, State: store.BootMatches, Measurement: []byte("{}"), Changes: []byte("[]"),
		Judged: &store.BootJudged{Model: fmt.Sprint("model ", model), Token: token, Firmware: fmt.Sprint(firmware), Parts: []store.BootPart{
			{Part: "firmware", Value: own, Bad: bad}, {Part: "firmware-code", Value: value, Bad: bad, Words: "It changed.", Cause: "firmware-update"}, {Part: "keys", Value: valueOfModel(0, 0)}}}}
}
