package when

import (
	"fmt"
	"strconv"
	"strings"
)

// field is one field of a cron trigger: its name, its values and their names from the least one on.
type field struct {
	name       string
	min, max   int
	names      []string
	allowed    string
	crontabMin int // crontabs count weekdays from Sunday, up to Sunday again
	crontabMax int
}

var (
	months   = []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}
	weekdays = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}
	sundays  = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}
	ordinals = []string{"1st", "2nd", "3rd", "4th", "5th"}
)

var fields = [8]field{
	year:      {"year", 1970, 9999, nil, "a list of 1970-9999", 1970, 9999},
	month:     {"month", 1, 12, months, "a list of 1-12 or jan-dec", 1, 12},
	day:       {"day", 1, 31, nil, "a list of 1-31, last, L-3, 3rd fri, last mon, 15W or LW", 1, 31},
	week:      {"week", 1, 53, nil, "a list of 1-53", 1, 53},
	dayOfWeek: {"day_of_week", 0, 6, weekdays, "a list of 0-6 from Monday, mon-sun, fri#3 or friL", 0, 7},
	hour:      {"hour", 0, 23, nil, "a list of 0-23", 0, 23},
	minute:    {"minute", 0, 59, nil, "a list of 0-59", 0, 59},
	sec:       {"second", 0, 59, nil, "a list of 0-59", 0, 59},
}

const crontabWeekdays = "a list of 0-7 from Sunday, mon-sun, fri#3 or friL"

// reader reads one field.
type reader struct {
	*field
	crontab bool
	mask    uint64
	years   []progression
	days    days
}

// read takes a field's text into the trigger.
func (c *cron) read(which int, p part, crontab bool) error {
	r := reader{field: &fields[which], crontab: crontab}
	text := strings.ToLower(p.text)
	if text == "?" && crontab && (which == day || which == dayOfWeek) {
		text = "*"
	}
	for at := 0; at <= len(text); {
		element, _, _ := strings.Cut(text[at:], ",")
		word := strings.TrimSpace(element)
		if problem := r.element(which, word); problem != "" {
			place := 0
			if p.at > 0 {
				place = p.at + at + len(element) - len(strings.TrimLeft(element, " "))
			}
			return fault{r.name, problem, word, place}
		}
		at += len(element) + 1
	}
	switch which {
	case year:
		c.years = r.years
	case month:
		c.months = r.mask
	case day:
		r.days.fixed = r.mask
		r.days.all = r.mask == 1<<32-2
		c.dom = r.days
	case week:
		c.weeks = r.mask
	case dayOfWeek:
		r.days.weekdays = r.mask
		r.days.all = r.mask == 1<<7-1
		c.dow = r.days
	case hour:
		c.hours = r.mask
	case minute:
		c.minutes = r.mask
	case sec:
		c.seconds = r.mask
	}
	return nil
}

// element reads one element of a list and returns what would be allowed when it is refused.
func (r *reader) element(which int, word string) (problem string) {
	allowed := r.allowed
	if r.crontab && which == dayOfWeek {
		allowed = crontabWeekdays
	}
	if which == day && r.dayWord(word) || which == dayOfWeek && r.weekdayWord(word) {
		return ""
	}
	body, stepText, stepped := strings.Cut(word, "/")
	step, ok := 1, true
	if stepped {
		if step, ok = number(stepText); !ok || step < 1 || step > r.max-r.min {
			return fmt.Sprintf("%s, with a step of 1 to %d", allowed, r.max-r.min)
		}
	}
	if body == "*" {
		r.add(which, r.min, r.max, step)
		return ""
	}
	fromText, toText, ranged := strings.Cut(body, "-")
	from, ok := r.value(fromText)
	if !ok {
		return allowed
	}
	to := from
	switch {
	case ranged:
		if to, ok = r.value(toText); !ok {
			return allowed
		}
		if to < from {
			if which == year {
				return "a list of 1970-9999, ranges from the earlier to the later year"
			}
			to += r.max - r.min + 1
		}
	case stepped:
		to = r.max
	}
	r.add(which, from, to, step)
	return ""
}

func (r *reader) add(which, from, to, step int) {
	if which == year {
		r.years = append(r.years, progression{from, to, step})
		return
	}
	for v := from; v <= to; v += step {
		bit := r.min + (v-r.min)%(r.max-r.min+1)
		if which == dayOfWeek && r.crontab {
			bit = (v + 6) % 7
		}
		r.mask |= 1 << bit
	}
}

// value is a number or a name.
func (r *reader) value(text string) (int, bool) {
	names, least, most := r.names, r.min, r.max
	if r.crontab {
		if least, most = r.crontabMin, r.crontabMax; r.min == 0 && names != nil {
			names = sundays
		}
	}
	for i, name := range names {
		if text == name {
			return least + i, true
		}
	}
	n, ok := number(text)
	return n, ok && n >= least && n <= most
}

// number reads up to six digits and nothing else.
func number(text string) (int, bool) {
	if len(text) == 0 || len(text) > 6 {
		return 0, false
	}
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.Atoi(text)
	return n, err == nil
}

// dayWord reads what only the field day knows.
func (r *reader) dayWord(word string) bool {
	if position, name, ok := strings.Cut(word, " "); ok {
		wd := index(weekdays, strings.TrimSpace(name))
		if wd < 0 {
			return false
		}
		if position == "last" {
			r.days.lastOf |= 1 << wd
			return true
		}
		i := index(ordinals, position)
		if i >= 0 {
			r.days.nth[i] |= 1 << wd
		}
		return i >= 0
	}
	switch {
	case word == "last" || word == "l":
		r.days.fromEnd |= 1
	case word == "lw":
		r.days.lastWork = true
	case strings.HasPrefix(word, "l-"):
		n, ok := number(word[2:])
		if !ok || n < 1 || n > 30 {
			return false
		}
		r.days.fromEnd |= 1 << n
	case strings.HasSuffix(word, "w"):
		n, ok := number(word[:len(word)-1])
		if !ok || n < 1 || n > 31 {
			return false
		}
		r.days.near |= 1 << n
	default:
		return false
	}
	return true
}

// weekdayWord reads what only the field day_of_week knows.
func (r *reader) weekdayWord(word string) bool {
	name, nth, ok := strings.Cut(word, "#")
	if !ok {
		if name, ok = strings.CutSuffix(word, "l"); !ok || name == "" {
			return false
		}
	}
	wd, known := r.value(name)
	if !known {
		return false
	}
	if r.crontab {
		wd = (wd + 6) % 7
	}
	if nth == "" {
		r.days.lastOf |= 1 << wd
		return strings.HasSuffix(word, "l")
	}
	n, ok := number(nth)
	if !ok || n < 1 || n > 5 {
		return false
	}
	r.days.nth[n-1] |= 1 << wd
	return true
}

func index(list []string, word string) int {
	for i, s := range list {
		if s == word {
			return i
		}
	}
	return -1
}
