package cache

import (
	"context"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"levee"
)

// Change is a key and the version that its row has now, at least 1. A row that was made has its first version; one that was deleted
// has the one after its last.
type Change[K comparable] struct {
	Key     K
	Version int64
}

const (
	// apart is the least time between two messages of one key from one node: what comes in between is sent as one.
	apart = time.Millisecond
	// owedMost bounds what is kept for a Redis that is away. With more, everything is put out of sight when it is back.
	owedMost = 100_000
	// probeEvery is how often the keeper looks after Redis: it bounds how long its return goes unnoticed.
	probeEvery = 100 * time.Millisecond
	// checkEvery is how often the epoch is looked up although no connection was made: a server that was emptied keeps its connections.
	checkEvery = time.Second
)

// Invalidate is called after the commit of a change (db.Tx.AfterCommit), and may be called again by anybody at any time and in any
// order: what is known of a later version stays. Nothing older than the change is kept from now on, in either level. It returns nil
// when Redis has taken the change; Strict reads on all nodes see it from then on. The other nodes hear of it within milliseconds.
//
// CodeUnavailable when Redis did not take it; this node goes on trying. A process that dies before that loses it: where the bound of
// Hard is too long, a change is also written as an event in the transaction, whose listener calls Invalidate again (docs/cache.md).
// CodeInvalid for a version below 1, or a key that cannot be written (Get).
func (s *Shared[K, V]) Invalidate(ctx context.Context, changes ...Change[K]) error {
	for _, c := range changes {
		if c.Version < 1 {
			return levee.Invalid("version", "at least 1", c.Version)
		}
		if s.remote != nil {
			if _, err := s.codec.key(c.Key); err != nil {
				return err
			}
		}
	}
	for _, c := range changes {
		s.drop(c.Key, c.Version, true)
		if s.filter != nil {
			s.filter.add(c.Key)
		}
	}
	if s.remote == nil || len(changes) == 0 {
		return nil
	}
	done := s.sender.add(changes, func() { s.tasks.Go(s.send) })
	select {
	case <-done.done:
	case <-ctx.Done():
		return levee.E(levee.CodeUnavailable, "the cache's second level has not taken the change yet").Because(ctx.Err()).After(time.Second)
	}
	if done.err != nil {
		return levee.E(levee.CodeUnavailable, "the cache's second level has not taken the change").Because(done.err).After(time.Second)
	}
	for _, c := range changes {
		s.drop(c.Key, c.Version, false) // what was read of the second level before it had the change
	}
	return nil
}

// InvalidateAll is for when nobody can say what has changed: an import past the program, or a gap in the log of changes (binlog.Config.Lost).
// No copy that was made before it is used after it, here and in Redis; the other nodes see that within a second and their copies are asked for
// again then, also by Strict reads. All keys are loaded anew, so it costs as many loads as there are keys in use.
//
// CodeUnavailable when Redis did not take it; this node goes on trying.
func (s *Shared[K, V]) InvalidateAll(ctx context.Context) error {
	s.lost()
	for i := range s.shards { // what is being loaded may have been read before
		sh := &s.shards[i]
		sh.mu.Lock()
		sh.buried++
		clear(sh.flights)
		sh.mu.Unlock()
	}
	if s.remote == nil {
		return nil
	}
	if err := s.remote.check(ctx, anew); err != nil {
		s.sender.mu.Lock()
		s.sender.all = true
		s.sender.mu.Unlock()
		return levee.E(levee.CodeUnavailable, "the cache's second level has not dropped its copies yet").Because(err).After(time.Second)
	}
	return nil
}

// drop forgets what is older than the version in this process. With own, a fence stays where replicas may not show the change yet.
func (s *Shared[K, V]) drop(k K, version int64, own bool) {
	sh := s.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.buried++
	delete(sh.flights, k)
	if own && s.cfg.Primary != nil {
		s.first.Compute(k, func(e *versioned[V], found bool) (*versioned[V], otter.ComputeOp) {
			if found && e.version >= version {
				return e, otter.CancelOp
			}
			// The copy expires Stale after until, so that the fence ends with the grave.
			return &versioned[V]{buried: true, version: version, until: s.clock.NowNano() + int64(s.grave()-s.cfg.Stale)}, otter.WriteOp
		})
		return
	}
	s.first.ComputeIfPresent(k, func(e *versioned[V]) (*versioned[V], otter.ComputeOp) {
		if e.version < version {
			return e, otter.InvalidateOp
		}
		return e, otter.CancelOp
	})
}

// lost makes all copies of the first level be asked for again, since messages about them may have been missed. They stay for the time
// in which Redis is away.
func (s *Shared[K, V]) lost() {
	s.age.Add(1)
	s.m.lost.Inc()
}

// sender gathers changes, so that each key is told once a millisecond at most.
type sender[K comparable] struct {
	mu      sync.Mutex // guards the rest
	list    map[K]int64
	next    *sending
	running bool
	owed    map[K]int64 // what Redis has not taken
	all     bool        // more than could be kept in owed
}

// sending is what waits for one round trip.
type sending struct {
	done chan struct{}
	err  error
}

func (q *sender[K]) add(changes []Change[K], start func()) *sending {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, c := range changes {
		q.list[c.Key] = max(q.list[c.Key], c.Version)
	}
	if q.next == nil {
		q.next = &sending{done: make(chan struct{})}
	}
	if !q.running {
		q.running = true
		start()
	}
	return q.next
}

// send sends until nothing is left.
func (s *Shared[K, V]) send() {
	q := &s.sender
	for {
		began := time.Now()
		q.mu.Lock()
		list, now := q.list, q.next
		if now == nil {
			q.running = false
			q.mu.Unlock()
			return
		}
		q.list, q.next = make(map[K]int64, len(list)), nil
		q.mu.Unlock()
		now.err = s.bury(context.WithoutCancel(s.ctx), list, s.remote.do)
		if now.err != nil {
			s.owe(list)
		}
		close(now.done)
		// One who waits is served at once; the next ones share what is left of the millisecond.
		time.Sleep(apart - time.Since(began))
	}
}

// bury sends tombstones.
func (s *Shared[K, V]) bury(ctx context.Context, list map[K]int64, do func(context.Context, func(*epoch) error) error) error {
	graves := make([]burial, 0, len(list))
	for k, version := range list {
		key, err := s.codec.key(k)
		if err != nil {
			return err
		}
		graves = append(graves, burial{key, version})
	}
	if len(graves) == 0 {
		return nil
	}
	return s.remote.bury(ctx, graves, s.grave(), s.filter != nil, do)
}

// owe keeps what Redis did not take for when it is back.
func (s *Shared[K, V]) owe(list map[K]int64) {
	q := &s.sender
	q.mu.Lock()
	defer q.mu.Unlock()
	for k, version := range list {
		q.owed[k] = max(q.owed[k], version)
	}
	if len(q.owed) > owedMost {
		q.all = true
		clear(q.owed)
	}
}

// pay sends what is owed. Redis is not used for reading before.
func (s *Shared[K, V]) pay(ctx context.Context) error {
	q := &s.sender
	q.mu.Lock()
	owed, all := maps.Clone(q.owed), q.all
	q.mu.Unlock()
	if all {
		if err := s.remote.check(ctx, anew); err != nil {
			return err
		}
	} else if err := s.bury(ctx, owed, s.remote.try); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for k, version := range owed {
		if q.owed[k] == version {
			delete(q.owed, k)
		}
	}
	if all {
		q.all = false
	}
	return nil
}

// keep looks after Redis: notices its return, pays what is owed, and looks up the epoch.
func (s *Shared[K, V]) keep(ctx context.Context) {
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	var checked time.Time
	wasAway := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		away := s.remote.away.Load()
		if away && !wasAway {
			s.log.LogAttrs(ctx, slog.LevelWarn, "the second level is away: copies are used past their time, and loads are bounded")
		}
		wasAway = away
		if s.worth.judge(s.clock.NowNano()) {
			if s.worth.idle.Load() {
				s.log.LogAttrs(ctx, slog.LevelWarn, "hardly anything is found in the second level: it is not filled for a while",
					slog.Duration("window", s.worth.window), slog.Duration("rest", s.worth.rest))
			} else {
				s.log.LogAttrs(ctx, slog.LevelInfo, "the second level is filled again")
			}
		}
		due := time.Since(checked) >= checkEvery
		if !away && !due && !s.owes() {
			continue
		}
		if err := s.look(ctx); err != nil {
			continue
		}
		checked = time.Now()
		if away {
			wasAway = false
			s.log.LogAttrs(ctx, slog.LevelInfo, "the second level is back")
		}
	}
}

func (s *Shared[K, V]) owes() bool {
	s.sender.mu.Lock()
	defer s.sender.mu.Unlock()
	return len(s.sender.owed) > 0 || s.sender.all
}

// look asks Redis for a sign of life and its epoch, pays, and then lets reads through again.
func (s *Shared[K, V]) look(ctx context.Context) error {
	was := s.remote.away.Load()
	err := s.remote.check(ctx, always)
	if err != nil {
		return err
	}
	if was {
		// What other nodes changed meanwhile was not heard.
		s.lost()
		s.remote.fails.Store(0)
	}
	if s.owes() {
		if err := s.pay(ctx); err != nil {
			return err
		}
	}
	if was {
		s.remote.away.Store(false)
	}
	return nil
}

const (
	// beatEvery is how often a node says something to itself over the channel, and silentMost how long it may hear nothing.
	beatEvery, silentMost = time.Second, 3 * time.Second
)

// listen hears of the changes that are made anywhere. The messages are sent by the scripts that put the tombstones, so they have a
// connection of their own. Whenever one may have been missed, the first level is asked for again.
func (s *Shared[K, V]) listen(ctx context.Context) {
	for ctx.Err() == nil {
		was := s.heard.Load()
		err := s.subscribe(ctx)
		if ctx.Err() == nil && s.heard.Load() != was { // it had been connected
			s.lost()
			s.log.LogAttrs(ctx, slog.LevelWarn, "messages between nodes may have been lost: copies are read again", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(probeEvery):
		}
	}
}

func (s *Shared[K, V]) subscribe(ctx context.Context) error {
	u, err := s.remote.c.Apart(2)
	if err != nil {
		return err
	}
	defer func() { _ = u.Close() }()
	p := u.Subscribe(ctx, s.remote.channel())
	// Waiting for a message does not end with ctx.
	defer context.AfterFunc(ctx, func() { _ = p.Close() })()
	defer func() { _ = p.Close() }()
	if _, err := p.ReceiveTimeout(ctx, silentMost); err != nil { // the confirmation
		return err
	}
	s.lost() // what was said before
	s.heard.Store(int64(time.Since(s.clock.begin)))
	// Receive on this goroutine, beat on another: a broken connection must not hold up the beats that show that it is.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	beat := "beat " + s.me
	s.tasks.Go(func() {
		t := time.NewTicker(beatEvery)
		defer t.Stop()
		for {
			if u.Publish(ctx, s.remote.channel(), beat).Err() != nil && ctx.Err() != nil {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
	})
	last := time.Now()
	for {
		message, err := p.ReceiveTimeout(ctx, silentMost)
		if err != nil {
			return err
		}
		text, ok := payload(message)
		if !ok {
			continue
		}
		if text == beat {
			last = time.Now()
			s.heard.Store(int64(time.Since(s.clock.begin)))
			continue
		}
		if time.Since(last) > silentMost {
			return levee.E(levee.CodeUnavailable, "the node does not hear itself")
		}
		s.hear(text)
	}
}

// hear drops what another node, or this one, has changed.
func (s *Shared[K, V]) hear(text string) {
	head, key, ok := strings.Cut(text, " ")
	version, err := strconv.ParseInt(head, 10, 64)
	if !ok || err != nil || version < 1 {
		return // another node's beat, or a stranger's words
	}
	k, err := s.codec.parseKey(key)
	if err != nil {
		return
	}
	s.m.heard.Inc()
	if s.filter != nil {
		s.filter.add(k)
	}
	s.drop(k, version, false)
}
