// Package obs owns how the house is seen from outside: its logs, metrics and traces, and the clock that every part and room reads.
//
// It does not own what is logged or counted: each part and room names its own. Metrics are named levee_<part>_<what>_<unit>.
package obs

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"levee"
)

// Config says what is logged and where logs and traces go. The zero value logs at info to standard error and traces nothing.
type Config struct {
	// Level is the least level that is logged: debug, info, warn or error. Default info. At debug a crowd's every step is a
	// line, which fills a disk; at error a refused start-up check goes unseen. It can be changed at run time (SetLevel).
	Level string
	// Format of the lines on standard error: console (for people), json (for programs) or auto. Default auto: console when
	// standard error is a terminal, json otherwise. The file is always JSON.
	Format string
	// File is the path of a file that gets every line too, as JSON. Default "": standard error only. It is rotated at midnight
	// local time, and before that when it reaches 100 MiB. Its folder is made. Only one process may write it.
	File string
	// Keep is how many rotated files are kept beside the current one, from 1 to 1000. Default 10. With Keep k, logs take at most
	// (k+1) × 100 MiB.
	Keep int
	// OTLP is the address of a trace collector that speaks OTLP over HTTP, such as http://127.0.0.1:4318 (the path defaults to
	// /v1/traces). Default "": no traces.
	OTLP string
	// TraceShare is the share of requests that are traced, over 0 and up to 1. Default 1. A trace that a caller began is always
	// continued. At 1 a crowd's every request makes spans, of which the sender drops what the collector cannot take.
	TraceShare float64
}

// Clock tells the wall time. A reading of the real one also carries the monotonic clock, so the difference of two readings
// (Time.Sub) does not see steps of the wall clock; a time stored in SQL does.
type Clock func() time.Time

// Obs is what a part is given to be seen. Open and Test make it; the fields are not changed afterwards.
type Obs struct {
	Log     *slog.Logger
	Metrics *prometheus.Registry
	Tracer  trace.Tracer
	Clock   Clock

	level   slog.LevelVar
	closers []func(context.Context) error // in the order in which they run
	once    sync.Once
	err     error // what the one Close returned
}

const (
	defaultKeep = 10
	maxKeep     = 1000
	// closeMax bounds Close when its context has no nearer deadline: a collector that is away must not hold up the stop.
	closeMax = 5 * time.Second
	// metricsInFlight and metricsMax bound what scraping may cost: one page takes some ten milliseconds to make.
	metricsInFlight = 8
	metricsMax      = 10 * time.Second
)

// Open starts logs, metrics and, when configured, traces. stderr takes the log's lines; when it is a terminal (has Fd) format
// auto means console. A wrong config is CodeInvalid and names field, what is allowed and what was given; a log file that
// cannot be written is an error too. Close must be called at the end.
func Open(cfg Config, stderr io.Writer) (_ *Obs, err error) {
	defer levee.Wrap(&err, "obs.Open")
	if cfg, err = cfg.normal(); err != nil {
		return nil, err
	}
	o := &Obs{Metrics: prometheus.NewRegistry(), Clock: time.Now, Tracer: noop.NewTracerProvider().Tracer(scope)}
	o.Metrics.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	)
	if err := o.SetLevel(cfg.Level); err != nil {
		return nil, err
	}
	if err := o.openLog(cfg, stderr); err != nil {
		return nil, err
	}
	if cfg.OTLP != "" {
		if err := o.openTraces(cfg); err != nil {
			return nil, errors.Join(err, o.Close(context.Background()))
		}
	}
	return o, nil
}

// normal returns the config with its defaults filled in, or CodeInvalid.
func (c Config) normal() (Config, error) {
	switch c.Format {
	case "":
		c.Format = "auto"
	case "auto", "console", "json":
	default:
		return c, levee.Invalid("obs.format", "auto, console or json", c.Format)
	}
	if c.Level == "" {
		c.Level = "info"
	}
	if c.Keep == 0 {
		c.Keep = defaultKeep
	}
	if c.Keep < 1 || c.Keep > maxKeep {
		return c, levee.Invalid("obs.keep", "from 1 to 1000", c.Keep)
	}
	if c.TraceShare == 0 {
		c.TraceShare = 1
	}
	if !(c.TraceShare > 0 && c.TraceShare <= 1) {
		return c, levee.Invalid("obs.trace_share", "over 0 and up to 1", c.TraceShare)
	}
	if c.OTLP != "" {
		if given, ok := checkCollector(c.OTLP); !ok {
			return c, levee.Invalid("obs.otlp", "an http:// or https:// URL of a collector, without a password in it", given)
		}
	}
	return c, nil
}

// SetLevel changes the least level that is logged, at once and for every logger made from this Obs: debug, info, warn or
// error, in any letter case. Anything else is CodeInvalid and changes nothing.
func (o *Obs) SetLevel(level string) error {
	switch strings.ToLower(level) {
	case "debug":
		o.level.Set(slog.LevelDebug)
	case "info":
		o.level.Set(slog.LevelInfo)
	case "warn":
		o.level.Set(slog.LevelWarn)
	case "error":
		o.level.Set(slog.LevelError)
	default:
		return levee.Invalid("obs.level", "debug, info, warn or error", level)
	}
	return nil
}

// Level returns the least level that is logged: debug, info, warn or error.
func (o *Obs) Level() string { return strings.ToLower(o.level.Level().String()) }

// Named returns the logger of one part or room: every line carries part=<part>.
func (o *Obs) Named(part string) *slog.Logger { return o.Log.With("part", part) }

// Close sends the traces that are still held and closes the log file. It takes at most as long as ctx allows and never more
// than five seconds; what could not be sent by then is lost and reported in the error. Later calls return the first one's
// error. Lines logged after Close still reach standard error and the file.
func (o *Obs) Close(ctx context.Context) error {
	o.once.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, closeMax)
		defer cancel()
		for _, c := range o.closers {
			o.err = errors.Join(o.err, c(ctx))
		}
		levee.Wrap(&o.err, "obs.Close")
	})
	return o.err
}

// MetricsHandler serves the metrics in Prometheus' text formats. It does not ask who is calling: that is for whoever mounts it.
func (o *Obs) MetricsHandler() http.Handler {
	return promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(o.Named("obs").Handler(), slog.LevelWarn),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: metricsInFlight,
		Timeout:             metricsMax,
		EnableOpenMetrics:   true,
	})
}

// Register adds a metric to the registry and returns it, or the one of the same name, labels and help that is there already:
// so that a part may be opened more than once over one Obs. A metric that contradicts one that is there is a bug and panics.
func Register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	err := r.Register(c)
	if err == nil {
		return c
	}
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		if old, ok := there.ExistingCollector.(C); ok {
			return old
		}
	}
	panic(err)
}

// isTerminal tells whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && (isatty.IsTerminal(f.Fd()) || isatty.IsCygwinTerminal(f.Fd()))
}
