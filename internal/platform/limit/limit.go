// Package limit owns how often somebody may ask for something: it counts by name and key and says yes or no.
//
// It does not own who is asking or what the answer looks like: platform/web picks the key and answers 429, and the rooms charge
// the limits that are not tied to a route. What may be held or bought per person is a rule of its room, not a rate.
package limit

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/platform/obs"
)

// Name is one limit. Each has its own keys, so that a flood on one cannot push out what another remembers.
type Name uint8

// The limits. None allows everything. The default rates and what the key is stand in the table below.
const (
	None Name = iota
	SignIn
	SignInAccount
	SignUp
	Read
	Write
	Purchase
	Admission
	AdmissionAddress
	Challenge
	Poll
	Import
	Connect
	nameCount
)

// Scope says what a limit's key is.
type Scope uint8

// The scopes. ByUser falls back to the address for a visitor; ByAccount is the account's name as it was typed, whether there
// is such an account or not.
const (
	ByAddress Scope = iota
	ByUser
	ByAccount
)

var table = [nameCount]struct {
	name  string
	scope Scope
	rate  Rate
}{
	None: {name: "none"},
	// An office behind one address signs in at nine o'clock; a guesser needs thousands of tries.
	SignIn: {"sign_in", ByAddress, Rate{Count: 30, Per: time.Minute}},
	// A person who has forgotten needs fewer; at this rate a list of the 1,000 commonest passwords takes a day.
	SignInAccount: {"sign_in_account", ByAccount, Rate{Count: 10, Per: 15 * time.Minute}},
	// Each costs a password hash (about 20 ms of a core) and a row that stays.
	SignUp: {"sign_up", ByAddress, Rate{Count: 20, Per: time.Hour}},
	// A page takes some ten requests, and many people may share an address.
	Read:  {"read", ByAddress, Rate{Count: 200, Per: time.Second, Burst: 400}},
	Write: {"write", ByUser, Rate{Count: 20, Per: time.Second, Burst: 40}},
	// Nobody's finger is faster; a script gains nothing over it.
	Purchase:  {"purchase", ByUser, Rate{Count: 10, Per: time.Second, Burst: 20}},
	Admission: {"admission", ByUser, Rate{Count: 5, Per: time.Second, Burst: 10}},
	// A mobile network brings thousands at the opening through one address; more than these come one after another.
	AdmissionAddress: {"admission_address", ByAddress, Rate{Count: 100, Per: time.Second, Burst: 1000}},
	// A picture costs a millisecond of a core, and a person who cannot read one asks for a few more.
	Challenge: {"challenge", ByUser, Rate{Count: 30, Per: time.Minute}},
	Poll:      {"poll", ByUser, Rate{Count: 10, Per: time.Second, Burst: 20}},
	// Each may read 20 MiB and write 100,000 rows.
	Import: {"import", ByUser, Rate{Count: 10, Per: time.Minute}},
	// A page opens one stream and opens it again after a cut.
	Connect: {"connect", ByAddress, Rate{Count: 300, Per: time.Minute, Burst: 300}},
}

// String returns the limit's name in config, metrics and headers.
func (n Name) String() string {
	if n >= nameCount {
		return fmt.Sprintf("limit(%d)", uint8(n))
	}
	return table[n].name
}

// Scope returns what the limit's key is.
func (n Name) Scope() Scope { return table[n].scope }

// Names returns all limits but None, in a fixed order.
func Names() []Name {
	names := make([]Name, 0, nameCount-1)
	for n := None + 1; n < nameCount; n++ {
		names = append(names, n)
	}
	return names
}

// Config changes rates. The zero value keeps the defaults.
type Config struct {
	// Rates maps a limit's name (sign_in) to its rate ("30/m", "10/s burst 20", "off"). A rate too low locks people out who
	// share an address; "off" for sign_in_account lets passwords be guessed.
	Rates map[string]string
	// Keys is the most keys that one limit remembers, from 1,024 to 10,000,000. Default 100,000. A key takes about 150 bytes,
	// and 8 more for each charge of an exact rate. When a flood of keys passes it, those with the least charges are forgotten
	// first (levee_limit_evicted_total counts them): too low a number lets such a flood blunt the limit.
	Keys int
}

const (
	keysDefault, keysMin, keysMax = 100_000, 1 << 10, 10_000_000
)

// Decision is the answer to one Allow. With OK false nothing was charged.
type Decision struct {
	OK bool
	// Limit is how many may come at once; 0 means that there is no limit, and the other numbers say nothing.
	Limit int
	// Remaining is how many more would be allowed right now.
	Remaining int
	// Reset is how long it takes until Limit may come at once again, if nothing comes in between.
	Reset time.Duration
	// RetryAfter is, when OK is false, how long to wait until one would be allowed; else 0.
	RetryAfter time.Duration
}

// Err returns nil when OK, else CodeTooManyRequests with RetryAfter.
func (d Decision) Err() error {
	if d.OK {
		return nil
	}
	wait := (d.RetryAfter + time.Second - 1).Truncate(time.Second) // people and the header count in whole seconds
	return levee.E(levee.CodeTooManyRequests, "too many requests, ask again in %v", wait).After(d.RetryAfter)
}

// Limits decides. It is made by Open and safe for concurrent use.
type Limits struct {
	classes [nameCount]class
	driver  driver
}

// class is one limit with its rate and counters.
type class struct {
	name             Name
	rate             Rate
	allowed, refused prometheus.Counter
}

// driver keeps the charges. What it does when its backend is away is its own part of the promise: the methods do not fail.
type driver interface {
	// take charges one to the key if its rate, which is never off, allows it.
	take(ctx context.Context, c *class, key string) Decision
	// refund takes the key's newest charge back, if there is one.
	refund(ctx context.Context, c *class, key string)
}

// Open makes the limits, which are kept in the memory of this process and forgotten at its end. A name or rate in cfg that is
// not one is CodeInvalid.
func Open(cfg Config, o *obs.Obs) (_ *Limits, err error) {
	defer levee.Wrap(&err, "limit.Open")
	if cfg.Keys == 0 {
		cfg.Keys = keysDefault
	}
	if cfg.Keys < keysMin || cfg.Keys > keysMax {
		return nil, levee.Invalid("limit.keys", "from 1024 to 10000000", cfg.Keys)
	}
	decisions := obs.Register(o.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_limit_decisions_total", Help: "Decisions by limit and result (allowed, refused).",
	}, []string{"name", "result"}))
	l := &Limits{}
	byName := map[string]*class{}
	for _, n := range Names() {
		l.classes[n] = class{
			name: n, rate: table[n].rate,
			allowed: decisions.WithLabelValues(n.String(), "allowed"), refused: decisions.WithLabelValues(n.String(), "refused"),
		}
		byName[n.String()] = &l.classes[n]
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Rates)) {
		c, ok := byName[name]
		if !ok {
			return nil, levee.Invalid("limit.rates", fmt.Sprintf("a map whose keys are among %v", Names()), name)
		}
		if c.rate, ok = parseRate(cfg.Rates[name]); !ok {
			return nil, levee.Invalid("limit.rates."+name, rateForm, cfg.Rates[name])
		}
	}
	l.driver = newMemory(cfg.Keys, o)
	return l, nil
}

// Rate returns the limit's rate; the zero Rate means that it is off.
func (l *Limits) Rate(name Name) Rate { return l.classes[name].rate }

// Allow charges one to the key of a limit, or refuses and charges nothing. Whoever has several limits to ask asks all of them,
// also when one has refused: else the first one's refusals would hide an attack from the others. Two keys of one limit never
// share a charge; keys of any length and content are fine. Decisions do not depend on steps of the wall clock.
func (l *Limits) Allow(ctx context.Context, name Name, key string) Decision {
	c := &l.classes[name]
	if c.rate.off() {
		return Decision{OK: true}
	}
	d := l.driver.take(ctx, c, key)
	if d.OK {
		c.allowed.Inc()
	} else {
		c.refused.Inc()
	}
	return d
}

// Refund takes back the newest charge of the key: for what turned out not to count, such as a sign-in that succeeded. It does
// nothing for a key without charges.
func (l *Limits) Refund(ctx context.Context, name Name, key string) {
	if c := &l.classes[name]; !c.rate.off() {
		l.driver.refund(ctx, c, key)
	}
}

// AddressKey returns the key for an address: an IPv4 address itself, also when it comes mapped into IPv6, and an IPv6 address's
// /64, because that is what one customer is given and may pick addresses from. The invalid address gives "".
func AddressKey(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		if !a.IsValid() {
			return ""
		}
		return a.String()
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a.String()
	}
	return p.String()
}
