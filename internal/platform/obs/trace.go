package obs

import (
	"context"
	"log/slog"
	"net/url"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// scope is the name that our tracer and the traced service go by.
const scope = "levee"

// checkCollector tells whether s is a collector's URL, and returns it in a form that may be shown.
func checkCollector(s string) (shown string, ok bool) {
	u, err := url.Parse(s)
	if err != nil {
		return "something that is not a URL", false
	}
	return u.Redacted(), (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.User == nil
}

// openTraces sets o.Tracer to one that sends to the collector. It does not wait for the collector: one that is away costs
// dropped spans and a line in the log, never a request.
func (o *Obs) openTraces(cfg Config) error {
	u, err := url.Parse(cfg.OTLP)
	if err != nil {
		return err
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/traces"
	}
	exp, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(u.String()))
	if err != nil {
		return err
	}
	lost := Register(o.Metrics, prometheus.NewCounter(prometheus.CounterOpts{
		Name: "levee_obs_spans_lost_total", Help: "Trace spans that the collector did not take.",
	}))
	p := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(&exporter{SpanExporter: exp, log: o.Named("obs"), lost: lost}),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.TraceShare))),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", scope))),
	)
	// Before the file is closed: what goes wrong while the last spans are sent is logged.
	o.closers = append([]func(context.Context) error{p.Shutdown}, o.closers...)
	o.Tracer = p.Tracer(scope)
	return nil
}

// exporter logs and counts what could not be sent here, because the library would tell a process-wide handler.
type exporter struct {
	sdktrace.SpanExporter
	log  *slog.Logger
	lost prometheus.Counter
}

func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := e.SpanExporter.ExportSpans(ctx, spans); err != nil {
		e.lost.Add(float64(len(spans)))
		e.log.Warn("the trace collector did not take spans", "spans", len(spans), "error", err)
	}
	return nil
}
