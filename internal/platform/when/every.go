package when

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// Every fires at every interval of at least a millisecond, in time that passes: a day is 24 hours, whatever clocks do. It keeps its phase from From,
// which is its first firing: what was missed does not move what comes. Weeks, days, hours, minutes and seconds add up to the interval.
func Every(interval time.Duration, with ...Option) (Trigger, error) {
	o := collect(with)
	n, err := newEvery(interval, o, 0)
	return made(n, o, err)
}

type every struct {
	span
	phase, interval int64
}

func newEvery(interval time.Duration, o *options, place int) (node, error) {
	if interval < time.Millisecond || interval%time.Microsecond != 0 {
		return nil, fault{"every", "at least 1ms and a whole number of microseconds", interval.String(), place}
	}
	s, err := o.span(false, false)
	if err != nil {
		return nil, err
	}
	e := &every{span: s, phase: s.from, interval: int64(interval / time.Microsecond)}
	if s.from == always {
		e.phase = time.Date(1970, 1, 1, 0, 0, 0, 0, s.loc).UnixMicro()
	}
	return e, nil
}

func (e *every) next(after int64) int64 {
	next := e.phase
	if after >= e.phase {
		if next = after + e.interval - (after-e.phase)%e.interval; next < after {
			return never
		}
	}
	if next > e.until || next > latest {
		return never
	}
	return next
}

// latest is the end of the year 9999.
const latest = 253402300799 * second

// Period is the distance between two dates of Calendar.
type Period struct{ Years, Months, Weeks, Days int }

// Calendar fires at a time of day ("09:00", "09:00:30") on dates a period apart, the first of which is From's, which must be given. Years and months
// keep the day of the month and pass over months that lack it (31 January, 31 March, 31 May for one month); weeks and days are then added. Each date
// counts from the one before, as in APScheduler's CalendarIntervalTrigger, whose start_date and end_date are From and Until.
func Calendar(p Period, clock string, with ...Option) (Trigger, error) {
	o := collect(with)
	n, err := newCalendar(p, clock, o, 0, 0)
	return made(n, o, err)
}

type calendar struct {
	span
	Period
	clock       int64 // seconds after midnight
	first, last int64 // days since 1970
}

func newCalendar(p Period, clock string, o *options, place, clockAt int) (node, error) {
	parts := [4]int{p.Years, p.Months, p.Weeks, p.Days}
	for _, n := range parts {
		if n < 0 || n > 10000 {
			return nil, fault{"calendar", "a period whose parts are 0 to 10000", strconv.Itoa(n), place}
		}
	}
	if parts == [4]int{} {
		return nil, fault{"calendar", "a period of at least a day", "none", place}
	}
	c := &calendar{Period: p}
	t, err := time.Parse("15:04:05", clock)
	if err != nil {
		t, err = time.Parse("15:04", clock)
	}
	if err != nil || t.Nanosecond() != 0 {
		return nil, fault{"at", "a time of day such as 09:00 or 09:00:30", clock, clockAt}
	}
	c.clock = int64(t.Hour()*hourSeconds + t.Minute()*minuteSeconds + t.Second())
	if !o.from.given() {
		return nil, fault{"from", "given for a calendar trigger: its first date", "", place}
	}
	if c.span, err = o.span(true, true); err != nil {
		return nil, err
	}
	c.first, c.last = c.from/second/daySeconds, math.MaxInt64
	c.from = always
	if c.until != never {
		c.last = c.until / second / daySeconds
		y, m, d := dateOf(c.last)
		c.until = time.Date(y, time.Month(m), d+1, 0, 0, 0, 0, c.loc).UnixMicro() - 1
	}
	if c.gap == GapDefault {
		c.gap = GapShift
	}
	if c.fold == FoldDefault {
		c.fold = FoldFirst
	}
	if c.next(always) == never {
		return nil, fault{"calendar", "a trigger that fires at some time", "one that never does", place}
	}
	return c, nil
}

func (c *calendar) next(after int64) int64 { return c.span.next(after, c) }

func (c *calendar) nextWall(s int64) int64 {
	day := c.first
	least := (s-c.clock-1)/daySeconds + 1 // the first day whose time of day is at or after s
	if s <= c.clock {
		least = 0
	}
	if step := int64(c.Weeks*7 + c.Days); c.Months == 0 && c.Years == 0 {
		if day < least {
			day += (least - day + step - 1) / step * step
		}
	} else {
		y, m, d := dateOf(day)
		for day < least && day <= c.last && y < 9999 {
			for {
				m += c.Months - 1
				y, m = y+c.Years+m/12, m%12+1
				if d <= daysIn(y, m) {
					break
				}
				if y > 9999 {
					return never
				}
			}
			if day = daysOf(y, m, d) + step; step > 0 {
				y, m, d = dateOf(day)
			}
		}
		if day < least {
			return never
		}
	}
	if day > c.last || day >= latest/second/daySeconds {
		return never
	}
	return day*daySeconds + c.clock
}

func (a *at) text(b *strings.Builder) {
	b.WriteString("at ")
	b.WriteString(a.time(a.t))
	a.rest(b, always, never)
}

func (e *every) text(b *strings.Builder) {
	b.WriteString("every ")
	writeDuration(b, e.interval)
	e.rest(b, e.from, e.until)
}

func (c *calendar) text(b *strings.Builder) {
	b.WriteString("calendar")
	for i, n := range [4]int{c.Years, c.Months, c.Weeks, c.Days} {
		if n > 0 {
			b.WriteString(" " + strconv.Itoa(n) + " " + periods[i])
			if n > 1 {
				b.WriteByte('s')
			}
		}
	}
	b.WriteString(" at " + clockText(c.clock) + " from " + dateText(c.first))
	if c.last != math.MaxInt64 {
		b.WriteString(" until " + dateText(c.last))
	}
	c.rest(b, always, never)
}

// periods names the parts of a Period.
var periods = [4]string{"year", "month", "week", "day"}

// units of durations, from the longest, in microseconds.
var units = []struct {
	name   string
	micros int64
}{{"w", 7 * daySeconds * second}, {"d", daySeconds * second}, {"h", hourSeconds * second}, {"m", minuteSeconds * second}, {"s", second}, {"ms", 1000}, {"us", 1}}

func writeDuration(b *strings.Builder, micros int64) {
	for _, u := range units {
		if n := micros / u.micros; n > 0 {
			b.WriteString(strconv.FormatInt(n, 10) + u.name)
			micros -= n * u.micros
		}
	}
}

func clockText(s int64) string {
	layout := "15:04"
	if s%60 != 0 {
		layout = "15:04:05"
	}
	return time.Unix(s, 0).UTC().Format(layout)
}

func dateText(day int64) string { return time.Unix(day*daySeconds, 0).UTC().Format(time.DateOnly) }

func (s *span) time(micros int64) string {
	return time.UnixMicro(micros).In(s.loc).Format("2006-01-02T15:04:05.999999Z07:00")
}

// rest writes what follows the rhythm, always in this order.
func (s *span) rest(b *strings.Builder, from, until int64) {
	if from != always {
		b.WriteString(" from " + s.time(from))
	}
	if until != never {
		b.WriteString(" until " + s.time(until))
	}
	if s.zone != "" {
		b.WriteString(" in " + s.zone)
	}
	if s.asked != GapDefault {
		b.WriteString(" gap " + names[Gap](gaps, s.asked))
	}
	if s.want != FoldDefault {
		b.WriteString(" fold " + names[Fold](folds, s.want))
	}
}

var (
	gaps  = []string{"default", "shift", "next", "skip"}
	folds = []string{"default", "first", "last", "both"}
)

func names[T ~int](list []string, v T) string {
	if v < 0 || int(v) >= len(list) {
		return strconv.Itoa(int(v))
	}
	return list[v]
}

func (c *combination) text(b *strings.Builder) {
	b.WriteString(c.kind + "(")
	for i, m := range c.members {
		if i > 0 {
			b.WriteString("; ")
		}
		m.text(b)
	}
	b.WriteByte(')')
}

func (j *jittered) text(b *strings.Builder) {
	j.node.text(b)
	b.WriteString(" jitter ")
	writeDuration(b, j.most)
	if j.by != "" {
		b.WriteString(" by " + j.by)
	}
}
