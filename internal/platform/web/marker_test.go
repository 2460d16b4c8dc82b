package web

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

// addNotes adds operations that write and read one row per id.
func addNotes(s *Server, d *db.DB) {
	Add(s, Route{Method: "PUT", Path: "/v1/notes/{id}", ID: "putNote"}, func(ctx context.Context, in *struct {
		ID   int64 `path:"id"`
		Body struct {
			N int64 `json:"n"`
		}
	}) (*struct{}, error) {
		return nil, d.Tx(ctx, "test", func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, "UPDATE test_note SET n = ? WHERE id = ?", in.Body.N, in.ID)
			return err
		})
	})
	read := func(ctx context.Context, in *struct {
		ID int64 `path:"id"`
	}) (out *struct{ Body int64 }, err error) {
		out = &struct{ Body int64 }{}
		return out, d.QueryRow(ctx, "SELECT n FROM test_note WHERE id = ?", in.ID).Scan(&out.Body)
	}
	Add(s, Route{Method: "GET", Path: "/v1/notes/{id}", ID: "note", Replica: true}, read)
	Add(s, Route{Method: "GET", Path: "/v1/notes/{id}/now", ID: "noteNow"}, read)
	Add(s, Route{Method: "POST", Path: "/v1/failing", ID: "failing"}, func(ctx context.Context, _ *struct{}) (*struct{}, error) {
		return nil, d.Tx(ctx, "test", func(context.Context, *db.Tx) error { return levee.E(levee.CodeConflict, "no") })
	})
	Add(s, Route{Method: "POST", Path: "/v1/lost", ID: "lost"}, func(ctx context.Context, _ *struct{}) (*struct{}, error) {
		err := d.Tx(ctx, "test", func(context.Context, *db.Tx) error { return nil })
		return nil, cmpOr(err, levee.E(levee.CodeConflict, "after the commit"))
	})
	Add(s, Route{Method: "POST", Path: "/v1/others", ID: "others"}, func(ctx context.Context, _ *struct{}) (*struct{}, error) {
		Wrote(ctx)
		return nil, nil
	})
}

func cmpOr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// twoNodes are two web servers on one database, whose one replica is so far behind.
func twoNodes(t *testing.T, lag time.Duration) (urls [2]string, primary *backends.MySQLServer) {
	t.Helper()
	if os.Getenv("LEVEE_TEST_TIER") != "distributed" {
		t.Skip("of the distributed tier: LEVEE_TEST_TIER=distributed")
	}
	ctx := context.Background()
	s, err := backends.StartMySQL(ctx, backends.MySQLOptions{Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	url, _, err := s.NewDatabase(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cfg := db.Config{URL: url, Password: obs.Secret(s.Password()), Writers: 8, Readers: 8, ReplicaLag: lag + 4*time.Second,
		Replicas: []string{strings.Replace(url, s.Addr(), s.Replicas[0].Addr(), 1)}}
	for i := range urls {
		o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		d, err := db.Open(ctx, cfg, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		if i == 0 {
			if err := d.Tx(ctx, "test", func(ctx context.Context, tx *db.Tx) error {
				_, err := tx.Exec(ctx, "CREATE TABLE test_note (id BIGINT NOT NULL PRIMARY KEY, n BIGINT NOT NULL)")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if err := d.Tx(ctx, "test", func(ctx context.Context, tx *db.Tx) error {
				rows := make([][]any, 64)
				for id := range rows {
					rows[id] = []any{id, 0}
				}
				return tx.InsertRows(ctx, "test_note", []string{"id", "n"}, rows)
			}); err != nil {
				t.Fatal(err)
			}
		}
		w, err := New(Config{}, Parts{Obs: o, DB: d})
		if err != nil {
			t.Fatal(err)
		}
		addNotes(w, d)
		srv := httptest.NewServer(w.Handler())
		t.Cleanup(srv.Close)
		urls[i] = srv.URL
		if i == 1 {
			if err := s.Replicas[0].CatchUp(ctx); err != nil {
				t.Fatal(err)
			}
			if err := s.Replicas[0].Lag(ctx, lag); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() { t.Logf("node %d: %d replicas in use at the end", i, d.Stats().Replicas) })
	}
	return urls, s
}

// person is one who writes and reads.
type person struct {
	http.Client
	header bool // he keeps the header, as a program does
	marker string
}

func (p *person) ask(method, url, body string) (*http.Response, string, error) {
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if p.header && p.marker != "" {
		r.Header.Set(headerMarker, p.marker)
	}
	res, err := p.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	var text [256]byte
	n, _ := res.Body.Read(text[:])
	if m := res.Header.Get(headerMarker); m != "" {
		p.marker = m
	}
	if res.StatusCode >= 300 {
		return res, "", fmt.Errorf("%s %s: %d %s", method, url, res.StatusCode, text[:n])
	}
	return res, strings.TrimSpace(string(text[:n])), nil
}

// TestReadYourWrites: who writes through one node and reads through another, while the replica is two seconds behind, reads what he wrote, as
// a browser that keeps cookies or as a program that keeps the header. One who keeps neither reads what is old: so the others would, too.
func TestReadYourWrites(t *testing.T) {
	urls, _ := twoNodes(t, 2*time.Second)
	// The replica is read once it shows the beats that follow the lag.
	stranger := &person{}
	var stale [3]atomic.Int64
	var reads atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(9 * time.Second)
	for who := range 12 {
		kind := who % 3
		p := &person{header: kind == 1}
		if kind == 0 {
			p.Jar, _ = cookiejar.New(nil)
		}
		wg.Go(func() {
			for n := 1; time.Now().Before(end); n++ {
				write, read := urls[n%2], urls[(n+1)%2]
				if _, _, err := p.ask("PUT", fmt.Sprintf("%s/v1/notes/%d", write, who), fmt.Sprintf(`{"n":%d}`, n)); err != nil {
					t.Error(err)
					return
				}
				for range 3 {
					_, got, err := p.ask("GET", fmt.Sprintf("%s/v1/notes/%d", read, who), "")
					if err != nil {
						t.Error(err)
						return
					}
					if reads.Add(1); got != fmt.Sprint(n) {
						stale[kind].Add(1)
					}
				}
				if _, got, err := p.ask("GET", fmt.Sprintf("%s/v1/notes/%d/now", read, who), ""); err != nil || got != fmt.Sprint(n) {
					t.Errorf("a route that is not for replicas answered %s after %d was written, %v", got, n, err)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	t.Logf("of %d reads were stale: cookie %d, header %d, neither %d", reads.Load(), stale[0].Load(), stale[1].Load(), stale[2].Load())
	if stale[0].Load() != 0 || stale[1].Load() != 0 {
		t.Error("somebody did not read what he wrote")
	}
	if stale[2].Load() == 0 {
		t.Error("nobody read what was old, though he carried no marker: the replica is not read or does not lag, and the test has lost its teeth")
	}
	// What carries a marker, and what does not.
	for _, c := range []struct {
		method, path string
		want         bool
	}{{"PUT", "/v1/notes/1", true}, {"GET", "/v1/notes/1", false}, {"POST", "/v1/failing", false}, {"POST", "/v1/lost", true}, {"POST", "/v1/others", true}} {
		body := ""
		if c.method == "PUT" {
			body = `{"n":1}`
		}
		p := &person{}
		res, _, _ := p.ask(c.method, urls[0]+c.path, body)
		if res == nil {
			t.Fatal("no answer")
		}
		cookies := res.Cookies()
		if got := res.Header.Get(headerMarker) != ""; got != c.want || (len(cookies) == 1) != c.want {
			t.Errorf("%s %s: marker %v, cookies %v, want %v", c.method, c.path, got, cookies, c.want)
		}
		if c.want {
			k := cookies[0]
			if k.Name != cookieMarker || !k.HttpOnly || k.SameSite != http.SameSiteLaxMode || k.Path != "/" || k.MaxAge != 6 || len(k.Value) > 12 || k.Secure {
				t.Errorf("the cookie %+v", k)
			}
		}
	}
	// Whatever else is sent as a marker does no harm.
	for _, m := range []string{"x y", "-1", strings.Repeat("z", 4000), "0", "zzzzzzzzzzzz"} {
		stranger.header, stranger.marker = true, m
		if _, _, err := stranger.ask("GET", urls[1]+"/v1/notes/1", ""); err != nil {
			t.Errorf("marker %q: %v", levee.Shorten(m, 20), err)
		}
	}
}

// TestNoMarkerWithoutReplicas: where there is nothing to be told apart, nothing is said, and no request pays for it.
func TestNoMarkerWithoutReplicas(t *testing.T) {
	s := newSite(t, Config{})
	if err := s.d.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "CREATE TABLE test_note (id BIGINT NOT NULL PRIMARY KEY, n BIGINT NOT NULL)")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	addNotes(s.Server, s.d)
	for _, path := range []string{"/v1/lost", "/v1/others"} {
		r := httptest.NewRequest("POST", path, http.NoBody)
		r.Header.Set(headerMarker, "abc")
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if m, c := w.Header().Get(headerMarker), w.Header().Get("Set-Cookie"); m != "" || c != "" {
			t.Errorf("%s: %d, marker %q, cookie %q", path, w.Code, m, c)
		}
	}
	if s.d.StickyFor() != 0 {
		t.Error("no replicas, and yet there is a marker")
	}
}
