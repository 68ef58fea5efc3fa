package sqlstore

import (
	"context"

	"gangway/hub/store"
)

const (
	insertView  = `INSERT INTO saved_views (owner, name, query, created) VALUES (?, ?, ?, ?) `
	replaceView = `DO UPDATE SET name = excluded.name, query = excluded.query`
)

var (
	selectViews = both(`SELECT owner, name, query, created FROM saved_views WHERE owner = ? ORDER BY name`,
		`SELECT owner, name, query, created FROM saved_views WHERE owner = ? ORDER BY lower(name)`)
	otherViewAt = both(`SELECT 1 FROM saved_views WHERE owner = ? AND name <> ? LIMIT 1 OFFSET ?`,
		`SELECT 1 FROM saved_views WHERE owner = ? AND lower(name) <> lower(? COLLATE "C") LIMIT 1 OFFSET ?`)
	putView  = both(insertView+`ON CONFLICT (owner, name) `+replaceView, insertView+`ON CONFLICT (owner, lower(name)) `+replaceView)
	findView = both(`SELECT 1 FROM saved_views WHERE owner = ? AND name = ?`,
		`SELECT 1 FROM saved_views WHERE owner = ? AND lower(name) = lower(? COLLATE "C")`)
	deleteView = both(`DELETE FROM saved_views WHERE owner = ? AND name = ?`,
		`DELETE FROM saved_views WHERE owner = ? AND lower(name) = lower(? COLLATE "C")`)
)

// SavedViews implements store.SavedViews.
func (s *Store) SavedViews(ctx context.Context, owner string) (views []store.SavedView, err error) {
	err = s.db.Read(ctx, func(c Conn) error {
		views = nil
		return c.Each(selectViews, func(r Row) (bool, error) {
			views = append(views, store.SavedView{Owner: r.text(), Name: r.text(), Query: r.text(), Created: r.time()})
			return true, nil
		}, owner)
	})
	return views, err
}

// PutSavedView implements store.SavedViews.
func (s *Store) PutSavedView(ctx context.Context, v store.SavedView) error {
	if len(v.Name) > store.MaxViewName || len(v.Query) > store.MaxViewQuery {
		return store.ErrTooLarge
	}
	return s.db.Write(ctx, func(c Conn) error {
		if _, full, err := c.One(otherViewAt, v.Owner, v.Name, int64(store.MaxSavedViews-1)); err != nil {
			return err
		} else if full {
			return store.ErrFull
		}
		return c.Do(putView, v.Owner, v.Name, v.Query, micro(v.Created))
	})
}

// DeleteSavedView implements store.SavedViews.
func (s *Store) DeleteSavedView(ctx context.Context, owner, name string) error {
	return s.db.Write(ctx, func(c Conn) error {
		if _, ok, err := c.One(findView, owner, name); err != nil {
			return err
		} else if !ok {
			return store.ErrNotFound
		}
		return c.Do(deleteView, owner, name)
	})
}
