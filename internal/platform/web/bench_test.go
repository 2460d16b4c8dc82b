package web

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/body"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
)

// The body of the comparison: 260 bytes, as in the measurement that chose this framework.
type post struct {
	Title   string   `json:"title" minLength:"1" maxLength:"100"`
	Channel string   `json:"channel_id" minLength:"3"`
	Type    string   `json:"type" enum:"article,photo,video"`
	Tags    []string `json:"tags" maxItems:"5"`
	Content string   `json:"content" maxLength:"1000"`
}

var postBody = []byte(`{"title":"A short title of an article","channel_id":"chn_4711","type":"article","tags":["go","http","json"],"content":"` +
	"Some words about the matter at hand, long enough to be more than a toy, and short enough to be sent by many at the same time." + `"}`)

type postAnswer struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Tags  int    `json:"tags"`
}

// bare is what one would write by hand: net/http, encoding/json, no checks but a few.
func bare(w http.ResponseWriter, r *http.Request) {
	var p post
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&p); err != nil || p.Title == "" || len(p.Channel) < 3 {
		http.Error(w, "bad", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(postAnswer{"art_1", p.Title, len(p.Tags)})
}

func benchServer(b *testing.B, level string) *Server {
	b.Helper()
	o, err := obs.Open(obs.Config{Level: level, Format: "json"}, io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	lim, err := limit.Open(limit.Config{Rates: map[string]string{"write": "1000000/s"}}, o)
	if err != nil {
		b.Fatal(err)
	}
	s, err := New(Config{}, Parts{Obs: o, Limits: lim, Authenticate: func(*http.Request) (levee.Actor, error) {
		return levee.Actor{User: 7, Roles: levee.RoleCustomer}, nil
	}})
	if err != nil {
		b.Fatal(err)
	}
	Add(s, Route{Method: "POST", Path: "/v1/posts", ID: "createPost", Status: 201, Roles: levee.RoleCustomer, Limit: limit.Write},
		func(_ context.Context, in *struct{ Body post }) (*struct{ Body postAnswer }, error) {
			return &struct{ Body postAnswer }{postAnswer{"art_1", in.Body.Title, len(in.Body.Tags)}}, nil
		})
	s.Raw(Route{Method: "POST", Path: "/v1/raw", ID: "rawPost", Status: 201, Roles: levee.RoleCustomer, Limit: limit.Write},
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var p post
			if err := ReadJSON(r, 0, &p); err != nil {
				WriteError(w, r, err)
				return
			}
			WriteJSON(w, r, 201, postAnswer{"art_1", p.Title, len(p.Tags)})
		}), RawDoc{Request: post{}})
	return s
}

// cpuTime is what this process has used so far: on a shared machine it tells more than the clock.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPost compares over one kept connection per goroutine: the parser and writer of net/http are in all of them.
func BenchmarkPost(b *testing.B) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/posts", bare)
	for _, c := range []struct {
		name, path string
		h          http.Handler
	}{
		{"bare", "/v1/posts", mux},
		{"add", "/v1/posts", benchServer(b, "info").Handler()},
		{"add_not_logged", "/v1/posts", benchServer(b, "error").Handler()},
		{"raw", "/v1/raw", benchServer(b, "info").Handler()},
		{"raw_not_logged", "/v1/raw", benchServer(b, "error").Handler()},
	} {
		b.Run("net/"+c.name, func(b *testing.B) { benchNet(b, c.h, c.path) })
		b.Run("handler/"+c.name, func(b *testing.B) { benchHandler(b, c.h, c.path) })
	}
}

func benchNet(b *testing.B, h http.Handler, path string) {
	srv := httptest.NewServer(h)
	defer srv.Close()
	var req bytes.Buffer
	r, err := http.NewRequest(http.MethodPost, srv.URL+path, bytes.NewReader(postBody))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer x")
	if err := r.Write(&req); err != nil {
		b.Fatal(err)
	}
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	in := make([]byte, 64<<10)
	b.ReportAllocs()
	start := cpuTime(b)
	defer func() { b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op") }()
	for b.Loop() {
		if _, err := conn.Write(req.Bytes()); err != nil {
			b.Fatal(err)
		}
		n, err := conn.Read(in)
		if err != nil || !bytes.HasPrefix(in[:n], []byte("HTTP/1.1 201")) {
			b.Fatalf("%v %.200s", err, in[:n])
		}
	}
}

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }

func benchHandler(b *testing.B, h http.Handler, path string) {
	r := httptest.NewRequest(http.MethodPost, path, nil)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer x")
	r.ContentLength = int64(len(postBody))
	body := bytes.NewReader(nil)
	b.ReportAllocs()
	start := cpuTime(b)
	defer func() { b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op") }()
	for b.Loop() {
		body.Reset(postBody)
		r.Body = io.NopCloser(body)
		h.ServeHTTP(&discard{http.Header{}}, r)
	}
}

// BenchmarkFast shows what the hook costs when there is none, and when it declines.
func BenchmarkFast(b *testing.B) {
	for _, c := range []struct {
		name string
		hook func(http.ResponseWriter, *http.Request) bool
	}{
		{"none", nil},
		{"declines", func(http.ResponseWriter, *http.Request) bool { return false }},
		{"answers", func(http.ResponseWriter, *http.Request) bool { return true }},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := benchServer(b, "error")
			if c.hook != nil {
				s.Fast(c.hook)
			}
			benchHandler(b, s.Handler(), "/v1/raw")
		})
	}
}

func BenchmarkCheckJSON(b *testing.B) {
	b.SetBytes(int64(len(postBody)))
	for b.Loop() {
		if err := body.Check(postBody, nil); err != nil {
			b.Fatal(err)
		}
	}
}
