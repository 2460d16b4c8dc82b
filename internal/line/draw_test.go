package line

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
	"levee/internal/sale"
)

// text reads one of a draw's texts as a reader over HTTP gets it.
func (h *house) text(t testing.TB, v *sale.Sale, kind int) (all []byte) {
	t.Helper()
	for part := 0; ; part++ {
		body, more, err := textAt(t.Context(), h.DB, v.ID, kind, part)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return all
		}
		all = append(all, body...)
	}
}

// published is what the world sees of a draw.
func (h *house) published(t testing.TB, v *sale.Sale) Published {
	t.Helper()
	d, err := h.lines.drawOfSale(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	return Published{Draw: document(h.lines.drawView(v, d)), Entries: h.text(t, v, textEntries), Results: h.text(t, v, textResults)}
}

func (h *house) verifies(t testing.TB, v *sale.Sale, seedHash string) Published {
	t.Helper()
	p := h.published(t, v)
	if bad := problems(Verify(p, Expect{Sale: h.sales.PublicID(v.ID), SeedHash: seedHash})); bad != nil {
		t.Fatalf("the draw does not verify: %v", bad)
	}
	return p
}

func (h *house) tick(t testing.TB) {
	t.Helper()
	if err := h.lines.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestDraw is the life of a draw: seed, entries, closing, result, offers, and the line behind the winners.
func TestDraw(t *testing.T) {
	h := newHouse(t)
	v := h.open(t, 5, 2, draws(h, time.Hour), func(s *sale.Terms) { s.StartsAt = h.clock.Now().Add(time.Minute) })
	h.settled(t) // the sale's event gives it its seed
	d, err := h.lines.drawOfSale(t.Context(), v)
	if err != nil || !isHash(d.hash) || d.seed != "" {
		t.Fatalf("before the entries the draw is %+v (%v)", d, err)
	}
	if view := h.lines.drawView(v, d); view.State != drawPlanned || view.Seed != nil || view.SeedHash != d.hash || view.Units != 5 {
		t.Fatalf("before the entries the world sees %+v", view)
	}
	_, err = h.join(v, 1, 1)
	wantCode(t, err, levee.CodeNotOpen)
	h.clock.Step(2 * time.Minute)
	if err := h.sales.BuyFor(t.Context(), v.ID, buyer(1), 1, "x"); levee.CodeOf(err) != levee.CodeDrawOnly {
		t.Fatalf("buying in a draw: %v", err)
	}
	for n := 1; n <= 12; n++ {
		h.joins(t, v, n, 1+int32(n%2))
	}
	if err := h.lines.Leave(t.Context(), v.ID, buyer(12).User); err != nil {
		t.Fatal(err)
	}
	view := h.lines.view(h.mine(t, v, 3), false)
	if view.Status != "entered" || view.Position != nil || view.Rank != nil || view.Waiting != 11 {
		t.Fatalf("who entered sees %+v", view)
	}
	h.tick(t)
	h.is(t, v, 3, StateEntered)
	h.clock.Step(time.Hour)
	_, err = h.join(v, 20, 1)
	wantCode(t, err, levee.CodeEntriesClosed)
	h.tick(t)
	h.settled(t)
	p := h.verifies(t, v, d.hash)
	h.holds(t, v)

	// Who won was offered exactly what the results say; nobody else anything.
	results := strings.Split(strings.TrimSpace(string(p.Results)), "\n")
	if len(results) != 11 {
		t.Fatalf("%d results of 11 entries", len(results))
	}
	byEntry, given := map[string]int{}, int32(0)
	for n := 1; n <= 11; n++ {
		byEntry[h.lines.entryRef(h.mine(t, v, n).ID)] = n
	}
	var losers []int
	for rank, line := range results {
		var r, won int
		var entry string
		if _, err := fmt.Sscanf(line, "%d %s %d", &r, &entry, &won); err != nil || r != rank+1 {
			t.Fatalf("line %q: %v", line, err)
		}
		e := h.mine(t, v, byEntry[entry])
		if int(e.Place) != r || int(e.Given) != won || (won > 0) != (e.State == StateOffered) {
			t.Fatalf("the entry of rank %d is %+v, it won %d", r, e, won)
		}
		given += e.Given
		if won == 0 {
			losers = append(losers, byEntry[entry])
		}
	}
	if given != 5 {
		t.Fatalf("%d units were given of 5", given)
	}
	if view := h.lines.view(h.mine(t, v, losers[1]), false); view.Position == nil || *view.Position != 2 || *view.Rank != h.mine(t, v, losers[1]).Place {
		t.Fatalf("the second who did not win sees %+v", view)
	}
	// A winner who gives up at once makes room for the next in line, in the same moment.
	var winner Entry
	for _, n := range byEntry {
		if e := h.mine(t, v, n); e.State == StateOffered && e.Given == 1 {
			winner = e
		}
	}
	h.cancel(t, winner.Order(), levee.Actor{User: winner.Buyer, Roles: levee.RoleCustomer})
	h.is(t, v, losers[0], StateOffered)
	h.settled(t)
	h.holds(t, v)
	// The published results do not change by that.
	after := h.verifies(t, v, d.hash)
	if string(after.Results) != string(p.Results) || string(after.Entries) != string(p.Entries) {
		t.Fatal("the published texts changed")
	}
	// The seed was nowhere in the open before, and its sealed form does not hold it.
	if strings.Contains(d.sealed, *seedOf(t, after)) {
		t.Fatal("the seed was kept in the open")
	}
	// A second tick, and a second process, draw nothing anew.
	h.start(t)
	h.tick(t)
	if again := h.published(t, v); string(again.Draw) != string(after.Draw) || string(again.Results) != string(after.Results) {
		t.Fatal("it was drawn twice")
	}
	h.holds(t, v)
}

func seedOf(t testing.TB, p Published) *string {
	t.Helper()
	var d drawView
	if err := json.Unmarshal(p.Draw, &d); err != nil || d.Seed == nil {
		t.Fatalf("there is no seed: %v", err)
	}
	return d.Seed
}

// TestDrawEmptyAndSmall: nobody entered, and fewer entered than there are units.
func TestDrawEmptyAndSmall(t *testing.T) {
	for _, n := range []int{0, 3} {
		h := newHouse(t)
		v := h.open(t, 10, 1, draws(h, time.Minute))
		h.settled(t)
		for i := range n {
			h.joins(t, v, i, 1)
		}
		h.clock.Step(2 * time.Minute)
		h.tick(t)
		p := h.verifies(t, v, "")
		if lines := strings.Count(string(p.Results), "\n"); lines != n {
			t.Fatalf("%d results of %d entries", lines, n)
		}
		for i := range n {
			h.is(t, v, i, StateOffered)
		}
		h.holds(t, v)
	}
}

// TestDrawEnded: a sale that is ended before its draw is not drawn, and its seed stays closed.
func TestDrawEnded(t *testing.T) {
	h := newHouse(t)
	v := h.open(t, 10, 1, draws(h, time.Minute))
	h.joins(t, v, 1, 1)
	h.act(t, v, "end", 0)
	h.clock.Step(2 * time.Minute)
	h.tick(t)
	h.settled(t)
	h.is(t, v, 1, StateOver)
	ended, err := h.sales.ByID(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	d, err := h.lines.drawOfSale(t.Context(), ended)
	if err != nil || d.seed != "" || d.state != drawTaking {
		t.Fatalf("the draw is %+v (%v)", d, err)
	}
	if view := h.lines.drawView(ended, d); view.State != drawClosed || view.Seed != nil {
		t.Fatalf("the world sees %+v", view)
	}
}

// TestDrawPaused: a pause at the time of the draw does not stop the draw, but its offers.
func TestDrawPaused(t *testing.T) {
	h := newHouse(t)
	v := h.open(t, 1, 1, draws(h, time.Minute))
	h.joins(t, v, 1, 1)
	h.act(t, v, "pause", 0)
	_, err := h.join(v, 2, 1)
	wantCode(t, err, levee.CodePaused)
	h.clock.Step(2 * time.Minute)
	h.tick(t)
	h.verifies(t, v, "")
	h.is(t, v, 1, StateWaiting)
	h.act(t, v, "resume", 0)
	h.is(t, v, 1, StateOffered)
	h.holds(t, v)
}

// killed is how a test ends a run in the middle.
type killed struct{ step string }

// runAndKill moves the draw on and kills it at the nth step it comes to; done is false if it was killed there.
func (h *house) runAndKill(t testing.TB, n int) (step string, done bool) {
	t.Helper()
	count := 0
	return h.runUntil(t, func(string) bool { count++; return count == n })
}

// runUntil moves the draw on and kills it at a step.
func (h *house) runUntil(t testing.TB, kill func(step string) bool) (step string, done bool) {
	t.Helper()
	h.lines.fault = func(name string) error {
		if kill(name) {
			panic(killed{name})
		}
		return nil
	}
	defer func() {
		h.lines.fault = nil
		switch p := recover().(type) {
		case nil:
		case killed:
			step = p.step
		default:
			panic(p)
		}
	}()
	h.tick(t)
	return "", true
}

// TestDrawKilled kills the process at every step of a draw in turn, starts it again, and compares with a draw that nobody disturbed:
// same digests, same results, same offers to the same people, nobody twice.
func TestDrawKilled(t *testing.T) {
	old := t.TempDir()
	platformtest.Hold(t, old, houseSchemas()...)
	var now time.Time
	var v *sale.Sale
	const n = 1200 // three transactions of ranks
	t.Run("entries", func(t *testing.T) {
		h := openHouse(t, old, time.Now())
		v = h.open(t, 700, 2, draws(h, time.Hour))
		h.settled(t)
		h.enter(t, v, n)
		h.clock.Step(time.Hour)
		now = h.clock.Now()
	})
	outcome := func(t *testing.T, h *house) string {
		h.holds(t, v)
		p := h.verifies(t, v, "")
		all, err := entries(t.Context(), h.DB, "sale_id=? ORDER BY place", v.ID)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, e := range all {
			fmt.Fprintf(&b, "%d %d %s %d\n", e.Place, e.ID, e.State, e.Given)
		}
		return string(p.Entries) + string(p.Results) + b.String()
	}
	want := ""
	seen := map[string]bool{}
	for at := 0; ; at++ {
		last := false
		t.Run(fmt.Sprintf("step %d", at), func(t *testing.T) {
			dir := t.TempDir()
			copyFolder(t, old, dir)
			platformtest.CopyDatabase(t, obs.Test(t), old, dir, houseSchemas()...)
			h := openHouse(t, dir, now)
			step, done := h.runAndKill(t, at) // at 0: nobody disturbs it
			if last = done && at > 0; last {
				return
			}
			seen[step] = true
			if at > 0 && at%3 == 0 { // sometimes it dies in the second run, too
				h.start(t)
				h.runAndKill(t, 2)
			}
			h.start(t)
			h.tick(t)
			h.settled(t)
			got := outcome(t, h)
			if at == 0 {
				want = got
			} else if got != want {
				t.Fatalf("killed at %q, the draw came out otherwise", step)
			}
		})
		if last || t.Failed() {
			break
		}
	}
	for _, step := range []string{"draw.freezing", "draw.frozen", "draw.list_written", "draw.ranks", "draw.ranked", "draw.results_written",
		"draw.publishing", "draw.published", "give.granted", "give.written"} {
		if !seen[step] {
			t.Errorf("the draw was never killed at %s", step)
		}
	}
}

// enter lets n buyers enter in few transactions.
func (h *house) enter(t testing.TB, v *sale.Sale, n int) {
	t.Helper()
	for first := 0; first < n; first += 500 {
		err := h.DB.Tx(t.Context(), "test.enter", func(ctx context.Context, tx *db.Tx) error {
			for i := first; i < min(first+500, n); i++ {
				if _, err := h.lines.JoinTx(ctx, tx, v.ID, buyer(i), 1+int32(i)%v.PerBuyer); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func copyFolder(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		body, err := os.ReadFile(name)
		return errors.Join(err, os.WriteFile(filepath.Join(to, rel), body, 0o644))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDrawSecret: between the first rank that is written and the results nobody has a place, nothing is given, and nobody leaves;
// and units that come meanwhile go to those behind the winners, who get exactly what the results say.
func TestDrawSecret(t *testing.T) {
	h := newHouse(t)
	v := h.open(t, 4, 3, draws(h, time.Minute))
	h.enter(t, v, 9) // quantities 1, 2, 3, …
	h.clock.Step(2 * time.Minute)
	if _, done := h.runUntil(t, func(step string) bool { return step == "draw.ranked" }); done {
		t.Fatal("the draw is over before it was stopped")
	}
	look := func() {
		t.Helper()
		view := h.lines.view(h.is(t, v, 1, StateWaiting), false)
		if view.Status != "entered" || view.Rank != nil || view.Position != nil || view.Waiting != 9 {
			t.Fatalf("before the results somebody sees %+v", view)
		}
		wantCode(t, h.lines.Leave(t.Context(), v.ID, buyer(1).User), levee.CodeEntriesClosed)
	}
	look()
	h.act(t, v, "top_up", 2)
	look()
	h.start(t)
	look()
	h.tick(t)
	h.settled(t)
	p := h.verifies(t, v, "")
	given := int32(0)
	for n := range 9 {
		e := h.mine(t, v, n)
		_, won, _ := ResultOf(p.Results, h.lines.entryRef(e.ID))
		if given += e.Given; won > 0 && int64(e.Given) != won {
			t.Fatalf("rank %d won %d and got %d", e.Place, won, e.Given)
		}
	}
	if given != 6 {
		t.Fatalf("%d of 6 units were given", given)
	}
	h.holds(t, v)
}

// TestDrawTampered: a draw over rows that do not fit what was counted or published stops instead of drawing something else.
func TestDrawTampered(t *testing.T) {
	h := newHouse(t)
	v := h.open(t, 3, 1, draws(h, time.Minute))
	h.enter(t, v, 10)
	h.clock.Step(2 * time.Minute)
	h.runUntil(t, func(step string) bool { return step == "draw.ranks" })
	d, _, err := drawOf(t.Context(), h.DB, v.ID)
	if err != nil || d.state != drawListed {
		t.Fatalf("the draw is %+v (%v)", d, err)
	}
	h.start(t)
	first := h.mine(t, v, 0)
	change := func(query string, args ...any) {
		t.Helper()
		if err := h.DB.Tx(t.Context(), "test.change", func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, query, args...)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	change("UPDATE line_entry SET quantity=2 WHERE id=?", first.ID)
	if err := h.lines.runDraw(t.Context(), v.ID); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Fatalf("over a changed row: %v", err)
	}
	change("UPDATE line_entry SET quantity=1 WHERE id=?", first.ID)
	change("UPDATE line_draw SET seed_sealed='00' WHERE sale_id=?", v.ID)
	if err := h.lines.runDraw(t.Context(), v.ID); err == nil || !strings.Contains(err.Error(), "does not open") {
		t.Fatalf("with another seed: %v", err)
	}
	change("UPDATE line_draw SET seed_sealed=? WHERE sale_id=?", d.sealed, v.ID)
	change("DELETE FROM line_entry WHERE id=?", first.ID)
	if err := h.lines.runDraw(t.Context(), v.ID); err == nil || !strings.Contains(err.Error(), "counted 10") {
		t.Fatalf("over a missing row: %v", err)
	}
}

// TestDrawIsLarge draws among 3,000 or 100,000 entries and measures it. The writer must stay free for others: the longest transaction of
// somebody who writes all the time is looked at. Run with LEVEE_LARGE=1 for all of them.
func TestDrawIsLarge(t *testing.T) {
	n := 3000
	if os.Getenv("LEVEE_LARGE") != "" {
		n = 100_000
	}
	h := newHouse(t)
	v := h.open(t, int64(n/20), 2, draws(h, time.Hour))
	h.settled(t)
	began := time.Now()
	h.enter(t, v, n)
	t.Logf("%d entries in %v", n, time.Since(began))
	h.clock.Step(time.Hour)
	var waits []time.Duration
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			began := time.Now()
			_ = h.DB.Tx(context.Background(), "test.other", func(context.Context, *db.Tx) error { return nil })
			waits = append(waits, time.Since(began))
			time.Sleep(time.Millisecond)
		}
	}()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	began = time.Now()
	h.tick(t)
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	close(stop)
	<-done
	slices.Sort(waits)
	t.Logf("drawn and offered in %v; allocated %d MB; others waited %v at most, %v in the middle, %d times", took,
		(after.TotalAlloc-before.TotalAlloc)>>20, waits[len(waits)-1], waits[len(waits)/2], len(waits))
	if longest := waits[len(waits)-1]; longest > 10*time.Second { // figures are in the log; on a busy machine they say little
		t.Errorf("somebody waited %v for the writer", longest)
	}
	h.verifies(t, v, "")
	if w, o := h.lines.Numbers(v.ID); w+o != int64(n) || o == 0 {
		t.Fatalf("%d wait and %d have offers of %d", w, o, n)
	}
	began = time.Now()
	const asks = 1000
	for i := range asks {
		e := h.mine(t, v, i*(n/asks))
		h.lines.view(e, false)
	}
	t.Logf("a position takes %v", time.Since(began)/asks)
	began = time.Now()
	var one int
	if err := h.DB.QueryRow(t.Context(), "SELECT COUNT(*) FROM line_entry WHERE sale_id=? AND state=? AND place<?", v.ID, StateWaiting, n).Scan(&one); err != nil {
		t.Fatal(err)
	}
	t.Logf("counting %d by the index instead takes %v", one, time.Since(began))
}
