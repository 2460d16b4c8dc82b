package limit

import (
	"strconv"
	"strings"
	"time"

	"levee"
)

// Rate says how often: at most Count in Per. The zero Rate sets no limit.
//
// With Burst 0 and Count up to 100 it is exact: no span of length Per, wherever it begins, sees more than Count. Otherwise it
// is a bucket of Burst (0: Count) that refills evenly with Count in Per (GCRA, the ATM Forum's Traffic Management 4.0,
// section 4.4.2): cheap for large counts, but a span of length Per may see up to Burst + Count.
type Rate struct {
	Count int
	Per   time.Duration
	Burst int
}

const (
	countMax = 1_000_000
	perMax   = 31 * 24 * time.Hour
	// exactMax is the largest Count for which the time of every charge is kept: 8 bytes each.
	exactMax = 100
	rateMax  = 64 // bytes of a rate's text
	// fillMax bounds the time in which an empty bucket fills, so that it fits into 63 bits of nanoseconds with room to spare.
	fillMax  = 366 * 24 * time.Hour
	rateForm = `off, or a count per time such as 5/day, 20/s, 5/15m or "10/s burst 20" (counts 1 to 1000000, time 1s to 31d, ` +
		`a burst that is free again within 366d)`
)

// ParseRate reads "5/day", "20/s", "5/15m", "10/s burst 20" or "off". Units are s, m, h and d, or sec, second, min, minute,
// hour and day, with or without an s at the end. Anything else is CodeInvalid.
func ParseRate(s string) (Rate, error) {
	r, ok := parseRate(s)
	if !ok {
		return Rate{}, levee.Invalid("rate", rateForm, s)
	}
	return r, nil
}

func parseRate(s string) (Rate, bool) {
	if len(s) > rateMax {
		return Rate{}, false
	}
	s = strings.TrimSpace(s)
	if s == "off" {
		return Rate{}, true
	}
	var r Rate
	s, burst, hasBurst := strings.Cut(s, " burst ")
	if hasBurst {
		n, ok := parseCount(strings.TrimSpace(burst))
		if !ok {
			return Rate{}, false
		}
		r.Burst = n
	}
	count, per, ok := strings.Cut(strings.TrimSpace(s), "/")
	if !ok {
		return Rate{}, false
	}
	if r.Count, ok = parseCount(strings.TrimSpace(count)); !ok {
		return Rate{}, false
	}
	per = strings.TrimSpace(per)
	digits := len(per) - len(strings.TrimLeft(per, "0123456789"))
	n := 1
	if digits > 0 {
		if n, ok = parseCount(per[:digits]); !ok {
			return Rate{}, false
		}
	}
	unit, ok := units[strings.TrimSpace(per[digits:])]
	if !ok || time.Duration(n) > perMax/unit {
		return Rate{}, false
	}
	r.Per = time.Duration(n) * unit
	return r, r.valid()
}

// valid reports whether a rate that is not off keeps to the bounds.
func (r Rate) valid() bool {
	return r.Count >= 1 && r.Count <= countMax && r.Per >= time.Second && r.Per <= perMax && r.Per%time.Second == 0 &&
		r.Burst >= 0 && r.Burst <= countMax && time.Duration(r.Most()) <= fillMax/r.every()
}

var units = map[string]time.Duration{
	"s": time.Second, "sec": time.Second, "secs": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "mins": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
}

// parseCount reads a whole number from 1 to countMax without sign or leading zero.
func parseCount(s string) (int, bool) {
	if s == "" || s[0] < '1' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n <= countMax
}

// String returns the rate as ParseRate reads it.
func (r Rate) String() string {
	if r.off() {
		return "off"
	}
	b := strconv.AppendInt(nil, int64(r.Count), 10)
	b = append(b, '/')
	for _, u := range []struct {
		d time.Duration
		s string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if r.Per%u.d == 0 {
			if n := int64(r.Per / u.d); n != 1 {
				b = strconv.AppendInt(b, n, 10)
			}
			b = append(b, u.s...)
			break
		}
	}
	if r.Burst != 0 {
		b = append(b, " burst "...)
		b = strconv.AppendInt(b, int64(r.Burst), 10)
	}
	return string(b)
}

// Most returns how many may come at once: Burst, or Count when there is none.
func (r Rate) Most() int {
	if r.Burst != 0 {
		return r.Burst
	}
	return r.Count
}

// Exact reports whether no span of length Per ever sees more than Count.
func (r Rate) Exact() bool { return r.Burst == 0 && r.Count <= exactMax }

func (r Rate) off() bool { return r.Count == 0 }

// every is the time in which the bucket gains one, rounded up so that it never gains more than Count in Per.
func (r Rate) every() time.Duration {
	return (r.Per + time.Duration(r.Count) - 1) / time.Duration(r.Count)
}

// args are what the scripts know of the rate, behind the clock's time, which is 0 for the server's.
func (r Rate) args(part int) []any {
	exact := 0
	if r.Exact() {
		exact = 1
	}
	per := r.Per.Microseconds()
	every := (per + int64(r.Count) - 1) / int64(r.Count) // rounded up, as every
	return []any{0, exact, r.Count, per, every, r.Most(), part}
}
