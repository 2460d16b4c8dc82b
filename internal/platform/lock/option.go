package lock

import (
	"fmt"
	"slices"
	"time"

	"levee"
)

// The bounds of what callers choose.
const (
	nameMax              = 190
	namesMax             = 16
	ttlDefault, ttlMin   = 10 * time.Second, 100 * time.Millisecond
	ttlMax               = time.Hour
	holdDefault, holdMax = 10 * time.Minute, 7 * 24 * time.Hour
	permitsMax           = 1000
	nameForm             = "1 to 190 bytes of printable ASCII without space, '{' and '}'"
	ttlForm, holdForm    = "from 100ms to 1h", "from 100ms to 168h"
)

type optKind uint8

const (
	optName optKind = iota
	optTTL
	optHold
	optShared
	optPermits
)

// Option changes one acquisition.
type Option struct {
	kind  optKind
	d     time.Duration
	n     int
	names []string
}

// TTL is how long the name stays taken when its holder dies, from 100 ms to 1 h. Default: that of the Config. Too short, and a slow
// network or a pause of the process loses locks; too long, and all others wait that long for a dead one.
func TTL(d time.Duration) Option { return Option{kind: optTTL, d: d} }

// MaxHold is how long the lease is renewed at most, from 100 ms to 168 h: a holder that hangs for ever ends with it. Default: that of the
// Config. With less than TTL it is the TTL, too.
func MaxHold(d time.Duration) Option { return Option{kind: optHold, d: d} }

// Shared asks for a read lock: up to 1,000 holders at a time, and none that is not shared beside them.
func Shared() Option { return Option{kind: optShared} }

// Permits asks for one of n places, from 1 to 1,000. With 1 it is the exclusive lock. All who use a name should ask with the same n; where they do not, the
// lowest of those who hold and of who asks counts.
func Permits(n int) Option { return Option{kind: optPermits, n: n} }

// And asks for more names: all of them or none, up to 16 in all. They are taken in the order of their bytes, so that two who ask for the same
// names in another order do not wait for each other for ever. A name given twice counts once.
func And(names ...string) Option { return Option{kind: optName, names: names} }

// options is what the Options of a call come to.
type options struct {
	ttl, hold time.Duration
	limit     int
	names     []string // sorted, with the first one; nil for one name
}

func (c *Config) options(name string, opts []Option) (o options, err error) {
	o = options{ttl: c.TTL, hold: c.MaxHold, limit: 1}
	if err := checkName(name); err != nil {
		return o, err
	}
	for i := range opts {
		switch p := &opts[i]; p.kind {
		case optTTL:
			if o.ttl = p.d; p.d < ttlMin || p.d > ttlMax {
				return o, levee.Invalid("ttl", ttlForm, p.d)
			}
		case optHold:
			if o.hold = p.d; p.d < ttlMin || p.d > holdMax {
				return o, levee.Invalid("max_hold", holdForm, p.d)
			}
		case optShared:
			o.limit = permitsMax
		case optPermits:
			if o.limit = p.n; p.n < 1 || p.n > permitsMax {
				return o, levee.Invalid("permits", "from 1 to 1000", p.n)
			}
		case optName:
			if o.names == nil {
				o.names = []string{name}
			}
			for _, n := range p.names {
				if err := checkName(n); err != nil {
					return o, err
				}
			}
			o.names = append(o.names, p.names...)
		}
	}
	o.ttl = min(o.ttl, o.hold)
	if o.names != nil {
		slices.Sort(o.names)
		o.names = slices.Compact(o.names)
		if len(o.names) > namesMax {
			return o, levee.Invalid("names", fmt.Sprintf("up to %d", namesMax), len(o.names))
		}
	}
	return o, nil
}

// checkName refuses what a store or a path could take for something else.
func checkName(s string) error {
	if len(s) < 1 || len(s) > nameMax {
		return levee.Invalid("name", nameForm, fmt.Sprintf("%d bytes", len(s)))
	}
	if s == "/" { // no step of a URL's path, however it is escaped
		return levee.Invalid("name", "more than a slash", s)
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '{' || c == '}' {
			return levee.Invalid("name", nameForm, fmt.Sprintf("byte %#02x at %d", c, i))
		}
	}
	return nil
}
