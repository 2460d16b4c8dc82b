// Package when says at which instants something fires: at a date, at every interval, by the calendar, by cron, or by several of these together.
//
// It owns the meaning of a trigger, its one text form, and what happens when clocks change. It does not run anything, keeps no state and reads
// no clock: a Trigger is an immutable value, and the same text gives the same firings on every node. Who fires, who missed a firing and what is
// done about it is the caller's.
//
// Firings are whole microseconds; cron and calendar triggers fire on whole seconds. Years are 1970 to 9999.
package when

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // a container without zone files knows the zones all the same
	"unicode/utf8"

	"levee"
)

// Trigger says when something fires. The zero value never fires. Triggers are made by At, Every, Calendar, Cron, Crontab, Any, All and Parse,
// and may be used from many goroutines at once.
type Trigger struct{ n node }

// node is one kind of trigger. Instants are microseconds since 1970 in UTC.
type node interface {
	next(after int64) int64 // the first firing strictly after, or never
	location() *time.Location
	text(b *strings.Builder)
	describe(w words) string
}

const (
	second = int64(time.Second / time.Microsecond)
	never  = int64(math.MaxInt64)
	always = int64(math.MinInt64) / 2
)

// Next returns the first firing strictly after the given instant, in the trigger's zone; false when none comes any more.
func (t Trigger) Next(after time.Time) (time.Time, bool) {
	if t.n == nil {
		return time.Time{}, false
	}
	next := t.n.next(after.UnixMicro())
	if next == never {
		return time.Time{}, false
	}
	return time.UnixMicro(next).In(t.n.location()), true
}

// NextRuns returns the first n firings strictly after the given instant, fewer when no more come.
func NextRuns(t Trigger, after time.Time, n int) []time.Time {
	var runs []time.Time
	for len(runs) < n {
		next, ok := t.Next(after)
		if !ok {
			break
		}
		runs = append(runs, next)
		after = next
	}
	return runs
}

// Text returns the trigger's text form; Parse of it gives a trigger with the same text and the same firings. The zero trigger's text is empty.
func (t Trigger) Text() string {
	if t.n == nil {
		return ""
	}
	var b strings.Builder
	t.n.text(&b)
	return b.String()
}

// String is Text.
func (t Trigger) String() string { return t.Text() }

// MarshalText is Text, for JSON and configuration.
func (t Trigger) MarshalText() ([]byte, error) { return []byte(t.Text()), nil }

// UnmarshalText is Parse; an empty text gives the trigger that never fires.
func (t *Trigger) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*t = Trigger{}
		return nil
	}
	*t, err = Parse(string(text))
	return err
}

// Must returns the trigger, and panics when it could not be made: for triggers that stand in the program's text.
func Must(t Trigger, err error) Trigger {
	if err != nil {
		panic(err)
	}
	return t
}

// Gap says what becomes of a time of day that does not exist because clocks are set forward (02:30 on a day that goes from 02:00 to 03:00).
type Gap int

const (
	GapDefault Gap = iota // GapShift; GapSkip for a cron trigger of every hour, which follows the clock on the wall
	GapShift              // it fires as long after midnight as on other days: 03:30. What java.time and RFC 5545 do
	GapNext               // it fires at the first instant that exists: 03:00. What Vixie's cron does
	GapSkip               // it does not fire
)

// Fold says what becomes of a time of day that comes twice because clocks are set back.
type Fold int

const (
	FoldDefault Fold = iota // FoldFirst; FoldBoth for a cron trigger of every hour, which follows the clock on the wall
	FoldFirst               // it fires the first time
	FoldLast                // it fires the second time
	FoldBoth                // it fires both times
)

// An Option is a part of a trigger that is not its rhythm. One that has no meaning for a kind of trigger is an error there.
type Option func(*options)

// From is the earliest instant of a firing, and for Every also where it counts from (without it: midnight of 1970-01-01 in the trigger's zone).
// Calendar takes the date as written, in whatever zone, as its first.
func From(t time.Time) Option { return func(o *options) { o.from = stamp{t: t} } }

// Until is the last instant of a firing; for Calendar the last date, as written.
func Until(t time.Time) Option { return func(o *options) { o.until = stamp{t: t} } }

// In names the time zone, as the IANA database does (Asia/Shanghai). Without it a trigger is in UTC, never in the machine's own zone.
func In(zone string) Option { return func(o *options) { o.zone = zone } }

// OnGap says what happens to times that do not exist; for cron and Calendar.
func OnGap(g Gap) Option { return func(o *options) { o.gap = g } }

// OnFold says what happens to times that come twice; for cron and Calendar.
func OnFold(f Fold) Option { return func(o *options) { o.fold = f } }

// Jitter delays each firing by 0 to most (whole milliseconds, at most 30 days), never up to the next one and never past Until. The delay follows from
// name and firing, so that all nodes agree on it; triggers with different names spread. An empty name means the trigger's own text.
func Jitter(most time.Duration, name string) Option {
	return func(o *options) { o.jitter, o.by, o.jittered = most, name, true }
}

// options as they were given, with the place of each in the text (0 when they did not come from one).
type options struct {
	from, until      stamp
	zone             string
	gap              Gap
	fold             Fold
	jitter           time.Duration
	by               string
	jittered         bool
	zoneAt, jitterAt int
	gapAt, foldAt    int
}

// stamp is an instant, or a text that becomes one when the zone is known.
type stamp struct {
	t    time.Time
	text string
	at   int
}

func (s stamp) given() bool { return s.text != "" || !s.t.IsZero() }

// span is what triggers of all kinds have: a zone, a beginning, an end and what they do when clocks change.
type span struct {
	loc         *time.Location
	zone        string
	from, until int64
	gap, asked  Gap  // gap and fold are in force, asked and wanted were given
	fold, want  Fold //
}

func (s *span) location() *time.Location { return s.loc }
func (s *span) end() int64               { return s.until }

func collect(list []Option) *options {
	o := &options{}
	for _, option := range list {
		option(o)
	}
	return o
}

// span checks what was given. dated says that From and Until are dates: then they come back as they were written, at midnight in UTC.
func (o *options) span(dated, civil bool) (s span, err error) {
	s = span{loc: time.UTC, zone: o.zone, from: always, until: never, gap: o.gap, asked: o.gap, fold: o.fold, want: o.fold}
	if o.zone != "" {
		// The machine's own zone would differ between nodes.
		if s.loc, err = zone(o.zone); err != nil || strings.EqualFold(o.zone, "local") {
			return s, fault{"in", "a time zone of the IANA database, such as Europe/Berlin", o.zone, o.zoneAt}
		}
	}
	if !civil && o.gap != GapDefault || o.gap < 0 || o.gap > GapSkip {
		return s, fault{"gap", "given for cron and calendar triggers only, as shift, next or skip", names[Gap](gaps, o.gap), o.gapAt}
	}
	if !civil && o.fold != FoldDefault || o.fold < 0 || o.fold > FoldBoth {
		return s, fault{"fold", "given for cron and calendar triggers only, as first, last or both", names[Fold](folds, o.fold), o.foldAt}
	}
	if o.from.given() {
		if s.from, err = o.from.micros("from", s.loc, dated); err != nil {
			return s, err
		}
	}
	if o.until.given() {
		if s.until, err = o.until.micros("until", s.loc, dated); err != nil {
			return s, err
		}
		if s.until < s.from {
			return s, fault{"until", "at or after from", o.until.String(), o.until.at}
		}
	}
	return s, nil
}

// zones keeps what was read: reading one takes longer than all else. There are some 600.
var zones sync.Map

func zone(name string) (*time.Location, error) {
	if loc, ok := zones.Load(name); ok {
		return loc.(*time.Location), nil
	}
	loc, err := time.LoadLocation(name)
	if err == nil {
		zones.Store(name, loc)
	}
	return loc, err
}

func (s stamp) String() string {
	if s.text != "" {
		return s.text
	}
	return s.t.Format(time.RFC3339)
}

func (s stamp) micros(field string, loc *time.Location, dated bool) (int64, error) {
	t, ok := s.t, true
	if s.text != "" {
		ok = false
		layouts := []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly}
		if dated {
			layouts = layouts[3:]
		}
		for _, layout := range layouts {
			if p, err := time.ParseInLocation(layout, s.text, loc); err == nil {
				t, ok = p, true
				break
			}
		}
	}
	if dated {
		y, m, d := t.Date()
		t = time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	}
	if !ok || t.UTC().Year() < 1970 || t.UTC().Year() > 9999 {
		if dated {
			return 0, fault{field, "a date such as 2026-01-31, of the years 1970 to 9999", s.String(), s.at}
		}
		return 0, fault{field, "a time such as 2026-01-31T09:00:00+01:00 or 2026-01-31, of the years 1970 to 9999", s.String(), s.at}
	}
	return t.UnixMicro(), nil
}

// fault is a refused part of a trigger, and its place: the bytes before it and one, 0 when it did not come from a text.
type fault struct {
	field, allowed, given string
	at                    int
}

func (f fault) Error() string { return f.field + " must be " + f.allowed }

// shown turns a fault into the error for the caller; text is what was parsed.
func shown(err error, text string) error {
	f, ok := err.(fault)
	if !ok {
		return err
	}
	e := levee.Invalid(f.field, f.allowed, f.given)
	if f.at > 0 && f.at <= len(text)+1 {
		place := utf8.RuneCountInString(text[:f.at-1]) + 1
		e.Message += fmt.Sprintf(" at character %d", place)
		_ = e.With("position", place)
	}
	return e
}

// made ends every constructor: it adds the jitter, or shows the fault.
func made(n node, o *options, err error) (Trigger, error) {
	if err == nil {
		n, err = o.delayed(n)
	}
	if err != nil {
		return Trigger{}, shown(err, "")
	}
	return Trigger{n}, nil
}

func (o *options) delayed(n node) (node, error) {
	if !o.jittered {
		return n, nil
	}
	if o.jitter < time.Millisecond || o.jitter > 30*24*time.Hour {
		return nil, fault{"jitter", "1ms to 30d", o.jitter.String(), o.jitterAt}
	}
	if len(o.by) > 100 || strings.ContainsFunc(o.by, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`();'"`, r) }) {
		return nil, fault{"by", "a name of at most 100 printable ASCII characters without spaces, quotes, brackets and semicolons", o.by, o.jitterAt}
	}
	j := &jittered{node: n, most: int64(o.jitter.Truncate(time.Millisecond) / time.Microsecond), by: o.by, until: never}
	if s, ok := n.(interface{ end() int64 }); ok {
		j.until = s.end()
	}
	name := o.by
	if name == "" {
		name = Trigger{n}.Text()
	}
	j.seed = hash(name)
	return j, nil
}

// At fires once, at t.
func At(t time.Time, with ...Option) (Trigger, error) {
	o := collect(with)
	n, err := newAt(stamp{t: t}, o)
	return made(n, o, err)
}

type at struct {
	span
	t int64
}

func newAt(t stamp, o *options) (node, error) {
	s, err := o.span(false, false)
	if err == nil && (o.from.given() || o.until.given()) {
		err = fault{"at", "given without from and until", t.String(), t.at}
	}
	if err != nil {
		return nil, err
	}
	n := &at{span: s}
	n.t, err = t.micros("at", s.loc, false)
	return n, err
}

func (a *at) next(after int64) int64 {
	if a.t > after {
		return a.t
	}
	return never
}

// Any fires whenever one of its members fires, once for those that fire together, until all have ended. It takes 1 to 16 members; of the options Jitter alone.
// Firings come in the first member's zone.
func Any(members []Trigger, with ...Option) (Trigger, error) { return combined("any", members, with) }

// All fires at the instants at which all of its members fire, until one has ended. It takes 1 to 16 members, without jitter and without another All in
// them; of the options Jitter alone. To find the next common instant members are asked at most 10,000 times, about 100 years: when they meet more rarely
// than that, All has ended, and when they never do, it is refused. Firings come in the first member's zone.
func All(members []Trigger, with ...Option) (Trigger, error) { return combined("all", members, with) }

func combined(kind string, members []Trigger, with []Option) (Trigger, error) {
	o, list := collect(with), []node{}
	for _, m := range members {
		list = append(list, m.n)
	}
	n, err := newCombined(kind, list, o, 0)
	return made(n, o, err)
}

const (
	mostMembers = 16
	mostDepth   = 4
	mostMeets   = 10_000
	meetWithin  = 100 * 366 * daySeconds * second
)

type combination struct {
	kind    string
	members []node
	depth   int
	all     bool // or one of its members is
}

func newCombined(kind string, members []node, o *options, place int) (node, error) {
	if _, err := o.span(false, false); err != nil {
		return nil, err
	}
	if o.from.given() || o.until.given() || o.zone != "" {
		return nil, fault{kind, "given without from, until and in: these belong to its members", kind, place}
	}
	if len(members) < 1 || len(members) > mostMembers || slices.Contains(members, nil) {
		return nil, fault{kind, "1 to 16 triggers", kind, place}
	}
	c := &combination{kind: kind, members: slices.Clone(members), depth: 1, all: kind == "all"}
	for _, m := range members {
		if j, ok := m.(*jittered); ok {
			if m = j.node; kind == "all" {
				return nil, fault{"all", "of triggers without jitter: put it behind the bracket", kind, place}
			}
		}
		if inner, ok := m.(*combination); ok {
			if inner.all && kind == "all" {
				return nil, fault{"all", "of triggers that hold no other all", kind, place}
			}
			c.depth, c.all = max(c.depth, inner.depth+1), c.all || inner.all
		}
	}
	if c.depth > mostDepth {
		return nil, fault{kind, "at most 4 levels deep", kind, place}
	}
	if kind == "all" && c.next(always) == never {
		return nil, fault{"all", "of triggers that fire together at some time", Trigger{c}.Text(), place}
	}
	return c, nil
}

func (c *combination) next(after int64) int64 {
	if c.kind == "any" {
		first := never
		for _, m := range c.members {
			first = min(first, m.next(after))
		}
		return first
	}
	meet, agree := c.members[0].next(after), 1
	far := never
	if meet < never-meetWithin {
		far = meet + meetWithin
	}
	for i, asked := 1%len(c.members), 0; agree < len(c.members); i, asked = (i+1)%len(c.members), asked+1 {
		if meet == never || meet > far || asked > mostMeets {
			return never
		}
		if next := c.members[i].next(meet - 1); next > meet {
			meet, agree = next, 1
		} else {
			agree++
		}
	}
	return meet
}

func (c *combination) location() *time.Location { return c.members[0].location() }

// jittered delays the firings of another trigger.
type jittered struct {
	node
	most, until int64
	by          string
	seed        uint64
}

// A delay ends before the next firing, so firings keep their order: the next one belongs to the last firing at or before after, or to the first behind it.
func (j *jittered) next(after int64) int64 {
	next := j.node.next(after)
	if last := j.last(after, next); last != never {
		if t := j.delay(last, next); t > after {
			return t
		}
	}
	if next == never {
		return never
	}
	return j.delay(next, j.node.next(next))
}

// last finds the last firing in (after-most, after], in steps that double, starting from a guess, and then by halves.
func (j *jittered) last(after, next int64) int64 {
	step := j.most
	if next != never {
		step = min(step, max(second, j.node.next(next)-next))
	}
	for back := step; ; back = min(2*back, j.most) {
		if last := j.node.next(after - back); last <= after {
			for none := after; ; { // there is none behind it, up to after
				next := j.node.next(last)
				if next > after {
					return last
				}
				last = next
				if middle := last + (none-last)/2; j.node.next(middle) <= after {
					last = j.node.next(middle)
				} else {
					none = middle
				}
			}
		}
		if back == j.most {
			return never
		}
	}
}

func (j *jittered) delay(firing, next int64) int64 {
	room := min(j.most, next-firing, j.until-firing+1) / 1000
	if room < 1 {
		return firing
	}
	return firing + int64(mix(j.seed^uint64(firing))%uint64(room))*1000
}

// hash is FNV-1a.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood 2014): neighbouring firings get delays that look unrelated.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
