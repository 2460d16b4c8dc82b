package count

import (
	"context"
	"sync"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// book is changes that this process itself holds until they are in SQL: the driver without Redis, and what takes changes while Redis
// is away. They are written in numbered batches; one whose answer was lost is written again under its number, which SQL knows.
type book struct {
	store   *store
	metrics *metrics
	most    int

	mu      sync.Mutex
	entries map[key]*entry        // guarded by mu
	dirty   map[key]struct{}      // guarded by mu: with pending changes
	batch   []change              // guarded by mu: being written
	number  int64                 // guarded by mu: of the batch
	turn    int64                 // guarded by mu: rises with every change
	gen     int64                 // guarded by mu: rises when SQL may differ from what was read before
	loading map[key]chan struct{} // guarded by mu: are being read from SQL
	// told, if set, makes others follow what was written.
	told func(tx *db.Tx, keys []key)
}

// entry is one total: base + writing + pending, where base is known.
type entry struct {
	base             int64
	known            bool
	pending, writing int64
	v                int64
}

func newBook(s *store, most int, m *metrics) *book {
	return &book{store: s, metrics: m, most: most, entries: map[key]*entry{}, dirty: map[key]struct{}{}, loading: map[key]chan struct{}{}}
}

func (b *book) add(_ context.Context, k key, n int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, err := b.entry(k)
	if err != nil {
		return err
	}
	b.change(k, e, n)
	return nil
}

// change is called with mu held.
func (b *book) change(k key, e *entry, n int64) {
	e.pending += n
	b.turn++
	e.v = b.turn
	b.dirty[k] = struct{}{}
}

// entry returns a key's entry, and makes one. The caller holds mu.
func (b *book) entry(k key) (*entry, error) {
	if e := b.entries[k]; e != nil {
		return e, nil
	}
	if len(b.entries) >= b.most {
		free := b.most/16 + 1
		for k, e := range b.entries { // in no order
			if e.pending == 0 && e.writing == 0 {
				delete(b.entries, k)
				if free--; free == 0 {
					break
				}
			}
		}
		if len(b.entries) >= b.most {
			return nil, levee.E(levee.CodeUnavailable, "too many counts wait to be written").After(time.Second)
		}
	}
	b.turn++
	e := &entry{v: b.turn}
	b.entries[k] = e
	return e, nil
}

func (b *book) set(ctx context.Context, k key, n int64) error {
	for {
		if _, err := b.get(ctx, k.kind, []string{k.name}); err != nil {
			return err
		}
		b.mu.Lock()
		if e := b.entries[k]; e != nil && e.known {
			b.change(k, e, n-e.base-e.writing-e.pending)
			b.mu.Unlock()
			return nil
		}
		b.mu.Unlock()
	}
}

func (b *book) get(ctx context.Context, kind string, names []string) (map[string]int64, error) {
	found, err := b.exact(ctx, kind, names)
	out := make(map[string]int64, len(found))
	for n, e := range found {
		out[n] = e.total
	}
	return out, err
}

func (b *book) exact(ctx context.Context, kind string, names []string) (map[string]exact, error) {
	for {
		b.mu.Lock()
		out := make(map[string]exact, len(names))
		var miss []string
		for _, n := range names {
			if e := b.entries[key{kind, n}]; e != nil && e.known {
				out[n] = exact{e.base + e.writing + e.pending, mark{v: e.v}}
			} else {
				miss = append(miss, n)
			}
		}
		gen := b.gen
		var others, mine chan struct{}
		for _, n := range miss {
			if ch := b.loading[key{kind, n}]; ch != nil {
				others = ch
			}
		}
		if others == nil && len(miss) > 0 {
			mine = make(chan struct{})
			for _, n := range miss {
				b.loading[key{kind, n}] = mine
			}
		}
		b.mu.Unlock()
		if len(miss) == 0 {
			return out, nil
		}
		if others != nil {
			select {
			case <-others:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		rows, err := b.store.rows(ctx, kind, miss)
		b.metrics.loads.Add(float64(len(miss)))
		b.mu.Lock()
		for _, n := range miss {
			delete(b.loading, key{kind, n})
		}
		close(mine)
		if err != nil {
			b.mu.Unlock()
			return nil, err
		}
		wait := b.gen != gen // something was committed meanwhile: was it read or not?
		for _, n := range miss {
			k := key{kind, n}
			if e := b.entries[k]; wait || e != nil && e.writing != 0 {
				wait = true
				break
			} else if e == nil {
				if e, err = b.entry(k); err != nil { // the memory is full of changes: not kept
					out[n], err = exact{rows[n].n, mark{v: -1}}, nil
					continue
				}
			}
			e := b.entries[k]
			if !e.known {
				e.base, e.known = rows[n].n, true
			}
			out[n] = exact{e.base + e.writing + e.pending, mark{v: e.v}}
		}
		b.mu.Unlock()
		if !wait {
			return out, nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// joinTx forgets what was read before the commit.
func (b *book) joinTx(tx *db.Tx, keys []key) {
	tx.AtCommit(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.gen++
		for _, k := range keys {
			b.turn++
			if e := b.entries[k]; e != nil {
				e.known, e.v = false, b.turn
			}
		}
	})
}

// own returns what this process holds of keys and SQL has not.
func (b *book) own(kind string, names []string) map[string]int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[string]int64{}
	if len(b.entries) > 0 {
		for _, n := range names {
			if e := b.entries[key{kind, n}]; e != nil {
				out[n] = e.pending + e.writing
			}
		}
	}
	return out
}

// batchMost is the most keys of one transaction: others wait for it on SQLite.
const batchMost = 1024

// write writes all that was held when it was called.
func (b *book) write(ctx context.Context) error {
	b.mu.Lock()
	rounds := 2 + len(b.dirty)/batchMost
	b.mu.Unlock()
	for range rounds {
		b.mu.Lock()
		b.metrics.waiting.Set(float64(len(b.dirty) + len(b.batch)))
		if b.batch == nil {
			for k := range b.dirty {
				e := b.entries[k]
				if delete(b.dirty, k); e != nil && e.pending != 0 {
					e.writing, e.pending = e.pending, 0
					b.batch = append(b.batch, change{k, e.writing})
				}
				if len(b.batch) == batchMost {
					break
				}
			}
			b.number++
		}
		batch, number := b.batch, b.number
		b.mu.Unlock()
		if len(batch) == 0 {
			return nil
		}
		err := b.store.batch(ctx, number, batch, func(tx *db.Tx) {
			tx.AtCommit(func() { b.done(number) })
			if b.told != nil {
				keys := make([]key, len(batch))
				for i, c := range batch {
					keys[i] = c.key
				}
				b.told(tx, keys)
			}
		})
		if err != nil {
			return err // the same batch again the next time
		}
		b.metrics.written.Add(float64(len(batch)))
	}
	return nil
}

// done notes that the batch is committed.
func (b *book) done(number int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.number != number || b.batch == nil {
		return
	}
	b.gen++
	for _, c := range b.batch {
		e := b.entries[c.key]
		e.base += e.writing
		e.writing = 0
		if !e.known && e.pending == 0 {
			delete(b.entries, c.key)
		}
	}
	b.batch = nil
}
