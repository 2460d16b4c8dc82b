package web

import (
	"net/http/httptest"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

func TestTraces(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	provider := sdk.NewTracerProvider(sdk.WithSyncer(spans))
	s := newSite(t, Config{TrustedProxies: []string{"192.0.2.1"}}, func(p *Parts) { p.Obs.Tracer = provider.Tracer("test") })
	const parent = "4bf92f3577b34da6a3ce929d0e0e4736"
	s.ask("GET", "/v1/wishes", "", "Traceparent", "00-"+parent+"-00f067aa0ba902b7-01").want(t, 200)
	s.ask("GET", "/v1/fail/plain", "").want(t, 500)
	r := httptest.NewRequest("GET", "/v1/wishes", nil)
	r.RemoteAddr = "203.0.113.5:1"
	r.Header.Set("Traceparent", "00-"+parent+"-00f067aa0ba902b7-01")
	s.do(r).want(t, 200)
	got := spans.GetSpans()
	if len(got) != 3 {
		t.Fatalf("%d spans", len(got))
	}
	if got[0].Name != "GET /v1/wishes" || got[0].SpanContext.TraceID().String() != parent {
		t.Errorf("%s in trace %s", got[0].Name, got[0].SpanContext.TraceID())
	}
	if got[1].Status.Code != codes.Error || got[1].Name != "GET /v1/fail/{code}" {
		t.Errorf("%+v", got[1].Status)
	}
	if got[2].SpanContext.TraceID().String() == parent {
		t.Error("a stranger's trace was taken over")
	}
}
