package when

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	vectorFile = flag.String("when.vectors", "", "compare with the firings in this file (tools/compat) instead of the recorded ones")
	markFile   = flag.String("when.mark", "", "write the vectors with their differences marked to this file")
)

const recorded = "testdata/apscheduler.jsonl.gz"

// The tests use the zones that APScheduler used when its firings were recorded: governments change theirs.
func TestMain(m *testing.M) {
	flag.Parse()
	if *vectorFile == "" {
		os.Setenv("ZONEINFO", "testdata/zoneinfo.zip")
	}
	os.Exit(m.Run())
}

// vector is a trigger with its firings as APScheduler has them (tools/compat/firings.py), and each firing that differs with the reason.
type vector struct {
	Text  string             `json:"t"`
	Kind  string             `json:"k"`
	From  int64              `json:"n"`
	First int64              `json:"f"`
	Steps []int64            `json:"d"`
	End   bool               `json:"end,omitempty"`
	Hung  bool               `json:"hung,omitempty"`
	Marks map[string][]int64 `json:"x,omitempty"`
}

// The reasons why APScheduler's firings are not ours (docs/triggers.md, "Where APScheduler differs").
const (
	lostAfter   = "lost-after-change" // the first hour of a later day, month or year, stepped over because the step crossed a change forward
	lostInGap   = "lost-in-gap"       // a time that does not exist, which APScheduler drops, except for the first of a day
	lostToGap   = "lost-to-gap"       // a time right after a change within an hour: APScheduler stands on a time of that hour that does not exist, which is later
	lostInFold  = "lost-in-fold"      // the second of a time that comes twice, where clocks change within an hour: setting the minute steps over it
	lostInOr    = "lost-in-or"        // around changes OrTrigger compares what clocks show: a second pass, or a time that does not exist, of one member goes first
	extraInFold = "extra-in-fold"     // right after a change back within an hour, in an hour that the trigger does not have: APScheduler looks at minutes only
)

func (v *vector) firings() (list []int64) {
	if v.First == 0 {
		return nil
	}
	at := v.First
	list = append(list, at)
	for _, d := range v.Steps {
		at += d
		list = append(list, at)
	}
	return list
}

// with is the vector's trigger under the policy that comes nearest to APScheduler's, with this gap and fold for cron.
func (v *vector) with(gap, fold string) string {
	policy := " gap " + gap + " fold " + fold
	switch v.Kind {
	case "cron":
		return v.Text + policy
	case "calendar":
		return v.Text + " gap skip fold first"
	case "any", "all":
		return strings.ReplaceAll(strings.ReplaceAll(v.Text, ";", policy+";"), ")", policy+")")
	}
	return v.Text
}

func readVectors(t testing.TB, name string) (list []*vector) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<22)
	for lines.Scan() {
		v := &vector{}
		if err := json.Unmarshal(lines.Bytes(), v); err != nil {
			t.Fatal(err)
		}
		list = append(list, v)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

// compare returns what differs and is explained, by reason, and what is not explained. spoil breaks the trigger for the negative controls.
func (v *vector) compare(gap, fold string, spoil func(*cron)) (explained map[string][]int64, unexplained []string) {
	explained = map[string][]int64{}
	theirs := v.firings()
	trigger, err := Parse(v.with(gap, fold))
	if err != nil {
		if len(theirs) > 0 || !v.End && !v.Hung {
			unexplained = append(unexplained, "refused: "+err.Error())
		}
		return explained, unexplained
	}
	spoilAll(trigger.n, spoil)
	plain, err := Parse(v.with("skip", fold))
	real := func(u int64) bool { // a time that exists
		if err != nil {
			return false
		}
		next, ok := plain.Next(time.Unix(u, -1))
		return ok && next.Unix() == u
	}
	loc := trigger.n.location()
	show := func(u int64) string { return time.Unix(u, 0).In(loc).Format(time.RFC3339) }
	last, after := v.From, time.Unix(v.From, -1)
	for i := 0; i < len(theirs) || v.End; {
		next, ok := trigger.Next(after)
		theirNext := never
		if i < len(theirs) {
			theirNext = theirs[i]
		}
		switch {
		case i == len(theirs) && !ok:
			return explained, unexplained
		case ok && next.Unix() == theirNext:
			last, after = theirNext, next
			i++
			continue
		case theirNext != never && (!ok || next.Unix() > theirNext):
			if back, width := changeBack(loc, theirNext); v.Kind == "every" || v.Kind == "calendar" || v.Kind == "at" || last >= back || width == 0 || !withinHour(loc, back) ||
				wallAt(loc, theirNext)/hourSeconds != wallAt(loc, back)/hourSeconds {
				return explained, append(unexplained, fmt.Sprintf("APScheduler fires at %s, we do not", show(theirNext)))
			}
			explained[extraInFold] = append(explained[extraInFold], theirNext)
			last = theirNext
			i++
			continue
		}
		u := next.Unix()
		after = next
		forward, gap := lastForward(loc, u)
		back, fold := changeBack(loc, u)
		ahead, again := changeBack(loc, theirNext)
		switch {
		case v.Kind == "every" || v.Kind == "calendar" || v.Kind == "at":
			return explained, append(unexplained, fmt.Sprintf("we fire at %s, APScheduler does not", show(u)))
		case u >= forward && u < forward+gap && !real(u):
			explained[lostInGap] = append(explained[lostInGap], u)
		case last < forward && forward <= u && sinceMidnight(loc, u) < gap:
			explained[lostAfter] = append(explained[lostAfter], u)
		case last < forward && forward <= u && u < theirNext && theirNext < forward+gap && withinHour(loc, forward) && shows(trigger.n, theirNext+offsetAt(loc, forward-1)):
			explained[lostToGap] = append(explained[lostToGap], u)
		case fold > 0 && last < back && withinHour(loc, back):
			explained[lostInFold] = append(explained[lostInFold], u)
		case v.Kind == "any" && last < forward && forward <= u && theirNext < forward+gap && shows(trigger.n, theirNext+offsetAt(loc, forward-1)):
			explained[lostInOr] = append(explained[lostInOr], u)
		case v.Kind == "any" && again > 0 && last < ahead && u >= ahead-again:
			explained[lostInOr] = append(explained[lostInOr], u)
		default:
			return explained, append(unexplained, fmt.Sprintf("we fire at %s, APScheduler does not", show(u)))
		}
	}
	return explained, unexplained
}

// lastForward is the last change forward of a zone's clock at or before u, and by how much.
func lastForward(loc *time.Location, u int64) (change, width int64) {
	for t := u; t > u-800*daySeconds; {
		s := stretchAt(loc, t)
		if s.start == -beyond {
			break
		}
		if d := s.offset - offsetAt(loc, s.start-1); d > 0 {
			return s.start, d
		}
		t = s.start - 1
	}
	return -beyond, 0
}

// changeBack is the change at which the clock was set back before it showed u's time for the second time, and by how much; 0 when u is no such time.
func changeBack(loc *time.Location, u int64) (change, width int64) {
	if u != never {
		s := stretchAt(loc, u)
		if before := offsetAt(loc, s.start-1); u+s.offset < s.start+before {
			return s.start, before - s.offset
		}
	}
	return -beyond, 0
}

func wallAt(loc *time.Location, u int64) int64 { return u + offsetAt(loc, u) }

// withinHour says that clocks are set at a time that is no full hour, as in Chatham at 02:45.
func withinHour(loc *time.Location, change int64) bool { return wallAt(loc, change)%hourSeconds != 0 }

// shows says whether a time on the wall is one of the trigger's, or of its members'.
func shows(n node, wall int64) bool {
	switch n := n.(type) {
	case *cron:
		return n.nextWall(wall) == wall
	case *combination:
		return slices.ContainsFunc(n.members, func(m node) bool { return shows(m, wall) })
	}
	return false
}

func sinceMidnight(loc *time.Location, u int64) int64 {
	h, m, s := time.Unix(u, 0).In(loc).Clock()
	return int64(h*hourSeconds + m*minuteSeconds + s)
}

func spoilAll(n node, spoil func(*cron)) {
	switch n := n.(type) {
	case *cron:
		if spoil != nil {
			spoil(n)
		}
	case *combination:
		for _, m := range n.members {
			spoilAll(m, spoil)
		}
	}
}

// The firings of APScheduler 3.11 are ours, and each difference has a reason, told by a rule and marked in the file. "make compat" makes the
// file anew and compares 10,000 triggers.
func TestFiringsEqualAPScheduler(t *testing.T) {
	name := recorded
	if *vectorFile != "" {
		name = *vectorFile
	}
	vectors := readVectors(t, name)
	var out *json.Encoder
	if *markFile != "" {
		f, err := os.Create(*markFile)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, _ := gzip.NewWriterLevel(f, gzip.BestCompression)
		defer z.Close()
		out = json.NewEncoder(z)
		out.SetEscapeHTML(false)
	}
	firings, hung, kinds, reasons, marked := 0, 0, map[string]int{}, map[string]int{}, map[string]int{}
	for _, v := range vectors {
		explained, unexplained := v.compare("shift", "both", nil)
		if len(unexplained) > 0 {
			t.Errorf("%s from %d: %s", v.Text, v.From, unexplained[0])
		}
		if name == recorded && out == nil && !maps.EqualFunc(explained, v.Marks, func(a, b []int64) bool { return slices.Equal(a, b) }) {
			t.Errorf("%s from %d: differs at %v, marked are %v", v.Text, v.From, explained, v.Marks)
		}
		for reason, list := range explained {
			reasons[reason] += len(list)
			marked[reason]++
		}
		kinds[v.Kind]++
		firings += len(v.firings())
		if v.Hung {
			hung++
		}
		if out != nil {
			v.Marks = explained
			if err := out.Encode(v); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d triggers (%v), %d firings of APScheduler's, the same as ours but for %v in triggers %v; it hung on %d", len(vectors), kinds, firings, reasons, marked, hung)
	if firings == 0 || name == recorded && (len(vectors) < 4000 || len(reasons) < 5) {
		t.Errorf("too few vectors, or reasons that never occur: %v", reasons)
	}
}

// The recorded firings notice a wrong rule: this many triggers at least have unexplained differences under it.
func TestTheVectorsNotice(t *testing.T) {
	vectors := readVectors(t, recorded)
	for _, broken := range []struct {
		name, gap, fold string
		least           int
		spoil           func(*cron)
	}{
		{"fold first", "shift", "first", 25, nil},
		{"fold last", "shift", "last", 25, nil},
		{"gap skip", "skip", "both", 10, nil},
		{"gap next", "next", "both", 3, nil},
		{"weeks off by one", "shift", "both", 25, func(c *cron) { c.weeks = c.weeks<<1&allWeeks | c.weeks>>53&1<<1 }},
		{"weekdays off by one", "shift", "both", 25, func(c *cron) { c.dow.weekdays = (c.dow.weekdays<<1 | c.dow.weekdays>>6) & 0x7f }},
		{"the last day is the 30th", "shift", "both", 25, func(c *cron) { c.dom.fixed, c.dom.fromEnd = c.dom.fixed|c.dom.fromEnd<<30, 0 }},
		{"either day", "shift", "both", 25, func(c *cron) { c.either = true }},
	} {
		wrong, of := 0, 0
		for _, v := range vectors {
			of++
			if _, unexplained := v.compare(broken.gap, broken.fold, broken.spoil); len(unexplained) > 0 {
				if wrong++; wrong == broken.least {
					break
				}
			}
		}
		t.Logf("%s: %d of %d triggers unexplained", broken.name, wrong, of)
		if wrong < broken.least {
			t.Errorf("%s: only %d triggers notice", broken.name, wrong)
		}
	}
}
