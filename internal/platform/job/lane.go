package job

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// usual is the priority of a job that was given none.
const usual = 4

// Priority places the job before (0 first) or behind (9 last) those of the usual 4 in its pool: as long as one of a lower number is due,
// none of a higher begins, however long it has waited. Others are refused.
func Priority(n int) Option { return func(r *request) { r.priority = &n } }

// lane is one order in which jobs of a pool wait: its first is the one that has been due for longest. A pool has one for each priority
// that is in use, and for each kind that is limited or was paused, so that what may not begin is never in the way of what may. The
// column pool holds the lane's key: "pool", "pool|0" to "pool|9", "pool|4|kind". Jobs of versions that knew no lanes lie in "pool".
type lane struct {
	key      string
	pool     *pool
	priority int
	kind     string // empty: all that have no lane of their own
	raced    bool   // others were faster at the last claim; of the one who claims alone
	plenty   bool   // the last look found as much as it asked for; of him, too
}

func laneKey(pool string, priority int, kind string) string {
	switch {
	case kind != "":
		return pool + "|" + strconv.Itoa(priority) + "|" + kind
	case priority != usual:
		return pool + "|" + strconv.Itoa(priority)
	}
	return pool
}

func splitLane(key string) (pool string, priority int, kind string) {
	parts := strings.SplitN(key, "|", 3)
	priority = usual
	if len(parts) > 1 {
		n, err := strconv.Atoi(parts[1])
		if err != nil || n < 0 || n > 9 {
			return key, usual, "" // not one of ours
		}
		priority = n
	}
	if len(parts) > 2 {
		kind = parts[2]
	}
	return parts[0], priority, kind
}

// addLane makes a lane and its pool, unless they are there. The caller holds j.mu.
func (j *Jobs) addLane(key string) *lane {
	if l := j.lanes[key]; l != nil {
		return l
	}
	name, priority, kind := splitLane(key)
	p := j.pools[name]
	if p == nil {
		size := j.cfg.Pools[name]
		if size == 0 {
			size = defaultSlots
		}
		p = &pool{name: name, size: size, average: time.Second,
			running: j.m.running.WithLabelValues(name), late: j.m.late.WithLabelValues(name)}
		j.pools[name] = p
	}
	l := &lane{key: key, pool: p, priority: priority, kind: kind}
	j.lanes[key] = l
	p.lanes = append(p.lanes, l)
	return l
}

// laneOf returns the lane for a new job of k, and makes it known here.
func (k *kind) laneOf(j *Jobs, priority int) (string, error) {
	if priority < 0 || priority > 9 {
		return "", levee.Invalid("priority of the job", "0 to 9", priority)
	}
	if key := k.lanes[priority].Load(); key != nil {
		return *key, nil
	}
	key := laneKey(k.o.Pool, priority, k.ownLane())
	j.mu.Lock()
	j.addLane(key)
	j.mu.Unlock()
	k.lanes[priority].Store(&key)
	return key, nil
}

// ownLane is the kind's name where it has a lane of its own from the beginning.
func (k *kind) ownLane() string {
	if k.limit == nil {
		return ""
	}
	return k.name
}

// discover finds the lanes in which jobs wait: other nodes' kinds and priorities, and pools whose kinds have moved elsewhere.
func (j *Jobs) discover(ctx context.Context) error {
	for last := ""; ; {
		var key string
		err := j.db.QueryRow(ctx, `SELECT pool FROM job_task WHERE pool > ? AND due_at >= 0 ORDER BY pool LIMIT 1`, last).Scan(&key)
		if errors.Is(err, db.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		j.mu.Lock()
		j.addLane(key)
		j.mu.Unlock()
		last = key
	}
}

// inOrder returns the lanes of a pool in the order of their priorities; those of one are in any order, so that none starves.
func (p *pool) inOrder() []*lane {
	lanes := slices.Clone(p.lanes)
	if len(lanes) > 1 {
		rand.Shuffle(len(lanes), func(a, b int) { lanes[a], lanes[b] = lanes[b], lanes[a] })
		slices.SortStableFunc(lanes, func(a, b *lane) int { return cmp.Compare(a.priority, b.priority) })
	}
	return lanes
}

// mayClaim tells whether jobs of a lane may begin now, as far as is known without asking; at is when it may be otherwise.
func (j *Jobs) mayClaim(l *lane, r room) (may bool, at time.Time) {
	if l.kind == "" {
		return r.free > 0, at
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.control.kinds[l.kind] {
		return false, at
	}
	k := j.kinds[l.kind]
	if k == nil || k.limit == nil {
		return r.free > 0, at
	}
	if time.Now().Before(k.limit.ready) {
		return false, k.limit.ready
	}
	return r.slots > 0, at // what is limited is not claimed ahead; the end of a run comes with a wake-up
}

// belongs returns the lane into which a job of a kind belongs that waits in l: its own where it may not be in the way of others.
func (j *Jobs) belongs(l *lane, kind string) string {
	if l.kind == kind {
		return l.key
	}
	k := j.kinds[kind]
	if k != nil && k.limit != nil || j.control.kinds[kind] {
		return laneKey(l.pool.name, l.priority, kind)
	}
	return l.key
}

// want is a lane of a pool that has room.
type want struct {
	lane *lane
	room *room
}

// limiterOf returns the limiter of the lane's kind, if it has one.
func (j *Jobs) limiterOf(l *lane) *limiter {
	if k := j.kinds[l.kind]; k != nil {
		return k.limit
	}
	return nil
}

// budget is how many the lane may have of its pool's room: what is limited is not claimed ahead.
func (j *Jobs) budget(w want) *int {
	if j.limiterOf(w.lane) != nil {
		return &w.room.slots
	}
	return &w.room.free
}

// wants returns the lanes of which jobs may begin, in the order in which they are to be claimed, and when the next other one may.
func (j *Jobs) wants(rooms []room, next time.Time) ([]want, time.Time) {
	var list []want
	for i := range rooms {
		j.mu.Lock()
		lanes := rooms[i].pool.inOrder()
		j.mu.Unlock()
		for _, l := range lanes {
			if may, at := j.mayClaim(l, rooms[i]); may {
				list = append(list, want{l, &rooms[i]})
			} else {
				next = sooner(next, at)
			}
		}
	}
	return list, next
}
