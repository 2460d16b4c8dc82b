package when

import (
	"math/bits"
	"strings"
)

// Fields is a cron trigger as APScheduler writes it: every field is a list of values, ranges, steps and names ("1,15", "8-18/2", "*/5", "mon-fri", "jan"),
// all must be met at once. Fields right of the last given one (in the order below) stand at their least value, except week and day of the week; the
// others are free. So Hour: "9" is 09:00:00 each day, and Day: "1" is midnight of the first. Ranges may wrap ("fri-mon", "22-4").
type Fields struct {
	Year      string // 1970-9999
	Month     string // 1-12 or jan-dec
	Day       string // 1-31, last or L, L-3 (three days before the last), 3rd fri, last mon, 15W (the weekday nearest to the 15th), LW (the last weekday)
	Week      string // 1-53, of ISO 8601
	DayOfWeek string // 0-6 from Monday, or mon-sun; fri#3 (the third), friL (the last)
	Hour      string // 0-23
	Minute    string // 0-59
	Second    string // 0-59
}

// Cron fires when all fields are met. At least one must be given; what can never be met (30 February) is an error.
func Cron(f Fields, with ...Option) (Trigger, error) {
	o := collect(with)
	var given [8]part
	for i, text := range [8]string{f.Year, f.Month, f.Day, f.Week, f.DayOfWeek, f.Hour, f.Minute, f.Second} {
		given[i] = part{text: text}
	}
	n, err := newCron(given, o, 0)
	return made(n, o, err)
}

// Crontab fires as a line of a crontab says: minute, hour, day of the month, month and day of the week (0 and 7 are Sunday), with a field for seconds before
// them when there are six, and one for years behind them when there are seven; or @yearly, @monthly, @weekly, @daily and @hourly. When both days are
// restricted (neither begins with *), either will do, as in every cron. Besides what Fields knows, ? stands for *.
func Crontab(line string, with ...Option) (Trigger, error) {
	o := collect(with)
	var parts []part
	for rest, at := line, 0; ; {
		word := strings.TrimLeft(rest, " \t")
		at += len(rest) - len(word)
		if word == "" {
			break
		}
		end := strings.IndexAny(word, " \t")
		if end < 0 {
			end = len(word)
		}
		parts = append(parts, part{word[:end], at + 1})
		rest, at = word[end:], at+end
	}
	n, err := newCrontab(parts, o, 0)
	if err == nil {
		n, err = o.delayed(n)
	}
	if err != nil {
		return Trigger{}, shown(err, line)
	}
	return Trigger{n}, nil
}

// part is a word and its place in the text.
type part struct {
	text string
	at   int
}

// The fields, in the order in which the rule for what is left out reads them.
const (
	year = iota
	month
	day
	week
	dayOfWeek
	hour
	minute
	sec
)

type cron struct {
	span
	given   [8]string // by the fields' order
	crontab string    // the line, when given as one
	years   []progression
	months  uint64
	dom     days
	dow     days
	either  bool // dom or dow, not both
	weeks   uint64
	hours   uint64
	minutes uint64
	seconds uint64
}

// progression is from, from+step, … up to to.
type progression struct{ from, to, step int }

// days of a month, by every way to name them. Bit n stands for the day, or weekday from Monday, n.
type days struct {
	fixed    uint64    // 1-31
	fromEnd  uint64    // bit 0 is the last day
	near     uint64    // the weekday nearest to it
	lastWork bool      // the last of Monday to Friday
	weekdays uint64    // 0-6
	nth      [5]uint64 // weekdays, by which in the month
	lastOf   uint64    // the last such weekday of the month
	all      bool
}

func newCron(given [8]part, o *options, place int) (node, error) {
	c := &cron{}
	last := -1
	for i, p := range given {
		if strings.TrimSpace(p.text) != "" {
			last, c.given[i] = i, spaced(p.text)
		}
	}
	if last < 0 {
		return nil, fault{"cron", "given with at least one field", "", place}
	}
	for i, p := range given {
		switch {
		case c.given[i] != "":
		case i < last || i == week || i == dayOfWeek:
			p.text = "*"
		case i == month || i == day:
			p.text = "1"
		default:
			p.text = "0"
		}
		if err := c.read(i, p, false); err != nil {
			return nil, err
		}
	}
	return c.ready(o, place)
}

var shorthands = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

func newCrontab(parts []part, o *options, place int) (node, error) {
	c := &cron{}
	var words []string
	for _, p := range parts {
		words = append(words, quoted(spaced(p.text)))
	}
	c.crontab = strings.Join(words, " ")
	if len(parts) == 1 {
		c.crontab = strings.ToLower(c.crontab)
		line, ok := shorthands[c.crontab]
		if !ok {
			return nil, fault{"cron", "5 to 7 fields, or @yearly, @monthly, @weekly, @daily or @hourly", parts[0].text, parts[0].at}
		}
		at := parts[0].at
		parts = nil
		for _, word := range strings.Fields(line) {
			parts = append(parts, part{word, at})
		}
	}
	order := []int{sec, minute, hour, day, month, dayOfWeek, year}
	switch len(parts) {
	case 5:
		parts = append([]part{{"0", place}}, append(parts, part{"*", place})...)
	case 6:
		parts = append(parts, part{"*", place})
	case 7:
	default:
		return nil, fault{"cron", "5 fields (minute, hour, day, month, day of week), 6 (second first) or 7 (year last)", c.crontab, place}
	}
	for i, field := range order {
		if err := c.read(field, parts[i], true); err != nil {
			return nil, err
		}
		c.given[field] = parts[i].text
	}
	if err := c.read(week, part{text: "*"}, true); err != nil {
		return nil, err
	}
	free := func(p part) bool { return p.text[0] == '*' || p.text[0] == '?' }
	c.either = !free(parts[3]) && !free(parts[5])
	return c.ready(o, place)
}

// spaced is the text with one space where there are several, and none beside commas.
func spaced(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	return strings.ReplaceAll(strings.ReplaceAll(text, " ,", ","), ", ", ",")
}

func quoted(word string) string {
	if strings.Contains(word, " ") {
		return "'" + word + "'"
	}
	return word
}

func (c *cron) ready(o *options, place int) (node, error) {
	s, err := o.span(false, true)
	if err != nil {
		return nil, err
	}
	c.span = s
	everyHour := c.hours == 1<<24-1
	if c.gap == GapDefault {
		if c.gap = GapShift; everyHour {
			c.gap = GapSkip
		}
	}
	if c.fold == FoldDefault {
		if c.fold = FoldFirst; everyHour {
			c.fold = FoldBoth
		}
	}
	if c.next(always) == never {
		var b strings.Builder
		c.text(&b)
		return nil, fault{"cron", "a trigger that fires at some time; this one never does", b.String(), place}
	}
	return c, nil
}

func (c *cron) next(after int64) int64 { return c.span.next(after, c) }

// nextWall goes from field to field, from years to seconds. It gives up after 400 years that the year field allows: the calendar comes again after them.
func (c *cron) nextWall(s int64) int64 {
	s = max(s, 0)
	today, clock := s/daySeconds, c.nextClock(int(s%daySeconds))
	y, m, d := dateOf(today)
	if clock < 0 { // nothing more today
		d++
	} else if c.matches(y, m, d, today) {
		return today*daySeconds + int64(clock)
	} else {
		d++
	}
	for range 400 {
		allowed := c.nextYear(y)
		if allowed < 0 {
			return never
		}
		if allowed > y {
			y, m, d = allowed, 1, 1
		}
		for ; m <= 12; m, d = m+1, 1 {
			if c.months>>m&1 == 0 {
				continue
			}
			first := daysOf(y, m, 1)
			if left := c.days(y, m, first) >> d << d; left != 0 {
				return (first+int64(bits.TrailingZeros64(left))-1)*daySeconds + int64(c.nextClock(0))
			}
		}
		y, m, d = y+1, 1, 1
	}
	return never
}

func (c *cron) matches(y, m, d int, today int64) bool {
	return c.months>>m&1 == 1 && c.nextYear(y) == y && c.days(y, m, today-int64(d)+1)>>d&1 == 1
}

// nextClock is the first second of the day at or after s that fits, or -1.
func (c *cron) nextClock(s int) int {
	h, m := s/hourSeconds, s/minuteSeconds%60
	if c.hours>>h&1 == 1 {
		if c.minutes>>m&1 == 1 {
			if left := c.seconds >> (s % 60); left != 0 {
				return s + bits.TrailingZeros64(left)
			}
		}
		if left := c.minutes >> (m + 1); left != 0 {
			return h*hourSeconds + (m+1+bits.TrailingZeros64(left))*minuteSeconds + bits.TrailingZeros64(c.seconds)
		}
	}
	if left := c.hours >> (h + 1); left != 0 {
		return (h+1+bits.TrailingZeros64(left))*hourSeconds + bits.TrailingZeros64(c.minutes)*minuteSeconds + bits.TrailingZeros64(c.seconds)
	}
	return -1
}

// nextYear is the first year at or after y that fits, or -1.
func (c *cron) nextYear(y int) int {
	best := -1
	for _, p := range c.years {
		next := p.from
		if y > next {
			next = y + (p.step-(y-p.from)%p.step)%p.step
		}
		if next <= p.to && (best < 0 || next < best) {
			best = next
		}
	}
	return best
}

// days of a month that fit, as bits; first is its first day.
func (c *cron) days(y, m int, first int64) uint64 {
	begins, n := weekday(first), daysIn(y, m)
	var fit uint64
	switch {
	case c.either:
		fit = c.dom.in(begins, n) | c.dow.in(begins, n)
	default:
		fit = c.dom.in(begins, n) & c.dow.in(begins, n)
	}
	if c.weeks != allWeeks {
		for left := fit; left != 0; {
			d := bits.TrailingZeros64(left)
			one := first + int64(d) - 1
			run := uint64(1<<(7-weekday(one))-1) << d // up to and with Sunday
			if c.weeks>>isoWeek(one)&1 == 0 {
				fit &^= run
			}
			left &^= run
		}
	}
	return fit
}

const (
	allWeeks = uint64(1)<<54 - 2
	// weekly has the bits 1, 8, 15, 22 and 29: times a mask of seven weekdays it is the mask of a month.
	weekly = uint64(1<<1 | 1<<8 | 1<<15 | 1<<22 | 1<<29)
)

// in is the days of a month of n days that begins on a weekday, as bits.
func (d *days) in(begins, n int) uint64 {
	month := uint64(1)<<(n+1) - 2
	if d.all {
		return month
	}
	fit := d.fixed
	if d.weekdays != 0 {
		fit |= (d.weekdays>>begins | d.weekdays<<(7-begins)) & 0x7f * weekly
	}
	for left := d.fromEnd; left != 0; left &= left - 1 {
		if back := bits.TrailingZeros64(left); back < n {
			fit |= 1 << (n - back)
		}
	}
	for i, left := range d.nth {
		for ; left != 0; left &= left - 1 {
			fit |= 1 << (1 + (bits.TrailingZeros64(left)+7-begins)%7 + 7*i)
		}
	}
	for left := d.lastOf; left != 0; left &= left - 1 {
		of := (weekly << ((bits.TrailingZeros64(left) + 7 - begins) % 7)) & month
		fit |= 1 << (63 - bits.LeadingZeros64(of))
	}
	for left := d.near & month; left != 0; left &= left - 1 {
		fit |= 1 << work(bits.TrailingZeros64(left), begins, n)
	}
	if d.lastWork {
		fit |= 1 << work(n, begins, n)
	}
	return fit & month
}

// work is the day from Monday to Friday nearest to d, in the same month.
func work(d, begins, n int) int {
	switch (begins + d - 1) % 7 {
	case 5:
		if d == 1 {
			return 3
		}
		return d - 1
	case 6:
		if d == n {
			return d - 2
		}
		return d + 1
	}
	return d
}

func (c *cron) text(b *strings.Builder) {
	b.WriteString("cron")
	if c.crontab != "" {
		b.WriteString(" " + c.crontab)
	} else {
		for i, text := range c.given {
			if text != "" {
				b.WriteString(" " + fields[i].name + "=" + quoted(text))
			}
		}
	}
	c.rest(b, c.from, c.until)
}
