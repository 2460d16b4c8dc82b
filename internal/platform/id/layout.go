package id

import (
	"strconv"
	"time"

	"levee"
)

// Layout says how the 63 bits of an id are shared out. From the top: TimeBits of time in units since Epoch, WorkerBits of worker number,
// SeqBits of sequence within one unit; what is left above is zero. Ids of one layout are unique among themselves only: a changed layout is
// another set of ids, and needs a Config.Space of its own.
type Layout struct {
	// Epoch is the time that ids count from, in whole milliseconds, from 1970 to the present.
	Epoch time.Time
	// Unit is the length of one step of the time in an id, in whole milliseconds from 1ms to 1h.
	Unit time.Duration
	// TimeBits (20 to 48), WorkerBits (1 to 16) and SeqBits (1 to 22) are together 63 at most. They bound, in this order: how long ids
	// last, how many processes give them at once, and how many ids each gives in one Unit.
	TimeBits, WorkerBits, SeqBits uint8
}

// The layout Default, as constants.
const (
	workerBits  = 10
	seqBits     = 12
	maxWorkers  = 1 << workerBits
	maxMillis   = 1 << 41 // first millisecond that no longer fits
	seqMask     = 1<<seqBits - 1
	epochMillis = 1735689600000 // 2025-01-01T00:00:00Z in Unix milliseconds
)

// The ready layouts.
var (
	// Default is that of the house: 41 bits of milliseconds since 2025 (until 2094), 1,024 workers, 4,096 ids in a millisecond of each.
	Default = Layout{Epoch: time.UnixMilli(epochMillis).UTC(), Unit: time.Millisecond, TimeBits: 41, WorkerBits: workerBits, SeqBits: seqBits}
	// JS53 makes ids that JavaScript's Number holds exactly (below 2^53): 31 bits of seconds since 2025 (until 2093), 256 workers,
	// 16,384 ids in a second of each.
	JS53 = Layout{Epoch: time.UnixMilli(epochMillis).UTC(), Unit: time.Second, TimeBits: 31, WorkerBits: 8, SeqBits: 14}
)

// leastYears is how long a layout must still last where a generator is opened: whoever runs out of time bits in production has no way to
// mend it.
const leastYears = 5

// String names the layout by its numbers: "41+10+12 bits of 1ms since 2025-01-01T00:00:00Z".
func (l Layout) String() string {
	n := func(b uint8) string { return strconv.Itoa(int(b)) }
	return n(l.TimeBits) + "+" + n(l.WorkerBits) + "+" + n(l.SeqBits) + " bits of " + l.Unit.String() + " since " + l.Epoch.UTC().Format(time.RFC3339Nano)
}

// lastTime is the end of the year 9999 in Unix milliseconds.
const lastTime = 253_402_300_800_000

// Validate returns CodeInvalid, which names the field and what is allowed, for a layout that is out of its bounds, lasts for less than
// five years from now or beyond the year 9999.
func (l Layout) Validate(now time.Time) error {
	bits := func(field string, got uint8, least, most int) error {
		if int(got) < least || int(got) > most {
			return levee.Invalid("id.layout."+field, "from "+strconv.Itoa(least)+" to "+strconv.Itoa(most), got)
		}
		return nil
	}
	for _, err := range []error{bits("time_bits", l.TimeBits, 20, 48), bits("worker_bits", l.WorkerBits, 1, 16), bits("seq_bits", l.SeqBits, 1, 22)} {
		if err != nil {
			return err
		}
	}
	sum := int(l.TimeBits) + int(l.WorkerBits) + int(l.SeqBits)
	switch {
	case sum > 63:
		return levee.Invalid("id.layout", "time_bits, worker_bits and seq_bits of 63 together at most", sum)
	case l.Unit < time.Millisecond || l.Unit > time.Hour || l.Unit%time.Millisecond != 0:
		return levee.Invalid("id.layout.unit", "whole milliseconds from 1ms to 1h", l.Unit)
	case l.Epoch.UnixMilli() < 0 || l.Epoch.After(now) || l.Epoch.Nanosecond()%int(time.Millisecond) != 0:
		return levee.Invalid("id.layout.epoch", "a time in whole milliseconds from 1970 to now ("+now.UTC().Format(time.RFC3339)+")", l.Epoch.Format(time.RFC3339Nano))
	}
	if least := l.ticks(now.AddDate(leastYears, 0, 0)); least >= l.end() {
		return levee.Invalid("id.layout.time_bits", "enough for "+strconv.Itoa(leastYears)+" years from now; with this epoch and unit ids end on "+
			l.time(l.end()).Format(time.DateOnly)+": take more time_bits, a longer unit or a later epoch", l.TimeBits)
	}
	if l.end() > (lastTime-l.Epoch.UnixMilli())/l.Unit.Milliseconds() {
		return levee.Invalid("id.layout.time_bits", "so many that ids end before the year 10000, which no written time can hold: take fewer time_bits or a shorter unit", l.TimeBits)
	}
	return nil
}

func (l Layout) workers() int { return 1 << l.WorkerBits }

// end is the first tick that no longer fits.
func (l Layout) end() int64 { return 1 << l.TimeBits }

// ticks of the layout's unit from its epoch to t, rounded down; negative before the epoch.
func (l Layout) ticks(t time.Time) int64 {
	ms, unit := t.UnixMilli()-l.Epoch.UnixMilli(), l.Unit.Milliseconds()
	if ms < 0 {
		return -1
	}
	return ms / unit
}

// span is how many ticks a duration is, rounded up.
func (l Layout) span(d time.Duration) int64 { return int64((d + l.Unit - 1) / l.Unit) }

func (l Layout) time(tick int64) time.Time {
	return time.UnixMilli(l.Epoch.UnixMilli() + tick*l.Unit.Milliseconds()).UTC()
}

// TimeOf returns the time inside an id of this layout, to the Unit. It is the clock's time when the id was given, or later: see
// Generator.Next on ids that run ahead.
func (l Layout) TimeOf(id int64) time.Time { return l.time(id >> (l.WorkerBits + l.SeqBits)) }

// Parts is what an id is made of.
type Parts struct {
	Time     time.Time // to the Unit, in UTC
	Worker   int
	Sequence int
}

// Explain takes an id of this layout apart. CodeInvalid for a number that cannot be one: 0, negative, or beyond the layout's bits.
func (l Layout) Explain(id int64) (Parts, error) {
	if id <= 0 || id>>(l.WorkerBits+l.SeqBits) >= l.end() {
		return Parts{}, levee.Invalid("id", "from 1 to "+strconv.FormatInt(l.end()<<(l.WorkerBits+l.SeqBits)-1, 10)+" in this layout", id)
	}
	return Parts{l.TimeOf(id), int(id >> l.SeqBits & (1<<l.WorkerBits - 1)), int(id & (1<<l.SeqBits - 1))}, nil
}

// At returns the lowest and the highest id that can bear the time t, to the Unit: all ids given between two moments lie from the low of
// the first to the high of the second, but for those that ran ahead of the clock. That is how rows are found by the time in their key.
// CodeInvalid for a time that the layout cannot bear.
func (l Layout) At(t time.Time) (low, high int64, err error) {
	tick := l.ticks(t)
	if tick < 0 || tick >= l.end() {
		return 0, 0, levee.Invalid("time of an id", "from "+l.Epoch.UTC().Format(time.RFC3339)+" to before "+l.time(l.end()).Format(time.RFC3339), t.UTC().Format(time.RFC3339))
	}
	low = tick << (l.WorkerBits + l.SeqBits)
	return low, low + 1<<(l.WorkerBits+l.SeqBits) - 1, nil
}

// TimeOf returns the time inside an id of the layout Default: see Layout.TimeOf.
func TimeOf(id int64) time.Time {
	return time.UnixMilli(id>>(workerBits+seqBits) + epochMillis).UTC()
}
