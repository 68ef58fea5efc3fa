package storetest

import (
	"fmt"
	"strings"
	"time"

	"gangway/hub/store"
)

var viewTests = []test{
	{"AreKeptByName", func(f *fixture) {
		quiet := store.SavedView{Owner: f.owner.ID, Name: "Quiet", Query: "q=state%3Aquiet", Created: Epoch}
		all := store.SavedView{Owner: f.owner.ID, Name: "all", Query: "", Created: Epoch}
		f.must(f.PutSavedView(f.ctx, quiet))
		f.must(f.PutSavedView(f.ctx, all))
		f.must(f.PutSavedView(f.ctx, store.SavedView{Owner: f.other.ID, Name: "Quiet", Query: "q=other", Created: Epoch}))
		got, err := f.SavedViews(f.ctx, f.owner.ID)
		f.must(err)
		equal(f, "views", got, []store.SavedView{all, quiet})
		quiet.Name, quiet.Query = "QUIET", "q=is%3Aquiet"
		changed := quiet
		changed.Created = Epoch.Add(time.Hour)
		f.must(f.PutSavedView(f.ctx, changed))
		got, err = f.SavedViews(f.ctx, f.owner.ID)
		f.must(err)
		equal(f, "views after a change", got, []store.SavedView{all, quiet})
		f.must(f.DeleteSavedView(f.ctx, f.owner.ID, "quiet"))
		f.refused(f.DeleteSavedView(f.ctx, f.owner.ID, "quiet"), store.ErrNotFound)
		got, err = f.SavedViews(f.ctx, f.other.ID)
		f.must(err)
		equal(f, "number of the other owner's views", len(got), 1)
	}},
	{"AreBounded", func(f *fixture) {
		for i := range store.MaxSavedViews {
			f.must(f.PutSavedView(f.ctx, store.SavedView{Owner: f.owner.ID, Name: fmt.Sprintf("view %d", i), Created: Epoch}))
		}
		f.refused(f.PutSavedView(f.ctx, store.SavedView{Owner: f.owner.ID, Name: "one more", Created: Epoch}), store.ErrFull)
		f.must(f.PutSavedView(f.ctx, store.SavedView{Owner: f.owner.ID, Name: "VIEW 7", Query: "q=changed", Created: Epoch}))
		f.must(f.PutSavedView(f.ctx, store.SavedView{Owner: f.other.ID, Name: "one more", Created: Epoch}))
		for _, v := range []store.SavedView{{Name: strings.Repeat("n", store.MaxViewName+1)}, {Name: "long", Query: strings.Repeat("q", store.MaxViewQuery+1)}} {
			v.Owner = f.other.ID
			f.refused(f.PutSavedView(f.ctx, v), store.ErrTooLarge)
		}
	}},
	{"EndWithTheirAccount", func(f *fixture) {
		f.must(f.PutSavedView(f.ctx, store.SavedView{Owner: f.other.ID, Name: "all", Created: Epoch}))
		f.must(f.DisableAccount(f.ctx, f.other.ID, store.Event{Time: Epoch, Kind: "account.disabled", Owner: f.other.ID, Message: "Disabled."}))
		f.must(f.DeleteAccount(f.ctx, f.other.ID, store.Event{Time: Epoch, Kind: "account.deleted", Owner: f.other.ID, Message: "Deleted."}))
		got, err := f.SavedViews(f.ctx, f.other.ID)
		f.must(err)
		equal(f, "number of views", len(got), 0)
	}},
	{"TokensThatExpireSoon", func(f *fixture) {
		for i, days := range []int{-1, 3, 1, 20} {
			t := JoinToken(f.other.ID, fmt.Sprintf("token %d", i), 10+i)
			t.Expires = Epoch.AddDate(0, 0, days)
			f.must(f.CreateJoinToken(f.ctx, t))
			if days == 3 {
				off := JoinToken(f.other.ID, "off", 20)
				off.Expires = t.Expires
				f.must(f.CreateJoinToken(f.ctx, off))
				f.must(f.DisableJoinToken(f.ctx, f.other.ID, off.ID))
			}
		}
		got, err := f.JoinTokensExpiring(f.ctx, f.other.ID, Epoch, Epoch.AddDate(0, 0, 7), 10)
		f.must(err)
		var names []string
		for _, t := range got {
			names = append(names, t.Nick)
		}
		equal(f, "tokens", names, []string{"token 2", "token 1"})
		got, err = f.JoinTokensExpiring(f.ctx, f.other.ID, Epoch, Epoch.AddDate(0, 0, 7), 1)
		f.must(err)
		equal(f, "number of tokens", len(got), 1)
	}},
}
