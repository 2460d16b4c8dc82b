package lock

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

func openLocks(t testing.TB) *Locks {
	t.Helper()
	l, err := Open(Config{}, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestNamesAndBounds(t *testing.T) {
	l := openLocks(t)
	for _, name := range []string{"a", "order/7:pay", "x", strings.Repeat("n", 190), "~!@#$%^&*()[];'\"\\|<>,.?`"} {
		s, err := l.TryAcquire(t.Context(), name)
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		release(t, s)
	}
	for _, name := range []string{"", " ", "a b", "a\n", "a\x00", "a\x7f", "é", "锁", "\xff", "{a}", "a}", "/", strings.Repeat("n", 191), strings.Repeat("n", 1<<20)} {
		_, err := l.TryAcquire(t.Context(), name)
		if levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%.20q: %v", name, err)
		} else if len(err.Error()) > 500 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	}
	many := make([]string, 16)
	for i := range many {
		many[i] = newName()
	}
	for what, opt := range map[string]Option{
		"no ttl": TTL(0), "negative ttl": TTL(-time.Second), "short ttl": TTL(ttlMin - 1), "long ttl": TTL(ttlMax + 1),
		"no hold": MaxHold(0), "negative hold": MaxHold(-1), "long hold": MaxHold(holdMax + 1),
		"no permits": Permits(0), "negative permits": Permits(-5), "many permits": Permits(1001), "bad name": And("a b"), "many names": And(many...),
	} {
		if _, err := l.Acquire(t.Context(), "a", opt); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, opt := range []Option{TTL(ttlMin), TTL(ttlMax), MaxHold(ttlMin), MaxHold(holdMax), Permits(1), Permits(1000), Shared(), And(), And(many[:15]...)} {
		s, err := l.TryAcquire(t.Context(), "a", opt)
		if err != nil {
			t.Errorf("%+v: %v", opt, err)
			continue
		}
		release(t, s)
	}
	for _, cfg := range []Config{{TTL: -1}, {TTL: time.Millisecond}, {TTL: 2 * time.Hour}, {MaxHold: -1}, {MaxHold: 1000 * time.Hour}} {
		if _, err := Open(cfg, obs.Test(t)); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// slow is a driver whose store answers as a test wants, on virtual time.
type slow struct {
	*memory
	renewed func() (time.Duration, error)
	renews  int
	last    time.Duration // the TTL of the last renewal
	only    string        // the name that errors are for
}

func (s *slow) acquire(ctx context.Context, r *request) (grant, error) {
	g, err := s.memory.acquire(ctx, r)
	g.ttl = r.ttl
	return g, err
}

func (s *slow) renew(ctx context.Context, r *request, ttl time.Duration) error {
	s.renews, s.last = s.renews+1, ttl
	d, err := s.renewed()
	if s.only != "" && s.only != r.name {
		err = nil
	}
	select {
	case <-time.After(d):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The watchdog by the second, on virtual time.
func TestWatchdog(t *testing.T) {
	start := func(t *testing.T, s *slow) *Locks {
		s.memory = newMemory()
		l, err := open(Config{TTL: 9 * time.Second, MaxHold: time.Minute}, obs.Test(t), "memory", func(*Locks) (driver, error) { return s, nil })
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	until := 9*time.Second - drift(9*time.Second)
	bubble := func(name string, f func(t *testing.T)) { t.Run(name, func(t *testing.T) { synctest.Test(t, f) }) }
	bubble("the store is silent", func(t *testing.T) {
		s := &slow{renewed: func() (time.Duration, error) { return time.Hour, nil }}
		l := start(t, s)
		defer l.Close()
		began := time.Now()
		lease := acquire(t, l, "a")
		<-lease.Context().Done()
		if d := time.Since(began); d != until {
			t.Errorf("it ended after %v, not %v", d, until)
		}
		_ = lease.Release(t.Context())
	})
	bubble("an answer counts from its question", func(t *testing.T) {
		s := &slow{}
		asked := time.Time{}
		s.renewed = func() (time.Duration, error) {
			if s.renews > 1 {
				return time.Hour, nil
			}
			asked = time.Now()
			return 4 * time.Second, nil
		}
		l := start(t, s)
		defer l.Close()
		lease := acquire(t, l, "a")
		<-lease.Context().Done()
		if d := time.Since(asked); d != until {
			t.Errorf("it ended %v after the question, not %v", d, until)
		}
		_ = lease.Release(t.Context())
	})
	bubble("failures are tried again", func(t *testing.T) {
		s := &slow{}
		s.renewed = func() (time.Duration, error) {
			if s.renews%3 != 0 {
				return 0, errors.New("away")
			}
			return 0, nil
		}
		l := start(t, s)
		defer l.Close()
		lease := acquire(t, l, "a")
		time.Sleep(40 * time.Second)
		if !lease.Held() || lease.Context().Err() != nil {
			t.Error("lost, although every third renewal came through")
		}
		release(t, lease)
		n := s.renews
		time.Sleep(time.Minute)
		if s.renews != n {
			t.Errorf("%d renewals after the release", s.renews-n)
		}
	})
	bubble("MaxHold", func(t *testing.T) {
		s := &slow{renewed: func() (time.Duration, error) { return 0, nil }}
		l := start(t, s)
		defer l.Close()
		began := time.Now()
		lease := acquire(t, l, "a", MaxHold(30*time.Second))
		<-lease.Context().Done()
		if d := time.Since(began); d > 30*time.Second || d < 29*time.Second {
			t.Errorf("it ended after %v, not 30s", d)
		}
		if n := s.renews; n > 12 {
			t.Errorf("%d renewals", n)
		}
		time.Sleep(time.Hour)
		if s.last > 30*time.Second {
			t.Error(s.last)
		}
		if err := lease.Release(t.Context()); !errors.Is(err, ErrLost) {
			t.Error(err)
		}
	})
	bubble("the store says it is lost", func(t *testing.T) {
		s := &slow{only: "a", renewed: func() (time.Duration, error) { return 0, errGone }}
		l := start(t, s)
		defer l.Close()
		began := time.Now()
		lease := acquire(t, l, "a")
		beside := acquire(t, l, "b")
		under, err := l.Acquire(lease.Context(), "c")
		if err != nil {
			t.Fatal(err)
		}
		<-under.Context().Done()
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("told after %v", d)
		}
		if !errors.Is(context.Cause(lease.Context()), ErrLost) || !errors.Is(context.Cause(under.Context()), ErrLost) {
			t.Error(context.Cause(lease.Context()), context.Cause(under.Context()))
		}
		if !beside.Held() || beside.Context().Err() != nil || !under.Held() {
			t.Error("others are lost with it")
		}
		release(t, under)
		release(t, beside)
		if err := lease.Release(t.Context()); !errors.Is(err, ErrLost) {
			t.Error(err)
		}
	})
}

func TestMetrics(t *testing.T) { synctest.Test(t, testMetrics) }

func testMetrics(t *testing.T) {
	o := obs.Test(t)
	l, err := Open(Config{}, o)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := acquire(t, l, "secret-name")
	_, _ = l.TryAcquire(t.Context(), "secret-name")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, _ = l.Acquire(ctx, "secret-name")
	waited := make(chan error, 1)
	go func() { waited <- l.Do(t.Context(), "secret-name", func(context.Context, uint64) error { return nil }) }()
	time.Sleep(20 * time.Millisecond)
	check := func(want map[string]float64) {
		t.Helper()
		for name, v := range want {
			if got := metric(t, o.Metrics, name); got != v {
				t.Errorf("%s is %v, not %v", name, got, v)
			}
		}
	}
	check(map[string]float64{"levee_lock_held_count": 1, "levee_lock_grants_total": 1})
	release(t, s)
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	lost := acquire(t, l, "secret-name", MaxHold(ttlMin))
	<-lost.Context().Done()
	_ = lost.Release(t.Context())
	check(map[string]float64{
		"levee_lock_held_count": 0, "levee_lock_grants_total": 3, "levee_lock_lost_total": 1, "levee_lock_wait_seconds": 1,
		"levee_lock_refused_total/held": 1, "levee_lock_refused_total/timeout": 1,
	})
	families, err := o.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if strings.Contains(f.String(), "secret-name") {
			t.Errorf("%s shows the name of a lock", f.GetName())
		}
	}
}

// metric reads a number: of a histogram its count; after a slash the value of a label.
func metric(t testing.TB, reg *prometheus.Registry, what string) (sum float64) {
	t.Helper()
	name, label, _ := strings.Cut(what, "/")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() != name || label != "" && !strings.Contains(m.String(), `"`+label+`"`) {
				continue
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// tx runs one transaction.
func tx(t testing.TB, d *db.DB, f func(ctx context.Context, tx *db.Tx) error) error {
	t.Helper()
	return d.Tx(t.Context(), "test.step", f)
}

func TestEnter(t *testing.T) {
	d := openDB(t, sqlConfig(t))
	named, other := Named("thing"), Named("other")
	if err := tx(t, d, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO lock_name (name, fence, state) VALUES ('row', 5, 'old')`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	row := Row{Table: "lock_name", Key: "name", Fence: "fence", ID: "row"} // any table with such columns
	enter := func(r Row, fence uint64) error {
		return tx(t, d, func(ctx context.Context, tx *db.Tx) error { return Enter(ctx, tx, r, fence) })
	}
	for _, step := range []struct {
		r     Row
		fence uint64
		code  levee.Code
	}{
		{named, 10, ""}, {named, 10, ""}, {named, 9, levee.CodeConflict}, {named, 11, ""}, {named, 10, levee.CodeConflict}, {other, 1, ""},
		{row, 4, levee.CodeConflict}, {row, 5, ""}, {row, 5, ""}, {row, 8, ""}, {row, 7, levee.CodeConflict},
		{Row{"lock_name", "name", "fence", "none"}, 7, levee.CodeNotFound}, {named, 0, levee.CodeInvalid}, {named, 1 << 63, levee.CodeInvalid}, {named, 1<<63 - 1, ""},
	} {
		if err := enter(step.r, step.fence); levee.CodeOf(err) != step.code || step.code == levee.CodeConflict && !errors.Is(err, ErrFenced) {
			t.Errorf("%v enters %v: %v, not %q", step.fence, step.r.ID, err, step.code)
		}
	}
	write := func(id any, fence uint64, text string) error {
		return tx(t, d, func(ctx context.Context, tx *db.Tx) error {
			return Exec(ctx, tx, Row{"lock_name", "name", "fence", id}, fence, "state = ?", text)
		})
	}
	if err := write("row", 8, "new"); err != nil {
		t.Error(err)
	}
	if err := write("row", 8, "new"); err != nil {
		t.Errorf("a write that changes nothing: %v", err)
	}
	if err := write("row", 7, "stale"); !errors.Is(err, ErrFenced) {
		t.Error(err)
	}
	if err := write("row", 9, "unentered"); !errors.Is(err, ErrFenced) {
		t.Error(err)
	}
	if err := write("none", 9, "x"); levee.CodeOf(err) != levee.CodeNotFound {
		t.Error(err)
	}
	var text string
	if err := d.QueryRow(db.Primary(t.Context()), `SELECT state FROM lock_name WHERE name = 'row'`).Scan(&text); err != nil || text != "new" {
		t.Errorf("%q, %v", text, err)
	}
}

// Many enter a name that nobody has entered, at once: the highest stays.
func TestEnterAtOnce(t *testing.T) {
	d := openDB(t, sqlConfig(t))
	err := crowd(8, func(i int) error {
		err := tx(t, d, func(ctx context.Context, tx *db.Tx) error { return Enter(ctx, tx, Named("hot"), uint64(i+1)) })
		if errors.Is(err, ErrFenced) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var fence int64
	if err := d.QueryRow(db.Primary(t.Context()), `SELECT fence FROM lock_entry WHERE name = 'hot'`).Scan(&fence); err != nil || fence != 8 {
		t.Errorf("fence %d, %v", fence, err)
	}
}

// The fence of SQL rises over everything, also when the fences of Redis fall.
func TestFencesOfSQLAreDurable(t *testing.T) {
	d := openDB(t, sqlConfig(t))
	cfg := redisConfig(t)
	l, err := OpenRedis(Config{}, openClient(t, cfg), d, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	last := uint64(time.Now().Add(time.Hour).UnixMicro()) // of a server whose clock was an hour ahead
	if err := tx(t, d, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, d.Dialect().InsertIgnore("lock_name", "name", "fence", "state"), "a", int64(last), "")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s := acquire(t, l, "a")
		if s.Fence() != last+1 {
			t.Errorf("fence %d after %d", s.Fence(), last)
		}
		last = s.Fence()
		release(t, s)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.TryAcquire(t.Context(), "a"); levee.CodeOf(err) != levee.CodeUnavailable {
		t.Errorf("without the fences: %v", err)
	}
	free, err := OpenRedis(Config{}, openClient(t, cfg), nil, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	release(t, acquire(t, free, "a")) // the place was given back
}

// A thousand readers and the heads of 200 processes fit into a row, at the longest numbers there are.
func TestStateFits(t *testing.T) {
	var s, back state
	for range permitsMax {
		s.entries = append(s.entries, entry{token: newToken(), limit: permitsMax, beat: 1 << 24, ttl: ttlMax, fence: 1<<53 - 1})
	}
	for range 200 {
		s.entries = append(s.entries, entry{waits: true, token: newToken(), limit: permitsMax, beat: 1 << 24, ttl: beatsAlive * beatEvery})
	}
	text := s.String()
	if len(text) > 65_535 {
		t.Errorf("%d bytes", len(text))
	}
	if back.parse(text); !slices.Equal(back.entries, s.entries) {
		t.Error("it is read as another")
	}
}

// Who stood first in a row's queue and died.
func TestDeadWaiterInARow(t *testing.T) {
	d := openDB(t, sqlConfig(t))
	l, err := OpenSQL(Config{}, d, nil, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := acquire(t, l, "a")
	dead := request{name: "a", token: newToken(), limit: 1, ttl: time.Second}
	if f, err := l.driver.(*rows).look(t.Context(), &dead); f != 0 || err != nil {
		t.Fatal(f, err)
	}
	began := time.Now()
	release(t, s)
	release(t, acquire(t, l, "a"))
	if d := time.Since(began); d > (beatsAlive+1)*beatEvery+late {
		t.Errorf("a dead waiter held up the next one for %v", d)
	}
}

// A row that somebody else has written to: what cannot be read is nobody.
func TestForeignState(t *testing.T) {
	d := openDB(t, sqlConfig(t))
	l, err := OpenSQL(Config{}, d, nil, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := tx(t, d, func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO lock_name (name, fence, state) VALUES ('a', 3, 'h x y z
x abc 1 1 1 1
h
h dead 0 1 1 1
h dead 1 1 -1 1')`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s := acquire(t, l, "a")
	if s.Fence() != 4 {
		t.Error(s.Fence())
	}
	release(t, s)
}
