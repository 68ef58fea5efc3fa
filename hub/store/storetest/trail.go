package storetest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"gangway/hub/store"
	"gangway/wire/trail"
)

var trailTests = []test{
	{"TrailIsMadeOnce", trailIsMadeOnce},
	{"StepsAreNumberedWithoutAGap", stepsAreNumberedWithoutAGap},
	{"ConcurrentStepsEachGetANumber", concurrentStepsEachGetANumber},
	{"StateNamesOnlyWhatItsOwnerHas", stateNamesOnlyWhatItsOwnerHas},
	{"FinalStepsStayFinal", finalStepsStayFinal},
	{"StateOfANewRevisionOnly", stateOfANewRevisionOnly},
	{"StepsByStatus", stepsByStatus},
	{"Summaries", summaries},
	{"HeadsComeNewestFirst", headsComeNewestFirst},
	{"PostedRevisionsOfAnOwner", postedRevisionsOfAnOwner},
	{"TrailOfADeletedDeviceGoes", trailOfADeletedDeviceGoes},
}

var objectTests = []test{
	{"RecordsAreTheOwnersAlone", recordsAreTheOwnersAlone},
	{"QuotaIsKept", quotaIsKept},
	{"UnusedRecordsExpire", unusedRecordsExpire},
	{"NeededContentStays", neededContentStays},
	{"UploadsOfOneObject", uploadsOfOneObject},
	{"UploadsRaceWithRemovals", uploadsRaceWithRemovals},
	{"UploadsInParts", uploadsInParts},
}

var logTests = []test{
	{"EntriesComeBackInOrder", entriesComeBackInOrder},
	{"TextIsFoundInMessages", textIsFoundInMessages},
	{"EntriesByFilter", entriesByFilter},
	{"ReadingOnMissesNothing", readingOnMissesNothing},
	{"LogIsBounded", logIsBounded},
	{"OldEntriesExpire", oldEntriesExpire},
	{"OwnersKeepLess", ownersKeepLess},
	{"LogsAreTrimmed", logsAreTrimmed},
}

const plenty = 1 << 40

func (f *fixture) step(device string, objects ...store.Hash) store.Revision {
	return store.Revision{
		Device: device, Owner: f.owner.ID, Rev: -1, Committer: "prn:::accounts:/" + f.owner.ID, CommitMsg: "a change", Status: trail.StatusNew,
		StateSum: Hash("state"), Objects: objects, State: []byte(`{"#spec":"x"}`), Meta: []byte(`{}`), Progress: []byte(`{"status":"NEW"}`),
		Posted: micros(Epoch), Modified: micros(Epoch),
	}
}

func (f *fixture) trail(device string) {
	f.Helper()
	first := f.step(device)
	first.Status = trail.StatusDone
	_, made, err := f.CreateTrail(f.ctx, first, plenty)
	f.must(err)
	if !made {
		f.Fatal("the trail existed already")
	}
}

func (f *fixture) add(s store.Revision) store.Revision {
	f.Helper()
	got, err := f.AddRevision(f.ctx, s, plenty)
	f.must(err)
	return got
}

func (f *fixture) announce(owner, name string, size int64, at time.Time) store.Object {
	f.Helper()
	o, err := f.AnnounceObject(f.ctx, store.Object{Owner: owner, Sum: Hash(name), Size: size, Name: name, MimeType: "text/plain", Created: at, Modified: at}, plenty)
	f.must(err)
	return o
}

func (f *fixture) keep(owner, name string, size int64, at time.Time) store.Hash {
	f.Helper()
	o := f.announce(owner, name, size, at)
	f.uploads(f.begins(owner, o.Sum, at), size, at)
	return o.Sum
}

// The method `begins` begins an upload to a new storage location.
func (f *fixture) begins(owner string, sum store.Hash, at time.Time) store.Upload {
	f.Helper()
	u := store.Upload{Owner: owner, Sum: sum, Place: rand.Text()}
	_, err := f.BeginUpload(f.ctx, u, at)
	f.must(err)
	return u
}

// The method `uploads` finishes an upload. It reports whether the upload's storage location became
// the object's storage location.
func (f *fixture) uploads(u store.Upload, size int64, at time.Time) bool {
	f.Helper()
	used, err := f.FinishUpload(f.ctx, u, "", size, plenty, at)
	f.must(err)
	return used
}

func (f *fixture) placeOf(owner string, sum store.Hash) string {
	f.Helper()
	o, err := f.Object(f.ctx, owner, sum)
	f.must(err)
	return o.Place
}

func trailIsMadeOnce(f *fixture) {
	_, err := f.Trail(f.ctx, ID("raft"))
	f.refused(err, store.ErrNotFound)
	_, err = f.AddRevision(f.ctx, f.step(ID("raft")), plenty)
	f.refused(err, store.ErrNotFound)
	first := f.step(ID("raft"))
	first.Status, first.State = trail.StatusDone, []byte(`{"#spec":"first"}`)
	var wg sync.WaitGroup
	var mu sync.Mutex
	count := 0
	for range 8 {
		wg.Go(func() {
			t, made, err := f.CreateTrail(f.ctx, first, plenty)
			mu.Lock()
			defer mu.Unlock()
			if made {
				count++
			}
			if err != nil || t.Device != first.Device || t.Rev != 0 {
				f.Errorf("%+v, %v", t, err)
			}
		})
	}
	wg.Wait()
	if count != 1 {
		f.Errorf("made %d times", count)
	}
	again := first
	again.State = []byte(`{"#spec":"second"}`)
	_, made, err := f.CreateTrail(f.ctx, again, plenty)
	f.must(err)
	s, err := f.Revision(f.ctx, first.Device, 0)
	f.must(err)
	if made || !bytes.Equal(s.State, first.State) || s.Status != trail.StatusDone {
		f.Errorf("after a second post of the first state: made = %v, and the stored state is %s", made, s.State)
	}
	t, err := f.Trail(f.ctx, first.Device)
	f.must(err)
	equal(f, "trail", t, store.Trail{Device: first.Device, Owner: f.owner.ID, Created: micros(Epoch), Touched: micros(Epoch)})
}

func stepsAreNumberedWithoutAGap(f *fixture) {
	d := ID("raft")
	f.trail(d)
	one := f.step(d)
	one.Rev, one.State, one.Meta, one.CommitMsg = 1, []byte(`{"#spec":"x","a.json":1e2}`), []byte(`{"b":"<"}`), "one"
	equal(f, "answer", f.add(one).Rev, 1)
	for rev, want := range map[int]error{0: store.ErrExists, 1: store.ErrExists, 3: store.ErrGap, 1 << 40: store.ErrGap} {
		s := f.step(d)
		s.Rev = rev
		_, err := f.AddRevision(f.ctx, s, plenty)
		f.refused(err, want)
	}
	equal(f, "next", f.add(f.step(d)).Rev, 2)
	got, err := f.Revision(f.ctx, d, 1)
	f.must(err)
	one.Objects = nil
	equal(f, "stored", got, one)
	got, err = f.Revision(f.ctx, d, -1)
	f.must(err)
	equal(f, "newest", got.Rev, 2)
	_, err = f.Revision(f.ctx, d, 3)
	f.refused(err, store.ErrNotFound)
	_, err = f.Revision(f.ctx, ID("nothing"), -1)
	f.refused(err, store.ErrNotFound)
}

func concurrentStepsEachGetANumber(f *fixture) {
	d := ID("raft")
	f.trail(d)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[int]int{}
	exists := 0
	for i := range 40 {
		wg.Go(func() {
			s := f.step(d)
			if i%2 == 0 {
				s.Rev = 1
			}
			got, err := f.AddRevision(f.ctx, s, plenty)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				seen[got.Rev]++
			case errors.Is(err, store.ErrExists):
				exists++
			default:
				f.Error(err)
			}
		})
	}
	wg.Wait()
	for rev := 1; rev <= len(seen); rev++ {
		if seen[rev] != 1 {
			f.Errorf("revision number %d was assigned %d times", rev, seen[rev])
		}
	}
	if len(seen) < 20 || len(seen)+exists != 40 {
		f.Errorf("%d steps, %d refusals", len(seen), exists)
	}
}

func stateNamesOnlyWhatItsOwnerHas(f *fixture) {
	d := ID("raft")
	f.trail(d)
	mine := f.keep(f.owner.ID, "mine", 10, Epoch)
	theirs := f.keep(f.other.ID, "theirs", 10, Epoch)
	pending := f.announce(f.owner.ID, "pending", 10, Epoch).Sum
	f.announce(f.owner.ID, "theirs", 10, Epoch) // announced, but never uploaded
	var missing *store.MissingObjects
	_, err := f.AddRevision(f.ctx, f.step(d, mine, theirs, pending), plenty)
	if !errors.As(err, &missing) || len(missing.Sums) != 2 {
		f.Fatalf("%v", err)
	}
	first := f.step(ID("other"), theirs)
	if _, _, err := f.CreateTrail(f.ctx, first, plenty); !errors.As(err, &missing) {
		f.Fatal(err)
	}
	s := f.add(f.step(d, mine))
	s.Objects = []store.Hash{theirs}
	if err := f.SetRevisionState(f.ctx, s, plenty); !errors.As(err, &missing) {
		f.Fatal(err)
	}
	list, err := f.RevisionObjects(f.ctx, d, s.Rev)
	f.must(err)
	if len(list) != 1 || list[0].Sum != mine || list[0].Name != "mine" {
		f.Errorf("%+v", list)
	}
	var many []store.Hash
	for i := range 25 {
		many = append(many, Hash(fmt.Sprint(i)))
	}
	_, err = f.AddRevision(f.ctx, f.step(d, many...), plenty)
	if !errors.As(err, &missing) || len(missing.Sums) != 10 || missing.More != 15 {
		f.Error(err)
	}
}

func finalStepsStayFinal(f *fixture) {
	d := ID("raft")
	f.trail(d)
	at := Epoch.Add(time.Minute)
	report := func(rev int, s trail.Status) error {
		return f.SetRevisionProgress(f.ctx, d, rev, s, fmt.Appendf(nil, `{"status":%q,"retries":3}`, s), at)
	}
	open := []trail.Status{trail.StatusQueued, trail.StatusDownloading, trail.StatusSyncing, trail.StatusInProgress, trail.StatusTesting}
	for _, final := range []trail.Status{trail.StatusDone, trail.StatusUpdated, trail.StatusError, trail.StatusWontGo} {
		s := f.add(f.step(d))
		for range 2 { // a device repeats its report after a restart
			for _, o := range open {
				f.must(report(s.Rev, o))
			}
		}
		f.must(report(s.Rev, final))
		f.must(report(s.Rev, final))
		for _, o := range trail.Statuses {
			if o != final {
				f.refused(report(s.Rev, o), store.ErrStatus)
			}
		}
		got, err := f.Revision(f.ctx, d, s.Rev)
		f.must(err)
		if got.Status != final || !bytes.Contains(got.Progress, []byte(`"retries":3`)) || !got.ProgressTime.Equal(micros(at)) {
			f.Errorf("%+v", got)
		}
	}
	s := f.add(f.step(d))
	f.refused(f.ChangeRevisionStatus(f.ctx, d, s.Rev, trail.StatusInProgress, trail.StatusWontGo, []byte(`{}`), at), store.ErrStatus)
	f.must(f.ChangeRevisionStatus(f.ctx, d, s.Rev, trail.StatusNew, trail.StatusCancelled, []byte(`{"status":"CANCEL"}`), at))
	f.refused(report(s.Rev, trail.StatusQueued), store.ErrStatus)
	f.refused(report(99, trail.StatusQueued), store.ErrNotFound)
	f.refused(f.ChangeRevisionStatus(f.ctx, d, 99, trail.StatusNew, trail.StatusCancelled, []byte(`{}`), at), store.ErrNotFound)
}

func stateOfANewRevisionOnly(f *fixture) {
	d := ID("raft")
	f.trail(d)
	a, b := f.keep(f.owner.ID, "a", 10, Epoch), f.keep(f.owner.ID, "b", 10, Epoch)
	s := f.add(f.step(d, a))
	before, err := f.Usage(f.ctx, f.owner.ID)
	f.must(err)
	s.State, s.StateSum, s.Objects, s.Modified = append(s.State, "    "...), Hash("new"), []store.Hash{b}, micros(Epoch.Add(time.Hour))
	f.must(f.SetRevisionState(f.ctx, s, plenty))
	after, err := f.Usage(f.ctx, f.owner.ID)
	f.must(err)
	equal(f, "usage", after-before, 4)
	list, err := f.RevisionObjects(f.ctx, d, s.Rev)
	f.must(err)
	if len(list) != 1 || list[0].Sum != b {
		f.Errorf("%+v", list)
	}
	s.Objects = nil
	got, err := f.Revision(f.ctx, d, s.Rev)
	f.must(err)
	equal(f, "step", got, s)
	f.refused(f.SetRevisionState(f.ctx, s, 1), nil) // a state that is not larger than the previous state fits any quota
	f.must(f.SetRevisionMeta(f.ctx, d, s.Rev, []byte(`{"k":1}`), Epoch))
	f.must(f.SetRevisionProgress(f.ctx, d, s.Rev, trail.StatusQueued, []byte(`{}`), Epoch))
	f.refused(f.SetRevisionState(f.ctx, s, plenty), store.ErrStatus)
	f.must(f.SetRevisionMeta(f.ctx, d, s.Rev, []byte(`{"k":2}`), Epoch))
	got, err = f.Revision(f.ctx, d, s.Rev)
	f.must(err)
	equal(f, "meta", string(got.Meta), `{"k":2}`)
	s.Rev = 99
	f.refused(f.SetRevisionState(f.ctx, s, plenty), store.ErrNotFound)
	f.refused(f.SetRevisionMeta(f.ctx, d, 99, []byte(`{}`), Epoch), store.ErrNotFound)
}

func stepsByStatus(f *fixture) {
	d := ID("raft")
	f.trail(d)
	for range 5 {
		f.add(f.step(d))
	}
	f.must(f.SetRevisionProgress(f.ctx, d, 1, trail.StatusDone, []byte(`{}`), Epoch))
	f.must(f.SetRevisionProgress(f.ctx, d, 2, trail.StatusTesting, []byte(`{}`), Epoch))
	for _, c := range []struct {
		filter store.RevisionFilter
		want   string
	}{
		{store.RevisionFilter{After: -1, Statuses: trail.Statuses}, "[0 1 2 3 4 5]"},
		{store.RevisionFilter{After: 2, Statuses: trail.Statuses}, "[3 4 5]"},
		{store.RevisionFilter{After: -1, Statuses: []trail.Status{trail.StatusNew}}, "[3 4 5]"},
		{store.RevisionFilter{After: -1, Statuses: []trail.Status{trail.StatusNew, trail.StatusTesting}}, "[2 3 4 5]"},
		{store.RevisionFilter{After: -1, Statuses: []trail.Status{trail.StatusNew}, Limit: 1}, "[3]"},
		{store.RevisionFilter{After: -1, Statuses: []trail.Status{trail.StatusDone, trail.StatusTesting}}, "[0 1 2]"},
		{store.RevisionFilter{After: -1, Statuses: trail.Statuses, Bytes: 40}, "[0 1]"},
		{store.RevisionFilter{After: -1}, "[]"},
	} {
		c.filter.Device = d
		list, err := f.Revisions(f.ctx, c.filter)
		f.must(err)
		revs := []int{}
		for _, s := range list {
			revs = append(revs, s.Rev)
		}
		equal(f, fmt.Sprintf("%+v", c.filter), fmt.Sprint(revs), c.want)
	}
	_, err := f.Revisions(f.ctx, store.RevisionFilter{Device: ID("no trail"), After: -1, Statuses: trail.Statuses})
	f.refused(err, store.ErrNotFound)
}

// PostedRevisions lists the revisions of a fleet, newest first, except for those that the devices
// themselves reported.
func postedRevisionsOfAnOwner(f *fixture) {
	f.trail(ID("a"))
	f.trail(ID("b"))
	for range 3 {
		f.add(f.step(ID("a")))
		f.add(f.step(ID("b"))) // all revisions have the same time
	}
	read := func(owner string, limit int) (list []string) {
		f.Helper()
		for after := ""; ; {
			page, err := f.PostedRevisions(f.ctx, owner, after, limit)
			f.must(err)
			for _, r := range page.Rows {
				list = append(list, fmt.Sprint(r.Device[:1], r.Rev, r.Nick))
				if r.State != nil || r.Meta != nil || r.Posted.IsZero() {
					f.Errorf("%+v", r)
				}
			}
			if after = page.Next; after == "" {
				return list
			}
			equal(f, "rows", len(page.Rows), limit)
		}
	}
	all := read(f.owner.ID, 0)
	if len(all) != 6 {
		f.Fatalf("%v", all)
	}
	for _, limit := range []int{1, 2, 3, 6} {
		equal(f, fmt.Sprint("pages of ", limit), read(f.owner.ID, limit), all)
	}
	equal(f, "the other's", len(read(f.other.ID, 0)), 0)
	if _, err := f.PostedRevisions(f.ctx, f.owner.ID, "x", 1); err == nil {
		f.Error("a cursor that the store did not make was accepted")
	}
}

// RevisionHeads lists revisions from the newest to the oldest, in pages, without State and Meta.
func headsComeNewestFirst(f *fixture) {
	d := ID("a")
	f.trail(d)
	for range 5 {
		f.add(f.step(d))
	}
	f.trail(ID("b"))
	f.must(f.SetRevisionProgress(f.ctx, d, 5, trail.StatusTesting, []byte(`{"status":"TESTING"}`), Epoch))
	for _, c := range []struct {
		before, limit int
		want          string
	}{{-1, 0, "[5 4 3 2 1 0]"}, {-1, 2, "[5 4]"}, {4, 2, "[3 2]"}, {1, 2, "[0]"}, {0, 2, "[]"}} {
		list, err := f.RevisionHeads(f.ctx, d, c.before, c.limit)
		f.must(err)
		revs := []int{}
		for _, s := range list {
			revs = append(revs, s.Rev)
			if s.State != nil || s.Meta != nil || s.Device != d || s.StateSum == (store.Hash{}) {
				f.Errorf("%+v", s)
			}
		}
		equal(f, fmt.Sprintf("before %d", c.before), fmt.Sprint(revs), c.want)
	}
	list, err := f.RevisionHeads(f.ctx, d, -1, 1)
	f.must(err)
	if list[0].Status != trail.StatusTesting || string(list[0].Progress) != `{"status":"TESTING"}` {
		f.Errorf("%+v", list[0])
	}
}

// A text search in a device's log ignores case, and no character is a wildcard.
func textIsFoundInMessages(f *fixture) {
	a, b := ID("a"), ID("b")
	f.logged(a, Epoch, "Disk FULL. ", "100% of it. ", "other. ")
	f.logged(b, Epoch, "disk full too. ")
	for text, want := range map[string]string{"": "Disk FULL. 100% of it. other. ", "disk full": "Disk FULL. ", "%": "100% of it. ", "_": "", "nothing": ""} {
		equal(f, text, f.messages(store.LogFilter{Devices: []string{a}, Text: text}), want)
	}
	if _, err := f.Logs(f.ctx, store.LogFilter{Owner: f.owner.ID, Text: "x"}); err == nil {
		f.Errorf("Logs accepted a text search in the logs of all devices")
	}
}

func summaries(f *fixture) {
	for _, d := range []string{"a", "b", "c"} {
		f.trail(ID(d))
		f.add(f.step(ID(d)))
		f.add(f.step(ID(d)))
	}
	at := micros(Epoch.Add(time.Minute))
	f.must(f.SetRevisionProgress(f.ctx, ID("b"), 1, trail.StatusDownloading, []byte(`{"status":"DOWNLOADING"}`), at))
	s, err := f.TrailSummary(f.ctx, ID("b"))
	f.must(err)
	if s.Rev != 2 || s.Reported != 1 || s.Revision.Rev != 1 || s.Revision.Status != trail.StatusDownloading || !s.Touched.Equal(at) || s.Revision.State != nil {
		f.Errorf("%+v", s)
	}
	var seen []string
	for after := ""; ; {
		list, err := f.TrailSummaries(f.ctx, f.owner.ID, after, 2)
		f.must(err)
		if len(list) == 0 {
			break
		}
		for _, s := range list {
			seen = append(seen, s.Device)
			after = s.Device
		}
	}
	if len(seen) != 3 {
		f.Errorf("%v", seen)
	}
	list, err := f.TrailSummaries(f.ctx, f.other.ID, "", 0)
	f.must(err)
	equal(f, "of another", len(list), 0)
	_, err = f.TrailSummary(f.ctx, ID("nothing"))
	f.refused(err, store.ErrNotFound)
}

func trailOfADeletedDeviceGoes(f *fixture) {
	gone, stays := f.onboard(Machine{Name: "gone"}, f.token), f.onboard(Machine{Name: "stays"}, f.token)
	sum := f.keep(f.owner.ID, "used", 10, Epoch)
	before, err := f.Usage(f.ctx, f.owner.ID)
	f.must(err)
	for _, d := range []store.Device{gone, stays} {
		f.trail(d.ID)
		f.add(f.step(d.ID, sum))
		f.must(f.AppendLogs(f.ctx, d.ID, f.owner.ID, []store.LogEntry{{Message: "m"}}, store.LogBounds{Rows: 10, Bytes: 1000}, Epoch))
	}
	both, err := f.Usage(f.ctx, f.owner.ID)
	f.must(err)
	n, err := f.RemoveDeletedTrails(f.ctx, 10)
	f.must(err)
	equal(f, "dropped", n, 0)
	f.must(f.DeleteDevice(f.ctx, f.owner.ID, gone.ID, Epoch))
	n, err = f.RemoveDeletedTrails(f.ctx, 10)
	f.must(err)
	equal(f, "dropped", n, 1)
	n, err = f.RemoveDeletedTrails(f.ctx, 10)
	f.must(err)
	equal(f, "dropped again", n, 0)
	_, err = f.Trail(f.ctx, gone.ID)
	f.refused(err, store.ErrNotFound)
	_, err = f.Revision(f.ctx, gone.ID, 0)
	f.refused(err, store.ErrNotFound)
	_, err = f.Trail(f.ctx, stays.ID)
	f.must(err)
	after, err := f.Usage(f.ctx, f.owner.ID)
	f.must(err)
	equal(f, "usage given back", both-after, after-before)
	logs, err := f.Logs(f.ctx, store.LogFilter{Owner: f.owner.ID})
	f.must(err)
	if len(logs) != 1 || logs[0].Device != stays.ID {
		f.Errorf("%+v", logs)
	}
}

func recordsAreTheOwnersAlone(f *fixture) {
	sum := f.keep(f.owner.ID, "secret", 10, Epoch)
	_, err := f.Object(f.ctx, f.other.ID, sum)
	f.refused(err, store.ErrNotFound)
	theirs := store.Upload{Owner: f.other.ID, Sum: sum, Place: rand.Text()}
	_, err = f.FinishUpload(f.ctx, theirs, "", 10, plenty, Epoch)
	f.refused(err, store.ErrNotFound)
	_, err = f.BeginUpload(f.ctx, theirs, Epoch)
	f.refused(err, store.ErrNotFound)
	if o := f.announce(f.other.ID, "secret", 10, Epoch); o.Stored {
		f.Error("the record of an announced object says that the object is stored, although nobody has uploaded it")
	}
	list, err := f.Objects(f.ctx, f.other.ID, nil, 0)
	f.must(err)
	equal(f, "the other's", len(list), 0)
	again := f.announce(f.owner.ID, "secret", 99, Epoch.Add(time.Hour))
	equal(f, "announced again", again, store.Object{Owner: f.owner.ID, Sum: sum, Size: 10, Stored: true, Name: "secret", MimeType: "text/plain", Created: micros(Epoch), Modified: Epoch.Add(time.Hour), Place: again.Place})
	hasContents := func(want bool) {
		f.Helper()
		has, err := f.HasContents(f.ctx)
		f.must(err)
		equal(f, "has contents", has, want)
	}
	hasContents(true)
	got, err := f.Object(f.ctx, f.owner.ID, sum)
	f.must(err)
	again.Modified = micros(again.Modified)
	equal(f, "stored", got, again)
	for i := range 5 {
		f.keep(f.owner.ID, fmt.Sprint(i), 1, Epoch)
	}
	var after *store.Hash
	count := 0
	for {
		list, err := f.Objects(f.ctx, f.owner.ID, after, 4)
		f.must(err)
		if len(list) == 0 {
			break
		}
		count += len(list)
		after = &list[len(list)-1].Sum
	}
	equal(f, "listed", count, 6)
	before, err := f.Usage(f.ctx, f.owner.ID)
	f.must(err)
	place := f.placeOf(f.owner.ID, sum)
	f.must(f.MarkContentLost(f.ctx, sum, rand.Text())) // the object's bytes are at another place
	equal(f, "place", f.placeOf(f.owner.ID, sum), place)
	for range 2 { // the second call does not reduce the usage again
		f.must(f.MarkContentLost(f.ctx, sum, place))
		got, err = f.Object(f.ctx, f.owner.ID, sum)
		f.must(err)
		if got.Stored {
			f.Error("still stored")
		}
		after, err := f.Usage(f.ctx, f.owner.ID)
		f.must(err)
		equal(f, "given back", before-after, got.Size)
	}
	for i := range 5 {
		f.must(f.MarkContentLost(f.ctx, Hash(fmt.Sprint(i)), f.placeOf(f.owner.ID, Hash(fmt.Sprint(i)))))
	}
	hasContents(false)
}

func quotaIsKept(f *fixture) {
	announce := func(name string, size, quota int64) error {
		_, err := f.AnnounceObject(f.ctx, store.Object{Owner: f.owner.ID, Sum: Hash(name), Size: size, Created: Epoch, Modified: Epoch}, quota)
		return err
	}
	finish := func(name string, size, quota int64) error {
		_, err := f.FinishUpload(f.ctx, f.begins(f.owner.ID, Hash(name), Epoch), "", size, quota, Epoch)
		return err
	}
	usage := func() int64 {
		n, err := f.Usage(f.ctx, f.owner.ID)
		f.must(err)
		return n
	}
	f.refused(announce("a", 1000, 1000), store.ErrQuota) // the record of an object also counts against the quota
	f.must(announce("a", 1000, 2000))
	record := usage()
	if record < 1 || record > 1000 {
		f.Fatalf("a record counts %d bytes", record)
	}
	// An announcement without an upload reserves no space.
	f.must(announce("b", 1000, record+record+1000))
	equal(f, "usage of two records", usage(), 2*record)
	f.refused(announce("a", 1001, 2*record+1000), store.ErrQuota)
	f.must(announce("a", 900, 2*record+1000))
	f.must(announce("a", 1000, 2*record+1000))
	f.refused(finish("a", 1000, 2*record+999), store.ErrQuota)
	f.must(finish("a", 1000, 2*record+1000))
	f.must(finish("a", 1000, 0)) // a repeated upload counts once
	equal(f, "usage", usage(), 2*record+1000)
	f.refused(finish("b", 1000, 2*record+1999), store.ErrQuota)
	f.refused(announce("c", 0, 2*record+1000), store.ErrQuota)
	// An attacker announces sizes that are negative or would overflow a sum. AnnounceObject must
	// refuse them all.
	for _, size := range []int64{1<<63 - 1, 1<<63 - 512, 1<<63 - 513, 1 << 62, store.MaxObjectSize + 1, -1, -1 << 63} {
		for _, name := range []string{"b", "d"} {
			f.refused(announce(name, size, 1<<62), store.ErrQuota)
			f.refused(announce(name, size, 1<<63-1), store.ErrQuota)
		}
	}
	f.must(announce("d", store.MaxObjectSize, 1<<62))
	f.refused(announce("e", store.MaxObjectSize, store.MaxObjectSize), store.ErrQuota)
	equal(f, "usage", usage(), 3*record+1000)
	var used int64
	var err error
	f.trail(ID("raft"))
	used, err = f.Usage(f.ctx, f.owner.ID)
	f.must(err)
	_, err = f.AddRevision(f.ctx, f.step(ID("raft")), used)
	f.refused(err, store.ErrQuota)
	_, _, err = f.CreateTrail(f.ctx, f.step(ID("other")), used)
	f.refused(err, store.ErrQuota)
	s := f.add(f.step(ID("raft")))
	used, err = f.Usage(f.ctx, f.owner.ID)
	f.must(err)
	s.State = append(s.State, ' ')
	f.refused(f.SetRevisionState(f.ctx, s, used), store.ErrQuota)
	f.must(f.SetRevisionState(f.ctx, s, used+1))
	other, err := f.Usage(f.ctx, f.other.ID)
	f.must(err)
	equal(f, "the other's usage", other, 0)
}

func unusedRecordsExpire(f *fixture) {
	f.trail(ID("raft"))
	before, err := f.Usage(f.ctx, f.owner.ID)
	f.must(err)
	used := f.keep(f.owner.ID, "used", 10, Epoch)
	f.keep(f.owner.ID, "unused", 10, Epoch)
	f.announce(f.owner.ID, "pending", 10, Epoch)
	f.announce(f.owner.ID, "renewed", 10, Epoch)
	f.announce(f.owner.ID, "renewed", 10, Epoch.Add(3*time.Hour))
	f.add(f.step(ID("raft"), used))
	count := func() int {
		n := 0
		for _, name := range []string{"used", "unused", "pending", "renewed"} {
			if _, err := f.Object(f.ctx, f.owner.ID, Hash(name)); err == nil {
				n++
			}
		}
		return n
	}
	expire := func(pending, unused time.Duration) int {
		n, err := f.ExpireObjects(f.ctx, Epoch.Add(pending), Epoch.Add(unused), 100)
		f.must(err)
		return n
	}
	equal(f, "too early", expire(0, 0), 0)
	equal(f, "pending", expire(time.Hour, 0), 1)
	equal(f, "left", count(), 3)
	equal(f, "unused", expire(time.Hour, time.Hour), 1)
	equal(f, "left", count(), 2)
	equal(f, "used and renewed stay", expire(2*time.Hour, 1000*time.Hour), 0)
	equal(f, "renewed", expire(4*time.Hour, 0), 1)
	after, err := f.Usage(f.ctx, f.owner.ID)
	f.must(err)
	s, err := f.Revision(f.ctx, ID("raft"), 0)
	f.must(err)
	o, err := f.Object(f.ctx, f.owner.ID, used)
	f.must(err)
	// The usage has grown only by one revision and one object.
	if more := after - before; more <= o.Size+int64(len(s.State)) || more > o.Size+1000+2*before {
		f.Errorf("the usage grew by %d", more)
	}
}

func neededContentStays(f *fixture) {
	sum := f.keep(f.owner.ID, "needed", 10, Epoch)
	first := f.placeOf(f.owner.ID, sum)
	unneeded := func(place string) bool {
		f.Helper()
		ok, err := f.RemoveContent(f.ctx, sum, place)
		f.must(err)
		return ok
	}
	expire := func(pending, unused time.Duration) {
		f.Helper()
		n, err := f.ExpireObjects(f.ctx, Epoch.Add(pending), Epoch.Add(unused), 10)
		f.must(err)
		equal(f, "expired records", n, 1)
	}
	if unneeded(first) {
		f.Fatal("the store no longer needs the object's first storage location, although an owner has a record of the object")
	}
	f.announce(f.other.ID, "needed", 10, Epoch.Add(time.Hour))
	expire(time.Minute, time.Minute)
	if unneeded(first) {
		f.Fatal("the store no longer needs the object's first storage location, although an owner may still upload the object")
	}
	expire(2*time.Hour, 0)
	f.announce(f.owner.ID, "needed", 10, Epoch)
	u := f.begins(f.owner.ID, sum, Epoch)
	expire(time.Hour, 0)
	if unneeded(u.Place) {
		f.Fatal("the store no longer needs the storage location of an upload that still runs")
	}
	for range 2 { // the second call comes late, from a hub that was paused
		if !unneeded(first) {
			f.Fatal("the store still needs the object's first storage location, although no owner has a record of the object")
		}
	}
	_, err := f.FinishUpload(f.ctx, u, "", 10, plenty, Epoch)
	f.refused(err, store.ErrNotFound) // the record of the object has expired
	f.keep(f.owner.ID, "needed", 10, Epoch)
	second := f.placeOf(f.owner.ID, sum)
	if second == first {
		f.Fatal("the new upload got a storage location that the store had reported as no longer needed")
	}
	if !unneeded(first) || unneeded(second) {
		f.Error("the store still needs the first storage location, or does not need the second")
	}
}

func uploadsOfOneObject(f *fixture) {
	sum := f.announce(f.owner.ID, "same", 10, Epoch).Sum
	f.announce(f.other.ID, "same", 10, Epoch)
	mine, theirs := f.begins(f.owner.ID, sum, Epoch), f.begins(f.other.ID, sum, Epoch)
	stolen := mine
	stolen.Owner = f.other.ID
	_, err := f.FinishUpload(f.ctx, stolen, "", 10, plenty, Epoch)
	f.refused(err, store.ErrNotFound)
	for range 2 { // the second call is a retry by a hub that did not get the first answer
		if !f.uploads(mine, 10, Epoch) {
			f.Error("the object is not at the storage location of the first upload")
		}
	}
	if f.uploads(theirs, 10, Epoch) {
		f.Error("the second upload replaced the storage location of the first upload")
	}
	for _, owner := range []string{f.owner.ID, f.other.ID} {
		equal(f, "place", f.placeOf(owner, sum), mine.Place)
	}
	again := f.begins(f.other.ID, sum, Epoch)
	if used, err := f.FinishUpload(f.ctx, again, mine.Place, 10, plenty, Epoch); err != nil || !used {
		f.Errorf("the upload does not replace the lost bytes: %v", err)
	}
	equal(f, "place", f.placeOf(f.owner.ID, sum), again.Place)
	wrong := f.begins(f.owner.ID, f.announce(f.owner.ID, "another", 10, Epoch).Sum, Epoch)
	_, err = f.FinishUpload(f.ctx, wrong, "", 11, plenty, Epoch)
	f.refused(err, store.ErrStatus)
	f.must(f.EndUpload(f.ctx, wrong.Place))
	f.must(f.EndUpload(f.ctx, wrong.Place))
	_, err = f.FinishUpload(f.ctx, wrong, "", 10, plenty, Epoch)
	f.refused(err, store.ErrNotFound)
	old, young := f.begins(f.owner.ID, wrong.Sum, Epoch), f.begins(f.owner.ID, wrong.Sum, Epoch.Add(time.Hour))
	list, err := f.ExpiredUploads(f.ctx, Epoch.Add(time.Minute), 10)
	f.must(err)
	equal(f, "expired uploads", list, []store.PartialUpload{{Upload: old}})
	f.uploads(young, 10, Epoch)
}

func uploadsInParts(f *fixture) {
	sum := f.announce(f.owner.ID, "in parts", 1000, Epoch).Sum
	usage := func() int64 {
		f.Helper()
		n, err := f.Usage(f.ctx, f.owner.ID)
		f.must(err)
		return n
	}
	record := usage()
	begin := func(owner string, sum store.Hash, size, quota int64, most int) (store.PartialUpload, error) {
		u := store.PartialUpload{Upload: store.Upload{Owner: owner, Sum: sum, Place: rand.Text()}, Size: size, Token: "t"}
		return u, f.BeginPartial(f.ctx, u, quota, most, Epoch)
	}
	refused := func(owner string, sum store.Hash, size, quota int64, most int, want error) {
		f.Helper()
		_, err := begin(owner, sum, size, quota, most)
		f.refused(err, want)
	}
	partial := func(owner string) store.PartialUpload {
		f.Helper()
		u, _, err := f.Partial(f.ctx, owner, sum)
		f.must(err)
		return u
	}
	equal(f, "no upload", partial(f.owner.ID).Place, "")
	refused(f.other.ID, sum, 1000, plenty, 9, store.ErrNotFound)
	refused(f.owner.ID, sum, 999, plenty, 9, store.ErrStatus)
	refused(f.owner.ID, sum, 1000, record+999, 9, store.ErrQuota)
	refused(f.owner.ID, sum, 1000, plenty, 0, store.ErrTooManyUploads)
	u, err := begin(f.owner.ID, sum, 1000, record+1000, 1)
	f.must(err)
	equal(f, "reserved", usage(), record+1000)
	f.agrees()
	refused(f.owner.ID, sum, 1000, plenty, 9, store.ErrExists)
	more := f.announce(f.owner.ID, "more", 1, Epoch).Sum
	refused(f.owner.ID, more, 1, plenty, 1, store.ErrTooManyUploads)
	record = usage() - 1000 // cost of two records
	// The usage already includes the size of the upload, so an announcement of the same object
	// needs no more room.
	_, err = f.AnnounceObject(f.ctx, store.Object{Owner: f.owner.ID, Sum: sum, Size: 1000, Created: Epoch, Modified: Epoch}, record+1000)
	f.must(err)

	_, _, err = f.Partial(f.ctx, f.other.ID, sum)
	f.refused(err, store.ErrNotFound)
	f.announce(f.other.ID, "in parts", 1000, Epoch)
	equal(f, "the other's", partial(f.other.ID).Place, "")
	later := Epoch.Add(time.Hour)
	f.refused(f.AdvancePartial(f.ctx, u.Place, 100, 200, later), store.ErrStatus)
	f.must(f.AdvancePartial(f.ctx, u.Place, 0, 600, later))
	f.refused(f.AdvancePartial(f.ctx, u.Place, 0, 500, later), store.ErrStatus) // sent on the other connection
	u.Received = 600
	equal(f, "upload", partial(f.owner.ID), u)
	list, err := f.ExpiredUploads(f.ctx, later, 9)
	f.must(err)
	equal(f, "expired", len(list), 0)
	list, err = f.ExpiredUploads(f.ctx, later.Add(time.Second), 9)
	f.must(err)
	equal(f, "expired", list, []store.PartialUpload{u})

	used, err := f.FinishUpload(f.ctx, u.Upload, "", 1000, record+1000, later)
	f.must(err)
	if !used {
		f.Error("the place is not used")
	}
	equal(f, "usage", usage(), record+1000)
	equal(f, "no upload", partial(f.owner.ID).Place, "")
	f.refused(f.AdvancePartial(f.ctx, u.Place, 600, 700, later), store.ErrStatus)
	u, err = begin(f.owner.ID, more, 1, plenty, 1)
	f.must(err)
	f.must(f.EndUpload(f.ctx, u.Place))
	equal(f, "usage", usage(), record+1000)
	f.agrees()
}

// Uploads and removals of the same object run concurrently. The hub removes an object's bytes some
// time after it has removed the last record of the object. As long as any record is Stored, the
// bytes must exist.
func uploadsRaceWithRemovals(f *fixture) {
	var mu sync.Mutex
	bytes := map[store.Hash]map[string]bool{} // simulates the folder with the objects' bytes: the places of each object
	var wg sync.WaitGroup
	for i := range 4 {
		sum := Hash(fmt.Sprint("raced ", i))
		mu.Lock()
		bytes[sum] = map[string]bool{}
		mu.Unlock()
		wg.Go(func() { // removes the bytes of objects that are no longer needed
			var late []string
			for range 60 {
				f.ExpireObjects(f.ctx, Epoch.Add(-time.Second), Epoch.Add(time.Second), 100)
				mu.Lock()
				places := slices.Collect(maps.Keys(bytes[sum]))
				for _, place := range late {
					delete(bytes[sum], place)
				}
				mu.Unlock()
				late = nil
				for _, place := range places {
					ok, err := f.RemoveContent(f.ctx, sum, place)
					if err != nil {
						f.Error(err)
					}
					if ok {
						late = append(late, place)
					}
				}
			}
		})
		wg.Go(func() { // uploads the objects
			for range 60 {
				f.AnnounceObject(f.ctx, store.Object{Owner: f.owner.ID, Sum: sum, Size: 1, Created: Epoch, Modified: Epoch}, plenty)
				u := store.Upload{Owner: f.owner.ID, Sum: sum, Place: rand.Text()}
				if _, err := f.BeginUpload(f.ctx, u, Epoch); err != nil {
					continue
				}
				mu.Lock()
				bytes[sum][u.Place] = true
				mu.Unlock()
				f.FinishUpload(f.ctx, u, "", 1, plenty, Epoch)
			}
		})
	}
	wg.Wait()
	for i := range 4 {
		sum := Hash(fmt.Sprint("raced ", i))
		if o, err := f.Object(f.ctx, f.owner.ID, sum); err == nil && o.Stored && !bytes[sum][o.Place] {
			f.Errorf("the record of object %d says that the object is stored, but its bytes are gone", i)
		}
	}
}

func (f *fixture) logged(device string, at time.Time, messages ...string) {
	f.Helper()
	var list []store.LogEntry
	for i, m := range messages {
		list = append(list, store.LogEntry{Sec: 7, Nano: int64(i), Level: "INFO", Source: "test", Platform: "linux", Rev: "3", Message: m})
	}
	f.must(f.AppendLogs(f.ctx, device, f.owner.ID, list, store.LogBounds{Rows: 1000, Bytes: 1 << 20}, at))
}

func (f *fixture) messages(filter store.LogFilter) string {
	f.Helper()
	if filter.Owner == "" {
		filter.Owner = f.owner.ID
	}
	list, err := f.Logs(f.ctx, filter)
	f.must(err)
	text := ""
	for _, e := range list {
		text += e.Message
	}
	return text
}

func entriesComeBackInOrder(f *fixture) {
	a, b := ID("a"), ID("b")
	f.logged(a, Epoch, "1", "2")
	f.logged(b, Epoch.Add(time.Second), "3")
	f.logged(a, Epoch.Add(-time.Second), "4") // the hub's clock was set back
	f.logged(b, Epoch.Add(2*time.Second), "5", "6")
	list, err := f.Logs(f.ctx, store.LogFilter{Owner: f.owner.ID, Limit: 1})
	f.must(err)
	e := list[0]
	e.Seq = 0
	equal(f, "entry", e, store.LogEntry{Device: a, Owner: f.owner.ID, Created: micros(Epoch), Sec: 7, Level: "INFO", Source: "test", Platform: "linux", Rev: "3", Message: "1"})
	for _, c := range []struct {
		filter store.LogFilter
		want   string
	}{
		{store.LogFilter{}, "123456"},
		{store.LogFilter{NewestFirst: true}, "654321"},
		{store.LogFilter{Devices: []string{a}}, "124"},
		{store.LogFilter{Devices: []string{b}, NewestFirst: true}, "653"},
		{store.LogFilter{Devices: []string{a, b}}, "123456"},
		{store.LogFilter{Devices: []string{a, b}, NewestFirst: true, Limit: 4}, "6543"},
		{store.LogFilter{Limit: 2, Skip: 1}, "23"},
		{store.LogFilter{Limit: 2, Skip: 1, Devices: []string{a}}, "24"},
		{store.LogFilter{Skip: 100}, ""},
		{store.LogFilter{Bytes: 1}, "1"},
		{store.LogFilter{Bytes: 1, Devices: []string{a, b}}, "1"},
		{store.LogFilter{Owner: f.other.ID}, ""},
		{store.LogFilter{Owner: f.other.ID, Devices: []string{a}}, ""},
	} {
		equal(f, fmt.Sprintf("%+v", c.filter), f.messages(c.filter), c.want)
	}
}

func entriesByFilter(f *fixture) {
	d := ID("a")
	bounds := store.LogBounds{Rows: 100, Bytes: 1 << 20}
	for i, e := range []store.LogEntry{
		{Level: "INFO", Source: "/pantavisor.log", Platform: "pantavisor", Rev: "1", Message: "1"},
		{Level: "ERROR", Source: "/pantavisor.log", Platform: "app", Rev: "2", Message: "2"},
		{Level: "INFO", Source: "messages", Platform: "app", Rev: "2", Message: "3"},
	} {
		f.must(f.AppendLogs(f.ctx, d, f.owner.ID, []store.LogEntry{e}, bounds, Epoch.Add(time.Duration(i)*time.Second)))
	}
	for _, c := range []struct {
		filter store.LogFilter
		want   string
	}{
		{store.LogFilter{Levels: []string{"ERROR"}}, "2"},
		{store.LogFilter{Levels: []string{"ERROR", "INFO"}}, "123"},
		{store.LogFilter{Sources: []string{"/pantavisor.log"}, Revs: []string{"2"}}, "2"},
		{store.LogFilter{Platforms: []string{"app"}}, "23"},
		{store.LogFilter{Platforms: []string{"'; DROP TABLE logs; --"}}, ""},
		{store.LogFilter{After: Epoch}, "23"},
		{store.LogFilter{Before: Epoch.Add(2 * time.Second)}, "12"},
		{store.LogFilter{After: Epoch, Before: Epoch.Add(2 * time.Second)}, "2"},
	} {
		equal(f, fmt.Sprintf("%+v", c.filter), f.messages(c.filter), c.want)
	}
}

// While devices report log entries, a reader reads page after page. Each page continues after the
// last entry of the previous page. The reader must get each entry exactly once.
func readingOnMissesNothing(f *fixture) {
	const devices, batches = 4, 25
	done := make(chan struct{})
	go func() {
		defer close(done)
		var wg sync.WaitGroup
		for d := range devices {
			wg.Go(func() {
				for i := range batches {
					// The times of the calls go back and forth, as if the hub's clock were set back
					// and forward.
					f.AppendLogs(f.ctx, ID(fmt.Sprint(d)), f.owner.ID, []store.LogEntry{{Message: "x"}, {Message: "y"}},
						store.LogBounds{Rows: 1000, Bytes: 1 << 20}, Epoch.Add(time.Duration(i*7%5)*time.Second))
				}
			})
		}
		wg.Wait()
	}()
	seen := map[int64]bool{}
	var past *store.LogEntry
	for last := false; ; {
		list, err := f.Logs(f.ctx, store.LogFilter{Owner: f.owner.ID, Previous: past, Limit: 7})
		f.must(err)
		for _, e := range list {
			if seen[e.Seq] {
				f.Fatal("twice")
			}
			seen[e.Seq] = true
			past = &e
		}
		if len(list) > 0 {
			continue
		}
		if last {
			break
		}
		select {
		case <-done:
			last = true
		default:
		}
	}
	equal(f, "seen", len(seen), devices*batches*2)
}

func logIsBounded(f *fixture) {
	d := ID("a")
	bounds := store.LogBounds{Rows: 5, Bytes: 10_000}
	write := func(device, m string) {
		f.must(f.AppendLogs(f.ctx, device, f.owner.ID, []store.LogEntry{{Message: m}}, bounds, Epoch))
	}
	write(ID("quiet"), "q")
	for i := range 9 {
		write(d, fmt.Sprint(i))
	}
	equal(f, "the newest five", f.messages(store.LogFilter{Devices: []string{d}}), "45678")
	write(d, string(bytes.Repeat([]byte("L"), 9_900)))
	equal(f, "by bytes", len(f.messages(store.LogFilter{Devices: []string{d}})), 9_900)
	write(d, "s")
	equal(f, "by bytes", len(f.messages(store.LogFilter{Devices: []string{d}})), 1)
	equal(f, "of the quiet one", f.messages(store.LogFilter{Devices: []string{ID("quiet")}}), "q")
	var many []store.LogEntry
	for range 20 {
		many = append(many, store.LogEntry{Message: "m"})
	}
	f.must(f.AppendLogs(f.ctx, d, f.owner.ID, many, bounds, Epoch))
	equal(f, "a large batch", f.messages(store.LogFilter{Devices: []string{d}}), "mmmmm")
	f.must(f.AppendLogs(f.ctx, d, f.owner.ID, nil, bounds, Epoch))
}

func oldEntriesExpire(f *fixture) {
	d := ID("a")
	f.logged(d, Epoch, "1", "2")
	f.logged(d, Epoch, "3")
	f.logged(d, Epoch.Add(time.Hour), "4")
	for _, want := range []int{2, 1, 0} {
		n, err := f.ExpireLogs(f.ctx, Epoch.Add(time.Minute), 1)
		f.must(err)
		equal(f, "expired", n, want)
	}
	equal(f, "left", f.messages(store.LogFilter{}), "4")
	// Expired entries no longer count against the bounds.
	f.must(f.AppendLogs(f.ctx, d, f.owner.ID, []store.LogEntry{{Message: "5"}}, store.LogBounds{Rows: 2, Bytes: 1000}, Epoch.Add(time.Hour)))
	equal(f, "left", f.messages(store.LogFilter{}), "45")
}

// An owner's rule about logs applies only to the logs of the owner's devices.
func ownersKeepLess(f *fixture) {
	other := Account("keeper")
	f.must(f.CreateAccount(f.ctx, other))
	bounds := store.LogBounds{Rows: 100, Bytes: 10_000}
	write := func(device, owner, m string, at time.Time) {
		f.must(f.AppendLogs(f.ctx, device, owner, []store.LogEntry{{Message: m}}, bounds, at))
	}
	rule, err := f.LogRule(f.ctx, f.owner.ID)
	f.must(err)
	equal(f, "no rule", rule, store.LogRule{Owner: f.owner.ID})
	put := func(r store.LogRule, kind string) {
		f.must(f.PutLogRule(f.ctx, r, store.Event{Time: Epoch, Kind: kind, Owner: r.Owner}))
	}
	want := store.LogRule{Owner: f.owner.ID, Age: time.Hour, Bytes: 3 * 65}
	put(want, "logs.test")
	rule, err = f.LogRule(f.ctx, f.owner.ID)
	f.must(err)
	equal(f, "the rule", rule, want)
	list, err := f.Events(f.ctx, store.EventFilter{Kind: "logs.test"})
	f.must(err)
	equal(f, "events", len(list), 1)
	err = f.PutLogRule(f.ctx, store.LogRule{Owner: ID("nobody"), Age: time.Hour}, store.Event{Time: Epoch, Kind: "logs.test"})
	if !errors.Is(err, store.ErrNotFound) {
		f.Errorf("a rule without an account: %v", err)
	}

	// An entry of one byte counts as 65 bytes against LogBounds.Bytes.
	for i := range 5 {
		write(ID("a"), f.owner.ID, fmt.Sprint(i), Epoch.Add(time.Duration(i)*time.Minute))
		write(ID("b"), other.ID, fmt.Sprint(i), Epoch)
	}
	equal(f, "three", f.messages(store.LogFilter{}), "234")
	equal(f, "of the other owner", f.messages(store.LogFilter{Owner: other.ID}), "01234")
	for _, want := range []int{1, 1, 0} {
		n, err := f.ExpireOwnerLogs(f.ctx, f.owner.ID, Epoch.Add(4*time.Minute), 1)
		f.must(err)
		equal(f, "expired", n, want)
	}
	equal(f, "left", f.messages(store.LogFilter{}), "4")
	equal(f, "of the other owner", f.messages(store.LogFilter{Owner: other.ID}), "01234")

	put(store.LogRule{Owner: other.ID, Age: time.Minute}, "logs.test")
	rules, err := f.LogRules(f.ctx, "", 10)
	f.must(err)
	equal(f, "rules", len(rules), 2)
	again, err := f.LogRules(f.ctx, rules[0].Owner, 1)
	f.must(err)
	equal(f, "the second page", again, rules[1:])
	put(store.LogRule{Owner: f.owner.ID}, "logs.test")
	f.must(f.DeleteAccount(f.ctx, other.ID, store.Event{Time: Epoch, Kind: "account.deleted", Owner: other.ID}))
	rules, err = f.LogRules(f.ctx, "", 10)
	f.must(err)
	equal(f, "rules of nobody", len(rules), 0)
}

// After an owner's rule about logs has changed, the logs are trimmed in steps, and no step removes
// more than its limit.
func logsAreTrimmed(f *fixture) {
	const devices, entries = 5, 4
	token := f.newToken("trim", 0)
	bounds := store.LogBounds{Rows: 100, Bytes: 10_000}
	for i := range devices {
		d := f.onboard(Machine{Name: fmt.Sprint(i)}, token)
		for range entries {
			f.must(f.AppendLogs(f.ctx, d.ID, f.owner.ID, []store.LogEntry{{Message: "m"}}, bounds, Epoch))
		}
	}
	more, err := f.TrimLogs(f.ctx, f.owner.ID, bounds, 2)
	f.must(err)
	equal(f, "more without a rule", more, false)
	f.must(f.PutLogRule(f.ctx, store.LogRule{Owner: f.owner.ID, Bytes: 65}, store.Event{Time: Epoch, Kind: "logs.test"}))
	left, steps := devices*entries, 0
	for more := true; more; steps++ {
		more, err = f.TrimLogs(f.ctx, f.owner.ID, bounds, 2)
		f.must(err)
		now := len(f.messages(store.LogFilter{}))
		if now < left-2 || steps > 100 {
			f.Fatalf("after step %d, %d log entries are left, but before the step there were %d", steps, now, left)
		}
		left = now
	}
	equal(f, "left", left, devices)
	// After the trimming, the log of each device has one entry. A new entry replaces it, which
	// shows that the trimming has stored the right usage.
	list, err := f.Devices(f.ctx, f.owner.ID, "", 1)
	f.must(err)
	f.must(f.AppendLogs(f.ctx, list[0].ID, f.owner.ID, []store.LogEntry{{Message: "n"}}, bounds, Epoch))
	equal(f, "of one device", f.messages(store.LogFilter{Devices: []string{list[0].ID}}), "n")
}
