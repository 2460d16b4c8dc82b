package when

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"levee"
)

func at3339(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func runs(t testing.TB, text, after string, n int) []string {
	t.Helper()
	trigger, err := Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	var list []string
	for _, run := range NextRuns(trigger, at3339(t, after), n) {
		list = append(list, run.Format("2006-01-02T15:04:05.999999Z07:00"))
	}
	return list
}

// Every way to say when, with the firings that follow an instant.
func TestFirings(t *testing.T) {
	for _, c := range []struct{ text, after, want string }{
		{"at 2026-05-01T09:00:00+08:00 in Asia/Shanghai", "2026-01-01T00:00:00Z", "2026-05-01T09:00:00+08:00"},
		{"at 2026-05-01T09:00:00.25 in Asia/Shanghai", "2026-05-01T01:00:00.24Z", "2026-05-01T09:00:00.25+08:00"},
		{"at 2026-05-01T09:00", "2026-05-01T09:00:00Z", ""},
		{"every 90m from 2026-01-01T00:10:00Z", "2026-01-01T03:00:00Z", "2026-01-01T03:10:00Z 2026-01-01T04:40:00Z"},
		{"every 90m from 2026-01-01T00:10:00Z", "2025-01-01T03:00:00Z", "2026-01-01T00:10:00Z 2026-01-01T01:40:00Z"},
		{"every 1w2d3h4m5s from 2026-01-01", "2026-01-01T00:00:00Z", "2026-01-10T03:04:05Z 2026-01-19T06:08:10Z"},
		{"every 1d in Asia/Shanghai", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00+08:00 2026-01-03T00:00:00+08:00"},
		{"every 1d from 2026-03-28T12:00 in Europe/Berlin", "2026-03-28T11:00:00Z", "2026-03-29T13:00:00+02:00 2026-03-30T13:00:00+02:00"}, // time that passes, not the clock on the wall
		{"every 100ms until 2026-01-01T00:00:00.2Z", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.1Z 2026-01-01T00:00:00.2Z"},
		{"calendar 1 month at 09:30 from 2026-01-31", "2026-01-01T00:00:00Z", "2026-01-31T09:30:00Z 2026-03-31T09:30:00Z 2026-05-31T09:30:00Z"},
		{"calendar 1 year from 2024-02-29", "2024-03-01T00:00:00Z", "2028-02-29T00:00:00Z 2032-02-29T00:00:00Z"},
		{"calendar 1 month 1 day at 08:00 from 2026-01-30", "2026-01-01T00:00:00Z", "2026-01-30T08:00:00Z 2026-03-31T08:00:00Z 2026-06-01T08:00:00Z"},
		{"calendar 2 weeks at 08:00:30 from 2026-01-05 until 2026-02-02 in Asia/Shanghai", "2026-01-06T00:00:00Z", "2026-01-19T08:00:30+08:00 2026-02-02T08:00:30+08:00"},
		{"cron 30 9 * * 1-5", "2026-11-20T12:00:00Z", "2026-11-23T09:30:00Z 2026-11-24T09:30:00Z"},
		{"cron 15,45 8-10/2 * * *", "2026-11-20T08:20:00Z", "2026-11-20T08:45:00Z 2026-11-20T10:15:00Z 2026-11-20T10:45:00Z 2026-11-21T08:15:00Z"},
		{"cron */20 30 9 * * *", "2026-11-20T09:30:00Z", "2026-11-20T09:30:20Z 2026-11-20T09:30:40Z 2026-11-21T09:30:00Z"},
		{"cron 0 0 0 1 1 * 2030/2", "2026-11-20T09:30:00Z", "2030-01-01T00:00:00Z 2032-01-01T00:00:00Z"},
		{"cron 0 0 13 * fri", "2026-11-01T00:00:00Z", "2026-11-06T00:00:00Z 2026-11-13T00:00:00Z 2026-11-20T00:00:00Z"}, // either day, as in every cron
		{"cron 0 0 */2 * fri", "2026-11-01T00:00:00Z", "2026-11-13T00:00:00Z 2026-11-27T00:00:00Z"},                     // begins with *: both
		{"cron day=13 day_of_week=fri", "2026-01-01T00:00:00Z", "2026-02-13T00:00:00Z 2026-03-13T00:00:00Z 2026-11-13T00:00:00Z"},
		{"cron 0 12 * * 7", "2026-11-20T00:00:00Z", "2026-11-22T12:00:00Z 2026-11-29T12:00:00Z"},
		{"cron 0 12 ? * 0", "2026-11-20T00:00:00Z", "2026-11-22T12:00:00Z"},
		{"cron day_of_week=0 hour=12", "2026-11-20T00:00:00Z", "2026-11-23T12:00:00Z 2026-11-30T12:00:00Z"}, // Monday, as in APScheduler
		{"cron 0 0 * * fri-mon", "2026-11-16T00:00:00Z", "2026-11-20T00:00:00Z 2026-11-21T00:00:00Z 2026-11-22T00:00:00Z 2026-11-23T00:00:00Z 2026-11-27T00:00:00Z"},
		{"cron 0 22-2/2 * * *", "2026-11-20T21:00:00Z", "2026-11-20T22:00:00Z 2026-11-21T00:00:00Z 2026-11-21T02:00:00Z 2026-11-21T22:00:00Z"},
		{"cron 0 0 * * fri#3", "2026-11-01T00:00:00Z", "2026-11-20T00:00:00Z 2026-12-18T00:00:00Z"},
		{"cron 0 0 * * 1#5", "2026-01-01T00:00:00Z", "2026-03-30T00:00:00Z 2026-06-29T00:00:00Z"},
		{"cron 0 0 * * friL", "2026-11-01T00:00:00Z", "2026-11-27T00:00:00Z 2026-12-25T00:00:00Z"},
		{"cron 0 0 L * *", "2028-02-01T00:00:00Z", "2028-02-29T00:00:00Z 2028-03-31T00:00:00Z"},
		{"cron 0 0 L-3 * *", "2026-02-01T00:00:00Z", "2026-02-25T00:00:00Z 2026-03-28T00:00:00Z"},
		{"cron 0 0 LW * *", "2026-01-01T00:00:00Z", "2026-01-30T00:00:00Z 2026-02-27T00:00:00Z 2026-03-31T00:00:00Z"},
		{"cron 0 0 15W * *", "2026-02-01T00:00:00Z", "2026-02-16T00:00:00Z 2026-03-16T00:00:00Z 2026-04-15T00:00:00Z"},
		{"cron 0 0 1W * *", "2026-07-31T00:00:00Z", "2026-08-03T00:00:00Z 2026-09-01T00:00:00Z"}, // 1 August is a Saturday: Monday the 3rd, not July
		{"cron 0 0 31W * *", "2026-05-01T00:00:00Z", "2026-05-29T00:00:00Z 2026-07-31T00:00:00Z"},
		{"cron @monthly", "2026-11-20T00:00:00Z", "2026-12-01T00:00:00Z 2027-01-01T00:00:00Z"},
		{"cron @WEEKLY", "2026-11-20T00:00:00Z", "2026-11-22T00:00:00Z"},
		{"cron day='3rd fri' hour=17 in America/New_York", "2026-11-01T00:00:00Z", "2026-11-20T17:00:00-05:00 2026-12-18T17:00:00-05:00"},
		{"cron day='last mon, 1st tue'", "2026-11-01T00:00:00Z", "2026-11-03T00:00:00Z 2026-11-30T00:00:00Z 2026-12-01T00:00:00Z"},
		{"cron month=jun-aug,nov day=last", "2026-06-30T00:00:00Z", "2026-07-31T00:00:00Z 2026-08-31T00:00:00Z 2026-11-30T00:00:00Z"},
		{"cron week=53", "2026-01-05T00:00:00Z", "2026-12-28T00:00:00Z 2026-12-29T00:00:00Z 2026-12-30T00:00:00Z 2026-12-31T00:00:00Z 2027-01-01T00:00:00Z"},
		{"cron week=1 day_of_week=mon", "2026-01-01T00:00:00Z", "2027-01-04T00:00:00Z 2028-01-03T00:00:00Z 2029-01-01T00:00:00Z 2029-12-31T00:00:00Z"},
		{"cron hour=9", "2026-01-01T00:00:00Z", "2026-01-01T09:00:00Z 2026-01-02T09:00:00Z"},
		{"cron year=2030", "2026-01-01T00:00:00Z", "2030-01-01T00:00:00Z"},
		{"cron year=2099", "2026-01-01T00:00:00Z", "2099-01-01T00:00:00Z"},
		{"cron minute=5 from 2026-01-01T10:05:00Z until 2026-01-01T12:05:00Z", "2025-01-01T00:00:00Z", "2026-01-01T10:05:00Z 2026-01-01T11:05:00Z 2026-01-01T12:05:00Z"},
		{"cron second=*", "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:01Z 2026-01-01T00:00:02Z"},
		{"cron 0 0 29 2 mon#5", "2026-03-01T00:00:00Z", "2026-03-30T00:00:00Z"[:0] + "2028-02-29T00:00:00Z 2032-02-29T00:00:00Z"},
		{"cron month=2 day=29 day_of_week=mon", "2026-01-01T00:00:00Z", "2044-02-29T00:00:00Z 2072-02-29T00:00:00Z 2112-02-29T00:00:00Z"}, // 40 years, over 2100
		{"any(cron 0 9 * * *; cron 0 9,10 * * fri; every 1d from 2026-11-20T09:00:00Z)", "2026-11-20T08:00:00Z", "2026-11-20T09:00:00Z 2026-11-20T10:00:00Z 2026-11-21T09:00:00Z"},
		{"all(cron day=13 hour=9; cron day_of_week=fri hour=9,10)", "2026-01-01T00:00:00Z", "2026-02-13T09:00:00Z 2026-03-13T09:00:00Z 2026-11-13T09:00:00Z"},
		{"all(every 7d from 2026-01-01; every 5d from 2026-01-04; cron @daily)", "2026-01-01T00:00:00Z", "2026-01-29T00:00:00Z 2026-03-05T00:00:00Z"},
		{"any(at 2026-01-05; all(every 1d; cron day=1))", "2026-01-02T00:00:00Z", "2026-01-05T00:00:00Z 2026-02-01T00:00:00Z"},
	} {
		want := strings.Fields(c.want)
		got := runs(t, c.text, c.after, max(len(want), 1))
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s after %s:\n got %v\nwant %v", c.text, c.after, got, want)
		}
	}
}

// Clocks set forward and back, in real zones, under each policy.
func TestGapsAndFolds(t *testing.T) {
	for _, c := range []struct{ text, after, want string }{
		// Berlin goes from 02:00 to 03:00 on 29 March 2026, and from 03:00 to 02:00 on 25 October.
		{"cron 30 2 * * * in Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T03:30:00+02:00 2026-03-30T02:30:00+02:00"},
		{"cron 30 2 * * * in Europe/Berlin gap shift", "2026-03-28T12:00:00Z", "2026-03-29T03:30:00+02:00 2026-03-30T02:30:00+02:00"},
		{"cron 30 2 * * * in Europe/Berlin gap next", "2026-03-28T12:00:00Z", "2026-03-29T03:00:00+02:00 2026-03-30T02:30:00+02:00"},
		{"cron 30 2 * * * in Europe/Berlin gap skip", "2026-03-28T12:00:00Z", "2026-03-30T02:30:00+02:00"},
		{"cron 0,30 2,3 * * * in Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T03:00:00+02:00 2026-03-29T03:30:00+02:00 2026-03-30T02:00:00+02:00"}, // each instant once
		{"cron 10,30 2 * * * in Europe/Berlin", "2026-03-29T01:10:00Z", "2026-03-29T03:30:00+02:00 2026-03-30T02:10:00+02:00"},
		{"cron 30 2 * * * in Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-25T02:30:00+02:00 2026-10-26T02:30:00+01:00"},
		{"cron 30 2 * * * in Europe/Berlin fold last", "2026-10-24T12:00:00Z", "2026-10-25T02:30:00+01:00 2026-10-26T02:30:00+01:00"},
		{"cron 30 2 * * * in Europe/Berlin fold both", "2026-10-24T12:00:00Z", "2026-10-25T02:30:00+02:00 2026-10-25T02:30:00+01:00 2026-10-26T02:30:00+01:00"},
		{"cron 30 2 * * * in Europe/Berlin", "2026-10-25T01:10:00Z", "2026-10-26T02:30:00+01:00"}, // begun between the two
		{"cron 30 2 * * * in Europe/Berlin fold last", "2026-10-25T00:31:00Z", "2026-10-25T02:30:00+01:00"},
		// What fires in every hour follows the clock on the wall.
		{"cron 30 * * * * in Europe/Berlin", "2026-03-28T23:40:00Z", "2026-03-29T01:30:00+01:00 2026-03-29T03:30:00+02:00"},
		{"cron 30 * * * * in Europe/Berlin", "2026-10-24T23:40:00Z", "2026-10-25T02:30:00+02:00 2026-10-25T02:30:00+01:00 2026-10-25T03:30:00+01:00"},
		{"cron */30 * * * * in Europe/Berlin fold first", "2026-10-25T00:10:00Z", "2026-10-25T02:30:00+02:00 2026-10-25T03:00:00+01:00"},
		// The month that APScheduler leaves out, and the day after the change.
		{"cron month=* in Europe/Berlin", "2026-02-28T12:00:00Z", "2026-03-01T00:00:00+01:00 2026-04-01T00:00:00+02:00 2026-05-01T00:00:00+02:00"},
		{"cron hour=0 minute=30 in Europe/Berlin", "2026-03-28T22:00:00Z", "2026-03-29T00:30:00+01:00 2026-03-30T00:30:00+02:00"},
		// Havana changes at midnight, so that a day begins at 01:00, and another has two midnights.
		{"cron @daily in America/Havana", "2024-03-09T12:00:00Z", "2024-03-10T01:00:00-04:00 2024-03-11T00:00:00-04:00"},
		{"cron @daily in America/Havana gap skip", "2024-03-09T12:00:00Z", "2024-03-11T00:00:00-04:00"},
		{"cron @daily in America/Havana fold both", "2024-11-02T12:00:00Z", "2024-11-03T00:00:00-04:00 2024-11-03T00:00:00-05:00 2024-11-04T00:00:00-05:00"},
		{"cron @daily in America/Havana", "2024-11-02T12:00:00Z", "2024-11-03T00:00:00-04:00 2024-11-04T00:00:00-05:00"},
		{"cron 30 23 * * * in America/Santiago", "2024-04-06T12:00:00Z", "2024-04-06T23:30:00-03:00 2024-04-07T23:30:00-04:00"},
		// Lord Howe moves by half an hour, Chatham at 02:45.
		{"cron 10,40 2 * * * in Australia/Lord_Howe", "2025-10-04T12:00:00Z", "2025-10-05T02:40:00+11:00 2025-10-06T02:10:00+11:00"},
		{"cron 10 2 * * * in Australia/Lord_Howe", "2025-10-04T12:00:00Z", "2025-10-05T02:40:00+11:00 2025-10-06T02:10:00+11:00"},
		{"cron 40 1 * * * in Australia/Lord_Howe fold both", "2026-04-04T12:00:00Z", "2026-04-05T01:40:00+11:00 2026-04-05T01:40:00+10:30 2026-04-06T01:40:00+10:30"},
		{"cron 0 3 * * * in Pacific/Chatham", "2025-09-27T00:00:00Z", "2025-09-28T04:00:00+13:45 2025-09-29T03:00:00+13:45"},
		{"cron 0 3 * * * in Pacific/Chatham fold last", "2026-04-04T00:00:00Z", "2026-04-05T03:00:00+12:45 2026-04-06T03:00:00+12:45"},
		// Samoa left out 30 December 2011.
		{"cron 0 12 30 12 * in Pacific/Apia", "2011-12-01T00:00:00Z", "2011-12-31T12:00:00+14:00 2012-12-30T12:00:00+14:00"},
		{"cron 0 12 30 12 * in Pacific/Apia gap next", "2011-12-01T00:00:00Z", "2011-12-31T00:00:00+14:00"},
		{"cron 0 12 30 12 * in Pacific/Apia gap skip", "2011-12-01T00:00:00Z", "2012-12-30T12:00:00+14:00"},
		// By the calendar.
		{"calendar 1 day at 02:30 from 2026-03-28 in Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T03:30:00+02:00 2026-03-30T02:30:00+02:00"},
		{"calendar 1 day at 02:30 from 2026-03-28 in Europe/Berlin gap skip", "2026-03-28T12:00:00Z", "2026-03-30T02:30:00+02:00"},
		{"calendar 1 day at 02:30 from 2026-10-24 in Europe/Berlin fold both", "2026-10-24T12:00:00Z", "2026-10-25T02:30:00+02:00 2026-10-25T02:30:00+01:00 2026-10-26T02:30:00+01:00"},
		// Far from now, by the zone's rule, through the last day of a leap year.
		{"cron 30 2 * * * in Europe/Berlin", "2064-03-29T12:00:00Z", "2064-03-30T03:30:00+02:00 2064-03-31T02:30:00+02:00"},
		{"cron 0 12 * * * in Europe/Berlin", "2064-12-30T12:00:00Z", "2064-12-31T12:00:00+01:00 2065-01-01T12:00:00+01:00"},
	} {
		want := strings.Fields(c.want)
		if got := runs(t, c.text, c.after, len(want)); strings.Join(got, " ") != c.want {
			t.Errorf("%s after %s:\n got %v\nwant %v", c.text, c.after, got, want)
		}
	}
}

// Beside a slow and simple reading of the same rules: every second around changes of clocks is asked what it shows.
func TestAgainstEverySecond(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(n int) (m uint64) {
		for m == 0 {
			m = r.Uint64() & r.Uint64() & (1<<n - 1)
		}
		return m
	}
	for _, zone := range []string{"Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Pacific/Chatham", "Africa/Casablanca", "Asia/Beirut"} {
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		for at := time.Date(2022, 1, 1, 0, 0, 0, 0, time.UTC); at.Year() < 2025; {
			s := stretchAt(loc, at.Unix())
			at = time.Unix(s.end, 0)
			next := offsetAt(loc, s.end)
			if s.end == beyond {
				break
			} else if next == s.offset {
				continue
			}
			from, to := s.end-3*hourSeconds, s.end+3*hourSeconds
			for range 25 {
				c := &cron{years: []progression{{1970, 9999, 1}}, months: 1<<13 - 2, weeks: allWeeks, hours: 1<<24 - 1, minutes: pick(60), seconds: pick(60) & 0x10000000000401}
				c.dom.all, c.dow.all, c.loc, c.from, c.until = true, true, loc, always, never
				if c.seconds == 0 {
					c.seconds = 1
				}
				c.hours = pick(24) | pick(24)
				c.gap, c.fold = GapShift+Gap(r.IntN(3)), FoldFirst+Fold(r.IntN(3))
				matches := func(wall int64) bool {
					return c.hours>>(wall/3600%24)&1 == 1 && c.minutes>>(wall/60%60)&1 == 1 && c.seconds>>(wall%60)&1 == 1
				}
				var want []int64
				for u := from + 1; u <= to; u++ {
					offset := s.offset
					if u >= s.end {
						offset = next
					}
					wall := u + offset
					fires := matches(wall)
					if shrink := s.offset - next; shrink > 0 { // set back
						again := u >= s.end && u < s.end+shrink
						first := u < s.end && u >= s.end-shrink
						fires = fires && !(again && c.fold == FoldFirst) && !(first && c.fold == FoldLast)
					} else if grow := -shrink; u >= s.end && u < s.end+grow { // set forward
						fires = fires || c.gap == GapShift && matches(u+s.offset)
						for w := s.end + s.offset; c.gap == GapNext && u == s.end && w < s.end+next; w++ {
							fires = fires || matches(w)
						}
					}
					if fires {
						want = append(want, u)
					}
				}
				for i, u := 0, from; ; i++ {
					n := c.next(u*second) / second
					if n > to {
						if i != len(want) {
							t.Fatalf("%s, gap %d, fold %d: %d firings, want %d", at.In(loc), c.gap, c.fold, i, len(want))
						}
						break
					}
					if i >= len(want) || n != want[i] {
						t.Fatalf("%s, gap %d, fold %d: firing %d is %s, want %v", at.In(loc), c.gap, c.fold, i, time.Unix(n, 0).In(loc), want[min(i, len(want)-1)])
					}
					u = n
				}
			}
		}
	}
}

// A refused text names the field, what is allowed, what was given and where it stands.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		text, field, given string
		position           int
	}{
		{"", "trigger", "", 1},
		{"nightly", "trigger", "nightly", 1},
		{"cron 0 25 * * *", "hour", "25", 8},
		{"cron 0 9 * * mon,frx", "day_of_week", "frx", 18},
		{"cron 0 9 * *", "cron", "0 9 * *", 1},
		{"cron 60 9 * * *", "minute", "60", 6},
		{"cron */0 9 * * *", "minute", "*/0", 6},
		{"cron */60 9 * * *", "minute", "*/60", 6},
		{"cron 0 9 0 * *", "day", "0", 10},
		{"cron 0 9 1,,2 * *", "day", "", 12},
		{"cron 0 9 * 13 *", "month", "13", 12},
		{"cron 0 9 * jam *", "month", "jam", 12},
		{"cron 0 9 * * 8", "day_of_week", "8", 14},
		{"cron 0 9 * * fri#6", "day_of_week", "fri#6", 14},
		{"cron 0 9 * * L", "day_of_week", "l", 14},
		{"cron 0 9 32W * *", "day", "32w", 10},
		{"cron 0 99999999999 * * *", "hour", "99999999999", 8},
		{"cron 0 0 0 1 1 * 2030-2020", "year", "2030-2020", 18},
		{"cron @reboot", "cron", "@reboot", 6},
		{"cron hour=25", "hour", "25", 11},
		{"cron day='3rd frx' hour=9", "day", "3rd frx", 11},
		{"cron hours=2", "cron", "hours=2", 6},
		{"cron hour=2 hour=3", "hour", "hour=3", 13},
		{"cron hour=2 3", "cron", "3", 13},
		{"cron day_of_week=7", "day_of_week", "7", 18},
		{"cron", "cron", "", 1},
		{"cron 0 0 30 2 *", "cron", "cron 0 0 30 2 *", 1}, // 30 February
		{"cron week=53 day='1st mon'", "cron", "cron day='1st mon' week=53", 1},
		{"cron year=2025 month=2 day=29", "cron", "cron year=2025 month=2 day=29", 1},
		{"cron 0 0 1 1 * from 2026-02-01 until 2026-12-01", "cron", "cron 0 0 1 1 * from 2026-02-01T00:00:00Z until 2026-12-01T00:00:00Z", 1},
		{"cron 0 9 * * * in Europe/Atlantis", "in", "Europe/Atlantis", 19},
		{"cron 0 9 * * * in Local", "in", "Local", 19},
		{"cron 0 9 * * * in ../../etc/passwd", "in", "../../etc/passwd", 19},
		{"cron 0 9 * * * gap never", "gap", "never", 20},
		{"cron 0 9 * * * fold", "fold", "", 20},
		{"cron 0 9 * * * in UTC in UTC", "in", "in", 23},
		{"every 5", "every", "5", 7},
		{"every 5x", "every", "5x", 7},
		{"every 0s", "every", "0s", 1},
		{"every 300y", "every", "300y", 7},
		{"every 99999w", "every", "99999w", 7},
		{"every 5m gap skip", "gap", "skip", 14},
		{"every 5m from tomorrow", "from", "TOMORROW", 15},
		{"every 5m from 2026-02-30", "from", "2026-02-30", 15},
		{"every 5m from 2026-01-02 until 2026-01-01", "until", "2026-01-01", 32},
		{"every 5m jitter 0s", "jitter", "0s", 10},
		{"every 5m jitter 5s by", "by", "", 22},
		{"every 5m daily", "every", "daily", 10},
		{"calendar at 09:00 from 2026-01-01", "calendar", "none", 1},
		{"calendar 1 month at 9 from 2026-01-01", "at", "9", 21},
		{"calendar 1 month at 25:00 from 2026-01-01", "at", "25:00", 21},
		{"calendar 1 month at 09:00", "from", "", 1},
		{"calendar 1 fortnight at 09:00", "calendar", "1 fortnight", 10},
		{"at soon", "at", "SOON"[:0] + "soon", 4},
		{"at 1960-01-01", "at", "1960-01-01", 4},
		{"at 2026-01-01 until 2027-01-01", "at", "2026-01-01", 4},
		{"any()", "trigger", ")", 5},
		{"any(every 5m", "trigger", "", 13},
		{"any every 5m", "any", "every", 5},
		{"any(every 5m; cron 0 25 * * *)", "hour", "25", 22},
		{"all(every 2h; every 2h from 2026-01-01T01:00)", "all", "all(every 2h; every 2h from 2026-01-01T01:00:00Z)", 1},
		{"all(every 2h jitter 5s; every 1h)", "all", "all", 1},
		{"all(every 1h; any(all(cron @daily); cron @hourly))", "all", "all", 1},
		{"any(any(any(any(any(every 1s)))))", "trigger", "any", 17},
		{"any(every 5m) in UTC", "any", "any", 1},
		{"any(" + strings.Repeat("every 5m;", 16) + "every 5m)", "any", "every", 149},
		{"cron day='3rd fri", "trigger", "'3rd fri", 10},
		{"每天", "trigger", "每天", 1},
		{"cron 每 25 * * *", "minute", "每", 6},
		{strings.Repeat("x", 1001), "trigger", "1001 bytes", 0},
	} {
		begin := time.Now()
		_, err := Parse(c.text)
		took := time.Since(begin)
		var e *levee.Error
		if levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		e = err.(*levee.Error)
		position, _ := e.Data["position"].(int)
		if f := e.Fields[0]; f.Field != c.field || f.Given != c.given || f.Allowed == "" || position != c.position {
			t.Errorf("%q: field %q given %q position %d, want %q %q %d: %v", c.text, f.Field, f.Given, position, c.field, c.given, c.position, err)
		}
		if c.position > 0 && !strings.Contains(e.Message, fmt.Sprintf("at character %d", c.position)) {
			t.Errorf("%q: %s", c.text, e.Message)
		}
		if took > 5*time.Second {
			t.Errorf("%q: refused only after %s", c.text, took)
		}
	}
}

// The text of a trigger gives the same trigger again.
func TestTextRoundTrip(t *testing.T) {
	for text, want := range map[string]string{
		"CRON 0  9 * * MON-FRI IN Asia/Shanghai":                                "cron 0 9 * * MON-FRI in Asia/Shanghai",
		"cron hour=9 day=\"3rd fri , last\"":                                    "cron day='3rd fri,last' hour=9",
		"cron 0 9 '3rd fri' * *":                                                "cron 0 9 '3rd fri' * *",
		"cron @Daily fold both gap next":                                        "cron @daily gap next fold both",
		"every 36h 15m until 2026-12-31 from 2026-01-01T00:00 in Europe/Berlin": "every 1d12h15m from 2026-01-01T00:00:00+01:00 until 2026-12-31T00:00:00+01:00 in Europe/Berlin",
		"every 90m jitter 90s by nightly":                                       "every 1h30m jitter 1m30s by nightly",
		"at 2026-05-01T09:00:00+08:00":                                          "at 2026-05-01T01:00:00Z",
		"calendar 1 month 2 days at 9:05 from 2026-01-31":                       "calendar 1 month 2 days at 09:05 from 2026-01-31",
		"any( every 5m ;at 2026-05-01 )jitter 5s":                               "any(every 5m; at 2026-05-01T00:00:00Z) jitter 5s",
	} {
		trigger, err := Parse(text)
		if err != nil || trigger.Text() != want {
			t.Errorf("%s: %s, want %s (%v)", text, trigger, want, err)
		}
	}
	for _, v := range readVectors(t, recorded) {
		if trigger, err := Parse(v.Text); err == nil {
			roundTrip(t, trigger, time.Unix(v.From, 0))
		}
	}
	var holder struct{ T Trigger }
	if err := json.Unmarshal([]byte(`{"T":"cron 0 9 * * *"}`), &holder); err != nil {
		t.Fatal(err)
	}
	if b, err := json.Marshal(holder); err != nil || string(b) != `{"T":"cron 0 9 * * *"}` {
		t.Errorf("%s, %v", b, err)
	}
}

func roundTrip(t testing.TB, trigger Trigger, after time.Time) {
	t.Helper()
	text := trigger.Text()
	again, err := Parse(text)
	if len(text) > mostText {
		return
	}
	if err != nil || again.Text() != text {
		t.Fatalf("%s: again %s, %v", text, again, err)
	}
	a, b := NextRuns(trigger, after, 5), NextRuns(again, after, 5)
	for i := range a {
		if len(b) != len(a) || !a[i].Equal(b[i]) || !a[i].After(after) || i > 0 && !a[i].After(a[i-1]) {
			t.Fatalf("%s after %s: %v, again %v", text, after, a, b)
		}
	}
	if trigger.Describe("en") == "" || trigger.Describe("zh") == "" {
		t.Fatalf("%s: no description", text)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"cron 0 9 L,15W * fri#3 in Europe/Berlin gap next fold last", "every 1h30m from 2026-01-01 until 2027-01-01 jitter 5s by x", "at 2026-05-01T09:00:00+08:00",
		"calendar 1 year 2 months 3 weeks 4 days at 02:30:05 from 2026-01-31", "cron year=2026-2040/3 day='last mon,3rd fri' second=*/7", "all(cron day=last; any(cron @daily; every 7h))"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		begin := time.Now()
		trigger, err := Parse(text)
		if took := time.Since(begin); took > 5*time.Second {
			t.Fatalf("%q: read in %s", text, took)
		}
		if err != nil {
			if levee.CodeOf(err) != levee.CodeInvalid {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		roundTrip(t, trigger, time.Unix(1772323200, 0))
		if took := time.Since(begin); took > 5*time.Second {
			t.Fatalf("%q: ten firings took %s", text, took)
		}
	})
}

// The constructors give what the text does.
func TestConstructors(t *testing.T) {
	from := time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)
	daily := Must(Crontab("0 9 * * *"))
	for _, c := range []struct {
		trigger Trigger
		err     error
		want    string
	}{
		first(At(from)).is("at 2026-01-31T00:00:00Z"),
		first(At(from, In("Asia/Shanghai"))).is("at 2026-01-31T08:00:00+08:00 in Asia/Shanghai"),
		first(Every(90*time.Minute, From(from), Until(from.Add(time.Hour)), Jitter(time.Minute, "x"))).is("every 1h30m from 2026-01-31T00:00:00Z until 2026-01-31T01:00:00Z jitter 1m by x"),
		first(Calendar(Period{Months: 1}, "09:00", From(from), In("America/New_York"))).is("calendar 1 month at 09:00 from 2026-01-31 in America/New_York"),
		first(Cron(Fields{Day: "3rd fri", Hour: "17"}, In("Asia/Shanghai"), OnGap(GapSkip), OnFold(FoldBoth))).is("cron day='3rd fri' hour=17 in Asia/Shanghai gap skip fold both"),
		first(Crontab(" 0 9  * * mon-fri")).is("cron 0 9 * * mon-fri"),
		first(Any([]Trigger{daily, daily}, Jitter(time.Second, ""))).is("any(cron 0 9 * * *; cron 0 9 * * *) jitter 1s"),
		first(All([]Trigger{daily})).is("all(cron 0 9 * * *)"),
		first(Cron(Fields{})).is("invalid: cron"),
		first(Cron(Fields{Hour: "24"})).is("invalid: hour"),
		first(Cron(Fields{Month: "2", Day: "30"})).is("invalid: cron"),
		first(Crontab("0 9 * * 9")).is(`invalid: day_of_week must be a list of 0-7 from Sunday, mon-sun, fri#3 or friL, got "9" at character 9`),
		first(Every(0)).is("invalid: every"),
		first(Every(time.Hour, OnGap(GapSkip))).is("invalid: gap"),
		first(Every(time.Hour, In("Nowhere"))).is("invalid: in"),
		first(Every(time.Hour, Jitter(time.Second, "a b"))).is("invalid: by"),
		first(Crontab("0 9 * * *", OnFold(7))).is("invalid: fold"),
		first(At(time.Time{})).is("invalid: at"),
		first(Calendar(Period{}, "09:00", From(from))).is("invalid: calendar"),
		first(Calendar(Period{Days: -1}, "09:00", From(from))).is("invalid: calendar"),
		first(Any(nil)).is("invalid: any"),
		first(Any([]Trigger{{}})).is("invalid: any"),
		first(All([]Trigger{daily}, In("UTC"))).is("invalid: all"),
	} {
		if got := c.trigger.Text(); c.err == nil && got != c.want || c.err != nil && !strings.HasPrefix(c.err.Error(), c.want) {
			t.Errorf("%q, %v, want %s", got, c.err, c.want)
		}
	}
	if _, ok := (Trigger{}).Next(from); ok || (Trigger{}).Text() != "" || (Trigger{}).Describe("en") != "never" {
		t.Error("the zero trigger fires")
	}
}

type made2 struct {
	trigger Trigger
	err     error
}

func first(t Trigger, err error) made2 { return made2{t, err} }

func (m made2) is(want string) (c struct {
	trigger Trigger
	err     error
	want    string
}) {
	c.trigger, c.err, c.want = m.trigger, m.err, want
	return c
}

// A jitter is the same on every node, spreads names, keeps order and end, and does not depend on where one asks from.
func TestJitter(t *testing.T) {
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, text := range []string{"every 1m", "every 1s", "cron 30 9 * * 1-5 in Europe/Berlin", "cron 0 0 1 * *", "any(every 7m; cron */5 * * * *)"} {
		plain := Must(Parse(text))
		for _, most := range []string{"30s", "1h", "20d"} {
			a, b := Must(Parse(text+" jitter "+most+" by a")), Must(Parse(text+" jitter "+most+" by b"))
			bases, got, other := NextRuns(plain, start, 301), NextRuns(a, start.Add(-1), 400), NextRuns(b, start, 300)
			same, i := 0, 0
			for _, run := range got {
				if i < 300 && !run.Before(bases[i+1]) {
					i++
				}
				if run.Before(bases[0]) {
					continue // belongs to a firing before the start
				}
				if i >= 300 {
					break
				}
				if run.Before(bases[i]) || !run.Before(bases[i+1]) {
					t.Fatalf("%s: %s is no delay of %s before %s", a, run, bases[i], bases[i+1])
				}
				if next, ok := a.Next(run.Add(-time.Millisecond)); !ok || !next.Equal(run) {
					t.Fatalf("%s: %s when asked from nearby, %s in a row", a, next, run)
				}
				if i < len(other) && other[i].Equal(run) {
					same++
				}
				i++
			}
			if i < 299 || same > 60 {
				t.Errorf("%s: %d firings, %d the same by another name", a, i, same)
			}
		}
	}
	end := Must(Parse("every 1h until 2026-03-01T05:00:00Z jitter 50m by a"))
	if got := NextRuns(end, start.Add(-1), 10); len(got) != 6 || got[5].After(start.Add(5*time.Hour)) {
		t.Errorf("%v", got)
	}
	// Delays are spread evenly: of 1,000 each tenth has its share.
	var tenths [10]int
	minutely := Must(Parse("every 1m jitter 1m by even"))
	for i, run := range NextRuns(minutely, start.Add(-1), 1000) {
		_ = i
		tenths[run.Sub(run.Truncate(time.Minute))/(6*time.Second)]++
	}
	for _, n := range tenths {
		if n < 60 || n > 140 {
			t.Errorf("uneven: %v", tenths)
			break
		}
	}
}

// One trigger serves many goroutines.
func TestManyAtOnce(t *testing.T) {
	trigger := Must(Parse("any(cron 30 2 * * * in Europe/Berlin; every 7h) jitter 5m"))
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	want := NextRuns(trigger, start, 50)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for i, run := range NextRuns(trigger, start, 50) {
				if !run.Equal(want[i]) {
					t.Errorf("%s, want %s", run, want[i])
				}
			}
		})
	}
	wait.Wait()
}

func TestDescribe(t *testing.T) {
	for _, c := range []struct{ text, en, zh string }{
		{"cron 0 9 * * mon-fri in Asia/Shanghai", "at 09:00 on Monday to Friday (Asia/Shanghai)", "周一至周五 09:00（Asia/Shanghai）"},
		{"cron */15 * * * *", "every 15 minutes (UTC)", "每15分钟（UTC）"},
		{"cron 0 * * * *", "every hour (UTC)", "每小时（UTC）"},
		{"cron 30 * * * *", "at minute 30, every hour (UTC)", "每小时，第30分钟（UTC）"},
		{"cron */10 8-18 * * *", "every 10 minutes, at hours 8 to 18 (UTC)", "第8至18小时，每10分钟（UTC）"},
		{"cron * * * * * *", "every second (UTC)", "每秒（UTC）"},
		{"cron 0 0 13 * fri", "at 00:00 on day 13 of the month or on Friday (UTC)", "每月13日或周五 00:00（UTC）"},
		{"cron day=13 day_of_week=fri", "at 00:00 on day 13 of the month when it is Friday (UTC)", "每月13日且为周五 00:00（UTC）"},
		{"cron day='3rd fri,last' hour=17,18", "at 17:00 and 18:00 on the last day of the month or the third Friday of the month (UTC)", "每月最后一天或每月第三个周五 17:00、18:00（UTC）"},
		{"cron 0 0 L-3 jan-mar,jul *", "at 00:00 on day 3 before the last of the month in January to March and July (UTC)", "1月至3月、7月 每月倒数第4天 00:00（UTC）"},
		{"cron @daily", "at 00:00 every day (UTC)", "每天 00:00（UTC）"},
		{"every 90m from 2026-01-01", "every 1 hour 30 minutes, from 2026-01-01 00:00:00 (UTC)", "每1小时30分钟，自2026-01-01 00:00:00起（UTC）"},
		{"every 1h jitter 30s", "every hour (UTC), up to 30 seconds later", "每1小时（UTC），最多推迟30秒"},
		{"calendar 1 month at 09:00 from 2026-01-31 until 2027-01-01 in Europe/Berlin", "every month at 09:00, from 2026-01-31, until 2027-01-01 (Europe/Berlin)", "每1个月 09:00，自2026-01-31起，至2027-01-01止（Europe/Berlin）"},
		{"at 2026-05-01", "once, at 2026-05-01 00:00:00 (UTC)", "一次，于2026-05-01 00:00:00（UTC）"},
		{"any(cron @daily; every 5m)", "at 00:00 every day (UTC); or every 5 minutes (UTC)", "每天 00:00（UTC）；或每5分钟（UTC）"},
	} {
		trigger := Must(Parse(c.text))
		if en, zh := trigger.Describe("en"), trigger.Describe("zh-CN"); en != c.en || zh != c.zh {
			t.Errorf("%s:\n%s\n%s", c.text, en, zh)
		}
	}
}

// A firing is found in microseconds without memory, an impossible trigger is refused within a millisecond.
func TestCosts(t *testing.T) {
	for _, text := range []string{"cron 30 9 * * 1-5", "cron 30 9 * * 1-5 in Europe/Berlin", "every 5m", "calendar 1 month from 2020-01-31", "any(every 5m; cron @daily) jitter 5s"} {
		trigger := Must(Parse(text))
		at := time.Date(2026, 3, 20, 12, 0, 0, 0, time.UTC)
		if n := testing.AllocsPerRun(100, func() { at, _ = trigger.Next(at) }); n > 0 {
			t.Errorf("%s: %v allocations", text, n)
		}
	}
	// The best of many tries: the machine may be busy.
	for text, most := range map[string]time.Duration{"cron 0 0 30 2 *": time.Millisecond, "cron week=53 day='1st mon'": time.Millisecond,
		"cron year=*/7 month=2 day=29 week=20 in Europe/Berlin": 2 * time.Millisecond, "all(every 2h; every 2h from 2026-01-01T01:00)": 5 * time.Millisecond} {
		best := time.Hour
		for range 50 {
			begin := time.Now()
			if _, err := Parse(text); err == nil {
				t.Fatalf("%s is not refused", text)
			}
			best = min(best, time.Since(begin))
		}
		t.Logf("%s: refused in %s", text, best)
		if best > most {
			t.Errorf("%s: refused in %s, want %s at most", text, best, most)
		}
	}
}

func BenchmarkNext(b *testing.B) {
	for _, text := range []string{"cron 30 9 * * 1-5", "cron 30 9 * * 1-5 in Europe/Berlin", "cron 0 0 29 2 * in Europe/Berlin", "cron day='3rd fri' hour=17 in America/New_York", "every 90m", "calendar 1 month at 09:00 from 2020-01-31"} {
		b.Run(strings.ReplaceAll(text, " ", "_"), func(b *testing.B) {
			trigger, start := Must(Parse(text)), time.Date(2026, 3, 20, 12, 0, 0, 0, time.UTC)
			b.ReportAllocs()
			for at := start; b.Loop(); {
				if at, _ = trigger.Next(at); at.Year() > 2035 {
					at = start
				}
			}
		})
	}
}

func BenchmarkRefuse(b *testing.B) {
	for _, text := range []string{"cron 0 0 30 2 *", "cron week=53 day='1st mon'", "cron 0 25 * * *", "all(every 2h; every 2h from 2026-01-01T01:00)"} {
		b.Run(strings.ReplaceAll(text, " ", "_"), func(b *testing.B) {
			for b.Loop() {
				if _, err := Parse(text); err == nil {
					b.Fatal("not refused")
				}
			}
		})
	}
}
