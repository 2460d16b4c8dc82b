package admission

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// While the disk refuses, no number beyond the horizon is given, and nothing that was told becomes untrue; when it takes again,
// those who waited for a number get it in the order in which they came.
func TestDiskAwayGivesNoNumbers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerSecond: 1000})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		r := h.s.roomOf(theSale)
		breakDB(t, h, true)
		for n := range 9000 {
			h.enter(n, "")
		}
		time.Sleep(5 * time.Second)
		r.mu.Lock()
		horizon, next, late := r.q.horizon, r.q.next, len(r.q.late)
		r.mu.Unlock()
		if next > horizon || late != 9000-int(next-1) || late == 0 {
			t.Fatalf("next %d, horizon %d, %d wait for a number", next, horizon, late)
		}
		if p := h.mine(8999); p.Number != 0 || p.Position != 0 || p.Status != Waiting {
			t.Fatalf("%+v", p)
		}
		breakDB(t, h, false)
		time.Sleep(5 * time.Second)
		for n := range 9000 {
			if p := h.mine(n); p.Number != uint32(n+1) {
				t.Fatalf("person %d has the number %d", n, p.Number)
			}
		}
		m, ok, err := h.s.remembered(t.Context(), theSale, time.Now())
		if err != nil || !ok || m.horizon < 9001 || m.given != 9001 {
			t.Fatalf("%+v, %v, %v", m.horizon, ok, err)
		}
	})
}

// breakDB makes every write of the room fail, or not: the table is gone under another name.
func breakDB(t *testing.T, h *hall, away bool) {
	t.Helper()
	from, to := "admission_room", "admission_away"
	if !away {
		from, to = to, from
	}
	err := h.DB.Tx(t.Context(), "test.break", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, "ALTER TABLE "+from+" RENAME TO "+to)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Rows of a sale whose process did not live to forget it are deleted a day after its end; those of others are not.
func TestPrune(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{})
		h.enter(1, "")
		old := levee.SaleID(99)
		row := savedRow{order: OrderArrival, horizon: 5, given: 5, drawn: 2, ends: time.Now().Add(-25 * time.Hour).UnixMicro()}
		if err := h.s.saveRow(t.Context(), old, row, map[uint32][]uint64{0: {1, 2}}); err != nil {
			t.Fatal(err)
		}
		if err := h.s.saveLots(t.Context(), old, []lot{{lot: 1}, {lot: 2}}); err != nil {
			t.Fatal(err)
		}
		if m, ok, err := h.s.remembered(t.Context(), old, time.Now()); err != nil || !ok || len(m.lots) != 2 || m.done[0][1] != 2 {
			t.Fatalf("%+v %v %v", m, ok, err)
		}
		recent := levee.SaleID(98)
		row.ends = time.Now().Add(-time.Hour).UnixMicro()
		if err := h.s.saveRow(t.Context(), recent, row, nil); err != nil {
			t.Fatal(err)
		}
		h.restart() // prunes when it starts
		time.Sleep(time.Second)
		synctest.Wait()
		for sale, want := range map[levee.SaleID]bool{old: false, recent: true, theSale: true} {
			row := h.DB.QueryRow(t.Context(), "SELECT (SELECT COUNT(*) FROM admission_room WHERE sale_id=?)", int64(sale))
			var n int
			if err := row.Scan(&n); err != nil || (n == 1) != want {
				t.Errorf("sale %d has %d rows, %v", sale, n, err)
			}
		}
		var lots int
		if err := h.DB.QueryRow(t.Context(), "SELECT COUNT(*) FROM admission_lot").Scan(&lots); err != nil || lots != 0 {
			t.Errorf("%d rows of lots, %v", lots, err)
		}
	})
}

// A line of many blocks of lots and done numbers comes back whole.
func TestLargeRoomsComeBack(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const people = 70_000 // over one transaction of lots, and over eight blocks of done numbers
		h := hallOf(t, Policy{Order: OrderRandom, PerSecond: 20_000})
		for n := range people {
			h.enter(n, "")
		}
		h.toOpening()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		served := h.s.Numbers(theSale).Served
		numbers := map[int]uint32{}
		for n := range people {
			numbers[n] = h.mine(n).Number // all whose turn has come pick up
		}
		h.restart()
		r := h.s.roomOf(theSale)
		r.mu.Lock()
		q := r.q
		if q.drawn != people || len(q.lotsDrawn) != people || q.ghosts != people-int(q.served) || int64(q.served) < served {
			t.Errorf("drawn %d, lots %d, ghosts %d, served %d of %d", q.drawn, len(q.lotsDrawn), q.ghosts, q.served, served)
		}
		r.mu.Unlock()
		for n := 0; n < people; n += 997 {
			p := h.enter(n, "")
			if had := numbers[n] <= uint32(served); had == (p.Number == numbers[n]) {
				t.Fatalf("person %d had the number %d (served %d) and got %d", n, numbers[n], served, p.Number)
			}
		}
	})
}

// A sale that is over costs no memory, and if its end is moved after all, its line stands as it stood.
func TestPlacesEndWithTheSale(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{PerSecond: 1}, func(h *hall) { h.w.Ends = h.w.Opens.Add(time.Hour); h.config.KeepFor = 3 * time.Hour })
		tickets := map[int]string{}
		for n := range 5000 {
			h.enter(n, "")
		}
		time.Sleep(time.Second)
		for n := range 5000 {
			tickets[n] = h.mine(n).Ticket
		}
		time.Sleep(time.Until(h.w.Ends) + 5*time.Minute)
		if n := h.s.Numbers(theSale); n.Waiting < 1000 || n.Served < 3500 {
			t.Fatalf("shortly after the end %+v", n)
		}
		time.Sleep(7 * time.Minute)
		r := h.s.roomOf(theSale)
		r.mu.Lock()
		kept := r.q != nil
		r.mu.Unlock()
		if kept {
			t.Fatal("the places of a sale that is over are in memory")
		}
		h.wantCode(h.enterErr(1, Visit{}), levee.CodeEnded)
		h.w.Ends = time.Now().Add(2 * time.Hour)
		h.s.Follow(h.w)
		h.ready()
		if p := h.enter(4500, tickets[4500]); p.Number != 4501 {
			t.Fatalf("%+v", p)
		}
		if p := h.enter(9999, ""); p.Number <= 5000 {
			t.Fatalf("%+v", p)
		}
		time.Sleep(27 * time.Hour)
		var rows int
		if err := h.DB.QueryRow(t.Context(), "SELECT COUNT(*) FROM admission_room").Scan(&rows); err != nil || rows != 0 {
			t.Fatalf("a day after its end %d rows are kept of it, %v", rows, err)
		}
	})
}
