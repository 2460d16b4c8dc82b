package obs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"levee"
)

// open opens an Obs that is closed at the test's end, and returns what it writes to standard error.
func open(t *testing.T, cfg Config) (*Obs, *safeBuffer) {
	t.Helper()
	var b safeBuffer
	o, err := Open(cfg, &b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.Close(context.Background()) })
	return o, &b
}

type safeBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// take returns what was written since the last call.
func (s *safeBuffer) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.b.Reset()
	return s.b.String()
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const url = "an http:// or https:// URL of a collector, without a password in it"
	for _, tc := range []struct {
		cfg                   Config
		field, allowed, given string
	}{
		{Config{Level: "loud"}, "obs.level", "debug, info, warn or error", "loud"},
		{Config{Format: "xml"}, "obs.format", "auto, console or json", "xml"},
		{Config{Keep: -1}, "obs.keep", "from 1 to 1000", "-1"},
		{Config{Keep: 1001}, "obs.keep", "from 1 to 1000", "1001"},
		{Config{TraceShare: 1.5}, "obs.trace_share", "over 0 and up to 1", "1.5"},
		{Config{TraceShare: -0.5}, "obs.trace_share", "over 0 and up to 1", "-0.5"},
		{Config{File: dir}, "obs.file", "a file that can be written", dir},
		{Config{File: filepath.Join(plain, "x.log")}, "obs.file", "a file in a folder that can be made", filepath.Join(plain, "x.log")},
		{Config{OTLP: "collector:4318"}, "obs.otlp", url, "collector:4318"},
		{Config{OTLP: "http://"}, "obs.otlp", url, "http:"},
		{Config{OTLP: "http://u:hunter2@h"}, "obs.otlp", url, "http://u:xxxxx@h"},
		{Config{OTLP: "http://h\x7f"}, "obs.otlp", url, "something that is not a URL"},
	} {
		t.Run(tc.field+"="+filepath.Base(tc.given), func(t *testing.T) {
			o, err := Open(tc.cfg, io.Discard)
			if err == nil {
				_ = o.Close(context.Background())
				t.Fatal("opened")
			}
			var e *levee.Error
			if !errors.As(err, &e) || e.Code != levee.CodeInvalid {
				t.Fatalf("code %q of %v, want invalid", levee.CodeOf(err), err)
			}
			want := []levee.Field{{Field: tc.field, Allowed: tc.allowed, Given: levee.Shorten(tc.given, 80)}}
			if d := cmp.Diff(want, e.Fields); d != "" {
				t.Error(d)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a password: %v", err)
			}
		})
	}
}

func TestLevelChangesAtRunTime(t *testing.T) {
	o, out := open(t, Config{File: filepath.Join(t.TempDir(), "l.log")})
	part := o.Named("sale") // made before the change
	part.Debug("hidden")
	if got := out.take(); got != "" {
		t.Errorf("logged at info: %s", got)
	}
	if err := o.SetLevel("DEBUG"); err != nil {
		t.Fatal(err)
	}
	part.Debug("seen")
	if got := out.take(); !strings.Contains(got, `"msg":"seen","part":"sale"`) {
		t.Errorf("not logged at debug: %q", got)
	}
	if err := o.SetLevel("verbose"); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("SetLevel(verbose) = %v", err)
	}
	if got := o.Level(); got != "debug" {
		t.Errorf("a refused level changed the level to %s", got)
	}
	if err := o.SetLevel("error"); err != nil {
		t.Fatal(err)
	}
	part.Warn("hidden again")
	if got := out.take(); got != "" {
		t.Errorf("logged at error: %s", got)
	}
}

func TestFormatAuto(t *testing.T) {
	o, out := open(t, Config{})
	o.Log.Info("x")
	if got := out.take(); !json.Valid([]byte(got)) {
		t.Errorf("auto without a terminal is not JSON: %q", got)
	}
	o, out = open(t, Config{Format: "console"})
	o.Log.Info("hello there", "n", 1)
	if got := out.take(); !regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{3} INF hello there n=1\n$`).MatchString(got) {
		t.Errorf("console: %q", got)
	}
}

func TestRotatesAtMidnightAndKeepsTen(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		o, err := Open(Config{File: filepath.Join(dir, "levee.log")}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		const days = 14
		for day := range days {
			o.Log.Info("line", "day", day)
			time.Sleep(24 * time.Hour) // the bubble's time
			synctest.Wait()
		}
		o.Log.Info("line", "day", days)
		if err := o.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 11 {
		t.Fatalf("%d files, want the current one and ten: %v", len(names), names)
	}
	// The kept ones are the newest, one day in each.
	var got []string
	for _, n := range names {
		text, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		for m := range strings.Lines(string(text)) {
			got = append(got, regexp.MustCompile(`"day":\d+`).FindString(m))
		}
	}
	var want []string
	for day := 4; day <= 14; day++ {
		want = append(want, fmt.Sprintf(`"day":%d`, day))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// A house that was down at midnight must not go on in yesterday's file; one restarted at noon must.
func TestRestart(t *testing.T) {
	for _, tc := range []struct {
		name  string
		age   time.Duration
		files int
	}{{"same day", 0, 1}, {"next day", 25 * time.Hour, 2}} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "logs", "levee.log")
			o, _ := open(t, Config{File: path})
			o.Log.Info("first life")
			if err := o.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if tc.age > 0 {
				old := time.Now().Add(-tc.age)
				if err := os.Chtimes(path, old, old); err != nil {
					t.Fatal(err)
				}
			}
			o, _ = open(t, Config{File: path})
			o.Log.Info("second life")
			if err := o.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			names, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
			if err != nil || len(names) != tc.files {
				t.Fatalf("files %v, %v; want %d", names, err, tc.files)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := strings.Contains(string(text), "first life"), tc.files == 1; got != want {
				t.Errorf("first life in the current file: %v, want %v", got, want)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o007 != 0 {
				t.Errorf("the log can be read by everybody: %v, %v", info.Mode(), err)
			}
		})
	}
}

func TestConcurrentLinesAreWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "levee.log")
	o, out := open(t, Config{File: path})
	const writers, each = 8, 200
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			log := o.Named("w").With("w", w)
			for i := range each {
				log.Info("line", "i", i, "pad", strings.Repeat("p", i))
				if i%50 == 0 {
					_ = o.SetLevel([]string{"info", "debug"}[i/50%2])
				}
			}
		})
	}
	wg.Wait()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]string{"stderr": out.take(), "file": string(text)} {
		n := 0
		for line := range strings.Lines(s) {
			if !json.Valid([]byte(line)) {
				t.Fatalf("%s: broken line %q", name, line)
			}
			n++
		}
		if n != writers*each {
			t.Errorf("%s: %d lines, want %d", name, n, writers*each)
		}
	}
}

// A sink that fails is counted, and does not take the others with it.
func TestFailingSink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "levee.log")
	o, err := Open(Config{File: path}, failingWriter{})
	if err != nil {
		t.Fatal(err)
	}
	o.Log.Info("kept")
	o.Log.Error("kept too")
	if err := o.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || strings.Count(string(text), "kept") != 2 {
		t.Errorf("file: %q, %v", text, err)
	}
	page := scrape(t, o)
	for _, want := range []string{
		`levee_obs_log_failures_total{sink="stderr"} 2`, `levee_obs_log_failures_total{sink="file"} 0`,
		`levee_obs_log_lines_total{level="info"} 1`, `levee_obs_log_lines_total{level="error"} 1`,
		"go_goroutines", "process_start_time_seconds",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func scrape(t *testing.T, o *Obs) string {
	t.Helper()
	rec := httptest.NewRecorder()
	o.MetricsHandler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	if rec.Code != http.StatusOK {
		t.Fatalf("metrics: %d %s", rec.Code, rec.Body)
	}
	return rec.Body.String()
}

func TestRegisterTwice(t *testing.T) {
	o := Test(t)
	opts := prometheus.CounterOpts{Name: "levee_obs_test_total", Help: "h"}
	a := Register(o.Metrics, prometheus.NewCounter(opts))
	b := Register(o.Metrics, prometheus.NewCounter(opts))
	if a != b {
		t.Error("the second registration got a metric of its own, which nobody sees")
	}
	defer func() {
		if recover() == nil {
			t.Error("a contradiction was accepted")
		}
	}()
	Register(o.Metrics, prometheus.NewGauge(prometheus.GaugeOpts(opts)))
}

func TestTracesAreSentOnClose(t *testing.T) {
	var requests atomic.Int64
	var path, kind atomic.Value
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		path.Store(r.URL.Path)
		kind.Store(r.Header.Get("Content-Type"))
		requests.Add(1)
	}))
	defer collector.Close()
	o, out := open(t, Config{OTLP: collector.URL})
	ctx, span := o.Tracer.Start(context.Background(), "buy")
	if !span.IsRecording() {
		t.Fatal("the span is not recorded")
	}
	o.Log.InfoContext(ctx, "inside")
	if got, want := out.take(), `"trace_id":"`+span.SpanContext().TraceID().String()+`"`; !strings.Contains(got, want) {
		t.Errorf("the line is not tied to its trace: %s", got)
	}
	span.End()
	if err := o.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if requests.Load() == 0 || path.Load() != "/v1/traces" || kind.Load() != "application/x-protobuf" {
		t.Errorf("the collector got %d requests, path %v, type %v", requests.Load(), path.Load(), kind.Load())
	}
}

func TestTracesOffByDefault(t *testing.T) {
	o, out := open(t, Config{})
	ctx, span := o.Tracer.Start(context.Background(), "buy")
	if span.IsRecording() || trace.SpanContextFromContext(ctx).IsValid() {
		t.Error("traces without a collector")
	}
	o.Log.InfoContext(ctx, "inside")
	if got := out.take(); strings.Contains(got, "trace_id") {
		t.Error(got)
	}
}

// A collector that refuses or is away costs a log line and a bounded stop, nothing else.
func TestCollectorAway(t *testing.T) {
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no", http.StatusBadRequest)
	}))
	o, out := open(t, Config{OTLP: collector.URL})
	_, span := o.Tracer.Start(context.Background(), "buy")
	span.End()
	if err := o.Close(t.Context()); err != nil {
		t.Error(err)
	}
	collector.Close()
	if got := out.take(); !strings.Contains(got, "the trace collector did not take spans") {
		t.Errorf("nothing is logged: %q", got)
	}
	if got := scrape(t, o); !strings.Contains(got, "levee_obs_spans_lost_total 1") {
		t.Error("the lost span is not counted")
	}

	o, _ = open(t, Config{OTLP: collector.URL}) // closed: connection refused
	_, span = o.Tracer.Start(context.Background(), "buy")
	span.End()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_ = o.Close(ctx)
	if took := time.Since(begin); took > 9*time.Second {
		t.Errorf("Close took %v", took)
	}
}

func TestCloseTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l.log")
	o, out := open(t, Config{File: path})
	for range 2 {
		if err := o.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	o.Log.Info("after the end")
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), "after the end") || !strings.Contains(out.take(), "after the end") {
		t.Errorf("a line after Close is lost: %q, %v", text, err)
	}
}

func TestStepClock(t *testing.T) {
	var c StepClock
	var clock Clock = c.Now
	begin := clock()
	c.Step(-time.Hour)
	if got := clock().Sub(begin); got != -time.Hour {
		t.Errorf("stepped by %v", got)
	}
	at := time.Date(2030, 2, 3, 4, 5, 6, 0, time.UTC)
	if got := NewStepClock(at).Now(); !got.Equal(at) {
		t.Errorf("stands at %v, want %v", got, at)
	}
}

func BenchmarkLogJSON(b *testing.B) {
	o, err := Open(Config{}, io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	log := o.Named("web")
	b.ReportAllocs()
	for b.Loop() {
		log.Info("request", "method", "POST", "route", "/v1/orders", "status", 201, "took", time.Millisecond, "request_id", "0123456789abcdef")
	}
}
