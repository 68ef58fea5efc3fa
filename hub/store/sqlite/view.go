package sqlite

import (
	"context"

	"gangway/hub/store"
)

var (
	selectViews = prepared(`SELECT owner, name, query, created FROM saved_views WHERE owner = ? ORDER BY name`)
	otherViewAt = prepared(`SELECT 1 FROM saved_views WHERE owner = ? AND name <> ? LIMIT 1 OFFSET ?`)
	putView     = prepared(`INSERT INTO saved_views (owner, name, query, created) VALUES (?, ?, ?, ?)
		ON CONFLICT (owner, name) DO UPDATE SET name = excluded.name, query = excluded.query`)
	findView   = prepared(`SELECT 1 FROM saved_views WHERE owner = ? AND name = ?`)
	deleteView = prepared(`DELETE FROM saved_views WHERE owner = ? AND name = ?`)
)

// SavedViews implements store.SavedViews.
func (s *Store) SavedViews(ctx context.Context, owner string) (views []store.SavedView, err error) {
	err = s.readers.do(ctx, func(c *conn) error {
		return c.each(selectViews, func(r row) (bool, error) {
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
	return s.writer.do(ctx, func(c *conn) error {
		if _, full, err := c.one(otherViewAt, v.Owner, v.Name, int64(store.MaxSavedViews-1)); err != nil {
			return err
		} else if full {
			return store.ErrFull
		}
		_, err := c.exec(putView, v.Owner, v.Name, v.Query, micro(v.Created))
		return err
	})
}

// DeleteSavedView implements store.SavedViews.
func (s *Store) DeleteSavedView(ctx context.Context, owner, name string) error {
	return s.writer.do(ctx, func(c *conn) error {
		if _, ok, err := c.one(findView, owner, name); err != nil {
			return err
		} else if !ok {
			return store.ErrNotFound
		}
		_, err := c.exec(deleteView, owner, name)
		return err
	})
}
