package when

import "time"

const (
	minuteSeconds = 60
	hourSeconds   = 60 * minuteSeconds
	daySeconds    = 24 * hourSeconds
	// nearby is more than any zone's clock is set by at once: Samoa left out a day in 2011.
	nearby = 26 * hourSeconds
	// beyond stands for an instant that no zone's history reaches.
	beyond = int64(1) << 50
)

// daysOf counts the days from 1970-01-01 to a date of the Gregorian calendar, and dateOf goes the other way. Source: Howard Hinnant,
// "chrono-Compatible Low-Level Date Algorithms".
func daysOf(y, m, d int) int64 {
	if m <= 2 {
		y--
		m += 12
	}
	era := y / 400 // years are positive here
	yoe := y - era*400
	doy := (153*(m-3)+2)/5 + d - 1
	return int64(era)*146097 + int64(yoe*365+yoe/4-yoe/100+doy) - 719468
}

func dateOf(days int64) (y, m, d int) {
	days += 719468
	era := days / 146097
	doe := int(days - era*146097)
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	d, m, y = doy-(153*mp+2)/5+1, mp+3, yoe+int(era)*400
	if m > 12 {
		m -= 12
		y++
	}
	return y, m, d
}

// weekday of a day: 0 is Monday.
func weekday(days int64) int { return int((days + 3) % 7) }

func daysIn(y, m int) int {
	if m == 2 {
		if y%4 == 0 && (y%100 != 0 || y%400 == 0) {
			return 29
		}
		return 28
	}
	return 30 + (m+m>>3)&1
}

// isoWeek of a day, 1 to 53 (ISO 8601: the week belongs to the year of its Thursday).
func isoWeek(days int64) int {
	thursday := days - int64(weekday(days)) + 3
	y, _, _ := dateOf(thursday)
	return int(thursday-daysOf(y, 1, 1))/7 + 1
}

// wall is a rhythm of times as a clock on the wall shows them: seconds since 1970-01-01 00:00 on that clock.
type wall interface {
	nextWall(s int64) int64 // the first at or after s, or never
}

// stretch is a time in which a zone's offset stays the same: from start up to, not including, end, in seconds.
type stretch struct{ start, end, offset int64 }

func stretchAt(loc *time.Location, t int64) (s stretch) {
	at := time.Unix(t, 0).In(loc)
	_, offset := at.Zone()
	start, end := at.ZoneBounds()
	s = stretch{-beyond, beyond, int64(offset)}
	if !start.IsZero() {
		s.start = start.Unix()
	}
	if !end.IsZero() {
		if s.end = end.Unix(); s.end <= t {
			// Where a zone goes on by rule, package time takes each year's end for a change, and 31 December of a leap year for one day too many.
			s.end = (t/daySeconds + 1) * daySeconds
		}
	}
	return s
}

func offsetAt(loc *time.Location, t int64) int64 {
	_, offset := time.Unix(t, 0).In(loc).Zone()
	return int64(offset)
}

// next finds the first instant after the given one (in microseconds) at which the clock of the span's zone shows a time of w, by the span's rules for
// times that do not exist and times that come twice.
func (s *span) next(after int64, w wall) int64 {
	after = max(after, s.from-1, -1) // nothing fires before 1970
	t := floorDiv(after, second) + 1
	found := never
	if s.loc == time.UTC {
		found = w.nextWall(t)
	} else {
		found = s.search(t, w)
	}
	if found == never || found > s.until/second {
		return never
	}
	return found * second
}

func (s *span) search(t int64, w wall) int64 {
	for {
		now := stretchAt(s.loc, t)
		before := now.offset
		if t-now.start < nearby {
			before = offsetAt(s.loc, now.start-1)
		}
		shown := t + now.offset
		if s.fold == FoldFirst { // what the clock shows again has had its turn
			shown = max(shown, now.start+before)
		}
		next := w.nextWall(shown)
		best := never
		if next != never && next-now.offset < now.end {
			best = next - now.offset
			if s.fold == FoldLast && now.end-best <= nearby && next >= now.end+offsetAt(s.loc, now.end) {
				best = never // it comes again
			}
		}
		if before < now.offset { // the clock was set forward at now.start
			switch s.gap {
			case GapShift:
				if lost := w.nextWall(t + before); lost < now.start+now.offset {
					best = min(best, lost-before)
				}
			case GapNext:
				if t == now.start && w.nextWall(t+before) < now.start+now.offset {
					best = t
				}
			}
		}
		if best != never {
			return best
		}
		// Far from a change nothing is missed by going close to the next time at once; near it the clock may show times again.
		if now.end-t < nearby || next != never && next-nearby <= now.end {
			t = now.end
		} else if next == never {
			return never
		} else {
			t = next - nearby
		}
		if t >= beyond {
			return never
		}
	}
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
