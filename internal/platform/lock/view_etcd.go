package lock

import (
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// etcdValue is what a key says: h or w, the limit, and the TTL in milliseconds; and of one who holds alone that he is the first: h is written of such a one when etcd
// has seen that nobody stands before him, and not sooner. (Releases from before this word wrote it sooner, and read over it.)
func (q *request) etcdValue(state byte, ttl time.Duration) string {
	mark := ""
	if state == 'h' && q.limit == 1 {
		mark = " first"
	}
	return fmt.Sprintf("%c %d %d%s", state, q.limit, whole(ttl).Milliseconds(), mark)
}

// stander is a key that stands before a request.
type stander struct {
	key      string
	created  int64
	modified int64
	holds    bool
	first    bool // nobody stands before it, nor ever will
	limit    int
	ttl      time.Duration
	since    time.Time // when it was first seen as it is
}

// standerOf reads a key. One of another form was written by another hand: it stands for one who holds alone and is passed over like one who has died.
func standerOf(kv *mvccpb.KeyValue, now time.Time) stander {
	s := stander{key: string(kv.Key), created: kv.CreateRevision, modified: kv.ModRevision, since: now, holds: true, limit: 1, ttl: ttlDefault}
	var state, mark string
	var limit, ms int64
	if n, _ := fmt.Sscanf(string(kv.Value), "%s %d %d %s", &state, &limit, &ms, &mark); n >= 3 && limit > 0 && ms > 0 && ms <= ttlMax.Milliseconds() {
		s.holds, s.limit, s.ttl = state == "h", int(min(limit, permitsMax)), time.Duration(ms)*time.Millisecond
		s.first = s.holds && s.limit == 1 && mark == "first"
	}
	return s
}

// view is what stands before a request at a revision. For an exclusive one that is the last one alone: it waits for all, one after the other.
type view struct {
	revision int64
	before   []stander
	sure     bool // of an exclusive one: if nobody is left in before, nobody stands before it
}

// see makes a view of an answer, and keeps since when the old one knows what has not changed.
func (v *view) see(revision int64, kvs []*mvccpb.KeyValue, now time.Time) {
	old := v.before
	v.revision, v.before, v.sure = revision, make([]stander, 0, len(kvs)), true
	for _, kv := range kvs {
		s := standerOf(kv, now)
		for i := range old {
			if old[i].key == s.key && old[i].modified == s.modified {
				s.since = old[i].since
			}
		}
		v.before = append(v.before, s)
	}
}

// enters reports whether the request holds.
func (v *view) enters(limit int) bool {
	for i := range v.before {
		limit = min(limit, v.before[i].limit)
	}
	return len(v.before) < limit
}

// apply changes the view as an event says.
func (v *view) apply(e etcdEvent) {
	for i := range v.before {
		s := &v.before[i]
		switch {
		case s.key != e.key || e.revision <= s.modified:
		case e.kv == nil:
			v.sure = s.first // else others may stand before the one that has gone
			v.before = append(v.before[:i], v.before[i+1:]...)
			return
		default:
			*s = standerOf(e.kv, e.at)
			return
		}
	}
}

// dead returns one who holds and has stood still for its TTL, or how long it takes until there may be one.
func (v *view) dead(now time.Time) (*stander, time.Duration) {
	next := etcdForever
	for i := range v.before {
		if s := &v.before[i]; s.holds {
			left := s.ttl - now.Sub(s.since)
			if left <= 0 {
				return s, 0
			}
			next = min(next, left)
		}
	}
	return nil, next
}
