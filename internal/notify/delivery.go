package notify

import (
	"context"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/listing"
)

// The states of a delivery in SQL; the numbers must not change.
const (
	stateBehind    = 0 // another delivery of its webhook and subject goes first
	stateReady     = 1 // may be sent, and was not tried yet
	stateFailed    = 2 // was tried, and is due again
	stateDelivered = 3
	stateParked    = 4 // given up; only a replay sends it again
)

var stateNames = [...]string{"pending", "pending", "failed", "delivered", "parked"}

// Delivery is one thing to tell one webhook.
type Delivery struct {
	ID          levee.DeliveryID
	Webhook     levee.WebhookID
	SubjectKind levee.Kind
	Subject     int64 // what it is about: those of one webhook and subject go one after the other
	Type        string
	Version     int64 // of the subject: grows from step to step
	At          time.Time
	Attempts    int
	Status      int       // of the last answer; 0 for none
	DueAt       time.Time // when it may be tried again; of what is over, when that was
	TriedAt     time.Time // the last time; zero for never
	GiveUpAt    time.Time

	data  string // JSON of what the event says beside its subject
	state int
}

// State is pending, failed (and due again), delivered or parked.
func (d *Delivery) State() string { return stateNames[d.state] }

// Attempt is one try of a delivery.
type Attempt struct {
	Number   int
	At       time.Time
	Duration time.Duration
	Status   int    // 0: there was no answer
	Answer   string // its first KiB, as text
	Error    string
}

// Deliveries returns a page of a webhook's deliveries. It may hold fewer than asked for, even none, and still have a next one. For operators
// (CodeForbidden). CodeNotFound.
func (s *Service) Deliveries(ctx context.Context, id levee.WebhookID, q *listing.Query) (_ *listing.Found[Delivery], err error) {
	defer levee.Wrap(&err, "notify.Deliveries(%d)", id)
	if err := somebody(ctx); err != nil {
		return nil, err
	}
	if _, err := readWebhook(ctx, s.db.Query, id); err != nil {
		return nil, err
	}
	return listDeliveries(ctx, s.db.Query, id, q)
}

// Delivery returns one delivery with its body as it is sent, and its attempts, oldest first. For operators (CodeForbidden).
// CodeNotFound.
func (s *Service) Delivery(ctx context.Context, id levee.DeliveryID) (d Delivery, body []byte, attempts []Attempt, err error) {
	defer levee.Wrap(&err, "notify.Delivery(%d)", id)
	if err := somebody(ctx); err != nil {
		return d, nil, nil, err
	}
	if d, err = readDelivery(ctx, s.db.Query, id); err != nil {
		return d, nil, nil, err
	}
	if _, err := readWebhook(ctx, s.db.Query, d.Webhook); err != nil { // deleted: its deliveries are on their way out
		return d, nil, nil, levee.E(levee.CodeNotFound, "there is no such delivery")
	}
	if body, err = s.body(ctx, &d); err != nil {
		return d, nil, nil, err
	}
	attempts, err = readAttempts(ctx, s.db.Query, id)
	return d, body, attempts, err
}

// Replay sends a delivery again, whatever became of it; behind those of its subject that are under way. Its webhook-id stays, so a
// receiver that has it already will know. For operators (CodeForbidden). CodeNotFound; CodeConflict for a webhook that is
// switched off.
func (s *Service) Replay(ctx context.Context, id levee.DeliveryID) (d Delivery, err error) {
	defer levee.Wrap(&err, "notify.Replay(%d)", id)
	if err := somebody(ctx); err != nil {
		return d, err
	}
	err = s.db.Tx(ctx, "notify.replay", func(ctx context.Context, tx *db.Tx) error {
		if d, err = readDelivery(ctx, tx.Query, id); err != nil {
			return err
		}
		if err := s.mayReplay(ctx, tx, d.Webhook); err != nil {
			return err
		}
		if err := s.replayTx(ctx, tx, &d); err != nil {
			return err
		}
		d, err = readDelivery(ctx, tx.Query, id)
		return err
	})
	if err == nil {
		s.wake(d.Webhook)
	}
	return d, err
}

func (s *Service) mayReplay(ctx context.Context, tx *db.Tx, id levee.WebhookID) error {
	w, err := readWebhook(ctx, tx.Query, id)
	if err == nil && !w.Enabled {
		err = levee.E(levee.CodeConflict, "the webhook is switched off")
	}
	return err
}

// replayTx makes a delivery ready once more. One that is still to be sent is due at once.
func (s *Service) replayTx(ctx context.Context, tx *db.Tx, d *Delivery) error {
	now := s.clock()
	state := stateReady
	switch d.state {
	case stateBehind:
		return nil // its turn comes
	case stateReady, stateFailed:
	default:
		busy, err := hasUnfinished(ctx, tx, d.Subject, d.Webhook)
		if err != nil {
			return err
		}
		if busy {
			state = stateBehind
		}
	}
	return requeue(ctx, tx, d.ID, state, now, now.Add(s.cfg.GiveUpAfter))
}

// replayChunk is how many deliveries one transaction makes ready again.
const replayChunk = 250

// ReplaySince sends again what a webhook was to be told of at or after from and before to (zero: up to now), and is over: delivered
// or parked. It returns how many, and whether there are more than the 100,000 of one request. For operators (CodeForbidden).
// CodeNotFound; CodeConflict for a webhook that is switched off.
func (s *Service) ReplaySince(ctx context.Context, id levee.WebhookID, from, to time.Time) (n int, more bool, err error) {
	defer levee.Wrap(&err, "notify.ReplaySince(%d)", id)
	if err := somebody(ctx); err != nil {
		return 0, false, err
	}
	if to.IsZero() {
		to = s.clock()
	}
	if !from.Before(to) {
		return 0, false, levee.Invalid("body.from", "before the end of the time to replay", from)
	}
	for after := int64(0); n < replayMost; {
		list, err := listOver(ctx, s.db.Query, id, from, to, after, replayChunk)
		if err != nil {
			return n, false, err
		}
		err = s.db.Tx(ctx, "notify.replay_since", func(ctx context.Context, tx *db.Tx) error {
			if err := s.mayReplay(ctx, tx, id); err != nil {
				return err
			}
			for i := range list {
				d, err := readDelivery(ctx, tx.Query, list[i].ID) // it may have gone again since it was listed
				if levee.CodeOf(err) == levee.CodeNotFound || err == nil && d.state < stateDelivered {
					continue
				}
				if err == nil {
					err = s.replayTx(ctx, tx, &d)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return n, false, err
		}
		s.wake(id)
		n += len(list)
		if len(list) < replayChunk {
			return n, false, nil
		}
		after = int64(list[len(list)-1].ID)
	}
	return n, true, nil
}

// GiveUp parks what is older than Config.GiveUpAfter at webhooks that are failing: what was never tried, because one delivery at a
// time is, would else wait for ever. A periodic job calls it.
func (s *Service) GiveUp(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "notify.GiveUp")
	hooks, err := readWebhooks(ctx, s.db.Query)
	if err != nil {
		return err
	}
	for _, w := range hooks {
		for w.Enabled && w.Failures >= int64(s.cfg.FailingAfter) {
			list, err := listGivenUp(ctx, s.db.Query, w.ID, s.clock(), pruneChunk)
			if err != nil {
				return err
			}
			err = s.db.Tx(ctx, "notify.give_up", func(ctx context.Context, tx *db.Tx) error {
				for i := range list {
					if _, err := finish(ctx, tx, &list[i], stateParked, s.clock()); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			s.metrics.attempts.WithLabelValues("parked").Add(float64(len(list)))
			if len(list) < pruneChunk {
				break
			}
			s.log.WarnContext(ctx, "deliveries were given up: the webhook has been failing for too long", "webhook", int64(w.ID), "deliveries", len(list))
		}
	}
	return nil
}

// pruneChunk is how many rows one transaction deletes.
const pruneChunk = 500

// Prune deletes deliveries that were over 30 days ago, notices of more than 90 days and beyond 200 a user, and what deleted webhooks
// left. A periodic job calls it.
func (s *Service) Prune(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "notify.Prune")
	now := s.clock()
	old := []struct {
		what  string
		ids   func(after int64) ([]int64, error)
		texts []string
	}{
		{"deliveries", func(after int64) ([]int64, error) { return oldDeliveries(ctx, s.db, now.Add(-logKept), after) },
			[]string{deleteAttempts, deleteDeliveries}},
		{"deliveries of deleted webhooks", func(int64) ([]int64, error) { return orphans(ctx, s.db) }, []string{deleteAttempts, deleteDeliveries}},
		{"deleted webhooks", func(int64) ([]int64, error) { return emptyWebhooks(ctx, s.db) }, []string{deleteWebhooks}},
		{"notices", func(after int64) ([]int64, error) { return oldNotices(ctx, s.db, now.Add(-noticesKept), after) }, []string{deleteNotices}},
		{"notices beyond the bound", func(int64) ([]int64, error) { return surplusNotices(ctx, s.db) }, []string{deleteNotices}},
	}
	for _, o := range old {
		for after := int64(0); ; {
			ids, err := o.ids(after)
			if err != nil {
				return err
			}
			if len(ids) == 0 {
				break
			}
			err = s.db.Tx(ctx, "notify.prune", func(ctx context.Context, tx *db.Tx) error {
				for _, text := range o.texts {
					if err := deleteByID(ctx, tx, text, ids); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			s.log.DebugContext(ctx, "pruned", "what", o.what, "rows", len(ids))
			after = ids[len(ids)-1]
		}
	}
	return nil
}
