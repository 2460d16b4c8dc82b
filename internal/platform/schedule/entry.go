// Package schedule keeps named schedules in SQL. Whenever the trigger of one says so (package when), a job is enqueued (package job):
// exactly one for each firing, whatever the number of nodes, without a leader among them.
//
// It owns the tables schedule_*. It does not know what a job does, nor what became of it: that is job's, under the source
// "schedule/NAME". It does not know calendars and daylight saving either: that is when's, by each trigger's own zone.
//
// The promises:
//
//   - A firing and its job commit together. Whoever fires moves the schedule on from the very time it fires for, so no time is fired
//     for twice and none is left out, whichever nodes die, sleep and wake, and however their clocks are set.
//   - What is not fired is counted, by reason, and logged once: it came too late for the schedule's grace, it was merged with a later
//     one, or as many jobs of the schedule as may waited or ran.
//   - No firing comes before its time by the clock that counts: on MySQL the database's, on SQLite this process' own
//     (docs/decisions/0024-schedules.md).
package schedule

import (
	"embed"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/when"
)

const (
	maxNames   = 160      // bytes of name and kind together: both stand in the job's unique key
	maxArgs    = 64 << 10 // bytes of the arguments as JSON
	maxTrigger = 1000     // bytes of the trigger's text
	maxNote    = 1000     // bytes
	maxGrace   = 366 * 24 * time.Hour
	maxMost    = 1000
	maxLive    = 10_000
	source     = "schedule/" // before the name, as the jobs' source
)

// Unlimited, as Entry.MaxLive, lets any number of a schedule's jobs wait and run at a time.
const Unlimited = -1

// Coalesce says what becomes of several firings that are due at once, after a pause or a standstill of all nodes.
type Coalesce int

// The ways to coalesce.
const (
	Latest   Coalesce = iota // one job, for the latest of them
	Earliest                 // one job, for the earliest that is within the grace
	All                      // one job for each, of more than Entry.Most for the latest of them
)

var coalesces = []string{"latest", "earliest", "all"}

// String returns latest, earliest or all.
func (c Coalesce) String() string { return word(coalesces, int(c)) }

// State is what a schedule can be in.
type State int

// The states.
const (
	Active   State = iota // its trigger counts
	Paused                // it waits for Resume
	Finished              // its trigger has no firing left; it is removed after Config.Keep
)

var states = []string{"active", "paused", "finished"}

// String returns active, paused or finished.
func (s State) String() string { return word(states, int(s)) }

func word(words []string, i int) string {
	if i < 0 || i >= len(words) {
		return fmt.Sprint(i)
	}
	return words[i]
}

// Entry is a schedule as it is written down. Name, Kind and Trigger are required; the zero value of the rest is usable.
type Entry struct {
	// Name identifies it, in any words without control characters; with Kind at most 160 bytes.
	Name string
	// Kind is the name of the kind of job; it must be registered in this process.
	Kind string
	// Args are the job's arguments, encoded as JSON; at most 64 KiB. nil: each job is given the Firing that it is for. In what is read
	// they are a json.RawMessage.
	Args any
	// Trigger says when. Its text has at most 1000 bytes. End, zone, jitter and what daylight saving does are part of it.
	Trigger when.Trigger
	// Grace is how late a firing may come, up to 366 days; later it is skipped. 0: however late.
	Grace time.Duration
	// Coalesce is for several that are due at once; default Latest.
	Coalesce Coalesce
	// Most is how many All may give at once, 1 to 1000; default 10.
	Most int
	// MaxLive is how many of its jobs may wait or run at a time, 1 to 10,000 or Unlimited; a firing beyond is skipped. Default 1.
	MaxLive int
	// Paused has it begin paused.
	Paused bool
	// Note is a text for people, at most 1000 bytes.
	Note string
}

// Firing is what a job is given as its arguments where the schedule has none.
type Firing struct {
	Schedule string    // its name
	At       time.Time // the time that is fired for; by Trigger: when that was called
}

// argsAt are the arguments of a job that is fired for a time.
func argsAt(name, args string, at int64) (json.RawMessage, error) {
	if args != "null" {
		return json.RawMessage(args), nil
	}
	return json.Marshal(Firing{name, timeOf(at)})
}

// Info is a schedule with what became of it.
type Info struct {
	Entry
	State    State
	Next     time.Time // of the next firing; of a paused one where it was; zero: none
	Version  int64     // a number that rises with each change of the schedule, not with firings
	Declared bool      // by a program (Declare)
	Changed  bool      // at run time, after it was declared
	Fault    string    // why this process cannot fire it; "" when it can

	Fired   int64     // jobs given, also by Trigger
	Late    int64     // firings skipped because they came later than the grace
	Merged  int64     // firings that were merged with another one
	Busy    int64     // firings skipped because as many jobs as may waited or ran
	Last    time.Time // the time that was last fired for; zero: none yet
	LastRun time.Time // when a job was last given
	LastJob int64     // its id
	Skipped time.Time // when firings were last skipped or merged
	Reason  string    // of that: late, merged or busy

	Created, Modified time.Time
	Finished          time.Time // zero unless State is Finished
}

// entry is an Entry whose values are checked and encoded.
type entry struct {
	Entry
	args, text string
}

// check checks and encodes. kinds are those registered here; nil leaves that out.
func (e Entry) check(kinds map[string]bool) (c entry, err error) {
	field := func(name, allowed string, given any) error {
		return levee.Invalid("schedule."+name, allowed, given)
	}
	switch {
	case e.Name == "" || !utf8.ValidString(e.Name) || strings.ContainsFunc(e.Name, unicode.IsControl) || strings.TrimSpace(e.Name) != e.Name:
		return c, field("name", "a text without control characters and outer blanks", e.Name)
	case e.Name == "/": // no step of a URL's path, however it is escaped
		return c, field("name", "more than a slash", e.Name)
	case e.Kind == "":
		return c, field("kind", "the name of a kind of job", e.Kind)
	case len(e.Name)+len(e.Kind) > maxNames:
		return c, field("name", fmt.Sprintf("at most %d bytes beside a kind of %d bytes", max(maxNames-len(e.Kind), 0), len(e.Kind)), e.Name)
	case kinds != nil && !kinds[e.Kind]:
		return c, field("kind", "a registered kind of job", e.Kind)
	case e.Grace < 0 || e.Grace > maxGrace:
		return c, field("grace", "0 (however late) to 366 days", e.Grace)
	case e.Coalesce < Latest || e.Coalesce > All:
		return c, field("coalesce", "latest, earliest or all", e.Coalesce)
	case e.Most < 0 || e.Most > maxMost:
		return c, field("most", fmt.Sprintf("1 to %d", maxMost), e.Most)
	case e.MaxLive < Unlimited || e.MaxLive > maxLive:
		return c, field("max_live", fmt.Sprintf("1 to %d, or -1 for any number", maxLive), e.MaxLive)
	case len(e.Note) > maxNote || !utf8.ValidString(e.Note):
		return c, field("note", fmt.Sprintf("a text of at most %d bytes", maxNote), e.Note)
	}
	if e.Most == 0 {
		e.Most = 10
	}
	if e.MaxLive == 0 {
		e.MaxLive = 1
	}
	args, err := json.Marshal(e.Args)
	if err != nil {
		return c, field("args", "what JSON can hold", fmt.Sprintf("%T", e.Args)).(*levee.Error).Because(err)
	}
	if len(args) > maxArgs {
		return c, field("args", fmt.Sprintf("at most %d bytes as JSON", maxArgs), fmt.Sprint(len(args), " bytes"))
	}
	text := e.Trigger.Text()
	if len(text) > maxTrigger {
		return c, field("trigger", fmt.Sprintf("at most %d bytes as text", maxTrigger), fmt.Sprint(len(text), " bytes"))
	}
	if _, err := when.Parse(text); err != nil {
		return c, field("trigger", "a trigger", text).(*levee.Error).Because(err)
	}
	return entry{e, string(args), text}, nil
}

// micro is t in microseconds, rounded up: a firing must not come before its time.
func micro(t time.Time) int64 { return t.Add(time.Microsecond - 1).UnixMicro() }

// next returns the first firing after a time, in microseconds; 0: none.
func next(t when.Trigger, after int64) int64 {
	n, ok := t.Next(time.UnixMicro(after))
	if !ok {
		return 0
	}
	return max(micro(n), after+1)
}

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the tables schedule_*.
func Schema() db.Schema { return db.Schema{Owner: "schedule", FS: schemaFS} }
