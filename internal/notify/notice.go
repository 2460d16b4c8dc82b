package notify

import (
	"context"
	"encoding/json"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/listing"
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

// Notices returns a page of the context's actor's notices, and how many of all he has not read. The newest 200 are kept, for 90 days.
// CodeUnauthenticated for visitors.
func (s *Service) Notices(ctx context.Context, q *listing.Query) (found *listing.Found[Notice], count int, err error) {
	defer levee.Wrap(&err, "notify.Notices")
	user, err := signedIn(ctx)
	if err != nil {
		return nil, 0, err
	}
	upTo, floor, err := noticeBounds(ctx, s.db, user)
	if err != nil {
		return nil, 0, err
	}
	if found, err = readNotices(ctx, s.db.Query, q, user, floor, upTo); err != nil {
		return nil, 0, err
	}
	for i := range found.Rows {
		found.Rows[i].Read = int64(found.Rows[i].ID) <= upTo
	}
	count, err = countUnread(ctx, s.db.QueryRow, user, max(floor, upTo))
	return found, count, err
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
