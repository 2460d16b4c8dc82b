package when

import (
	"fmt"
	"strings"
	"time"
)

// mostText is the longest text of a trigger, in bytes.
const mostText = 1000

// Parse reads a trigger's text form:
//
//	at 2026-05-01T09:00:00+08:00
//	every 90m from 2026-01-01T00:00:00+01:00 until 2026-12-31 in Europe/Berlin jitter 30s by nightly
//	calendar 1 month 15 days at 09:00 from 2026-01-31 in Europe/Berlin gap skip fold last
//	cron 0 9 * * mon-fri in Asia/Shanghai
//	cron day='3rd fri' hour=17 in America/New_York
//	any(cron 0 9 * * *; every 1w)
//	all(cron day=last; cron day_of_week=fri)
//
// Words are told apart by blanks; upper and lower case are the same, but for the names of zones and of jitter. Durations are w, d, h, m, s, ms and us, without
// fractions. Times without an offset are the zone's own. At most 1,000 bytes, 16 members in a bracket and 4 brackets in one another. CodeInvalid
// names the field, what is allowed, what was given, and the character at which it stands (Data["position"], from 1).
func Parse(text string) (Trigger, error) {
	n, err := parse(text)
	if err != nil {
		return Trigger{}, shown(err, text)
	}
	return Trigger{n}, nil
}

func parse(text string) (node, error) {
	if len(text) > mostText {
		return nil, fault{"trigger", fmt.Sprintf("at most %d bytes", mostText), fmt.Sprintf("%d bytes", len(text)), 0}
	}
	p := &parser{}
	if err := p.split(text); err != nil {
		return nil, err
	}
	n, err := p.trigger(0)
	if err == nil && p.peek() != "" {
		err = p.refuse("trigger", "ended here, or go on with "+optionWords)
	}
	return n, err
}

const optionWords = "from, until, in, gap, fold or jitter"

type parser struct {
	words []part
	next  int
	end   int
}

// split finds the words; brackets and semicolons are words of their own, and what stands in quotes belongs to one word.
func (p *parser) split(text string) error {
	p.end = len(text) + 1
	for at := 0; at < len(text); {
		switch c := text[at]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			at++
			continue
		case strings.IndexByte("();", c) >= 0:
			p.words = append(p.words, part{text[at : at+1], at + 1})
			at++
			continue
		}
		begin := at
		for at < len(text) && strings.IndexByte(" \t\n\r();", text[at]) < 0 {
			if quote := text[at]; quote == '\'' || quote == '"' {
				closing := strings.IndexByte(text[at+1:], quote)
				if closing < 0 {
					return fault{"trigger", "closed by a quote as it was opened", text[at:], at + 1}
				}
				at += closing + 1
			}
			at++
		}
		p.words = append(p.words, part{text[begin:at], begin + 1})
	}
	return nil
}

func (p *parser) peek() string {
	if p.next >= len(p.words) {
		return ""
	}
	return p.words[p.next].text
}

// lower is the next word in lower case.
func (p *parser) lower() string { return strings.ToLower(p.peek()) }

func (p *parser) take() part {
	if p.next >= len(p.words) {
		return part{"", p.end}
	}
	p.next++
	return p.words[p.next-1]
}

// refuse says what the next word must be.
func (p *parser) refuse(field, allowed string) error {
	w := p.take()
	return fault{field, allowed, w.text, w.at}
}

// ends says whether the rhythm is over: an option follows, or the trigger ends.
func (p *parser) ends() bool {
	switch p.lower() {
	case "", ")", ";", "from", "until", "in", "gap", "fold", "jitter":
		return true
	}
	return false
}

func (p *parser) trigger(depth int) (node, error) {
	kind := p.take()
	var o options
	switch strings.ToLower(kind.text) {
	case "at":
		t := p.take()
		if err := p.options(&o); err != nil {
			return nil, err
		}
		if t.text == "" {
			return nil, fault{"at", "followed by a time such as 2026-01-31T09:00:00+01:00", "", t.at}
		}
		return o.after(newAt(stamp{text: t.text, at: t.at}, &o))
	case "every":
		interval, err := p.duration("every")
		for err == nil && !p.ends() { // 1h 30m
			var more time.Duration
			if more, err = p.duration("every"); interval > 1<<63-1-more {
				err = fault{"every", "at most 292 years", "", kind.at}
			}
			interval += more
		}
		if err == nil {
			err = p.options(&o)
		}
		if err != nil {
			return nil, err
		}
		return o.after(newEvery(interval, &o, kind.at))
	case "calendar":
		period, clock, err := p.period()
		if err == nil {
			err = p.options(&o)
		}
		if err != nil {
			return nil, err
		}
		return o.after(newCalendar(period, clock.text, &o, kind.at, clock.at))
	case "cron":
		return p.cron(kind, &o)
	case "any", "all":
		return p.combination(kind, &o, depth)
	}
	return nil, fault{"trigger", "begun by at, every, calendar, cron, any or all", kind.text, kind.at}
}

// after adds the jitter to what was made.
func (o *options) after(n node, err error) (node, error) {
	if err != nil {
		return nil, err
	}
	return o.delayed(n)
}

func (p *parser) cron(kind part, o *options) (node, error) {
	var words []part
	keyed := false
	for !p.ends() {
		w := p.take()
		keyed = keyed || strings.Contains(w.text, "=")
		words = append(words, w)
	}
	if err := p.options(o); err != nil {
		return nil, err
	}
	if !keyed {
		for i := range words {
			words[i] = unquoted(words[i])
		}
		return o.after(newCrontab(words, o, kind.at))
	}
	var given [8]part
	for _, w := range words {
		name, value, ok := strings.Cut(w.text, "=")
		i := 0
		for i < len(fields) && fields[i].name != strings.ToLower(name) {
			i++
		}
		if !ok || i == len(fields) {
			return nil, fault{"cron", "fields as name=value: year, month, day, week, day_of_week, hour, minute, second", w.text, w.at}
		}
		if given[i].at != 0 {
			return nil, fault{fields[i].name, "given once", w.text, w.at}
		}
		if given[i] = unquoted(part{value, w.at + len(name) + 1}); strings.TrimSpace(given[i].text) == "" {
			return nil, fault{fields[i].name, fields[i].allowed, value, given[i].at}
		}
	}
	return o.after(newCron(given, o, kind.at))
}

// unquoted takes off the quotes around a word.
func unquoted(w part) part {
	if n := len(w.text); n >= 2 && (w.text[0] == '\'' || w.text[0] == '"') && w.text[n-1] == w.text[0] {
		return part{w.text[1 : n-1], w.at + 1}
	}
	return w
}

func (p *parser) combination(kind part, o *options, depth int) (node, error) {
	if depth == mostDepth {
		return nil, fault{"trigger", "at most 4 levels deep", kind.text, kind.at}
	}
	if p.peek() != "(" {
		return nil, p.refuse(strings.ToLower(kind.text), "followed by triggers in brackets, with semicolons between them")
	}
	var members []node
	for more := true; more; more = p.peek() == ";" {
		p.take()
		if len(members) == mostMembers {
			return nil, p.refuse(strings.ToLower(kind.text), "1 to 16 triggers")
		}
		m, err := p.trigger(depth + 1)
		if err != nil {
			return nil, err
		}
		members = append(members, m)
	}
	if p.peek() != ")" {
		return nil, p.refuse("trigger", "followed by ; or ), or go on with "+optionWords)
	}
	p.take()
	if err := p.options(o); err != nil {
		return nil, err
	}
	return o.after(newCombined(strings.ToLower(kind.text), members, o, kind.at))
}

// options reads what follows a rhythm, in any order, each once.
func (p *parser) options(o *options) (err error) {
	seen := map[string]bool{}
	for {
		name := p.lower()
		switch name {
		case "from", "until", "in", "gap", "fold", "jitter":
		default:
			return nil
		}
		if seen[name] {
			return p.refuse(name, "given once")
		}
		seen[name] = true
		p.take()
		switch v := p.words[p.next-1]; name {
		case "from", "until":
			v = p.take()
			s := stamp{text: strings.ToUpper(v.text), at: v.at}
			if v.text == "" {
				return fault{name, "followed by a time such as 2026-01-31T09:00:00+01:00", "", v.at}
			}
			if name == "from" {
				o.from = s
			} else {
				o.until = s
			}
		case "in":
			if v = p.take(); v.text == "" {
				return fault{name, "followed by a time zone such as Europe/Berlin", "", v.at}
			}
			o.zone, o.zoneAt = v.text, v.at
		case "gap":
			v = p.take()
			i := index(gaps, strings.ToLower(v.text))
			if i < 1 {
				return fault{name, "shift, next or skip", v.text, v.at}
			}
			o.gap, o.gapAt = Gap(i), v.at
		case "fold":
			v = p.take()
			i := index(folds, strings.ToLower(v.text))
			if i < 1 {
				return fault{name, "first, last or both", v.text, v.at}
			}
			o.fold, o.foldAt = Fold(i), v.at
		case "jitter":
			o.jittered, o.jitterAt = true, v.at
			if o.jitter, err = p.duration("jitter"); err != nil {
				return err
			}
			if p.lower() == "by" {
				p.take()
				if v = p.take(); v.text == "" || strings.Contains("();", v.text) {
					return fault{"by", "followed by a name", v.text, v.at}
				}
				o.by, o.jitterAt = v.text, v.at
			}
		}
	}
}

// duration reads one word such as 1h30m.
func (p *parser) duration(field string) (total time.Duration, err error) {
	w := p.take()
	bad := fault{field, "a duration such as 90m, 1h30m or 2w, of w, d, h, m, s, ms and us, at most 292 years", w.text, w.at}
	if w.text == "" {
		return 0, bad
	}
	for rest := strings.ToLower(w.text); rest != ""; {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		letters := len(rest[digits:]) - len(strings.TrimLeft(rest[digits:], "abcdefghijklmnopqrstuvwxyz"))
		var n, micros int64
		for _, u := range units {
			if u.name == rest[digits:digits+letters] {
				micros = u.micros
			}
		}
		if digits == 0 || digits > 18 || micros == 0 {
			return 0, bad
		}
		for _, c := range rest[:digits] {
			n = n*10 + int64(c-'0')
		}
		const most = int64(1<<63-1) / 1000
		if n > (most-int64(total/time.Microsecond))/micros {
			return 0, bad
		}
		total += time.Duration(n*micros) * time.Microsecond
		rest = rest[digits+letters:]
	}
	return total, nil
}

// period reads "1 month 15 days at 09:00".
func (p *parser) period() (period Period, clock part, err error) {
	parts := [4]*int{&period.Years, &period.Months, &period.Weeks, &period.Days}
	for !p.ends() && p.lower() != "at" {
		count := p.take()
		n, ok := number(count.text)
		unit := p.take()
		i := index(periods[:], strings.TrimSuffix(strings.ToLower(unit.text), "s"))
		if !ok || i < 0 || *parts[i] != 0 {
			return period, clock, fault{"calendar", "a period such as 1 month 15 days, of years, months, weeks and days", strings.TrimSpace(count.text + " " + unit.text), count.at}
		}
		*parts[i] = n
	}
	clock = part{"00:00", 0}
	if p.lower() == "at" {
		p.take()
		clock = p.take()
	}
	return period, clock, nil
}
