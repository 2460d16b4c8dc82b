package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/once"
)

type bought struct {
	Status   int
	Location string `header:"Location"`
	Body     struct {
		Number int64 `json:"number"`
	}
}

// newShop is a site with a table of purchases; every purchase is a row.
func newShop(t testing.TB, change ...func(*Parts)) *site {
	t.Helper()
	s := newSite(t, Config{}, change...)
	err := s.d.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "CREATE TABLE test_purchase (id BIGINT NOT NULL PRIMARY KEY, title TEXT NOT NULL)")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var ids atomic.Int64
	Add(s.Server, Route{Method: "POST", Path: "/v1/purchases", ID: "buy", Idempotent: true},
		func(ctx context.Context, in *struct{ Body wish }) (*bought, error) {
			return Once(ctx, s.d, "buy", KeyFrom(ctx), in.Body, func(ctx context.Context, tx *db.Tx) (*bought, error) {
				return insertPurchase(ctx, tx, ids.Add(1), in.Body.Title)
			})
		})
	return s
}

func insertPurchase(ctx context.Context, tx *db.Tx, id int64, title string) (*bought, error) {
	if _, err := tx.Exec(ctx, "INSERT INTO test_purchase (id, title) VALUES (?, ?)", id, title); err != nil {
		return nil, err
	}
	if title == "sold out" {
		return nil, levee.E(levee.CodeOutOfStock, "nothing left")
	}
	out := &bought{Status: 201, Location: fmt.Sprintf("/v1/purchases/%d", id)}
	out.Body.Number = id
	return out, nil
}

func (s *site) purchases() (n int) {
	s.t.Helper()
	if err := s.d.QueryRow(s.t.Context(), "SELECT COUNT(*) FROM test_purchase").Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *site) buy(who, key, title string) answered {
	s.t.Helper()
	var headers []string
	if who != "" {
		headers = auth(who)
	}
	if key != "" {
		headers = append(headers, "Idempotency-Key", key)
	}
	return s.ask("POST", "/v1/purchases", fmt.Sprintf(`{"title":%q}`, title), headers...)
}

func TestOnce(t *testing.T) {
	s := newShop(t)
	first := s.buy("buyer", "k1", "tea").want(t, 201)
	again := s.buy("buyer", "k1", "tea").want(t, 201)
	if first.body != again.body || again.Header.Get("Location") != first.Header.Get("Location") || again.Header.Get("Location") == "" {
		t.Errorf("%s and %s", first.body, again.body)
	}
	if first.Header.Get("Idempotency-Replayed") != "" || again.Header.Get("Idempotency-Replayed") != "true" {
		t.Error("a replay is not told from a first answer")
	}
	if quoted := s.buy("buyer", `"k1"`, "tea").want(t, 201); quoted.body != first.body {
		t.Error("the quoted key is another key")
	}
	s.buy("buyer", "k1", "coffee").want(t, 422, "idempotency_mismatch")
	if n := s.purchases(); n != 1 {
		t.Fatalf("%d purchases", n)
	}
	if other := s.buy("other", "k1", "tea").want(t, 201); other.body == first.body {
		t.Error("one user got another's answer")
	}
	if visitor := s.buy("", "k1", "tea").want(t, 201); visitor.body == first.body {
		t.Error("a visitor got a user's answer")
	}
	s.buy("", "k1", "tea").want(t, 201)
	if n := s.purchases(); n != 3 {
		t.Fatalf("%d purchases", n)
	}
	r := httptest.NewRequest("POST", "/v1/purchases", strings.NewReader(`{"title":"tea"}`))
	r.Header.Set("Idempotency-Key", "k1")
	r.RemoteAddr = "203.0.113.77:1"
	s.do(r).want(t, 201)
	if n := s.purchases(); n != 4 {
		t.Error("a visitor at another address got the first one's answer")
	}
	for range 2 {
		s.buy("buyer", "", "tea").want(t, 201)
	}
	if n := s.purchases(); n != 6 {
		t.Errorf("%d purchases: without a key each counts", n)
	}
}

// TestOnceKeepsNoErrors: a refusal leaves nothing behind, neither the row nor the answer.
func TestOnceKeepsNoErrors(t *testing.T) {
	s := newShop(t)
	s.buy("buyer", "k1", "sold out").want(t, 409, "out_of_stock")
	s.buy("buyer", "k1", "sold out").want(t, 409, "out_of_stock")
	if n := s.purchases(); n != 0 {
		t.Fatalf("%d purchases", n)
	}
	s.buy("buyer", "k1", "tea").want(t, 201)
}

func TestOnceInTheCallersTransaction(t *testing.T) {
	s := newShop(t)
	ctx := levee.WithActor(t.Context(), levee.Actor{User: 7})
	type big struct{ Text string }
	// The answer cannot be kept, so the effect must not stay either.
	_, err := Once(ctx, s.d, "r", "k", nil, func(ctx context.Context, tx *db.Tx) (*big, error) {
		if _, err := insertPurchase(ctx, tx, 1, "tea"); err != nil {
			return nil, err
		}
		return &big{strings.Repeat("x", once.AnswerMax)}, nil
	})
	if err == nil || s.purchases() != 0 {
		t.Errorf("%v, %d purchases", err, s.purchases())
	}
	if _, err := Once(ctx, s.d, "r", "k", func() {}, func(context.Context, *db.Tx) (*big, error) { return nil, nil }); err == nil {
		t.Error("a body that is no JSON")
	}
	// A nil answer is kept as such.
	for i := range 2 {
		out, err := Once(ctx, s.d, "r", "nil", []byte("x"), func(ctx context.Context, tx *db.Tx) (*big, error) {
			_, err := insertPurchase(ctx, tx, int64(10+i), "tea")
			return nil, err
		})
		if err != nil || out != nil {
			t.Errorf("%v %v", out, err)
		}
	}
	if n := s.purchases(); n != 1 {
		t.Errorf("%d purchases", n)
	}
	// Other routes have keys of their own.
	out, err := Once(ctx, s.d, "r2", "nil", []byte("x"), func(context.Context, *db.Tx) (*big, error) { return &big{"y"}, nil })
	if err != nil || out.Text != "y" {
		t.Errorf("%v %v", out, err)
	}
}

// TestOnceConcurrent: a hundred at once with one key make one purchase, and all get its number. Without the key a hundred.
func TestOnceConcurrent(t *testing.T) {
	s := newShop(t)
	s.Handler()
	for _, c := range []struct {
		name, key string
		want      int
	}{{"same key", "k1", 1}, {"negative control: no key", "", 100}, {"another key", "k2", 1}} {
		before := s.purchases()
		var wg sync.WaitGroup
		numbers := make([]string, 100)
		for i := range numbers {
			wg.Go(func() {
				r := httptest.NewRequest(http.MethodPost, "/v1/purchases", strings.NewReader(`{"title":"tea"}`))
				r.Header.Set("Authorization", "Bearer buyer")
				if c.key != "" {
					r.Header.Set("Idempotency-Key", c.key)
				}
				rec := httptest.NewRecorder()
				s.ServeHTTP(rec, r)
				if rec.Code != 201 {
					t.Errorf("%d %s", rec.Code, rec.Body)
				}
				numbers[i] = rec.Body.String()
			})
		}
		wg.Wait()
		distinct := map[string]bool{}
		for _, n := range numbers {
			distinct[n] = true
		}
		if made := s.purchases() - before; made != c.want || len(distinct) != c.want {
			t.Errorf("%s: %d purchases, %d answers; want %d", c.name, made, len(distinct), c.want)
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	for given, want := range map[string]string{
		"abc": "abc", `"abc"`: "abc", " abc ": "abc", `"a\"b\\c"`: `a"b\c`, "8e03978e-40d5-43dd-bc93-6894a57f9324": "8e03978e-40d5-43dd-bc93-6894a57f9324",
		"": "", `""`: "", "a b": "", "a\tb": "", "é": "", `"a`: `"a`, `"a"b"`: "", `"a\b"`: "", `"a\`: `"a\`, "\x7f": "", "\x00": "",
		strings.Repeat("x", 128): strings.Repeat("x", 128), strings.Repeat("x", 129): "",
	} {
		r := httptest.NewRequest("POST", "/", nil)
		r.Header["Idempotency-Key"] = []string{given}
		got, err := IdempotencyKey(r, false)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q became %q, %v", given, got, err)
		}
		if err != nil && levee.CodeOf(err) != levee.CodeMalformed {
			t.Error(err)
		}
	}
	r := httptest.NewRequest("POST", "/", nil)
	if k, err := IdempotencyKey(r, false); k != "" || err != nil {
		t.Error(k, err)
	}
	if _, err := IdempotencyKey(r, true); levee.CodeOf(err) != levee.CodeMalformed || !strings.Contains(err.Error(), "UUID") {
		t.Error(err)
	}
	r.Header["Idempotency-Key"] = []string{"a", "b"}
	if _, err := IdempotencyKey(r, false); err == nil {
		t.Error("two keys")
	}
}

func TestPrune(t *testing.T) {
	clock := obs.NewStepClock(time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC))
	s := newShop(t, func(p *Parts) { p.Obs.Clock = clock.Now })
	s.buy("buyer", "old", "tea").want(t, 201)
	clock.Step(48 * time.Hour)
	s.buy("buyer", "new", "tea").want(t, 201)
	// Many that are as old as each other, more than one portion.
	err := s.d.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
		for i := range 2*1000 + 10 {
			if _, err := tx.Exec(ctx, "INSERT INTO web_answer (actor_id, route, idem_key, body_hash, answer, created_at) VALUES (1, 'r', ?, 'h', 'null', ?)",
				fmt.Sprint(i), 1000+i/700); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	n, err := once.Prune(t.Context(), s.d, clock.Now().Add(-24*time.Hour))
	if err != nil || n != 2*1000+11 {
		t.Fatalf("%d, %v", n, err)
	}
	if n, err := once.Prune(t.Context(), s.d, clock.Now().Add(-24*time.Hour)); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	s.buy("buyer", "new", "tea").want(t, 201)
	if n := s.purchases(); n != 2 {
		t.Errorf("the new key was pruned: %d", n)
	}
	s.buy("buyer", "old", "tea").want(t, 201)
	if n := s.purchases(); n != 3 {
		t.Errorf("the old key was kept: %d", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := once.Prune(ctx, s.d, clock.Now()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
