package rehearse

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"levee/internal/report"
)

// How often a terminal's line is drawn again, and a file gets a new one.
const drawEvery, printEvery = 250 * time.Millisecond, time.Second

// progress tells the person at the terminal how it goes: one line that is drawn again, or plain lines where the output is a file.
type progress struct {
	s        *stage
	terminal bool
	every    time.Duration
	office   atomic.Pointer[office]
	last     time.Time // of the last line, while buyers are invented
}

func newProgress(s *stage) *progress {
	p := &progress{s: s, terminal: isTerminal(s.out), every: printEvery, last: time.Now()}
	if p.terminal {
		p.every = drawEvery
	}
	return p
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (p *progress) line(text string) {
	switch {
	case p.s.cfg.Quiet:
	case p.terminal:
		fmt.Fprintf(p.s.out, "\r\x1b[K%s", text)
	case text != "":
		fmt.Fprintln(p.s.out, text)
	}
}

func (p *progress) inventing(n int) {
	if p.s.cfg.Quiet || n%256 != 0 && n != p.s.cfg.Buyers {
		return
	}
	if now := time.Now(); now.Sub(p.last) >= p.every || n == p.s.cfg.Buyers {
		p.last = now
		p.line(fmt.Sprintf("inventing buyers: %s of %s", report.Thousands(uint64(n)), report.Thousands(uint64(p.s.cfg.Buyers))))
	}
}

// invite tells where a person can take part: a rehearsal sells to operators as well.
func (p *progress) invite() {
	if !p.s.cfg.Quiet {
		fmt.Fprintf(p.s.out, "the copy: %s/sales/%s (an operator who signs in there takes part)\n", p.s.cfg.Server, p.s.copy.ID)
	}
}

// run draws until ctx ends.
func (p *progress) run(ctx context.Context) {
	if p.s.cfg.Quiet {
		return
	}
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	defer p.line("")
	before, at := p.s.rec.read(), p.s.now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, reading := p.s.now(), p.s.rec.read()
		p.line(p.text(now, reading, float64(reading.total()-before.total())/max(0.001, (now-at).Seconds())))
		before, at = reading, now
	}
}

func (p *progress) text(now time.Duration, r reading, rate float64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%6.1f s  %s answers/s", now.Seconds(), report.Thousands(uint64(rate)))
	for c, n := range r.answers {
		if n > 0 {
			fmt.Fprintf(&b, "  %s %s", classLabels[c], report.Thousands(n))
		}
	}
	if r := p.s.room; r != nil {
		fmt.Fprintf(&b, "  waiting %s  had their turn %s", report.Thousands(uint64(max(0, r.waiting.Load()))), report.Thousands(uint64(r.admitted.Load())))
	}
	if late := p.s.rec.lately(now); late > 0 {
		fmt.Fprintf(&b, "  p99 %s", report.Duration(float64(late.Microseconds())/microsPerMsec))
	}
	if o := p.office.Load(); o != nil {
		if n := o.waiting(); n > 0 {
			fmt.Fprintf(&b, "  waiting for a connection %s", report.Thousands(uint64(n)))
		}
	}
	return b.String()
}
