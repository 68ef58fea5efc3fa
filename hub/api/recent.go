package api

import (
	"sync"

	"gangway/hub/store"
)

// recent is a cache of the most recently used values, each with a hash as its key. When the cache
// is full, it has between maxYoung and 2*maxYoung values.
type recent[V any] struct {
	mu         sync.Mutex
	young, old map[store.Hash]V // guarded by mu
}

const maxYoung = 32768

func (r *recent[V]) get(h store.Hash) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.young[h]
	if !ok {
		if v, ok = r.old[h]; ok {
			r.add(h, v)
		}
	}
	return v, ok
}

func (r *recent[V]) put(h store.Hash, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(h, v)
}

// add adds a value to `young`. If `young` is full, add first drops the values in `old`, and the
// values in `young` become the old ones. The caller holds r.mu.
func (r *recent[V]) add(h store.Hash, v V) {
	if r.young == nil || len(r.young) >= maxYoung {
		r.young, r.old = map[store.Hash]V{}, r.young
	}
	r.young[h] = v
}
