package lock

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"levee"
)

// Ticket is a place that belongs to whoever has the ticket and not to a process: for programs elsewhere that renew it and give it back over the wire, each
// time perhaps at another node. All that a node needs to know is in the ticket and in the store. It holds until it is given back, or until its TTL
// has passed without a renewal; nothing renews it by itself. As text (MarshalText) it can be kept; who makes it known should sign it, so that nobody changes the
// bounds in it. Its token cannot be guessed.
type Ticket struct {
	Name  string
	Fence uint64 // as Lease.Fence
	TTL   time.Duration
	// Ends is when the last renewal ends, by the wall clock of the node that gave it: its MaxHold.
	Ends time.Time
	// Expires is when it may be over without a renewal, by this process' monotonic clock, counted from before the store was asked. Not part of the text.
	Expires time.Time

	limit   int
	token   string
	created int64
}

// Hold is Acquire for a Ticket. It takes no And, and a ctx of a lease means nothing to it. When ctx ends while it waits it holds nothing. Over SQL and etcd one
// that has run out stays held until somebody has waited for it, see OpenSQL. Errors are those of Acquire; CodeUnavailable also when Open's own memory
// holds 100,000 tickets.
func (l *Locks) Hold(ctx context.Context, name string, opts ...Option) (Ticket, error) {
	return l.ticket(ctx, name, false, opts)
}

// TryHold is TryAcquire for a Ticket.
func (l *Locks) TryHold(ctx context.Context, name string, opts ...Option) (Ticket, error) {
	return l.ticket(ctx, name, true, opts)
}

func (l *Locks) ticket(ctx context.Context, name string, try bool, opts []Option) (Ticket, error) {
	o, err := l.cfg.options(name, opts)
	if err != nil {
		return Ticket{}, err
	}
	if o.names != nil {
		return Ticket{}, levee.Invalid("names", "one: And is for leases", len(o.names))
	}
	refuse := func(err error) (Ticket, error) {
		if l.closed.Load() {
			err = errClosed
		}
		err, why := failed(ctx, name, err)
		l.m.refused.WithLabelValues(why).Inc()
		return Ticket{}, err
	}
	if err := ctx.Err(); err != nil || l.closed.Load() {
		return refuse(err)
	}
	// To the driver its hold is its TTL: it is renewed by nobody here, and memory would keep it for the whole hold.
	r := &request{name: name, limit: o.limit, ttl: o.ttl, hold: o.ttl, try: try, began: time.Now()}
	g, err := l.driver.acquire(ctx, r)
	if err != nil {
		return refuse(err)
	}
	if g.early { // nobody renews a ticket here
		try, cancel := context.WithDeadline(ctx, g.asked.Add(g.ttl))
		g.asked, g.ttl = time.Now(), r.ttl
		err = l.driver.renew(try, r, r.ttl)
		cancel()
	}
	t := Ticket{Name: name, Fence: g.fence, TTL: o.ttl, Ends: time.Now().Add(o.hold), Expires: g.asked.Add(g.ttl - drift(g.ttl)), limit: o.limit, created: r.created}
	if err == nil && !time.Now().Before(t.Expires) {
		err = errLate
	}
	if _, local := l.driver.(*memory); local && err == nil {
		r.token = newToken()
		err = l.tickets.put(r, g.asked.Add(g.ttl))
	}
	if err != nil {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
		defer cancel()
		_ = l.driver.release(end, r)
		return refuse(err)
	}
	t.token = r.token
	l.m.grants.Inc()
	if g.waited {
		l.m.waits.Observe(time.Since(r.began).Seconds())
	}
	return t, nil
}

// Renew makes the place last its TTL from now, or until Ends when that is sooner; the ticket that it returns has a new Expires and the same text. CodeGone (ErrLost):
// it is over. A store that cannot tell the time (SQL, etcd) renews one that has run out as long as nobody has come to its place. CodeUnavailable: the store did
// not answer; try again while it lasts.
func (l *Locks) Renew(ctx context.Context, t Ticket) (Ticket, error) {
	ttl := min(t.TTL, time.Until(t.Ends))
	if ttl <= drift(t.TTL) {
		_ = l.GiveBack(ctx, t)
		return t, lost(t.Name)
	}
	r := l.request(t)
	if r == nil {
		return t, lost(t.Name)
	}
	try, cancel := context.WithTimeout(ctx, releaseTime)
	defer cancel()
	asked := time.Now()
	switch err := l.driver.renew(try, r, ttl); {
	case errors.Is(err, errGone):
		l.tickets.drop(t.token)
		return t, lost(t.Name)
	case err != nil:
		l.m.failures.Inc()
		return t, away(err)
	}
	l.m.renewals.Inc()
	l.tickets.touch(t.token, asked.Add(ttl))
	t.Expires = asked.Add(ttl - drift(ttl))
	return t, nil
}

// GiveBack gives the place back. CodeGone (ErrLost): it was over before. CodeUnavailable: the store did not answer, and the place is free after its TTL at the
// latest. That ctx has ended does not keep it from being given back.
func (l *Locks) GiveBack(ctx context.Context, t Ticket) error {
	r := l.request(t)
	if r == nil {
		return lost(t.Name)
	}
	try, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	err := l.driver.release(try, r)
	l.tickets.drop(t.token)
	switch {
	case errors.Is(err, errGone):
		l.m.lost.Inc()
		return lost(t.Name)
	case err != nil:
		return away(err)
	}
	return nil
}

// request is what the driver knew the ticket as; nil: this process, which alone could, does not know it.
func (l *Locks) request(t Ticket) *request {
	if _, local := l.driver.(*memory); local {
		return l.tickets.get(t.token, t.Name)
	}
	return &request{name: t.Name, limit: t.limit, ttl: t.TTL, hold: t.TTL, token: t.token, created: t.created}
}

// MarshalText writes the ticket in one line of printable ASCII of up to 400 bytes.
func (t Ticket) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "1 %s %d %d %d %d %d %s", t.Name, t.limit, t.TTL.Microseconds(), t.Ends.UnixMilli(), t.Fence, t.created, t.token), nil
}

// UnmarshalText reads what MarshalText wrote. CodeInvalid: it did not.
func (t *Ticket) UnmarshalText(text []byte) error {
	bad := levee.Invalid("ticket", "what MarshalText wrote", "something else")
	f := strings.Split(string(text), " ")
	if len(text) > 400 || len(f) != 8 || f[0] != "1" || checkName(f[1]) != nil || len(f[7]) != len(newToken()) ||
		strings.Trim(f[7], "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return bad
	}
	var n [4]int64
	for i, s := range []string{f[2], f[3], f[4], f[6]} {
		var err error
		if n[i], err = strconv.ParseInt(s, 10, 64); err != nil || n[i] < 0 {
			return bad
		}
	}
	fence, err := strconv.ParseUint(f[5], 10, 64)
	ttl := time.Duration(n[1]) * time.Microsecond
	if err != nil || n[0] < 1 || n[0] > permitsMax || n[1] > ttlMax.Microseconds() || ttl < ttlMin {
		return bad
	}
	*t = Ticket{Name: f[1], Fence: fence, TTL: ttl, Ends: time.UnixMilli(n[2]), limit: int(n[0]), token: f[7], created: n[3]}
	return nil
}

// ticketsMax is the most tickets in memory.
const ticketsMax = 100_000

// tickets are those of the memory driver, which knows requests by their pointers. The zero value is usable.
type tickets struct {
	mu    sync.Mutex // guards all
	all   map[string]ticketed
	sweep int // the count at which those that have ended are looked for
}

type ticketed struct {
	r    *request
	ends time.Time // without a renewal
}

var errFull = errors.New("lock: as many tickets are out as this process keeps")

func (t *tickets) put(r *request, ends time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all = map[string]ticketed{}
	}
	if len(t.all) >= max(t.sweep, 1024) {
		now := time.Now()
		for token, one := range t.all {
			if now.After(one.ends.Add(time.Second)) {
				delete(t.all, token)
			}
		}
		t.sweep = min(2*len(t.all), ticketsMax)
	}
	if len(t.all) >= ticketsMax {
		return errFull
	}
	t.all[r.token] = ticketed{r, ends}
	return nil
}

func (t *tickets) get(token, name string) *request {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.all[token]; one.r != nil && one.r.name == name {
		return one.r
	}
	return nil
}

func (t *tickets) touch(token string, ends time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one := t.all[token]; one.r != nil {
		t.all[token] = ticketed{one.r, ends}
	}
}

func (t *tickets) drop(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, token)
}
