package notify

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/listing"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

func (h *house) notices(user levee.UserID, question string) (list []Notice, count int, next string) {
	h.t.Helper()
	q, err := h.Service.notices.Ask(question)
	h.must(err)
	found, count, err := h.Notices(levee.WithActor(context.Background(), levee.Actor{User: user}), q)
	h.must(err)
	return found.Rows, count, found.Next(q)
}

// told lists a webhook's deliveries.
func (h *house) told(id levee.WebhookID, question string) []Delivery {
	h.t.Helper()
	q, err := h.Service.deliveries.Ask(question)
	h.must(err)
	found, err := h.Deliveries(h.op, id, q)
	h.must(err)
	return found.Rows
}

func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.run()
		ids := h.order("sale", 2) // of the users 1000 and 1001
		h.pay(ids[0])
		h.until("three notices", time.Minute, func() bool { return h.count(`SELECT COUNT(*) FROM notify_notice`) == 3 })
		mine, unread, next := h.notices(1000, "")
		if len(mine) != 2 || unread != 2 || next != "" || mine[0].Kind != typePaid || mine[1].Kind != typeCreated || mine[0].Order != ids[0] || mine[0].Sale != 42 || mine[0].Read {
			t.Fatalf("%+v, %d unread", mine, unread)
		}
		if other, _, _ := h.notices(1001, ""); len(other) != 1 || other[0].Order != ids[1] {
			t.Errorf("the other sees %+v", other)
		}
		me := levee.WithActor(t.Context(), levee.Actor{User: 1000})
		h.must(h.MarkRead(me, mine[1].ID))
		if list, unread, _ := h.notices(1000, "unread=true"); len(list) != 1 || unread != 1 || list[0].Kind != typePaid {
			t.Errorf("unread are %+v, %d", list, unread)
		}
		h.must(h.MarkRead(me, mine[0].ID))
		h.must(h.MarkRead(me, mine[1].ID)) // never back
		if list, unread, _ := h.notices(1000, ""); unread != 0 || !list[0].Read || !list[1].Read {
			t.Errorf("%+v, %d unread", list, unread)
		}
		if _, unread, _ := h.notices(1001, ""); unread != 1 {
			t.Error("one user's reading is another's")
		}
		if _, _, err := h.Notices(t.Context(), &listing.Query{}); levee.CodeOf(err) != levee.CodeUnauthenticated {
			t.Errorf("a visitor: %v", err)
		}
		if err := h.MarkRead(t.Context(), 1); levee.CodeOf(err) != levee.CodeUnauthenticated {
			t.Errorf("a visitor: %v", err)
		}
	})
}

// A user sees his newest 200 and pages through them; the rest, and what is older than 90 days, goes.
func TestNoticesAreBounded(t *testing.T) {
	h := newHouse(t)
	clock := obs.NewStepClock(time.Now())
	h.Service.clock = clock.Now
	write := func(user levee.UserID, n int) {
		rows := make([][]any, n)
		ids := make([]int64, n)
		h.must(h.IDs.NextN(ids))
		for i := range rows {
			x := Notice{ID: levee.NoticeID(ids[i]), User: user, Kind: typeCreated, Order: 1, At: clock.Now()}
			rows[i] = x.row()
		}
		h.tx(func(ctx context.Context, tx *db.Tx) error {
			return tx.InsertRows(ctx, "notify_notice", noticeColumns, rows)
		})
	}
	write(1, 1300)
	write(2, 150)
	seen, pages := map[levee.NoticeID]bool{}, 0
	for cursor := ""; ; pages++ {
		list, unread, next := h.notices(1, "limit=90"+cursor)
		if unread != noticesPerUser {
			t.Fatalf("%d unread", unread)
		}
		for _, n := range list {
			seen[n.ID] = true
		}
		if cursor = "&cursor=" + next; next == "" {
			break
		}
	}
	if len(seen) != noticesPerUser || pages != 2 {
		t.Errorf("%d notices on %d pages", len(seen), pages+1)
	}
	h.must(h.Prune(t.Context()))
	if a, b := h.count(`SELECT COUNT(*) FROM notify_notice WHERE user_id = 1`), h.count(`SELECT COUNT(*) FROM notify_notice WHERE user_id = 2`); a != noticesPerUser || b != 150 {
		t.Errorf("%d and %d are kept", a, b)
	}
	clock.Step(noticesKept - time.Hour)
	write(2, 10)
	h.must(h.Prune(t.Context()))
	if n := h.count(`SELECT COUNT(*) FROM notify_notice`); n != noticesPerUser+160 {
		t.Errorf("%d are kept before their time is over", n)
	}
	clock.Step(2 * time.Hour)
	h.must(h.Prune(t.Context()))
	if n := h.count(`SELECT COUNT(*) FROM notify_notice`); n != 10 {
		t.Errorf("%d are kept, want 10", n)
	}
}

// Deliveries and their attempts go after 30 days, what is not over stays.
func TestLogIsPruned(t *testing.T) {
	h := newHouse(t)
	clock := obs.NewStepClock(time.Now())
	h.Service.clock = clock.Now
	h.hook(shopURL, "order.*")
	h.run()
	h.order("sale", 700)
	h.until("delivered", time.Minute, func() bool { n, _ := h.world.at(shopURL).taken(); return n == 700 })
	h.until("noted", time.Minute, func() bool { return h.count(`SELECT COUNT(*) FROM notify_attempt`) == 700 })
	h.stop()
	clock.Step(logKept - time.Hour)
	h.must(h.Prune(t.Context()))
	if n := h.count(`SELECT COUNT(*) FROM notify_attempt`); n != 700 {
		t.Fatalf("%d attempts are kept before their time is over", n)
	}
	h.order("sale", 5)
	rows := h.heardRows()
	h.must(h.writeBatch(t.Context(), rows[0]))
	clock.Step(2 * time.Hour)
	h.must(h.Prune(t.Context()))
	if a, d := h.count(`SELECT COUNT(*) FROM notify_attempt`), h.count(`SELECT COUNT(*) FROM notify_delivery`); a != 0 || d != 5 {
		t.Errorf("%d attempts and %d deliveries are left", a, d)
	}
}

// TestListsUseIndexes: no page of a list that grows makes the engine sort what it chooses from.
func TestListsUseIndexes(t *testing.T) {
	h := newHouse(t)
	read, sorting := platformtest.Explaining(t, h.DB)
	for _, question := range []string{"", "state=failed", "state=parked", "state=failed&sort=due_at", "state=pending", "state=delivered&type=order.paid"} {
		q, err := h.Service.deliveries.Ask(question)
		h.must(err)
		_, err = listDeliveries(t.Context(), read, 1, q)
		h.must(err)
	}
	for _, question := range []string{"", "unread=true"} {
		q, err := h.Service.notices.Ask(question)
		h.must(err)
		_, err = readNotices(t.Context(), read, q, 1, 0, 5)
		h.must(err)
	}
	if plans := sorting(); plans != "" {
		t.Error(plans)
	}
	if _, err := h.Service.deliveries.Ask("sort=due_at"); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("an order that no index serves: %v", err)
	}
	if _, err := h.Service.deliveries.Ask("state=failed&sort=id"); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("an order that its index does not serve: %v", err)
	}
}
