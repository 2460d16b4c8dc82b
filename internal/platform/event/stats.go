package event

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
)

// Stats is what a page of the console shows. It is read from the tables, but for the rates.
type Stats struct {
	Relays    bool          // this process relays
	Waiting   int           // events that some listener has yet to handle
	Oldest    time.Duration // age of the oldest of them; 0: none
	Log       LogState
	Listeners []ListenerStats // by name
}

// LogState says what is kept: the first and the last number (0, 0: nothing), and when the first one was written.
type LogState struct {
	First, Last int64
	Oldest      time.Time
}

// ListenerStats is the state of one listener, of this program or of another one.
type ListenerStats struct {
	Name      string
	Events    []string      // that it hears, sorted
	Elsewhere []string      // that only other programs have it hear, if it is Here; what comes is kept for these as for one that is not
	Here      bool          // this program has it
	Behind    bool          // it gets its events from the log: a replay, or no program that has it relays
	Gone      bool          // it stayed away for longer than events are kept; Forget strikes it
	FirstSeen time.Time     // when a program first had it
	Seen      time.Time     // when one that has it last started, up to an hour before
	Waiting   int           // events that it has yet to handle, without those that are in the log only
	Oldest    time.Duration // age of the oldest of them; 0: none
	Replay    ReplayState   // how far it is, if Behind
	Parked    int
	PerSecond float64 // deliveries by this process, over about the last minute
}

// Stats reads the state of the bus. Its cost grows with what waits; it is for people, not for each request.
func (b *Bus) Stats(ctx context.Context) (s Stats, err error) {
	defer levee.Wrap(&err, "event.Stats")
	ctx = db.Primary(ctx)
	s.Relays = b.relaying.Load()
	now := b.clock()
	age := func(event int64) time.Duration { return max(now.Sub(id.TimeOf(event)), 0) }
	if s.Log.First, s.Log.Last, err = b.logEnds(ctx); err != nil {
		return s, err
	}
	if _, at, err := b.logAt(ctx, s.Log.First); err == nil {
		s.Log.Oldest = at
	} else if !errors.Is(err, db.ErrNoRows) {
		return s, err
	}
	names, err := b.counts(ctx, `SELECT name, COUNT(*), MIN(id) FROM event_outbox GROUP BY name`)
	if err != nil {
		return s, err
	}
	for _, c := range names {
		if s.Waiting += c.n; s.Oldest < age(c.first) {
			s.Oldest = age(c.first)
		}
	}
	done, err := b.counts(ctx, `SELECT i.listener, COUNT(*), 0 FROM event_inbox i JOIN event_outbox o ON o.id = i.event_id WHERE i.done = 1 GROUP BY i.listener`)
	if err != nil {
		return s, err
	}
	copies, err := b.counts(ctx, `SELECT listener, COUNT(*), MIN(id) FROM event_replay GROUP BY listener`)
	if err != nil {
		return s, err
	}
	parked, err := b.counts(ctx, `SELECT listener, COUNT(*), 0 FROM event_parked GROUP BY listener`)
	if err != nil {
		return s, err
	}
	pairs, err := scanPairs(b.db.Query(ctx, selectPairs))
	if err != nil {
		return s, err
	}
	here := b.here()
	by := map[string]*ListenerStats{}
	for _, p := range pairs {
		l := by[p.listener]
		if l == nil {
			l = &ListenerStats{Name: p.listener, FirstSeen: time.UnixMicro(p.first), Seen: time.UnixMicro(p.seen), Gone: true, Parked: parked[p.listener].n}
			l.Waiting = copies[p.listener].n
			if l.Waiting > 0 {
				l.Oldest = age(copies[p.listener].first)
			}
			if _, l.Here = here[p.listener]; l.Here {
				l.PerSecond = b.m.of(p.listener).rate.get(time.Now())
			}
			by[p.listener] = l
		}
		if l.Here && !hears(here, p) {
			l.Elsewhere = append(l.Elsewhere, p.event)
			continue
		}
		l.Events = append(l.Events, p.event)
		l.Gone = l.Gone && p.state == gone
		if f := time.UnixMicro(p.first); f.Before(l.FirstSeen) {
			l.FirstSeen = f
		}
		if at := time.UnixMicro(p.seen); at.After(l.Seen) {
			l.Seen = at
		}
		switch p.state {
		case behind:
			state := ReplayState{From: p.since + 1, At: max(p.cursor, s.Log.First-1), Head: max(s.Log.Last, p.cursor)}
			if !l.Behind || state.At < l.Replay.At {
				l.Replay = state
			}
			l.Behind = true
		case live:
			if c := names[p.event]; c.n > 0 {
				l.Waiting += c.n
			}
		}
	}
	for _, l := range by {
		if l.Behind {
			l.Waiting = copies[l.Name].n
		} else if l.Waiting > 0 {
			if l.Waiting = max(l.Waiting-done[l.Name].n, copies[l.Name].n); l.Waiting > 0 {
				first, err := b.firstOpen(ctx, l)
				if err != nil {
					return s, err
				}
				if first != 0 {
					l.Oldest = max(l.Oldest, age(first))
				}
			}
		}
		s.Listeners = append(s.Listeners, *l)
	}
	slices.SortFunc(s.Listeners, func(x, y ListenerStats) int { return strings.Compare(x.Name, y.Name) })
	return s, nil
}

// firstOpen returns the oldest event in the outbox that the listener has yet to handle, or 0.
func (b *Bus) firstOpen(ctx context.Context, l *ListenerStats) (first int64, err error) {
	in, args := inNames(l.Events)
	err = b.db.QueryRow(ctx, `SELECT o.id FROM event_outbox o WHERE o.name IN `+in+` AND NOT EXISTS (SELECT 1 FROM event_inbox i WHERE i.event_id = o.id `+
		`AND i.listener = ? AND i.done = 1) ORDER BY o.id LIMIT 1`, append(args, l.Name)...).Scan(&first)
	if errors.Is(err, db.ErrNoRows) {
		return 0, nil
	}
	return first, err
}

type tally struct {
	n     int
	first int64
}

func (b *Bus) counts(ctx context.Context, query string) (map[string]tally, error) {
	rows, err := b.db.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[string]tally{}
	for rows.Next() {
		var name string
		var c tally
		if err := rows.Scan(&name, &c.n, &c.first); err != nil {
			return nil, err
		}
		all[name] = c
	}
	return all, rows.Err()
}
