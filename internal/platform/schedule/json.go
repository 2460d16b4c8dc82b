package schedule

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/when"
)

// line is an Entry as Export writes it.
type line struct {
	Name     string          `json:"name"`
	Kind     string          `json:"kind"`
	Args     json.RawMessage `json:"args"`
	Trigger  string          `json:"trigger"`
	Grace    string          `json:"grace,omitempty"`
	Coalesce string          `json:"coalesce,omitempty"`
	Most     int             `json:"most,omitempty"`
	MaxLive  int             `json:"max_live,omitempty"`
	Paused   bool            `json:"paused,omitempty"`
	Note     string          `json:"note,omitempty"`
}

// Export writes all schedules that are not finished as a JSON array, one to a line, in the order of their names. History and next firings are
// not part of it.
func (s *Schedules) Export(ctx context.Context, w io.Writer) (err error) {
	defer levee.Wrap(&err, "schedule.Export")
	b := bufio.NewWriter(w)
	between := "[\n"
	for f := (Filter{States: []State{Active, Paused}, Limit: 500}); ; {
		page, after, err := s.List(ctx, f)
		if err != nil {
			return err
		}
		for _, i := range page {
			if i.Trigger.Text() == "" {
				return levee.E(levee.CodeConflict, "the schedule %q cannot be read: %s", i.Name, i.Fault)
			}
			l := line{Name: i.Name, Kind: i.Kind, Args: i.Args.(json.RawMessage), Trigger: i.Trigger.Text(), Coalesce: i.Coalesce.String(), Most: i.Most,
				MaxLive: i.MaxLive, Paused: i.Paused, Note: i.Note}
			if i.Grace > 0 {
				l.Grace = i.Grace.String()
			}
			text, err := json.Marshal(l)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(b, "%s%s", between, text); err != nil {
				return err
			}
			between = ",\n"
		}
		if f.After = after; after == "" {
			break
		}
	}
	if between == "[\n" {
		between = "["
	} else {
		between = "\n"
	}
	_, err = b.WriteString(between + "]\n")
	return errors.Join(err, b.Flush())
}

// Import adds what Export has written and tells how many are new. All are checked before the first is added, and then added some hundred at a
// time: after an error in between, Import may be called again with Keep or Replace. It fails with CodeMalformed for what is not such an
// array, else as Add does; the error names the schedule.
func (s *Schedules) Import(ctx context.Context, r io.Reader, how OnConflict) (added int, err error) {
	defer levee.Wrap(&err, "schedule.Import")
	malformed := func(err error) error {
		return levee.E(levee.CodeMalformed, "a JSON array of schedules is expected").Because(err)
	}
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return 0, malformed(err)
	}
	now, err := s.micros(ctx)
	if err != nil {
		return 0, err
	}
	kinds := s.known()
	var all []entry
	for d.More() {
		var l line
		if err := d.Decode(&l); err != nil {
			return 0, malformed(fmt.Errorf("number %d: %w", len(all)+1, err))
		}
		c, err := l.entry(kinds, now)
		if err != nil {
			return 0, fmt.Errorf("number %d, %q: %w", len(all)+1, levee.Shorten(l.Name, maxNames), err)
		}
		if all = append(all, c); len(all) > s.cfg.Max {
			return 0, levee.E(levee.CodeTooLarge, "there are more than %d schedules", s.cfg.Max)
		}
	}
	if _, err := d.Token(); err != nil {
		return 0, malformed(err)
	}
	for part := range slices.Chunk(all, 200) {
		if err := s.room(ctx); err != nil {
			return added, err
		}
		n := 0
		err := s.db.Tx(ctx, "schedule.import", func(ctx context.Context, tx *db.Tx) error {
			n = 0
			for _, c := range part {
				is, err := s.addTx(ctx, tx, c, how, now)
				if err != nil {
					return fmt.Errorf("%q: %w", c.Name, err)
				}
				if is {
					n++
				}
			}
			return nil
		})
		if err != nil {
			return added, err
		}
		added += n
		s.grew(n)
	}
	return added, nil
}

// entry checks a line and encodes it.
func (l line) entry(kinds map[string]bool, now int64) (c entry, err error) {
	e := Entry{Name: l.Name, Kind: l.Kind, Args: l.Args, Most: l.Most, MaxLive: l.MaxLive, Paused: l.Paused, Note: l.Note}
	if e.Trigger, err = when.Parse(l.Trigger); err != nil {
		return c, err
	}
	if l.Grace != "" {
		if e.Grace, err = time.ParseDuration(l.Grace); err != nil {
			return c, levee.Invalid("schedule.grace", "a duration such as 10m", l.Grace)
		}
	}
	if l.Coalesce != "" {
		e.Coalesce = Coalesce(slices.Index(coalesces, l.Coalesce)) // -1 is refused
	}
	if c, err = e.check(kinds); err == nil && next(c.Trigger, now) == 0 {
		err = levee.Invalid("schedule.trigger", "one that fires again", c.text)
	}
	return c, err
}
