package count

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"levee"
	"levee/internal/platform/db"
)

// lists are the boards in the memory of a process that counts alone.
type lists struct {
	store *store
	most  int // members of all boards that are kept without changes

	mu   sync.Mutex
	all  map[key]*list // guarded by mu
	held int           // guarded by mu: members in memory
}

// list is one board, whole.
type list struct {
	mu     sync.Mutex
	loaded bool                // guarded by mu
	order  []Entry             // guarded by mu: the highest first
	score  map[string]int64    // guarded by mu
	dirty  map[string]struct{} // guarded by mu: not as in SQL
	replay map[string]replayed // guarded by mu: what changed since a rebuild began
}

// replayed is the changes of one member: a score and what was added to it since.
type replayed struct {
	n   int64
	set bool
}

func (r replayed) and(n int64, set bool) replayed {
	if set {
		return replayed{n, true}
	}
	return replayed{r.n + n, r.set}
}

// on applies the changes to a score.
func (r replayed) on(score int64) int64 {
	if r.set {
		return r.n
	}
	return score + r.n
}

// with calls fn with the board, loaded and locked.
func (l *lists) with(ctx context.Context, k key, most int, fn func(*list) error) error {
	for {
		l.mu.Lock()
		li := l.all[k]
		if li == nil {
			li = &list{score: map[string]int64{}, dirty: map[string]struct{}{}}
			l.all[k] = li
		}
		l.mu.Unlock()
		li.mu.Lock()
		if !li.loaded {
			es, err := l.store.board(ctx, k, 0, most) // others who want this board wait for one load
			if err != nil {
				li.mu.Unlock()
				return err
			}
			for _, e := range es {
				li.score[e.Member] = e.Score
			}
			li.order, li.loaded = es, true
			slices.SortFunc(li.order, byRank) // SQLite and MySQL order bytes alike; this makes it sure
			l.mu.Lock()
			l.held += len(es)
			l.mu.Unlock()
		}
		l.mu.Lock()
		same := l.all[k] == li
		l.mu.Unlock()
		if !same { // it was dropped meanwhile
			li.mu.Unlock()
			continue
		}
		err := fn(li)
		li.mu.Unlock()
		return err
	}
}

func byRank(a, b Entry) int {
	switch {
	case a == b:
		return 0
	case a.higher(b):
		return -1
	}
	return 1
}

// find returns where an entry is or would be.
func (li *list) find(e Entry) (int, bool) { return slices.BinarySearchFunc(li.order, e, byRank) }

// put gives a member a score, and drops the lowest beyond most.
func (li *list) put(member string, score int64, most int) {
	if was, ok := li.score[member]; ok {
		at, _ := li.find(Entry{member, was})
		li.order = slices.Delete(li.order, at, at+1)
	}
	e := Entry{member, score}
	at, _ := li.find(e)
	li.order = slices.Insert(li.order, at, e)
	li.score[member] = score
	li.dirty[member] = struct{}{}
	for len(li.order) > most {
		last := li.order[len(li.order)-1]
		li.order = li.order[:len(li.order)-1]
		delete(li.score, last.Member)
		li.dirty[last.Member] = struct{}{}
	}
}

func (l *lists) change(ctx context.Context, b *Board, name, member string, n int64, set bool) error {
	return l.with(ctx, key{b.kind, name}, b.most, func(li *list) error {
		score := replayed{}.and(n, set).on(li.score[member])
		if err := checkNumber("score", score); err != nil {
			return err
		}
		if li.replay != nil {
			li.replay[member] = li.replay[member].and(n, set)
		}
		li.put(member, score, b.most)
		return nil
	})
}

func (l *lists) top(ctx context.Context, b *Board, name string, offset, n int) (es []Entry, err error) {
	err = l.with(ctx, key{b.kind, name}, b.most, func(li *list) error {
		from := min(offset, len(li.order))
		es = slices.Clone(li.order[from:min(from+n, len(li.order))])
		return nil
	})
	return es, err
}

func (l *lists) rank(ctx context.Context, b *Board, name, member string) (rank int, score int64, ok bool, err error) {
	err = l.with(ctx, key{b.kind, name}, b.most, func(li *list) error {
		if score, ok = li.score[member]; ok {
			rank, _ = li.find(Entry{member, score})
		}
		return nil
	})
	return rank, score, ok, err
}

func (l *lists) rebuild(ctx context.Context, b *Board, name string, walk Walk) (d Drift, err error) {
	k := key{b.kind, name}
	if err := l.with(ctx, k, b.most, func(li *list) error {
		if li.replay != nil {
			return levee.E(levee.CodeConflict, "the board is being rebuilt already")
		}
		li.replay = map[string]replayed{}
		return nil
	}); err != nil {
		return d, err
	}
	truth := map[string]int64{}
	if err = walk(ctx, putInto(truth, b.most)); err == nil {
		err = ctx.Err()
	}
	return d, firstOf(l.with(context.WithoutCancel(ctx), k, b.most, func(li *list) error {
		replay := li.replay
		li.replay = nil
		if err != nil {
			return err
		}
		for member, r := range replay {
			truth[member] = r.on(truth[member])
		}
		es := highest(truth, b.most)
		d = drift(es, func(member string) (int64, bool) { s, ok := li.score[member]; return s, ok }, len(li.order))
		for _, e := range li.order {
			li.dirty[e.Member] = struct{}{}
		}
		li.order, li.score = es, map[string]int64{}
		for _, e := range es {
			li.score[e.Member] = e.Score
			li.dirty[e.Member] = struct{}{}
		}
		return nil
	}), err)
}

func firstOf(errs ...error) error { return cmp.Or(errs...) }

// putInto returns a put that keeps what may come to the top, and little more.
func putInto(truth map[string]int64, most int) func(string, int64) error {
	return func(member string, score int64) error {
		if err := checkKey("member", member); err != nil {
			return err
		}
		if err := checkNumber("score", score); err != nil {
			return err
		}
		truth[member] = score
		if len(truth) >= 4*most+1000 {
			keep := highest(truth, 2*most)
			clear(truth)
			for _, e := range keep {
				truth[e.Member] = e.Score
			}
		}
		return nil
	}
}

func highest(truth map[string]int64, most int) []Entry {
	es := make([]Entry, 0, len(truth))
	for m, s := range truth {
		es = append(es, Entry{m, s})
	}
	slices.SortFunc(es, byRank)
	return es[:min(most, len(es))]
}

// drift compares a board that was made anew with the one before.
func drift(es []Entry, was func(string) (int64, bool), before int) (d Drift) {
	d.Keys = len(es)
	for _, e := range es {
		s, ok := was(e.Member)
		if ok {
			before--
		}
		if !ok || s != e.Score {
			d.Differ++
			d.Sum += max(e.Score-s, s-e.Score)
		}
	}
	d.Differ += before // members that are gone
	return d
}

// write writes what differs from SQL, as it is: written twice it is the same.
func (l *lists) write(ctx context.Context) error {
	l.mu.Lock()
	keys := make([]key, 0, len(l.all))
	for k := range l.all {
		keys = append(keys, k)
	}
	l.mu.Unlock()
	for _, k := range keys {
		l.mu.Lock()
		li := l.all[k]
		l.mu.Unlock()
		for {
			var ps []place
			li.mu.Lock()
			for m := range li.dirty {
				s, ok := li.score[m]
				ps = append(ps, place{k, m, s, !ok})
				if len(ps) == batchMost {
					break
				}
			}
			li.mu.Unlock()
			if len(ps) == 0 {
				break
			}
			if err := l.store.tx(ctx, "count.board", func(ctx context.Context, tx *db.Tx) error { return l.store.placeTx(ctx, tx, slices.Clone(ps)) }); err != nil {
				return err
			}
			li.mu.Lock()
			for _, p := range ps {
				if s, ok := li.score[p.member]; ok == !p.gone && s == p.score {
					delete(li.dirty, p.member)
				}
			}
			li.mu.Unlock()
			if len(ps) < batchMost {
				break
			}
		}
	}
	l.drop()
	return nil
}

// drop forgets boards that SQL has as they are, in no order, until there is room.
func (l *lists) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = 0
	for k, li := range l.all {
		if li.mu.TryLock() {
			if l.held += len(li.order); l.held > l.most && len(li.dirty) == 0 && li.replay == nil && li.loaded {
				l.held -= len(li.order)
				delete(l.all, k)
			}
			li.mu.Unlock()
		}
	}
}
