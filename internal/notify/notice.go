package notify

import (
	"context"
	"encoding/json"
	"math"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// Notice is what a user should know. Pages put its kind into words.
type Notice struct {
	ID    levee.NoticeID
	User  levee.UserID
	Kind  string        // order.created, order.paid, …, line.offered, line.lost
	Order levee.OrderID // 0: it is about none
	Sale  levee.SaleID  // 0: it is about none
	At    time.Time
	Read  bool
}

// Notices returns the context's actor's notices, newest first (unread: only those he has not read), how many he has not read, and
// where the next page begins (0: there is none). The newest 200 are kept, for 90 days. CodeUnauthenticated for visitors.
func (s *Service) Notices(ctx context.Context, unread bool, p levee.Page) (list []Notice, count int, next int64, err error) {
	defer levee.Wrap(&err, "notify.Notices")
	user, err := signedIn(ctx)
	if err != nil {
		return nil, 0, 0, err
	}
	upTo, floor, err := noticeBounds(ctx, s.db, user)
	if err != nil {
		return nil, 0, 0, err
	}
	p = p.Normal()
	after := p.After
	if after == 0 {
		after = math.MaxInt64
	}
	least := floor
	if unread {
		least = max(floor, upTo)
	}
	if list, err = readNotices(ctx, s.db.Query, user, after, least, p.Limit); err != nil {
		return nil, 0, 0, err
	}
	for i := range list {
		list[i].Read = int64(list[i].ID) <= upTo
	}
	if len(list) == p.Limit {
		next = int64(list[len(list)-1].ID)
	}
	count, err = countUnread(ctx, s.db.QueryRow, user, max(floor, upTo))
	return list, count, next, err
}

// MarkRead notes that the context's actor has read his notices up to this one. It never goes back. CodeUnauthenticated for visitors.
func (s *Service) MarkRead(ctx context.Context, upTo levee.NoticeID) (err error) {
	defer levee.Wrap(&err, "notify.MarkRead(%d)", upTo)
	user, err := signedIn(ctx)
	if err != nil {
		return err
	}
	return s.db.Tx(ctx, "notify.read", func(ctx context.Context, tx *db.Tx) error {
		return raiseReader(ctx, tx, s.db.Dialect(), user, int64(upTo))
	})
}

func signedIn(ctx context.Context) (levee.UserID, error) {
	a := levee.ActorFrom(ctx)
	if !a.SignedIn() {
		return 0, levee.E(levee.CodeUnauthenticated, "sign in to see your notices")
	}
	return a.User, nil
}

// publish shows a notice to the user's open pages.
func (s *Service) publish(n *Notice) {
	text, err := json.Marshal(s.viewNotice(n))
	if err != nil {
		panic("notify: " + err.Error()) // texts and a time always marshal
	}
	s.push.Publish("user:"+s.sealer.Seal(levee.KindUser, int64(n.User)), "notice", text)
}
