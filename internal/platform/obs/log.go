package obs

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/DeRuina/timberjack"
	"github.com/lmittmann/tint"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"levee"
)

const (
	fileMax  = 100 // MiB in the current file before it is rotated ahead of midnight
	fileMode = 0o640
	dirMode  = 0o750
)

// openLog sets o.Log from a config that normal has returned.
func (o *Obs) openLog(cfg Config, stderr io.Writer) error {
	failed := Register(o.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_obs_log_failures_total", Help: "Log lines that a sink did not take.",
	}, []string{"sink"}))
	lines := Register(o.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_obs_log_lines_total", Help: "Log lines by level.",
	}, []string{"level"}))

	terminal := isTerminal(stderr)
	out := &sink{w: stderr, failed: failed.WithLabelValues("stderr")}
	var h slog.Handler
	if cfg.Format == "console" || cfg.Format == "auto" && terminal {
		h = consoleHandler(out, &o.level, terminal)
	} else {
		h = slog.NewJSONHandler(out, &slog.HandlerOptions{Level: &o.level, ReplaceAttr: redactAttr})
	}
	if cfg.File != "" {
		file, err := openFile(cfg.File, cfg.Keep, o.Clock())
		if err != nil {
			return err
		}
		o.closers = append(o.closers, func(context.Context) error { return file.Close() })
		h = slog.NewMultiHandler(h, slog.NewJSONHandler(&sink{w: file, failed: failed.WithLabelValues("file")},
			&slog.HandlerOptions{Level: &o.level, ReplaceAttr: redactAttr}))
	}
	o.Log = slog.New(&handler{Handler: h, counts: [4]prometheus.Counter{
		lines.WithLabelValues("debug"), lines.WithLabelValues("info"), lines.WithLabelValues("warn"), lines.WithLabelValues("error"),
	}})
	return nil
}

// consoleHandler writes lines for people, in colours when they read them at a terminal.
func consoleHandler(w io.Writer, level slog.Leveler, colours bool) slog.Handler {
	return tint.NewTextHandler(w, &tint.Options{
		Level: level, ReplaceAttr: consoleAttr, TimeFormat: "15:04:05.000", NoColor: !colours,
	})
}

// openFile opens the rotating log file and proves that it can be written. A file whose last line is from a day before now is
// rotated first: timberjack itself does so only for a midnight it lives through.
func openFile(path string, keep int, now time.Time) (*timberjack.Logger, error) {
	given := path
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("log file %q: %w", given, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return nil, levee.Invalid("obs.file", "a file in a folder that can be made", given).Because(err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, fileMode)
	if err != nil {
		return nil, levee.Invalid("obs.file", "a file that can be written", given).Because(err)
	}
	info, err := f.Stat()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("log file %q: %w", given, err)
	}
	if !info.Mode().IsRegular() {
		return nil, levee.Invalid("obs.file", "a regular file", given)
	}
	file := &timberjack.Logger{
		Filename: path, MaxSize: fileMax, MaxBackups: keep, LocalTime: true, RotateAt: []string{"00:00"}, FileMode: fileMode,
		Compression: "none",
	}
	y, m, d := now.Local().Date()
	if info.Size() > 0 && info.ModTime().Before(time.Date(y, m, d, 0, 0, 0, 0, time.Local)) {
		if err := file.RotateWithReason("time"); err != nil {
			return nil, fmt.Errorf("log file %q: %w", given, err)
		}
	}
	// The first write starts the clock of the rotation, so it is made now: the first line may come after midnight.
	if _, err := file.Write(nil); err != nil {
		return nil, fmt.Errorf("log file %q: %w", given, err)
	}
	return file, nil
}

// sink counts the lines that its writer refuses: slog drops a handler's error, and a full disk must not be silent.
type sink struct {
	w      io.Writer
	failed prometheus.Counter
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		s.failed.Inc()
	}
	return n, err
}

// handler counts lines by level and ties a line to the trace it belongs to.
type handler struct {
	slog.Handler
	counts [4]prometheus.Counter // debug, info, warn, error
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	switch {
	case r.Level < slog.LevelInfo:
		h.counts[0].Inc()
	case r.Level < slog.LevelWarn:
		h.counts[1].Inc()
	case r.Level < slog.LevelError:
		h.counts[2].Inc()
	default:
		h.counts[3].Inc()
	}
	if ctx != nil {
		if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
			r.AddAttrs(slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
		}
	}
	return h.Handler.Handle(ctx, r)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{Handler: h.Handler.WithAttrs(attrs), counts: h.counts}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{Handler: h.Handler.WithGroup(name), counts: h.counts}
}
