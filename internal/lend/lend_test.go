package lend

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
	"levee/internal/platform/web"
)

const (
	secretA  = "0123456789abcdef0123456789abcdef"
	secretA2 = "new-0123456789abcdef0123456789abcdef"
	secretB  = "B/+=~._-6789abcdef0123456789abcdef"
)

// lender is the room on a server, and what the server has logged.
type lender struct {
	t   testing.TB
	s   *Service
	url string
	log bytes.Buffer
}

func open(t testing.TB, clients string) *lender {
	t.Helper()
	l := &lender{t: t}
	p := platformtest.New(t, id.Schema())
	o := &obs.Obs{Log: slog.New(slog.NewTextHandler(&l.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Metrics: p.Obs.Metrics, Clock: p.Obs.Clock}
	d := Deps{Obs: o, Config: Config{Clients: obs.Secret(clients)}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if d.Config.Enabled() {
		var err error
		d.IDs, err = id.OpenSet(t.Context(), id.Config{Dir: p.Dir + "/id", Lead: id.Strict}, 2, p.Obs)
		must(err)
		t.Cleanup(func() { must(d.IDs.Close()) })
		d.Small, err = id.OpenSet(t.Context(), id.Config{Dir: p.Dir + "/id", Space: "js53", Layout: id.JS53, Lead: time.Minute}, 1, p.Obs)
		must(err)
		t.Cleanup(func() { must(d.Small.Close()) })
		d.Numbers, err = id.OpenSegments(id.SegmentsConfig{DB: p.DB}, p.Obs)
		must(err)
		t.Cleanup(func() { must(d.Numbers.Close(context.Background())) })
	}
	var err error
	l.s, err = New(d)
	must(err)
	srv, err := web.New(web.Config{}, web.Parts{Obs: o, DB: p.DB, Title: "test", Version: "0", Authenticate: func(r *http.Request) (levee.Actor, error) {
		if Takes(r) {
			return levee.Actor{}, nil
		}
		return levee.Actor{}, levee.E(levee.CodeUnauthenticated, "not for this test")
	}})
	must(err)
	l.s.Routes(srv)
	h := httptest.NewServer(srv.Handler())
	t.Cleanup(h.Close)
	l.url = h.URL
	return l
}

// get asks, and returns status, content type and body.
func (l *lender) get(path, authorization, accept string) (int, string, string) {
	l.t.Helper()
	req, err := http.NewRequestWithContext(l.t.Context(), "GET", l.url+path, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	if cc := res.Header.Get("Cache-Control"); !strings.Contains(cc, "no-store") {
		l.t.Errorf("%s may be cached: %q", path, cc)
	}
	return res.StatusCode, res.Header.Get("Content-Type"), string(body)
}

func (l *lender) ids(path string) []int64 {
	l.t.Helper()
	status, kind, body := l.get(path, "Bearer "+secretA, "")
	var v struct{ IDs []string }
	if status != 200 || kind != "application/json" || json.Unmarshal([]byte(body), &v) != nil {
		l.t.Fatalf("%s: %d %s %.300s", path, status, kind, body)
	}
	var all []int64
	for _, text := range v.IDs {
		n, err := id.Parse(text)
		if err != nil {
			l.t.Fatal(err)
		}
		all = append(all, int64(n))
	}
	return all
}

func TestIDs(t *testing.T) {
	l := open(t, "billing:"+secretA+"\nother:"+secretB)
	seen := map[int64]bool{}
	for _, count := range []int{0, 1, 2, 1000, CountMost} {
		path := "/v1/ids?count=" + strconv.Itoa(count)
		if count == 0 {
			path, count = "/v1/ids", 1
		}
		got := l.ids(path)
		for _, n := range got {
			if seen[n] {
				t.Fatalf("%d was given twice", n)
			}
			seen[n] = true
			if d := time.Since(id.TimeOf(n)); d < 0 || d > time.Minute {
				t.Fatalf("%d is of %v", n, id.TimeOf(n))
			}
		}
		if len(got) != count {
			t.Errorf("%d ids, want %d", len(got), count)
		}
	}
	for _, n := range l.ids("/v1/ids?count=100&layout=js53") {
		if n >= 1<<53 {
			t.Errorf("%d is too large for JavaScript", n)
		}
	}
	if got := append(l.ids("/v1/ids?tag=invoice/2026&count=3"), l.ids("/v1/ids?tag=invoice/2026")...); !slices.Equal(got, []int64{1, 2, 3, 4}) {
		t.Errorf("numbers %v", got)
	}
	if status, kind, body := l.get("/v1/ids?tag=invoice/2026&count=2", "bearer "+secretB, "text/plain"); status != 200 || kind != "text/plain; charset=utf-8" || body != "5\n6\n" {
		t.Errorf("%d %s %q", status, kind, body)
	}
	for accept, want := range map[string]string{"*/*": "application/json", "text/*": "text/plain; charset=utf-8", "text/plain;q=0.5, application/json": "application/json"} {
		if _, kind, _ := l.get("/v1/ids", "Bearer "+secretA, accept); kind != want {
			t.Errorf("Accept %s: %s", accept, kind)
		}
	}
	if status, _, _ := l.get("/v1/ids", "Bearer "+secretA, "image/png"); status != 406 {
		t.Errorf("Accept image/png: %d", status)
	}
	n := l.ids("/v1/ids")[0]
	status, _, body := l.get(fmt.Sprint("/v1/ids/", n), "Bearer "+secretA, "")
	want, _ := id.Default.Explain(n)
	var v struct {
		ID, Layout       string
		Time             time.Time
		Worker, Sequence int
	}
	if err := json.Unmarshal([]byte(body), &v); status != 200 || err != nil || v.ID != fmt.Sprint(n) || v.Layout != "default" || !v.Time.Equal(want.Time) ||
		v.Worker != want.Worker || v.Sequence != want.Sequence {
		t.Errorf("%d: %d %s", n, status, body)
	}
	if status, _, body := l.get("/v1/ids/16384?layout=js53", "Bearer "+secretA, ""); status != 200 || !strings.Contains(body, `"worker":1,"sequence":0`) {
		t.Errorf("%d %s", status, body)
	}
}

func TestBadRequests(t *testing.T) {
	l := open(t, "billing:"+secretA)
	for path, field := range map[string]string{
		"/v1/ids?count=0": "query.count", "/v1/ids?count=-1": "query.count", "/v1/ids?count=10001": "query.count", "/v1/ids?count=": "query.count", "/v1/ids?count=1e3": "query.count",
		"/v1/ids?count=%2B1": "query.count", "/v1/ids?count=99999999999999999999": "query.count", "/v1/ids?layout=x": "query.layout", "/v1/ids?layout=%FF": "query.layout",
		"/v1/ids?tag=": "query.tag", "/v1/ids?tag=a%20b": "query.tag", "/v1/ids?tag=%00": "query.tag", "/v1/ids?tag=%FF": "query.tag", "/v1/ids?tag=" + strings.Repeat("a", 5000): "query.tag",
		"/v1/ids?tag=a&layout=js53": "query.layout", "/v1/ids?nonsense=1": "query.nonsense", "/v1/ids?count=1&count=2": "query.count",
		"/v1/ids/0": "path.id", "/v1/ids/-1": "path.id", "/v1/ids/x": "path.id", "/v1/ids/9223372036854775808": "path.id", "/v1/ids/%FF": "path.id", "/v1/ids/9007199254740992?layout=js53": "path.id",
	} {
		status, kind, body := l.get(path, "Bearer "+secretA, "")
		if status != 422 || kind != "application/problem+json" || !strings.Contains(body, `"field":"`+field+`"`) || len(body) > 2000 {
			t.Errorf("%.60s: %d %.400s", path, status, body)
		}
	}
}

// More ids for JavaScript are asked for than there is room for: who waits longer than his request may take is told so, and nobody hangs.
func TestMoreThanThereIsRoomFor(t *testing.T) {
	l := open(t, "billing:"+secretA)
	l.ids("/v1/ids?layout=js53")
	ids := make([]int64, 61*16_384) // the minute that they may run ahead
	if err := l.s.Small.NextN(ids[:60*16_384]); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	began := time.Now()
	err := fill(ctx, l.s.Small, ids)
	if levee.CodeOf(err) != levee.CodeUnavailable || time.Since(began) > 30*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

// Only a configured secret opens the door, an old and a new one of a name both do, and none of them is ever in the log.
func TestWhoMayAsk(t *testing.T) {
	l := open(t, "billing:"+secretA+", billing:"+secretA2+"\r\nother:"+secretB)
	for _, good := range []string{secretA, secretA2, secretB} {
		if status, _, body := l.get("/v1/ids", "Bearer "+good, ""); status != 200 {
			t.Errorf("a good secret: %d %s", status, body)
		}
	}
	for _, bad := range []string{"", "Bearer", "Bearer ", "Bearer " + secretA[:31], "Bearer " + secretA + "0", "Bearer billing:" + secretA, "Basic " + secretA, secretA,
		"Bearer " + strings.ToUpper(secretA), "Bearer  " + secretA, "Bearer " + strings.Repeat("x", 4000)} {
		for _, path := range []string{"/v1/ids", "/v1/ids/5"} {
			if status, _, body := l.get(path, bad, ""); status != 401 || strings.Contains(body, secretA) {
				t.Errorf("%.40q: %d %s", bad, status, body)
			}
		}
	}
	if status, _, _ := l.get("/v1/ids?count=0", "Bearer "+secretA, ""); status != 422 {
		t.Error("the control: a refused request")
	}
	said := l.log.String()
	for _, secret := range []string{secretA, secretA2, secretB} {
		if strings.Contains(said, secret) {
			t.Error("a secret is in the log")
		}
	}
	if !strings.Contains(said, "/v1/ids") || fmt.Sprintf("%v %+v", l.s.Config, Config{Clients: secretB}) == "" || strings.Contains(fmt.Sprintf("%v %+v %#v", l.s.Config, l.s.Config, l.s.Config), secretA) {
		t.Errorf("the config shows its secrets, or nothing is logged")
	}
	none := open(t, " \n")
	for _, path := range []string{"/v1/ids", "/v1/ids/5"} {
		if status, _, body := none.get(path, "Bearer "+secretA, ""); status != 404 || !strings.Contains(body, "lend.clients") {
			t.Errorf("no clients: %d %s", status, body)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, good := range []string{"", " ", "a:" + secretA, "a:" + secretA + ",b:" + secretB + "\n\n", strings.Repeat("a", 40) + ":" + strings.Repeat("x", 256)} {
		if err := (Config{Clients: obs.Secret(good)}).Validate(); err != nil {
			t.Errorf("%.20q: %v", good, err)
		}
	}
	many := ""
	for i := range clientsMax + 1 {
		many += fmt.Sprintf("a:%032d ", i)
	}
	for _, bad := range []string{"a", "a:", ":" + secretA, "A:" + secretA, "a:" + secretA[:31], "a:" + strings.Repeat("x", 257), "a:" + secretA + "\x00", "a\xff:" + secretA, "a:ä" + secretA,
		"a:" + secretA + " b:" + secretA, strings.Repeat("a", 41) + ":" + secretA, secretA, many} {
		err := (Config{Clients: obs.Secret(bad)}).Validate()
		if levee.CodeOf(err) != levee.CodeInvalid || strings.Contains(err.Error(), secretA[:20]) {
			t.Errorf("%.60q: %v", bad, err)
		}
	}
	for _, n := range []int{-1, 17} {
		if err := (Config{Workers: n}).Validate(); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%d workers: %v", n, err)
		}
	}
}

func BenchmarkIDs(b *testing.B) {
	l := open(b, "billing:"+secretA)
	for _, count := range []string{"1", "1000"} {
		b.Run(count, func(b *testing.B) {
			h := l.s
			req := httptest.NewRequest("GET", "/v1/ids?count="+count, nil)
			req.Header.Set("Authorization", "Bearer "+secretA)
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				h.getIDs(w, req)
				if w.Code != 200 {
					b.Fatal(w.Body.String())
				}
			}
		})
	}
}
