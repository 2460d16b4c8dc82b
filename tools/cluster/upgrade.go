package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// upgrade replaces the nodes of one build by another's, one by one, while people buy.
type upgrade struct {
	before, after, address string
	rate                   float64
	lasts                  time.Duration
	out                    io.Writer
}

// between is how long the house runs with some nodes of each build.
const between = 4 * time.Second

func (u *upgrade) run(ctx context.Context) error {
	for _, path := range []*string{&u.before, &u.after} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = absolute
	}
	dir, err := os.MkdirTemp("", "levee-upgrade-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := start(ctx, u.before, u.address, filepath.Join(dir, "data"), 3, 0)
	if err != nil {
		return err
	}
	defer c.stop()
	accounts, err := c.accounts()
	if err != nil {
		return err
	}
	sale, err := c.openSale(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(u.out, "three nodes of %s run; %g presses a second come for %v\n", version(ctx, u.before), u.rate, u.lasts)
	begun := time.Now()
	path := filepath.Join(dir, "report.json")
	crowd := exec.CommandContext(ctx, u.after, "rehearse", "--server", "http://"+u.address, "--user", "operator", "--sale", sale,
		"--rate", fmt.Sprint(u.rate), "--duration", u.lasts.String(), "--units", fmt.Sprint(int(u.rate*u.lasts.Seconds()*2)), "--per-buyer", "1",
		"--connections", "64", "--report", "", "--json", path, "--quiet")
	crowd.Env = append(os.Environ(), "LEVEE_PASSWORD="+accounts["operator"])
	crowd.Stdout, crowd.Stderr = u.out, u.out
	if err := crowd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- crowd.Wait() }()
	var wrong []error
	c.levee = u.after
	for i, n := range c.nodes {
		pause(ctx, between)
		asked := time.Now()
		if err := n.End(ctx); err != nil {
			wrong = append(wrong, fmt.Errorf("node %d did not stop in order: %w; it said: %s", i+1, err, n.Said()))
		}
		stopped := time.Since(asked)
		if err := c.startNode(ctx, i, "serve"); err != nil {
			wrong = append(wrong, err)
			break
		}
		fmt.Fprintf(u.out, "%5.1f s  node %d: stopped within %v, %s ready %v after that\n", asked.Sub(begun).Seconds(), i+1,
			stopped.Round(time.Millisecond), version(ctx, u.after), (time.Since(asked) - stopped).Round(time.Millisecond))
	}
	replaced := time.Since(begun)
	if err := <-ended; err != nil {
		wrong = append(wrong, fmt.Errorf("the rehearsal: %w", err))
	}
	if replaced > u.lasts {
		wrong = append(wrong, fmt.Errorf("the last node was replaced %v after the start, when people came no more: choose a longer --for", replaced.Round(time.Second)))
	}
	report, err := u.read(path)
	if err == nil {
		err = report.judge(u.out)
	}
	return errors.Join(append(wrong, err, u.examine(ctx, c))...)
}

// examine has the new build's doctor look at the house, and prints what is not well.
func (u *upgrade) examine(ctx context.Context, c *cluster) error {
	doctor := exec.CommandContext(ctx, u.after, "doctor")
	doctor.Env = append(os.Environ(), c.environment()...)
	said, err := doctor.CombinedOutput()
	if err != nil {
		return fmt.Errorf("levee doctor: %w\n%s", err, said)
	}
	for line := range strings.Lines(string(said)) {
		if !strings.HasPrefix(line, "ok") {
			fmt.Fprint(u.out, "  levee doctor: ", line)
		}
	}
	return nil
}

// figures are what is looked at in a rehearsal's report.
type figures struct {
	Arrivals uint64            `json:"arrivals"`
	Answers  map[string]uint64 `json:"answers"`
	Outcomes map[string]uint64 `json:"outcomes"`
	Passed   bool              `json:"passed"`
	Audit    []struct {
		Name, Verdict, Facts string
	} `json:"audit"`
	Latencies []struct {
		Name string  `json:"name"`
		P50  float64 `json:"p50_ms"`
		P99  float64 `json:"p99_ms"`
		Max  float64 `json:"max_ms"`
	} `json:"latencies"`
}

func (u *upgrade) read(path string) (f figures, err error) {
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	return f, err
}

// judge prints the figures and fails when the audit does.
func (f figures) judge(out io.Writer) error {
	fmt.Fprintf(out, "\n%d presses\n", f.Arrivals)
	for _, name := range slices.Sorted(maps.Keys(f.Answers)) {
		fmt.Fprintf(out, "  answered %-18s %d\n", name, f.Answers[name])
	}
	for _, name := range slices.Sorted(maps.Keys(f.Outcomes)) {
		fmt.Fprintf(out, "  came to  %-18s %d\n", name, f.Outcomes[name])
	}
	for _, l := range f.Latencies {
		fmt.Fprintf(out, "  %s: p50 %.1f ms, p99 %.1f ms, most %.1f ms\n", l.Name, l.P50, l.P99, l.Max)
	}
	for _, a := range f.Audit {
		fmt.Fprintf(out, "  %-6s %s: %s\n", a.Verdict, a.Name, a.Facts)
	}
	if !f.Passed {
		return errors.New("the audit found differences")
	}
	return nil
}

func version(ctx context.Context, levee string) string {
	text, err := exec.CommandContext(ctx, levee, "version").Output()
	if err != nil {
		return levee
	}
	return string(text[:max(len(text)-1, 0)])
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
