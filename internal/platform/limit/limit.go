// Package limit owns how often somebody may ask for something: it counts by name and key and says yes or no.
//
// It does not own who is asking or what the answer looks like: platform/web picks the key and answers 429, and the rooms charge
// the limits that are not tied to a route. What may be held or bought per person is a rule of its room, not a rate.
package limit

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/platform/obs"
)

// Config changes rates. The zero value keeps the defaults.
type Config struct {
	// Rates maps a limit's name (sign_in) to its rate ("30/m", "10/s burst 20", "off"). A rate too low locks people out who
	// share an address; "off" for sign_in_account lets passwords be guessed.
	Rates map[string]string
	// Away maps a limit's name to what it does while Redis is away: "open" (the node's share of the rate, rounded up), "share" (rounded
	// down) or "closed" (it refuses). "closed" for sign_in_account means that nobody signs in meanwhile.
	Away map[string]string
	// Keys is the most keys that one limit remembers, from 1,024 to 10,000,000. Default 100,000. A key takes about 150 bytes,
	// and 8 more for each charge of an exact rate. When a flood of keys passes it, those with the least charges are forgotten
	// first (levee_limit_evicted_total counts them): too low a number lets such a flood blunt the limit.
	Keys int
}

const (
	keysDefault, keysMin, keysMax = 100_000, 1 << 10, 10_000_000
	// AsksMax is the most limits of one AllowAll.
	AsksMax = 8
)

// Decision is the answer about one key of one limit.
type Decision struct {
	// OK says that the limit's own rate allows it.
	OK bool
	// Away says that the limit refuses because Redis is away and it is closed then. The numbers but RetryAfter say nothing.
	Away bool
	// Limit is how many may come at once; 0 means that there is no limit, and the other numbers say nothing.
	Limit int
	// Remaining is how many more would be allowed right now.
	Remaining int
	// Reset is how long it takes until Limit may come at once again, if nothing comes in between.
	Reset time.Duration
	// RetryAfter is, when OK is false, how long to wait until one would be allowed; else 0.
	RetryAfter time.Duration
}

// Err returns nil when OK, else CodeTooManyRequests, or CodeUnavailable for a limit that is closed while Redis is away, with RetryAfter.
func (d Decision) Err() error {
	if d.OK {
		return nil
	}
	if d.Away {
		return levee.E(levee.CodeUnavailable, "this cannot be allowed at the moment; ask again in a moment").After(d.RetryAfter)
	}
	wait := (d.RetryAfter + time.Second - 1).Truncate(time.Second) // people and the header count in whole seconds
	return levee.E(levee.CodeTooManyRequests, "too many requests, ask again in %v", wait).After(d.RetryAfter)
}

// Ask is one limit and whose charge it would be.
type Ask struct {
	Name Name
	Key  string
}

// Decisions are the answers to one AllowAll, in the order of the asks.
type Decisions []Decision

// OK reports whether all limits allowed it.
func (ds Decisions) OK() bool { return ds.refusal() == nil }

// Err returns nil when all limits allowed it, else the error of the one that has to be waited for the longest.
func (ds Decisions) Err() error {
	if d := ds.refusal(); d != nil {
		return d.Err()
	}
	return nil
}

func (ds Decisions) refusal() (worst *Decision) {
	for i := range ds {
		if d := &ds[i]; !d.OK && (worst == nil || d.RetryAfter > worst.RetryAfter) {
			worst = d
		}
	}
	return worst
}

// Limits decides. It is made by Open or OpenShared and safe for concurrent use.
type Limits struct {
	classes    [nameCount]atomic.Pointer[class]
	configured [nameCount]Rate
	driver     driver
	changing   sync.Mutex // of rates: one Set at a time
}

// class is one limit with its rate and counters. It is not changed: another rate is another class.
type class struct {
	name             Name
	rate             Rate
	away             Away
	args             []any  // of the script
	policy           string // the item of RateLimit-Policy
	allowed, refused prometheus.Counter
}

// ask is an Ask whose limit is not off.
type ask struct {
	class *class
	key   string
}

// driver keeps the charges. What it does when its backend is away is its own part of the promise: the methods do not fail.
type driver interface {
	// take charges one to the key if its rate, which is never off, allows it.
	take(ctx context.Context, c *class, key string) Decision
	// takeAll does so for all asks, of which no two are the same, as one step: it charges those that outcome.charges says.
	takeAll(ctx context.Context, asks []ask, out []Decision)
	// refund takes the key's newest charge back, if there is one.
	refund(ctx context.Context, c *class, key string)
}

// Open makes the limits, which are kept in the memory of this process and forgotten at its end. A name or rate in cfg that is
// not one is CodeInvalid.
func Open(cfg Config, o *obs.Obs) (_ *Limits, err error) {
	defer levee.Wrap(&err, "limit.Open")
	l, keys, err := newLimits(cfg, o)
	if err != nil {
		return nil, err
	}
	l.driver = newMemory(keys, o)
	return l, nil
}

// newLimits makes the limits without a driver, and returns the most keys of each.
func newLimits(cfg Config, o *obs.Obs) (*Limits, int, error) {
	if cfg.Keys == 0 {
		cfg.Keys = keysDefault
	}
	if cfg.Keys < keysMin || cfg.Keys > keysMax {
		return nil, 0, levee.Invalid("limit.keys", "from 1024 to 10000000", cfg.Keys)
	}
	var away [nameCount]Away
	for n := range table {
		away[n] = table[n].away
	}
	l := &Limits{}
	for n := range table {
		l.configured[n] = table[n].rate
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Rates)) {
		n, ok := ParseName(name)
		if !ok {
			return nil, 0, levee.Invalid("limit.rates", fmt.Sprintf("a map whose keys are among %v", Names()), name)
		}
		if l.configured[n], ok = parseRate(cfg.Rates[name]); !ok {
			return nil, 0, levee.Invalid("limit.rates."+name, rateForm, cfg.Rates[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Away)) {
		n, ok := ParseName(name)
		if !ok {
			return nil, 0, levee.Invalid("limit.away", fmt.Sprintf("a map whose keys are among %v", Names()), name)
		}
		i := slices.Index([]string{AwayOpen: "open", AwayShare: "share", AwayClosed: "closed"}, cfg.Away[name])
		if i < 0 {
			return nil, 0, levee.Invalid("limit.away."+name, "open, share or closed", cfg.Away[name])
		}
		away[n] = Away(i)
	}
	decisions := obs.Register(o.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_limit_decisions_total", Help: "Decisions by limit and result (allowed, refused).",
	}, []string{"name", "result"}))
	l.classes[None].Store(&class{name: None})
	for _, n := range Names() {
		c := &class{name: n, away: away[n],
			allowed: decisions.WithLabelValues(n.String(), "allowed"), refused: decisions.WithLabelValues(n.String(), "refused")}
		l.classes[n].Store(c.with(l.configured[n]))
	}
	return l, cfg.Keys, nil
}

// with returns the class at another rate.
func (c *class) with(r Rate) *class {
	next := *c
	next.rate, next.args, next.policy = r, nil, ""
	if !r.off() {
		next.args, next.policy = r.args(c.name.part()), policy(c.name, r)
	}
	return &next
}

// Rate returns the limit's rate now; the zero Rate means that it is off.
func (l *Limits) Rate(name Name) Rate { return l.classes[name].Load().rate }

// On reports whether the limit has a rate now.
func (l *Limits) On(name Name) bool { return !l.classes[name].Load().rate.off() }

// Configured returns the rate that the configuration, or without it the default, gives the limit.
func (l *Limits) Configured(name Name) Rate { return l.configured[name] }

// WhenAway returns what the limit does while Redis is away. Limits in memory have no Redis.
func (l *Limits) WhenAway(name Name) Away { return l.classes[name].Load().away }

// Set gives the limits of the map their rates and all others the one of the configuration, on this node alone, from the next decision on.
// What was charged stays charged as far as the old rate kept it: a longer span counts only what the shorter one still knew; a bucket keeps
// how many it is short of full, at most all; between a log and a bucket no charge is lost, and what a bucket was short of counts as charged now.
// CodeInvalid for None, an unknown name, or a rate that ParseRate could not have returned; then nothing is changed.
func (l *Limits) Set(rates map[Name]Rate) (err error) {
	defer levee.Wrap(&err, "limit.Set")
	for n, r := range rates {
		if n == None || n >= nameCount {
			return levee.Invalid("name", fmt.Sprintf("one of %v", Names()), n)
		}
		if r != (Rate{}) && !r.valid() {
			return levee.Invalid("rate", rateForm, fmt.Sprintf("%+v", r))
		}
	}
	l.changing.Lock()
	defer l.changing.Unlock()
	for _, n := range Names() {
		r, ok := rates[n]
		if !ok {
			r = l.configured[n]
		}
		if c := l.classes[n].Load(); c.rate != r {
			l.classes[n].Store(c.with(r))
		}
	}
	return nil
}

// Allow charges one to the key of a limit, or refuses and charges nothing. Who has several limits to ask at one moment asks AllowAll.
// Two keys of one limit never share a charge; keys of any length and content are fine. Decisions do not depend on steps of the wall clock.
func (l *Limits) Allow(ctx context.Context, name Name, key string) Decision {
	c := l.classes[name].Load()
	if c.rate.off() {
		return Decision{OK: true}
	}
	d := l.driver.take(ctx, c, key)
	c.count(d.OK)
	return d
}

// AllowAll asks several limits as one step: when all allow it, each is charged; when one refuses, none is, so that what was not done uses
// up nobody's rate: else an address that is refused could go on and use up the tries of somebody's account. The one exception is a limit
// that guards accounts (Name.Guards: addresses at sign-in): where only limits by account refuse, it keeps the charge that its own rate allows, so
// that trying one account after the other is not free. No limit is charged for what it refuses itself: who comes too often waits no longer than
// his rate says.
//
// On a Redis cluster, where the keys are on several servers, each limit is one step, and what was charged is given back when another
// refuses: never more than a rate allows, but for that moment less. At most AsksMax asks, else it panics; one that is there twice is charged once.
func (l *Limits) AllowAll(ctx context.Context, asks ...Ask) Decisions {
	if len(asks) > AsksMax {
		panic(fmt.Sprintf("limit: %d asks in one step, at most %d", len(asks), AsksMax))
	}
	var (
		on   [AsksMax]ask
		from [AsksMax]int // ask to its place in on; -1: off
		n    int
	)
	for i, a := range asks {
		c := l.classes[a.Name].Load()
		switch first := slices.Index(asks[:i], a); {
		case c.rate.off():
			from[i] = -1
		case first >= 0 && from[first] >= 0:
			from[i] = from[first]
		default:
			on[n], from[i] = ask{c, a.Key}, n
			n++
		}
	}
	var answers [AsksMax]Decision
	switch n {
	case 0:
	case 1:
		answers[0] = l.driver.take(ctx, on[0].class, on[0].key)
	default:
		l.driver.takeAll(ctx, on[:n], answers[:n])
	}
	for i := range on[:n] {
		on[i].class.count(answers[i].OK)
	}
	out := make(Decisions, len(asks))
	for i := range asks {
		if from[i] < 0 {
			out[i] = Decision{OK: true}
		} else {
			out[i] = answers[from[i]]
		}
	}
	return out
}

// outcome is what the limits of one step say together.
type outcome struct {
	refused bool // one of them refuses
	other   bool // one that is not by account refuses
}

func (o *outcome) add(c *class, d Decision) {
	if !d.OK {
		o.refused = true
		o.other = o.other || c.name.part() != partGuarded
	}
}

// charges reports whether a limit whose own rate allows it is charged. take.lua has the same rule.
func (o outcome) charges(c *class) bool { return !o.refused || !o.other && c.name.Guards() }

func (c *class) count(ok bool) {
	if ok {
		c.allowed.Inc()
	} else {
		c.refused.Inc()
	}
}

// Refund takes back the newest charge of each key: for what turned out not to count, such as a sign-in that succeeded. It does nothing for
// a key without charges. What cannot be given back because Redis is away stays charged, for no longer than the rate's time.
func (l *Limits) Refund(ctx context.Context, name Name, key string) {
	if c := l.classes[name].Load(); !c.rate.off() {
		l.driver.refund(ctx, c, key)
	}
}

// RefundAll is Refund for each ask of an AllowAll that was allowed.
func (l *Limits) RefundAll(ctx context.Context, asks ...Ask) {
	for i, a := range asks {
		if !slices.Contains(asks[:i], a) {
			l.Refund(ctx, a.Name, a.Key)
		}
	}
}
