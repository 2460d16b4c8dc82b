package when

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Describe says in plain words when the trigger fires, in English or, for "zh" and its kind, in Chinese. It is for people; Text is for programs.
func (t Trigger) Describe(language string) string {
	w := words{zh: strings.HasPrefix(strings.ToLower(language), "zh")}
	if t.n == nil {
		return w.say("never", "从不")
	}
	return t.n.describe(w)
}

type words struct{ zh bool }

func (w words) say(en, zh string) string {
	if w.zh {
		return zh
	}
	return en
}

var (
	monthNames   = []string{"January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"}
	weekdayNames = []string{"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
	weekdayZh    = []string{"周一", "周二", "周三", "周四", "周五", "周六", "周日"}
	ordinalNames = []string{"first", "second", "third", "fourth", "fifth"}
)

func (w words) weekday(i int) string { return w.say(weekdayNames[i], weekdayZh[i]) }
func (w words) month(i int) string   { return w.say(monthNames[i-1], strconv.Itoa(i)+"月") }

// list joins with commas and "and" (or another last word).
func (w words) list(items []string, last string) string {
	if w.zh {
		return strings.Join(items, map[string]string{"or": "或"}[last]+map[string]string{"and": "、"}[last])
	}
	if n := len(items); n > 1 {
		return strings.Join(items[:n-1], ", ") + " " + last + " " + items[n-1]
	}
	return strings.Join(items, "")
}

// values lists the bits of a mask, three and more neighbours as a range.
func (w words) values(mask uint64, name func(int) string) string {
	var items []string
	for mask != 0 {
		from := bits.TrailingZeros64(mask)
		n := bits.TrailingZeros64(^(mask >> from))
		mask &^= (1<<n - 1) << from
		switch {
		case n > 2:
			items = append(items, name(from)+w.say(" to ", "至")+name(from+n-1))
		default:
			for i := range n {
				items = append(items, name(from+i))
			}
		}
	}
	return w.list(items, "and")
}

// amount is a duration in words.
func (w words) amount(micros int64) string {
	en := map[string]string{"w": "week", "d": "day", "h": "hour", "m": "minute", "s": "second", "ms": "millisecond", "us": "microsecond"}
	zh := map[string]string{"w": "周", "d": "天", "h": "小时", "m": "分钟", "s": "秒", "ms": "毫秒", "us": "微秒"}
	var items []string
	for _, u := range units {
		if n := micros / u.micros; n > 0 {
			items = append(items, w.count(n, en[u.name], zh[u.name]))
			micros -= n * u.micros
		}
	}
	return strings.Join(items, w.say(" ", ""))
}

func (w words) count(n int64, en, zh string) string {
	if w.zh {
		return strconv.FormatInt(n, 10) + zh
	}
	if n > 1 {
		en += "s"
	}
	return strconv.FormatInt(n, 10) + " " + en
}

// say tells from when, until when and where.
func (s *span) say(w words, from, until string) (text string) {
	if from != "" {
		text += w.say(", from ", "，自") + from + w.say("", "起")
	}
	if until != "" {
		text += w.say(", until ", "，至") + until + w.say("", "止")
	}
	zone := s.zone
	if zone == "" {
		zone = "UTC"
	}
	return text + w.say(" (", "（") + zone + w.say(")", "）")
}

func (s *span) date(micros int64) string {
	if micros == always || micros == never {
		return ""
	}
	return time.UnixMicro(micros).In(s.loc).Format("2006-01-02 15:04:05.999999")
}

func (a *at) describe(w words) string {
	return w.say("once, at ", "一次，于") + a.date(a.t) + a.say(w, "", "")
}

func (e *every) describe(w words) string {
	return w.say("every ", "每") + w.single(w.amount(e.interval)) + e.say(w, e.date(e.from), e.date(e.until))
}

// single leaves the one out: every hour, but every 1 hour 30 minutes.
func (w words) single(period string) string {
	if !w.zh && strings.Count(period, " ") == 1 {
		return strings.TrimPrefix(period, "1 ")
	}
	return period
}

func (c *calendar) describe(w words) string {
	var items []string
	for i, n := range [4]int{c.Years, c.Months, c.Weeks, c.Days} {
		if n > 0 {
			items = append(items, w.count(int64(n), periods[i], [4]string{"年", "个月", "周", "天"}[i]))
		}
	}
	until := ""
	if c.until != never {
		until = dateText(c.last)
	}
	return w.say("every ", "每") + w.single(w.list(items, "and")) + w.say(" at ", " ") + clockText(c.clock) + c.say(w, dateText(c.first), until)
}

func (c *combination) describe(w words) string {
	var items []string
	for _, m := range c.members {
		items = append(items, m.describe(w))
	}
	if c.kind == "any" {
		return strings.Join(items, w.say("; or ", "；或"))
	}
	return w.say("when these agree: ", "同时满足：") + strings.Join(items, w.say("; and ", "；且"))
}

func (j *jittered) describe(w words) string {
	return j.node.describe(w) + w.say(", up to ", "，最多推迟") + w.amount(j.most) + w.say(" later", "")
}

func (c *cron) describe(w words) string {
	times, whole := c.times(w)
	days := c.dayWords(w)
	if days == "" && whole { // a time of day wants a day
		days = w.say("every day", "每天")
	}
	var dates []string
	if len(c.years) > 0 && !(len(c.years) == 1 && c.years[0] == progression{1970, 9999, 1}) {
		var items []string
		for _, p := range c.years {
			switch {
			case p.from == p.to:
				items = append(items, strconv.Itoa(p.from))
			case p.step == 1:
				items = append(items, fmt.Sprintf("%d%s%d", p.from, w.say(" to ", "至"), p.to))
			default:
				items = append(items, fmt.Sprintf(w.say("every %d years from %d to %d", "每%d年（%d至%d）"), p.step, p.from, p.to))
			}
		}
		dates = append(dates, w.say("in ", "")+w.list(items, "and")+w.say("", "年"))
	}
	if c.months != 1<<13-2 {
		dates = append(dates, w.say("in ", "")+w.values(c.months, w.month))
	}
	if c.weeks != allWeeks {
		dates = append(dates, w.say("in ISO week ", "第")+w.values(c.weeks, strconv.Itoa)+w.say("", "周（ISO）"))
	}
	if w.zh {
		all := append(dates, days, times)
		return strings.Join(strings.Fields(strings.Join(all, " ")), " ") + c.say(w, c.date(c.from), c.date(c.until))
	}
	for i, j := 0, len(dates)-1; i < j; i, j = i+1, j-1 {
		dates[i], dates[j] = dates[j], dates[i]
	}
	all := append([]string{times, days}, dates...)
	return strings.Join(strings.Fields(strings.Join(all, " ")), " ") + c.say(w, c.date(c.from), c.date(c.until))
}

// times says the time of day; whole when it is a list of clock times.
func (c *cron) times(w words) (text string, whole bool) {
	if bits.OnesCount64(c.hours)*bits.OnesCount64(c.minutes)*bits.OnesCount64(c.seconds) <= 6 {
		var items []string
		for s := c.nextClock(0); s >= 0; s = c.nextClock(s + 1) {
			items = append(items, clockText(int64(s)))
			if s == daySeconds-1 {
				break
			}
		}
		return w.say("at ", "") + w.list(items, "and"), true
	}
	var parts []string
	add := func(mask uint64, n int, en, zh string, outer bool) {
		switch step := stepOf(mask, n); {
		case step == 1 && len(parts) > 0 && !outer: // every minute goes without saying beside a second's
		case step == 1:
			parts = append(parts, w.say("every "+en, "每"+zh))
		case step > 1:
			parts = append(parts, w.say("every "+strconv.Itoa(step)+" "+en+"s", "每"+strconv.Itoa(step)+zh))
		case bits.OnesCount64(mask) == 1:
			parts = append(parts, w.say("at "+en+" ", "第")+w.values(mask, strconv.Itoa)+w.say("", zh))
		default:
			parts = append(parts, w.say("at "+en+"s ", "第")+w.values(mask, strconv.Itoa)+w.say("", zh))
		}
	}
	if c.seconds != 1 {
		add(c.seconds, 60, "second", "秒", false)
	}
	if c.minutes != 1 || c.seconds != 1 {
		add(c.minutes, 60, "minute", "分钟", c.seconds&(c.seconds-1) == 0)
	} else if stepOf(c.hours, 24) == 0 {
		parts = append(parts, w.say("on the hour", "整点"))
	}
	if c.hours != 1<<24-1 || c.minutes&(c.minutes-1) == 0 {
		add(c.hours, 24, "hour", "小时", true)
	}
	if w.zh {
		for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
			parts[i], parts[j] = parts[j], parts[i]
		}
	}
	return strings.Join(parts, w.say(", ", "，")), false
}

// stepOf is the step of a mask that goes from 0 to n evenly, else 0.
func stepOf(mask uint64, n int) int {
	for step := 1; step <= n/2; step++ {
		if n%step != 0 {
			continue
		}
		even := uint64(0)
		for v := 0; v < n; v += step {
			even |= 1 << v
		}
		if mask == even {
			return step
		}
	}
	return 0
}

func (c *cron) dayWords(w words) string {
	var items []string
	d := c.dom
	if !d.all {
		if d.fixed != 0 {
			items = append(items, w.say("day ", "每月")+w.values(d.fixed, strconv.Itoa)+w.say(" of the month", "日"))
		}
		for back := range 31 {
			switch {
			case d.fromEnd>>back&1 == 0:
			case back == 0:
				items = append(items, w.say("the last day of the month", "每月最后一天"))
			default:
				items = append(items, fmt.Sprintf(w.say("day %d before the last of the month", "每月倒数第%d天"), back+map[bool]int{true: 1}[w.zh]))
			}
		}
		for day := range 32 {
			if d.near>>day&1 == 1 {
				items = append(items, fmt.Sprintf(w.say("the weekday nearest to day %d of the month", "每月最接近%d日的工作日"), day))
			}
		}
		if d.lastWork {
			items = append(items, w.say("the last weekday of the month", "每月最后一个工作日"))
		}
		items = append(items, d.positions(w)...)
	}
	dom := w.list(items, "or")
	items = nil
	if d := c.dow; !d.all {
		if d.weekdays != 0 {
			items = append(items, w.values(d.weekdays, w.weekday))
		}
		items = append(items, d.positions(w)...)
	}
	dow := w.list(items, "or")
	switch {
	case dom == "" && dow == "":
		return ""
	case dom == "":
		return w.say("on ", "") + dow
	case dow == "":
		return w.say("on ", "") + dom
	case c.either:
		return w.say("on "+dom+" or on "+dow, dom+"或"+dow)
	}
	return w.say("on "+dom+" when it is "+dow, dom+"且为"+dow)
}

func (d *days) positions(w words) (items []string) {
	for wd := range 7 {
		for i, mask := range d.nth {
			if mask>>wd&1 == 1 {
				items = append(items, w.say("the "+ordinalNames[i]+" ", "每月第"+[]string{"一", "二", "三", "四", "五"}[i]+"个")+w.weekday(wd)+w.say(" of the month", ""))
			}
		}
		if d.lastOf>>wd&1 == 1 {
			items = append(items, w.say("the last ", "每月最后一个")+w.weekday(wd)+w.say(" of the month", ""))
		}
	}
	return items
}
