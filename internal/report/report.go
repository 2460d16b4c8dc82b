// Package report is what a rehearsal came to: the figures, the audit's checks, and how they are shown on a terminal, as JSON and as one
// page that needs nothing else.
//
// It owns how the figures look. It does not own how they come about: the rehearsal measures and judges.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"levee"
)

// Report is what a rehearsal came to. Times are in seconds from the moment the first people came, latencies in milliseconds.
type Report struct {
	Title     string    `json:"title"`
	Server    string    `json:"server"`
	Sale      string    `json:"sale"`      // that was copied
	Rehearsal string    `json:"rehearsal"` // the copy
	StartedAt time.Time `json:"started_at"`
	// Closed tells that this was a closed loop: as many presses as the server took.
	Closed   bool      `json:"closed"`
	Settings []Setting `json:"settings"`
	Command  string    `json:"command"`
	Units    int64     `json:"units"`
	PerBuyer int64     `json:"per_buyer"`

	// Arrivals is how many presses there were; ArrivalsPerSecond their rate while people came. Both 0 for Max.
	Arrivals          uint64  `json:"arrivals"`
	ArrivalsPerSecond float64 `json:"arrivals_per_second"`
	// Answers counts every answer by what it meant, Outcomes every press by its last word.
	Answers          map[string]uint64 `json:"answers"`
	Outcomes         map[string]uint64 `json:"outcomes"`
	AnswersPerSecond float64           `json:"answers_per_second"`
	// CameFor is how long people kept coming, SettledAfter when everybody had his last word.
	CameFor      float64 `json:"came_for_s"`
	SettledAfter float64 `json:"settled_after_s"`
	// OpenedAfter is when the sale opened; SoldOutAfter when the first person was told sold out, LastOrderAfter when the last
	// order was told. Nil: never.
	OpenedAfter    float64  `json:"opened_after_s"`
	SoldOutAfter   *float64 `json:"sold_out_after_s"`
	LastOrderAfter *float64 `json:"last_order_after_s"`
	// GeneratorCPU is the processor time of this process, 0 if the system does not tell it.
	GeneratorCPU float64 `json:"generator_cpu_s"`
	// SlotSeconds is the width of a piece of Timeline.
	SlotSeconds float64   `json:"slot_s"`
	Timeline    []Slot    `json:"timeline"`
	Latencies   []Latency `json:"latencies"`
	// Room is nil where the sale has neither a waiting room nor a brake.
	Room    *Room    `json:"room,omitempty"`
	Account Account  `json:"account"`
	Audit   []Check  `json:"audit"`
	Passed  bool     `json:"passed"`
	Notes   []string `json:"notes"`
}

// Setting is one line of what the rehearsal was told, for people.
type Setting struct {
	Label string `json:"name"`
	Value string `json:"value"`
}

// OK tells whether every promise held.
func (r Report) OK() bool {
	for _, c := range r.Audit {
		if c.Verdict == Broken {
			return false
		}
	}
	return len(r.Audit) > 0
}

// Latency returns a distribution by its name (answers, orders, refusals, polls, outcomes, from_sending, generator_lateness).
func (r Report) Latency(name string) (Latency, bool) {
	for _, l := range r.Latencies {
		if l.Name == name {
			return l, true
		}
	}
	return Latency{}, false
}

// Latency is one distribution, in milliseconds.
type Latency struct {
	Name  string  `json:"name"`
	Label string  `json:"label"`
	Count int64   `json:"count"`
	Mean  float64 `json:"mean_ms"`
	Min   float64 `json:"min_ms"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	P9999 float64 `json:"p9999_ms"`
	Max   float64 `json:"max_ms"`
	// Curve is the distribution as points, dense towards the tail.
	Curve []Point `json:"curve,omitempty"`
}

// Point of a percentile curve.
type Point struct {
	Quantile float64 `json:"quantile"` // 0 to 1
	Value    float64 `json:"ms"`
}

// Slot is a piece of the timeline. Answers are counted when they came, latencies by when the press was meant.
type Slot struct {
	At       float64           `json:"at_s"`
	Arrivals uint64            `json:"arrivals"`
	Answers  map[string]uint64 `json:"answers"`
	Count    int64             `json:"measured"`
	P50      float64           `json:"p50_ms"`
	P99      float64           `json:"p99_ms"`
	P999     float64           `json:"p999_ms"`
	Max      float64           `json:"max_ms"`
}

// Verdict of one check.
const (
	Holds  = "holds"
	Broken = "broken"
	Note   = "note" // nothing wrong, but a reader should know
)

// Check is one promise, held against the facts.
type Check struct {
	Name    string `json:"name"`
	Promise string `json:"promise"`
	Verdict string `json:"verdict"`
	// Facts are the figures that were compared.
	Facts string `json:"facts"`
	// Count is how many differences there are; Findings names the first of them.
	Count    int      `json:"count"`
	Findings []string `json:"findings,omitempty"`
}

// FindingsKept is how many differences a check keeps in words.
const FindingsKept = 50

// Find notes a difference; the first fifty are kept in words.
func (c *Check) Find(format string, args ...any) {
	c.Count++
	if len(c.Findings) < FindingsKept {
		c.Findings = append(c.Findings, fmt.Sprintf(format, args...))
	}
}

// Account is the server's own books of the rehearsal, as GET /v1/sales/{sale}/account shows them.
type Account struct {
	Phase    string   `json:"phase"`
	Balanced bool     `json:"balanced"`
	Problems []string `json:"problems"`
	Stock    struct {
		Offered   int64 `json:"offered"`
		Remaining int64 `json:"remaining"`
		Reserved  int64 `json:"reserved"`
		Sold      int64 `json:"sold"`
		Withdrawn int64 `json:"withdrawn"`
	} `json:"stock"`
	Gate struct {
		Unsettled int64 `json:"unsettled"`
		Waiting   int64 `json:"waiting"`
	} `json:"gate"`
}

// Room is what a rehearsal with a waiting room came to.
type Room struct {
	Order     string `json:"order"`
	PerSecond int64  `json:"per_second"`
	Multiple  int64  `json:"multiple"`
	Brake     string `json:"brake"`
	// Places is how many people got one, Admitted how many had their turn, Waiting how many still stood there at the end.
	Places   int64 `json:"places"`
	Admitted int64 `json:"admitted"`
	Waiting  int64 `json:"waiting"`
	// Reloads is how often somebody asked for his place anew, as a page does that is loaded again.
	Reloads int64 `json:"reloads"`
	// Calls about places, and how many a second.
	Calls          int64   `json:"calls"`
	CallsPerSecond float64 `json:"calls_per_second"`
	// MostOut is the most tokens that people knew of and had not begun to spend; Cap is what the sale allows at its start.
	MostOut int64 `json:"most_out"`
	Cap     int64 `json:"cap"`
	// EstimatesInTime, Early, Late: who was admitted when he had been told at first, with 5 s of grace.
	EstimatesInTime int `json:"estimates_in_time"`
	EstimatesEarly  int `json:"estimates_early"`
	EstimatesLate   int `json:"estimates_late"`
	// Solved challenges, how many hashes they took and how much processor time in all.
	Solved         int64   `json:"solved"`
	Hashes         int64   `json:"hashes"`
	SolvingSeconds float64 `json:"solving_s"`
	// Listeners heard the public counter; Deaf did not.
	Listeners int     `json:"listeners"`
	Deaf      int     `json:"deaf"`
	Board     []Board `json:"board"`
}

// Board is what the server shows of a waiting room at one moment: the counter that everybody sees, and the operator's numbers.
type Board struct {
	At float64 `json:"at_s"` // since the first people came
	// Served is the number up to which people were admitted, Waiting how many wait, both as everybody sees them.
	Served  int64 `json:"served"`
	Waiting int64 `json:"waiting"`
	// Out is how many tokens are out and unspent and Free how many units are left, as the operator sees them. -1: not known.
	Out  int64 `json:"out"`
	Free int64 `json:"free"`
}

// Total adds up counts.
func Total(m map[string]uint64) (n uint64) {
	for _, v := range m {
		n += v
	}
	return n
}

// WriteJSON writes all figures to a file, which is replaced as a whole.
func (r Report) WriteJSON(path string) (err error) {
	defer levee.Wrap(&err, "report.WriteJSON(%q)", path)
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return replace(path, append(text, '\n'))
}

// WriteHTML writes the report as one page that needs nothing else, which is replaced as a whole.
func (r Report) WriteHTML(path string) (err error) {
	defer levee.Wrap(&err, "report.WriteHTML(%q)", path)
	text, err := r.html()
	if err != nil {
		return err
	}
	return replace(path, text)
}

// replace writes a file beside the old one and puts it in its place, so that nobody reads half a report.
func replace(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".rehearsal-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails when it was renamed, which is well
	_, err = f.Write(text)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
