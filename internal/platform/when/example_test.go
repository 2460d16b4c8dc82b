package when_test

import (
	"fmt"
	"time"

	"levee/internal/platform/when"
)

var friday = time.Date(2026, 3, 27, 12, 0, 0, 0, time.UTC)

func show(t when.Trigger, n int) {
	for _, run := range when.NextRuns(t, friday, n) {
		fmt.Println(run.Format("Mon 2006-01-02 15:04:05 -07:00"))
	}
}

func ExampleParse() {
	t, err := when.Parse("cron 0 9 * * mon-fri in Asia/Shanghai")
	if err != nil {
		panic(err)
	}
	fmt.Println(t.Describe("en"))
	show(t, 2)
	// Output:
	// at 09:00 on Monday to Friday (Asia/Shanghai)
	// Mon 2026-03-30 09:00:00 +08:00
	// Tue 2026-03-31 09:00:00 +08:00
}

func ExampleParse_refused() {
	_, err := when.Parse("cron 0 25 * * *")
	fmt.Println(err)
	_, err = when.Parse("cron 0 0 30 2 *")
	fmt.Println(err)
	// Output:
	// invalid: hour must be a list of 0-23, got "25" at character 8
	// invalid: cron must be a trigger that fires at some time; this one never does, got "cron 0 0 30 2 *" at character 1
}

func ExampleCron() {
	t := when.Must(when.Cron(when.Fields{Day: "3rd fri, last", Hour: "17"}, when.In("America/New_York")))
	fmt.Println(t.Text())
	show(t, 3)
	// Output:
	// cron day='3rd fri,last' hour=17 in America/New_York
	// Tue 2026-03-31 17:00:00 -04:00
	// Fri 2026-04-17 17:00:00 -04:00
	// Thu 2026-04-30 17:00:00 -04:00
}

// Clocks in Berlin go from 02:00 to 03:00 on Sunday, 29 March 2026.
func ExampleOnGap() {
	for _, gap := range []when.Gap{when.GapShift, when.GapNext, when.GapSkip} {
		t := when.Must(when.Crontab("30 2 * * *", when.In("Europe/Berlin"), when.OnGap(gap)))
		fmt.Println(t.Text())
		show(t, 2)
	}
	// Output:
	// cron 30 2 * * * in Europe/Berlin gap shift
	// Sat 2026-03-28 02:30:00 +01:00
	// Sun 2026-03-29 03:30:00 +02:00
	// cron 30 2 * * * in Europe/Berlin gap next
	// Sat 2026-03-28 02:30:00 +01:00
	// Sun 2026-03-29 03:00:00 +02:00
	// cron 30 2 * * * in Europe/Berlin gap skip
	// Sat 2026-03-28 02:30:00 +01:00
	// Mon 2026-03-30 02:30:00 +02:00
}

func ExampleEvery() {
	t := when.Must(when.Every(36*time.Hour, when.From(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)), when.Jitter(time.Minute, "report")))
	fmt.Println(t.Text())
	fmt.Println(t.Describe("en"))
	// Output:
	// every 1d12h from 2026-01-01T00:00:00Z jitter 1m by report
	// every 1 day 12 hours, from 2026-01-01 00:00:00 (UTC), up to 1 minute later
}

func ExampleCalendar() {
	t := when.Must(when.Calendar(when.Period{Months: 1}, "09:00", when.From(time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)), when.In("Asia/Shanghai")))
	show(t, 3)
	// Output:
	// Tue 2026-03-31 09:00:00 +08:00
	// Sun 2026-05-31 09:00:00 +08:00
	// Fri 2026-07-31 09:00:00 +08:00
}

func ExampleAll() {
	t := when.Must(when.Parse("all(cron day=13 hour=9; cron day_of_week=fri hour=9)"))
	show(t, 2)
	// Output:
	// Fri 2026-11-13 09:00:00 +00:00
	// Fri 2027-08-13 09:00:00 +00:00
}
