package report

import (
	"bytes"
	"encoding/xml"
	"flag"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the goldens anew")

func sample() Report {
	r := Report{Title: `Lanterns <half> "price"`, Server: "http://house.test", Sale: "sal_1", Rehearsal: "sal_2",
		Command:   "levee rehearse --server http://house.test --user operator --sale sal_1 --rate 200 --buyers 400",
		Settings:  []Setting{{"server", "http://house.test"}, {"rate", "200 a second, Poisson"}},
		StartedAt: time.Date(2026, 3, 1, 20, 0, 0, 0, time.UTC), Units: 50, PerBuyer: 1, Arrivals: 400, ArrivalsPerSecond: 200, CameFor: 2,
		Answers: map[string]uint64{"ordered": 50, "sold_out": 350, "wait": 10}, Outcomes: map[string]uint64{"ordered": 50, "sold_out": 350},
		SettledAfter: 2.2, OpenedAfter: 0.6, SoldOutAfter: new(0.9), LastOrderAfter: new(0.88), SlotSeconds: 0.5, GeneratorCPU: 0.1,
		Timeline: []Slot{
			{At: 0, Arrivals: 100, Answers: map[string]uint64{"wait": 10}, Count: 10, P50: 0.2, P99: 0.9, P999: 1.5, Max: 2},
			{At: 0.5, Arrivals: 100, Answers: map[string]uint64{"ordered": 50, "sold_out": 140}, Count: 190, P50: 4, P99: 30, P999: 41, Max: 41},
			{At: 1, Arrivals: 100, Answers: map[string]uint64{"sold_out": 100}},
			{At: 1.5, Arrivals: 100, Answers: map[string]uint64{"sold_out": 110}, Count: 110, P50: 0.3, P99: 0.8, P999: 1, Max: 1},
		},
		Latencies: []Latency{{Name: "answers", Label: "purchase answered", Count: 410, Mean: 2, Min: 0.1, P50: 0.4, P90: 4, P99: 30, P999: 41, P9999: 41, Max: 41,
			Curve: []Point{{0, 0.1}, {0.5, 0.4}, {0.9, 4}, {0.99, 30}, {1, 41}}}},
		Audit: []Check{{Name: "every yes is kept", Promise: "kept", Verdict: Holds, Facts: "50 told"},
			{Name: "nothing oversold", Promise: "not <more>", Verdict: Broken, Facts: "51 of 50", Count: 1, Findings: []string{"<one> too many"}},
			{Name: "nothing left over", Promise: "none", Verdict: Note, Facts: "1", Count: 1, Findings: []string{"1 unit"}}},
		Notes: []string{"A note & more."},
		Room: &Room{Order: "arrival", PerSecond: 100, Multiple: 3, Brake: "work", Places: 400, Admitted: 350, Waiting: 50, Reloads: 12, Calls: 1600,
			CallsPerSecond: 800, MostOut: 90, Cap: 150, EstimatesInTime: 340, EstimatesLate: 10, Solved: 400, Hashes: 26_000_000, SolvingSeconds: 4,
			Board: []Board{{At: 0.5, Served: 40, Waiting: 200, Out: -1, Free: -1}, {At: 1.5, Served: 140, Waiting: 250, Out: 80, Free: 20}}},
	}
	r.Passed = r.OK()
	return r
}

func TestReportGolden(t *testing.T) {
	r := sample()
	if r.OK() {
		t.Error("a report with a broken promise is not OK")
	}
	got, err := r.html()
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/report.golden.html"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("the page has changed (run with -update if that is meant):\n%s", diff)
	}
	for _, must := range []string{"Lanterns &lt;half&gt;", "&lt;one&gt; too many", "A promise was broken", "v-broken", "prefers-color-scheme:dark", "sold out after 300 ms", "--rate 200"} {
		if !strings.Contains(string(got), must) {
			t.Errorf("%q is missing", must)
		}
	}
}

// A report needs nothing but itself, and is well formed whatever the figures are.
func TestReportStandsAlone(t *testing.T) {
	empty := Report{SlotSeconds: 1}
	one := sample()
	one.Timeline, one.Latencies[0].Curve = one.Timeline[:1], one.Latencies[0].Curve[:1]
	one.Room.Board = one.Room.Board[:1]
	late := sample()
	late.Timeline[1].P999, late.Latencies[0].Curve[4].Value = 1.2e6, 1.2e6
	for name, r := range map[string]Report{"sample": sample(), "empty": empty, "one slot": one, "twenty minutes": late} {
		page, err := r.html()
		if err != nil {
			t.Fatal(name, err)
		}
		for _, never := range []string{"<script", "javascript:", "src=", "@import", "url(", "<link", "NaN", "Inf", "ZgotmplZ", "right"} {
			if i := bytes.Index(page, []byte(never)); i >= 0 && !(never == "right" && bytes.Contains(page[i-20:i+20], []byte("text-align"))) {
				t.Errorf("%s: the page has %q: …%s…", name, never, page[max(0, i-30):i+30])
			}
		}
		pictures := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAll(page, -1)
		if len(pictures) < 3 {
			t.Fatalf("%s: %d pictures", name, len(pictures))
		}
		for _, p := range pictures {
			for d := xml.NewDecoder(bytes.NewReader(p)); ; {
				if _, err := d.Token(); err == io.EOF {
					break
				} else if err != nil {
					t.Fatalf("%s: %v in %s", name, err, p)
				}
			}
		}
	}
	if empty.OK() {
		t.Error("without an audit nothing is OK")
	}
}
