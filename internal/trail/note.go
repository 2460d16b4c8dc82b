package trail

import (
	"context"
	"sync"
	"time"

	"levee"
	"levee/internal/platform/db"
)

const (
	noteWindow = time.Minute
	noteLook   = time.Second
	// maxNotes is how many different notes of a window are kept apart, of each of the two kinds; what is beyond is counted by action alone.
	maxNotes = 256
	// maxUnwritten bounds the rows that wait for a database that is away.
	maxUnwritten = 4 * maxNotes
)

// notes are what happened in this process since the window began. The zero value is empty.
type notes struct {
	mu        sync.Mutex // guards all
	began     time.Time
	seen      map[noteKey]*note
	kinds     map[bool]int // keys by staff
	unwritten []Entry
	lost      int64
}

type noteKey struct {
	Entry      // all but id, time, count and request
	more  bool // what found no place of its own
}

type note struct {
	first   time.Time
	request string
	times   int64 // not written yet
	told    bool  // the first row of the window is written
}

// Note tells of what may happen thousands of times a second, such as a refused sign-in: the first of its kind (action, actor, subject,
// address, after) within a minute gets a row within a second, all others of that minute together one more row with their count. 256 kinds
// are told apart in each process and minute, and 256 more of what concerns staff, so that a crowd cannot hide them; the rest is counted by
// action. It never waits for the database. What a process that dies has not written is lost: at most a minute's counts.
func (s *Service) Note(ctx context.Context, act Act, staff bool) {
	e, err := s.entry(ctx, act)
	if err != nil {
		s.log.ErrorContext(ctx, "the trail lacks a note", "action", act.Action, "error", err)
		return
	}
	key := noteKey{Entry: Entry{Actor: e.Actor, Action: e.Action, Kind: e.Kind, Subject: e.Subject, After: e.After, Address: e.Address}}
	n := &s.notes
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seen == nil {
		n.seen, n.kinds, n.began = map[noteKey]*note{}, map[bool]int{}, e.At
	}
	at := n.seen[key]
	if at == nil && n.kinds[staff] >= maxNotes {
		key = noteKey{Entry: Entry{Action: e.Action, After: `{"others":true}`}, more: true}
		at, e.RequestID = n.seen[key], ""
	}
	if at == nil {
		at = &note{}
		n.seen[key] = at
		if !key.more {
			n.kinds[staff]++
		}
	}
	if at.times == 0 {
		at.first, at.request = e.At, e.RequestID
	}
	at.times++
}

// Run writes notes until ctx ends, and what is left then.
func (s *Service) Run(ctx context.Context) error {
	t := time.NewTicker(noteLook)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			s.flush(last, true)
			return nil
		case <-t.C:
			s.flush(ctx, false)
		}
	}
}

// flush writes the first notes of their kind, and at the end of a window the counts of the others. What cannot be written waits.
func (s *Service) flush(ctx context.Context, all bool) {
	n := &s.notes
	n.mu.Lock()
	all = all || !s.Obs.Clock().Before(n.began.Add(noteWindow))
	for key, at := range n.seen {
		if at.times == 0 || at.told && !all {
			continue
		}
		e := key.Entry
		e.At, e.Times, e.RequestID = at.first, at.times, at.request
		at.times, at.told = 0, true
		id, err := s.IDs.Next()
		if err != nil || len(n.unwritten) >= maxUnwritten {
			n.lost += e.Times
			continue
		}
		e.ID = id
		e.Mark = s.mark(&e)
		n.unwritten = append(n.unwritten, e)
	}
	if all {
		n.seen = nil
	}
	list, lost := n.unwritten, n.lost
	n.unwritten, n.lost = nil, 0
	n.mu.Unlock()
	if lost > 0 {
		s.log.ErrorContext(ctx, "the trail lost notes: the database was away too long", "times", lost)
	}
	if len(list) == 0 {
		return
	}
	err := s.DB.Tx(levee.WithActor(ctx, levee.System), "trail.notes", func(ctx context.Context, tx *db.Tx) error { return insertEntries(ctx, tx, list) })
	if err != nil {
		s.log.WarnContext(ctx, "notes wait for the trail", "rows", len(list), "error", err)
		n.mu.Lock()
		n.unwritten = append(list, n.unwritten...)
		n.mu.Unlock()
	}
}
