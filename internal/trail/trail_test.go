package trail

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

type house struct {
	*Service
	*platformtest.Platform
	t    *testing.T
	boss context.Context
}

func newHouse(t *testing.T) *house {
	p := platformtest.New(t, Schema())
	h := &house{Platform: p, t: t, boss: levee.WithActor(t.Context(), levee.Actor{User: 7, Roles: levee.RoleAdministrator})}
	h.Service = New(Deps{DB: p.DB, IDs: p.IDs, Sealer: p.Sealer, Obs: p.Obs, Key: platformtest.Key(5)})
	return h
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) wantCode(err error, code levee.Code) {
	h.t.Helper()
	if got := levee.CodeOf(err); got != code {
		h.t.Fatalf("got code %q (%v), want %q", got, err, code)
	}
}

// tell records n acts in one transaction each.
func (h *house) tell(n int) {
	h.t.Helper()
	for i := range n {
		h.must(h.Record(h.boss, Act{Action: "test.done", Kind: levee.KindUser, Subject: 9, Before: map[string]int{"n": i},
			After: "1 < 2 & 中文", Address: netip.MustParseAddr("192.0.2.7"), RequestID: "req-1"}))
	}
}

// blocks tells and seals n blocks of m entries each.
func (h *house) blocks(n, m int) {
	h.t.Helper()
	for range n {
		h.tell(m)
		h.must(h.Seal(h.boss))
	}
}

// verified goes through the whole chain.
func (h *house) verified(pin Pin) (v Verified) {
	h.t.Helper()
	var all []Problem
	entries := int64(0)
	for after := int64(0); ; after = v.To {
		var err error
		v, err = h.Verify(h.boss, after, pin)
		h.must(err)
		all, entries = append(all, v.Problems...), entries+v.Entries
		if v.Done {
			v.Problems, v.Entries = all, entries
			return v
		}
	}
}

func (h *house) sql(query string, args ...any) {
	h.t.Helper()
	h.must(h.DB().Tx(h.t.Context(), "test", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, query, args...)
		return err
	}))
}

func (h *house) DB() *db.DB { return h.Platform.DB }

func TestActsAreKeptWithWhatTheyTell(t *testing.T) {
	h := newHouse(t)
	undone := levee.E(levee.CodeConflict, "no")
	act := Act{Action: "test.done", Kind: levee.KindUser, Subject: 1, After: map[string]int{"a": 1}}
	h.wantCode(h.DB().Tx(h.boss, "test", func(ctx context.Context, tx *db.Tx) error {
		if err := h.RecordTx(ctx, tx, act); err != nil {
			return err
		}
		return undone
	}), levee.CodeConflict)
	h.wantCode(h.Record(h.boss, Act{Action: "", After: "x"}), levee.CodeInvalid)
	h.wantCode(h.Record(h.boss, Act{Action: strings.Repeat("x", 191)}), levee.CodeInvalid)
	h.must(h.Record(h.boss, act))
	list, more, err := h.List(h.boss, Filter{})
	if err != nil || more || len(list) != 1 || list[0].After != `{"a":1}` || list[0].Times != 1 || list[0].Seq != 0 || list[0].Actor != 7 {
		t.Errorf("%+v, %v, %v", list, more, err)
	}
}

// A state that is too long is told by its beginning, its length and its hash: it keeps nobody from his work.
func TestLongStates(t *testing.T) {
	h := newHouse(t)
	long := strings.Repeat("\u6c34\"", 5000)
	h.must(h.Record(h.boss, Act{Action: "test.done", After: long}))
	list, _, err := h.List(h.boss, Filter{})
	h.must(err)
	whole, _ := json.Marshal(long)
	var told struct {
		CutTo  string `json:"cut_to"`
		Bytes  int
		SHA256 string
	}
	if err := json.Unmarshal([]byte(list[0].After), &told); err != nil || len(list[0].After) > 2*maxState || told.Bytes != len(whole) ||
		told.SHA256 != fmt.Sprintf("%x", sha256.Sum256(whole)) || len(told.CutTo) < 1000 || !strings.HasPrefix(string(whole), told.CutTo) {
		t.Errorf("%d bytes of %d: %v, %.100s", len(list[0].After), len(whole), err, list[0].After)
	}
}

func TestFilters(t *testing.T) {
	h := newHouse(t)
	start := h.Obs().Clock()
	for i, a := range []Act{
		{Action: "user.disabled", Kind: levee.KindUser, Subject: 5, Address: netip.MustParseAddr("192.0.2.1")},
		{Action: "user.enabled", Kind: levee.KindUser, Subject: 6, Address: netip.MustParseAddr("::ffff:192.0.2.2")},
		{Action: "username.changed", Kind: levee.KindSale, Subject: 5, Address: netip.MustParseAddr("2001:db8::1")},
	} {
		ctx := levee.WithActor(t.Context(), levee.Actor{User: levee.UserID(i)}) // 0: a visitor, 1: the system
		h.must(h.Record(ctx, a))
	}
	for _, c := range []struct {
		f    Filter
		want string
	}{
		{Filter{}, "username.changed user.enabled user.disabled"},
		{Filter{Action: "user."}, "user.enabled user.disabled"},
		{Filter{Action: "user.e"}, "user.enabled"},
		{Filter{Visitors: true}, "user.disabled"},
		{Filter{Actor: levee.System.User}, "user.enabled"},
		{Filter{Kind: levee.KindUser, Subject: 5}, "user.disabled"},
		{Filter{Kind: levee.KindSale, Subject: 5}, "username.changed"},
		{Filter{Address: "192.0.2.2"}, "user.enabled"},
		{Filter{From: start.Add(-time.Hour), Before: start.Add(time.Hour)}, "username.changed user.enabled user.disabled"},
		{Filter{From: start.Add(time.Hour)}, ""},
		{Filter{Before: start.Add(-time.Hour)}, ""},
		{Filter{Action: "%"}, ""},
	} {
		list, _, err := h.List(h.boss, c.f)
		h.must(err)
		var got []string
		for _, e := range list {
			got = append(got, e.Action)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v gave %v, want %q", c.f, got, c.want)
		}
	}
}

// Whoever changes the tables by hand is found out, whatever he does; the intact chain is the control.
func TestTamperingShows(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(h *house)
		want string // of a problem; "" for none
		pin  bool   // found only with a pin
	}{
		"nothing":             {func(h *house) {}, "", false},
		"before changed":      {func(h *house) { h.sql(`UPDATE trail_entry SET before_state = '{}' WHERE seq = 4`) }, "entry was changed", false},
		"actor changed":       {func(h *house) { h.sql(`UPDATE trail_entry SET actor_id = 8 WHERE seq = 4`) }, "entry was changed", false},
		"action changed":      {func(h *house) { h.sql(`UPDATE trail_entry SET action = 'x' WHERE seq = 4`) }, "entry was changed", false},
		"time changed":        {func(h *house) { h.sql(`UPDATE trail_entry SET at = at - 1 WHERE seq = 4`) }, "entry was changed", false},
		"count changed":       {func(h *house) { h.sql(`UPDATE trail_entry SET times = 2 WHERE seq = 4`) }, "entry was changed", false},
		"address changed":     {func(h *house) { h.sql(`UPDATE trail_entry SET address = '192.0.2.8' WHERE seq = 4`) }, "entry was changed", false},
		"subject changed":     {func(h *house) { h.sql(`UPDATE trail_entry SET subject_id = 10 WHERE seq = 4`) }, "entry was changed", false},
		"kind changed":        {func(h *house) { h.sql(`UPDATE trail_entry SET subject_kind = 8 WHERE seq = 4`) }, "entry was changed", false},
		"request changed":     {func(h *house) { h.sql(`UPDATE trail_entry SET request_id = 'r' WHERE seq = 4`) }, "entry was changed", false},
		"deleted":             {func(h *house) { h.sql(`DELETE FROM trail_entry WHERE seq = 4`) }, "places 4 to 4 are empty", false},
		"a block's deleted":   {func(h *house) { h.sql(`DELETE FROM trail_entry WHERE seq >= 4 AND seq <= 6`) }, "places 4 to 6 are empty", false},
		"last deleted":        {func(h *house) { h.sql(`DELETE FROM trail_entry WHERE seq = 9`) }, "places 9 to 9 are empty", false},
		"deleted, closed up":  {func(h *house) { h.closeUp(4) }, "do not lead to the head", false},
		"swapped":             {func(h *house) { h.swap(4, 5) }, "do not lead to the head", false},
		"swapped over blocks": {func(h *house) { h.swap(3, 4) }, "do not lead to the head", false},
		"a copy put in":       {func(h *house) { h.forge(1, 999, nil) }, "waits for its place, was changed", false},
		"a block removed":     {func(h *house) { h.sql(`DELETE FROM trail_block WHERE first_seq = 4`) }, "in no block", false},
		"first block removed": {func(h *house) { h.sql(`DELETE FROM trail_block WHERE first_seq = 1`) }, "in no block", false},
		"a block's head":      {func(h *house) { h.sql(`UPDATE trail_block SET head = mark WHERE first_seq = 4`) }, "not written so by the house", false},
		"said to be dropped": {func(h *house) {
			h.sql(`DELETE FROM trail_entry WHERE seq <= 3`)
			h.sql(`UPDATE trail_block SET dropped = 1 WHERE first_seq = 1`)
		}, "was not written by the house", false},
		"the last block removed": {func(h *house) { h.sql(`DELETE FROM trail_block WHERE first_seq = 7`) }, "its end was cut off", false},
		"the end cut off": {func(h *house) {
			h.sql(`DELETE FROM trail_block WHERE first_seq = 7`)
			h.sql(`DELETE FROM trail_entry WHERE seq >= 7`)
		}, "its end was cut off", true},
		"written anew without the secret": {func(h *house) {
			h.anew(New(Deps{DB: h.DB(), IDs: h.IDs, Sealer: h.Platform.Sealer, Obs: h.Obs(), Key: platformtest.Key(9)}))
		},
			"was not written so by the house", false},
		"written anew with the secret": {func(h *house) { h.anew(h.Service) }, "was written anew", true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.blocks(3, 3)
			before := h.verified(Pin{})
			if before.Entries != 9 || before.To != 9 || before.Problems != nil {
				t.Fatalf("the chain was not intact before: %+v", before)
			}
			pin := Pin{before.To, before.Head}
			c.do(h)
			if v := h.verified(Pin{}); (c.want == "" || c.pin) != (len(v.Problems) == 0) {
				t.Errorf("without a pin: %+v", v.Problems)
			}
			if v := h.verified(pin); c.want == "" != (len(v.Problems) == 0) || !strings.Contains(fmt.Sprint(v.Problems), c.want) {
				t.Errorf("with a pin: %+v, want %q", v.Problems, c.want)
			}
		})
	}
}

// closeUp deletes an entry and moves those behind it.
func (h *house) closeUp(seq int) {
	h.sql(`DELETE FROM trail_entry WHERE seq = ?`, seq)
	for i := seq + 1; i <= 9; i++ {
		h.sql(`UPDATE trail_entry SET seq = ? WHERE seq = ?`, i-1, i)
	}
	h.sql(`UPDATE trail_block SET last_seq = 8 WHERE first_seq = 7`)
}

func (h *house) swap(a, b int) {
	h.sql(`UPDATE trail_entry SET seq = 1000 WHERE seq = ?`, a)
	h.sql(`UPDATE trail_entry SET seq = ? WHERE seq = ?`, a, b)
	h.sql(`UPDATE trail_entry SET seq = ? WHERE seq = 1000`, b)
}

// forge puts in an entry that claims to have been written long ago, with another's mark.
func (h *house) forge(like, id int64, seq any) {
	h.sql(`INSERT INTO trail_entry (id, seq, at, times, actor_id, action, subject_kind, subject_id, before_state, after_state, address, request_id, mark)
		SELECT ?, ?, at, times, actor_id, action, subject_kind, subject_id, before_state, after_state, address, request_id, mark FROM trail_entry WHERE seq = ?`, id, seq, like)
}

// anew writes the chain of the first entry again, with another content, by somebody's key.
func (h *house) anew(by *Service) {
	list, err := placed(h.boss, h.DB().Query, 0, 9, 100)
	h.must(err)
	h.sql(`DELETE FROM trail_entry`)
	h.sql(`DELETE FROM trail_block`)
	for i := range list {
		list[i].Seq, list[i].Actor = 0, 99
		list[i].Mark = by.mark(&list[i])
	}
	h.must(h.DB().Tx(h.boss, "test", func(ctx context.Context, tx *db.Tx) error { return insertEntries(ctx, tx, list) }))
	h.must(by.Seal(h.boss))
}

// An entry whose transaction began before a seal and commits after it is neither missed nor a fault, and neither waits for the other.
func TestLateCommits(t *testing.T) {
	h := newHouse(t)
	if h.DB().Dialect().Name() != "mysql" { // there is one writer: nothing can be held open beside it
		h.blocks(2, 3)
		if v := h.verified(Pin{}); v.Entries != 6 || v.Problems != nil {
			t.Fatalf("%+v", v)
		}
		return
	}
	const held = 4
	begun, end := make(chan struct{}, held), make(chan struct{})
	var wg sync.WaitGroup
	errs := make(chan error, held)
	for range held {
		wg.Go(func() {
			var once sync.Once
			errs <- h.DB().Tx(h.boss, "test.held", func(ctx context.Context, tx *db.Tx) error {
				if err := h.RecordTx(ctx, tx, Act{Action: "test.late"}); err != nil {
					return err
				}
				once.Do(func() { begun <- struct{}{} })
				<-end
				return nil
			})
		})
	}
	for range held {
		<-begun
	}
	h.blocks(3, 3) // would wait for ever for who waits for us
	if v := h.verified(Pin{}); v.Entries != 9 || v.Problems != nil || v.Unsealed != 0 {
		t.Errorf("while transactions are open: %+v", v)
	}
	close(end)
	wg.Wait()
	for range held {
		h.must(<-errs)
	}
	if v := h.verified(Pin{}); v.Entries != 9 || v.Problems != nil || v.Unsealed != held {
		t.Errorf("before they are sealed: %+v", v)
	}
	h.must(h.Seal(h.boss))
	if v := h.verified(Pin{}); v.Entries != 9+held || v.Problems != nil || v.Unsealed != 0 {
		t.Errorf("after: %+v", v)
	}
}

// Many write and several nodes seal at once: each entry has one place, and the chain holds.
func TestManyWriteAndSeal(t *testing.T) {
	h := newHouse(t)
	const writers, each = 8, 20
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range writers {
		wg.Go(func() {
			for range each {
				if err := h.Record(h.boss, Act{Action: "test.done"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var sealers sync.WaitGroup
	for range 3 {
		sealers.Go(func() {
			for {
				if err := h.Seal(h.boss); err != nil && levee.CodeOf(err) != levee.CodeConflict {
					t.Error(err)
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	wg.Wait()
	close(done)
	sealers.Wait()
	h.must(h.Seal(h.boss))
	if v := h.verified(Pin{}); v.Entries != writers*each || v.To != writers*each || v.Problems != nil || v.Unsealed != 0 {
		t.Errorf("%+v", v)
	}
}

// What was dropped by its age is gone, the rest still verifies, and that it was done stands in the trail.
func TestDrop(t *testing.T) {
	h := newHouse(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	o := *h.Obs()
	o.Clock = func() time.Time { return now }
	h.Service = New(Deps{DB: h.DB(), IDs: h.IDs, Sealer: h.Platform.Sealer, Obs: &o, Key: platformtest.Key(5), Config: Config{Keep: 720 * time.Hour}})
	h.blocks(2, 3)
	old := h.verified(Pin{})
	now = now.Add(700 * time.Hour)
	h.blocks(1, 3)
	middle := h.verified(Pin{})
	h.must(h.Drop(h.boss)) // nothing is old enough
	if v := h.verified(Pin{}); v.Entries != 9 {
		t.Fatalf("%+v", v)
	}
	now = now.Add(21 * time.Hour)
	h.must(h.Drop(h.boss))
	h.must(h.Drop(h.boss)) // there is nothing more to do
	h.must(h.Seal(h.boss))
	v := h.verified(Pin{middle.To, middle.Head})
	if v.Entries != 4 || v.To != 10 || v.Problems != nil {
		t.Errorf("%+v", v)
	}
	if v := h.verified(Pin{old.To, old.Head}); v.Problems != nil {
		t.Errorf("the pin of what was dropped last: %+v", v)
	}
	_, err := h.Verify(h.boss, 0, Pin{2, old.Head})
	h.wantCode(err, levee.CodeInvalid)
	list, _, err := h.List(h.boss, Filter{Action: "audit.dropped"})
	if err != nil || len(list) != 1 || !strings.Contains(list[0].After, old.Head.String()) || list[0].Actor != levee.System.User {
		t.Errorf("%+v, %v", list, err)
	}
	h.forge(10, 5, 5) // where nothing may stand any more
	if v := h.verified(Pin{}); !strings.Contains(fmt.Sprint(v.Problems), "among those that were dropped") {
		t.Errorf("%+v", v)
	}
	for keep, ok := range map[time.Duration]bool{0: true, time.Hour: false, 720 * time.Hour: true, 90000 * time.Hour: false, -1: false} {
		if err := (Config{Keep: keep}).Validate(); (err == nil) != ok {
			t.Errorf("keep %v: %v", keep, err)
		}
	}
}

func (h *house) Obs() *obs.Obs { return h.Platform.Obs }

// A crowd of refusals leaves few rows: the first of each kind at once, the rest with a count at the end of the minute; who has rights over others
// is told apart from the crowd; nothing is counted twice or lost.
func TestNotesAreFew(t *testing.T) {
	h := newHouse(t)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	o := *h.Obs()
	o.Clock = func() time.Time { return now }
	h.Service = New(Deps{DB: h.DB(), IDs: h.IDs, Sealer: h.Platform.Sealer, Obs: &o, Key: platformtest.Key(5)})
	count := func(action string) (rows int, times int64) {
		t.Helper()
		for after := int64(0); ; {
			list, more, err := h.List(h.boss, Filter{Action: action, Page: levee.Page{Limit: 100, After: after}})
			h.must(err)
			for _, e := range list {
				rows, times, after = rows+1, times+e.Times, e.ID
			}
			if !more {
				return rows, times
			}
		}
	}
	ctx := t.Context()
	refused := Act{Action: "session.refused", Kind: levee.KindUser, Subject: 5, Address: netip.MustParseAddr("192.0.2.1")}
	for range 5000 {
		h.Note(ctx, refused, false)
	}
	h.flush(ctx, false)
	if rows, times := count("session.refused"); rows != 1 || times != 5000 {
		t.Fatalf("%d rows of %d", rows, times)
	}
	for range 5000 {
		h.Note(ctx, refused, false)
	}
	h.flush(ctx, false)
	if rows, times := count("session.refused"); rows != 1 || times != 5000 {
		t.Fatalf("within the minute: %d rows of %d", rows, times)
	}
	now = now.Add(noteWindow)
	h.flush(ctx, false)
	if rows, times := count("session.refused"); rows != 2 || times != 10000 {
		t.Fatalf("after the minute: %d rows of %d", rows, times)
	}
	// From ever new accounts.
	crowd := refused
	crowd.Action = "session.crowd"
	for i := range 5000 {
		crowd.Subject = int64(i)
		h.Note(ctx, crowd, false)
	}
	staff := refused
	staff.Subject = 99999
	staff.Action = "session.staff"
	h.Note(ctx, staff, true)
	h.flush(ctx, true)
	if rows, times := count("session.crowd"); rows != maxNotes+1 || times != 5000 {
		t.Errorf("a crowd: %d rows of %d", rows, times)
	}
	if list, _, err := h.List(h.boss, Filter{Action: "session.staff"}); err != nil || len(list) != 1 || list[0].Subject != 99999 {
		t.Errorf("a crowd hides staff: %+v, %v", list, err)
	}
	h.must(h.Seal(h.boss))
	if v := h.verified(Pin{}); v.Problems != nil || v.Entries != int64(2+maxNotes+1+1) {
		t.Errorf("%+v", v)
	}
}

// Rows that cannot be written wait for the database, and are written once.
func TestNotesWaitForTheDatabase(t *testing.T) {
	h := newHouse(t)
	h.Note(t.Context(), Act{Action: "session.refused"}, false)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	h.flush(gone, true)
	if list, _, err := h.List(h.boss, Filter{}); err != nil || len(list) != 0 {
		t.Fatalf("%+v, %v: this test could not find a fault", list, err)
	}
	h.flush(t.Context(), false)
	h.flush(t.Context(), true)
	if list, _, err := h.List(h.boss, Filter{}); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
}
