package throttle

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// line is what the trail was told.
type line struct{ act, before, after string }

// town is a house whose nodes are in this process, on one database.
type town struct {
	*platformtest.Platform
	mu    sync.Mutex // guards below
	trail []line
	fail  error // what the trail says
	bells []func()
	deaf  bool // no ring arrives
}

func newTown(t *testing.T) *town {
	return &town{Platform: platformtest.New(t, Schema())}
}

// node starts a node with limits of its own. follow says whether it has others beside it.
func (h *town) node(t *testing.T, follow bool) *Service {
	t.Helper()
	limits, err := limit.Open(limit.Config{Rates: map[string]string{"read": "100/s"}}, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	d := Deps{DB: h.DB, Sealer: h.Sealer, Obs: h.Obs, Limits: limits, Audit: h.audit}
	if follow {
		d.Bell = func(name string, wake func()) func() {
			h.bells = append(h.bells, wake)
			return func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				for _, w := range h.bells {
					if !h.deaf {
						w()
					}
				}
			}
		}
	}
	s := New(d)
	if err := s.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (h *town) audit(ctx context.Context, _ *db.Tx, act, _ string, before, after any) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	b, _ := json.Marshal(before)
	a, _ := json.Marshal(after)
	if h.fail == nil && (len(h.trail) == 0 || h.trail[len(h.trail)-1] != line{act, string(b), string(a)}) { // the database may run it twice
		h.trail = append(h.trail, line{act, string(b), string(a)})
	}
	return h.fail
}

var boss = levee.Actor{User: 7, Roles: levee.RoleAdministrator}

func rate(t *testing.T, s string) limit.Rate {
	t.Helper()
	r, err := limit.ParseRate(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSetAndReset(t *testing.T) {
	h := newTown(t)
	s := h.node(t, false)
	ctx := levee.WithActor(t.Context(), boss)
	for range 2 { // the second time changes nothing that a trail is read for
		l, err := s.Set(ctx, limit.Read, rate(t, "5/day"), nil)
		if err != nil || l.Rate.String() != "5/d" || l.Configured.String() != "100/s" || l.By != boss.User || l.At.IsZero() {
			t.Fatalf("%+v, %v", l, err)
		}
	}
	if got := s.Limits.Rate(limit.Read).String(); got != "5/d" {
		t.Errorf("the node goes by %s", got)
	}
	if got := h.node(t, false).Limits.Rate(limit.Read).String(); got != "5/d" {
		t.Errorf("a node that starts later goes by %s", got)
	}
	all, err := s.List(ctx)
	if err != nil || len(all) != len(limit.Names()) {
		t.Fatalf("%d limits, %v", len(all), err)
	}
	for _, l := range all {
		if (l.Name == limit.Read) != (l.By == boss.User) || l.Rate != s.Limits.Rate(l.Name) {
			t.Errorf("%+v", l)
		}
	}
	l, err := s.Reset(ctx, limit.Read)
	if err != nil || l.Rate.String() != "100/s" || !l.At.IsZero() || s.Limits.Rate(limit.Read).String() != "100/s" {
		t.Fatalf("%+v, %v", l, err)
	}
	if _, err := s.Reset(ctx, limit.Read); err != nil {
		t.Error(err)
	}
	want := []line{
		{"limit.set", `{"limit":"read","rate":"100/s"}`, `{"limit":"read","rate":"5/d"}`},
		{"limit.reset", `{"limit":"read","rate":"5/d"}`, `{"limit":"read","rate":"100/s"}`},
	}
	if fmt.Sprint(h.trail) != fmt.Sprint(want) {
		t.Errorf("trail %v, want %v", h.trail, want)
	}
}

func TestRefusals(t *testing.T) {
	h := newTown(t)
	s := h.node(t, false)
	for _, c := range []struct {
		who  levee.Actor
		n    limit.Name
		r    limit.Rate
		want levee.Code
	}{
		{levee.Actor{}, limit.Read, rate(t, "5/d"), levee.CodeUnauthenticated},
		{boss, limit.None, rate(t, "5/d"), levee.CodeInvalid},
		{boss, limit.Name(200), rate(t, "5/d"), levee.CodeInvalid},
		{boss, limit.Read, limit.Rate{Count: -5, Per: time.Second}, levee.CodeInvalid},
	} {
		ctx := levee.WithActor(t.Context(), c.who)
		if _, err := s.Set(ctx, c.n, c.r, nil); levee.CodeOf(err) != c.want {
			t.Errorf("%v set %v: %v, want %s", c.who, c.n, err, c.want)
		}
		if c.who != boss {
			if _, err := s.List(ctx); levee.CodeOf(err) != c.want {
				t.Errorf("list: %v", err)
			}
			if _, err := s.Reset(ctx, c.n); levee.CodeOf(err) != c.want {
				t.Errorf("reset: %v", err)
			}
		}
	}
	// What cannot be recorded is not done.
	h.fail = levee.E(levee.CodeUnavailable, "no ink")
	if _, err := s.Set(levee.WithActor(t.Context(), boss), limit.Read, rate(t, "5/d"), nil); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Error(err)
	}
	if err := s.Warm(t.Context()); err != nil || s.Limits.Rate(limit.Read).String() != "100/s" {
		t.Errorf("%v, and the rate is %v", err, s.Limits.Rate(limit.Read))
	}
	if len(h.trail) != 0 {
		t.Errorf("trail %v", h.trail)
	}
}

// Every node follows within a second: at once by the bell, and by itself when no ring arrives. Rates that were counted stay counted.
func TestNodesFollow(t *testing.T) {
	h := newTown(t)
	a, b, c := h.node(t, true), h.node(t, true), h.node(t, true)
	if lookEvery > time.Second/2 { // how late a look is beside that is the machine's matter
		t.Errorf("a node looks every %v, want within a second with the time that a look takes", lookEvery)
	}
	alone := h.node(t, false) // the control: a node that does not look knows nothing
	ctx := levee.WithActor(t.Context(), boss)
	for i, deaf := range []bool{false, true, false, true} {
		h.mu.Lock()
		h.deaf = deaf
		h.mu.Unlock()
		r := rate(t, fmt.Sprintf("%d/d", 5+i))
		began := time.Now()
		if _, err := a.Set(ctx, limit.Read, r, nil); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*Service{a, b, c} {
			for s.Limits.Rate(limit.Read) != r {
				if time.Since(began) > 30*time.Second {
					t.Fatalf("deaf %v: a node still goes by %v", deaf, s.Limits.Rate(limit.Read))
				}
				time.Sleep(time.Millisecond)
			}
		}
		t.Logf("deaf %v: the nodes followed after %v", deaf, time.Since(began))
	}
	if alone.Limits.Rate(limit.Read).String() != "100/s" {
		t.Error("a node that neither looks nor listens followed: this test could not find a fault")
	}
}

// What another version wrote does not stop this one, and stays.
func TestUnknownRowsAreLeftAlone(t *testing.T) {
	h := newTown(t)
	err := h.DB.Tx(t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
		for name, r := range map[string]string{"teleport": "5/d", "read": "once in a while", "write": "7/d"} {
			if err := putRate(ctx, tx, h.DB.Dialect(), rateRow{name: name, rate: r, by: 1, at: time.Now()}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s := h.node(t, false)
	if got := s.Limits.Rate(limit.Read).String() + " " + s.Limits.Rate(limit.Write).String(); got != "100/s 7/d" {
		t.Error(got)
	}
	if rows, err := readRates(t.Context(), h.DB.Query); err != nil || len(rows) != 3 {
		t.Errorf("%v, %v", rows, err)
	}
}
