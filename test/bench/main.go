// Command bench measures what docs/performance.md tells: each figure beside its limit, in one run on one machine.
//
// It builds and starts the real server as a process of its own and sends requests over loopback from this one, on the same cores,
// so the figures include the generator. Run it alone: make bench for the embedded tier, make bench-distributed for several nodes on MariaDB
// and Redis, where other programs that sell to a crowd can be driven in the same run (-peer).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strconv"
	"strings"

	"levee/test/table"
)

var (
	binary   = flag.String("levee", "bin/levee", "the built program")
	page     = flag.String("write", "", "write the table into this page, between its two marks")
	tier     = flag.String("tier", "embedded", "what to measure: embedded, distributed, or peers alone")
	part     = flag.String("part", "all", "which part of it: all, engine or http; embedded also flood, sign-ins beside reads")
	seconds  = flag.Int("seconds", 5, "length of each timed part")
	small    = flag.Bool("small", false, "distributed: a tenth of the work, to see that all of it runs; the figures mean nothing")
	constant = flag.String("constant", "", "serve a constant on this address instead (the limit that refusals are set beside)")
	peers    = peerFlags{}
)

func main() {
	flag.Var(&peers, "peer", "NAME=FOLDER of another program to drive, built; may be given again (names: "+strings.Join(peerNames(), ", ")+")")
	flag.Parse()
	if *constant != "" {
		serveConstant(*constant)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := measure(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// row of the table: a figure, its limit, and the goal for their ratio.
type row struct{ what, figure, limit, ratio, goal string }

func measure(ctx context.Context) error {
	switch *tier {
	case "embedded":
		rows, err := embeddedRows(ctx)
		if err != nil {
			return err
		}
		return publish("bench", "", figures(rows))
	case "distributed", "peers":
		return measureDistributed(ctx)
	}
	return fmt.Errorf("-tier must be embedded, distributed or peers, got %q", *tier)
}

// figures is the table of rows.
func figures(rows []row) string {
	cells := make([][]string, len(rows))
	for i, r := range rows {
		cells[i] = []string{r.what, r.figure, r.limit, r.ratio, r.goal}
	}
	return table.Markdown([]string{"measure", "figure", "limit in the same run", "ratio", "goal"}, cells)
}

// publish prints a table under a line that says where and how it was measured, and writes both into the page, between the two marks of a name.
func publish(mark, how, text string) error {
	command := "make bench"
	if *tier != "embedded" {
		command = "make bench-distributed"
	}
	if *small {
		how += " **A tenth of the work, to see that all of it runs: the figures mean nothing.**"
	}
	return table.Publish(*page, mark, command, "Generator on the same cores."+how, text)
}

// thousands writes a rate, such as 12.3 k/s.
func thousands(perSecond float64) string {
	if perSecond < 30_000 {
		return fmt.Sprintf("%.1f k/s", perSecond/1e3)
	}
	return fmt.Sprintf("%.0f k/s", perSecond/1e3)
}

var benchLine = regexp.MustCompile(`(?m)^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op(.*)$`)

// goBench runs benchmarks of a package of the house and adds what they print to into: nanoseconds by the benchmark's name, every other
// measure by the name, a space and its unit.
func goBench(ctx context.Context, into map[string]float64, pkg, name, times string, environment ...string) error {
	cmd := exec.CommandContext(ctx, "go", "test", "./internal/"+pkg, "-run", "^$", "-bench", "^Benchmark"+name, "-benchtime", times, "-timeout", "10m")
	cmd.Env = append(os.Environ(), environment...)
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go test -bench %s: %w\n%s", name, err, out)
	}
	found := benchLine.FindAllStringSubmatch(string(out), -1)
	if len(found) == 0 {
		return fmt.Errorf("go test -bench %s measured nothing:\n%s", name, out)
	}
	for _, m := range found {
		into[m[1]], _ = strconv.ParseFloat(m[2], 64)
		for _, measure := range strings.Split(m[3], "\t") {
			if value, unit, ok := strings.Cut(strings.TrimSpace(measure), " "); ok {
				into[m[1]+" "+unit], _ = strconv.ParseFloat(value, 64)
			}
		}
	}
	return nil
}

// serveConstant answers every request with the bytes of a refusal: the least that a net/http server can do.
func serveConstant(addr string) {
	body := []byte(`{"type":"urn:levee:error:sold_out","title":"Conflict","status":409,"detail":"every unit is taken; one may come back until the sale ends","error":"sold_out"}`)
	kind, length := []string{"application/problem+json"}, []string{strconv.Itoa(len(body))}
	err := http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h["Content-Type"], h["Content-Length"] = kind, length
		w.WriteHeader(http.StatusConflict)
		_, _ = w.Write(body)
	}))
	fmt.Fprintln(os.Stderr, err)
}

// startConstant starts this program as the constant's server and returns where it answers.
func startConstant(ctx context.Context) (addr string, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	addr = "127.0.0.1:" + freePort()
	p := &program{path: self, args: []string{"-constant", addr}, addr: addr, ready: "/"}
	if err := p.start(ctx); err != nil {
		return "", nil, errors.Join(errors.New("the constant's server"), err)
	}
	return addr, p.kill, nil
}
