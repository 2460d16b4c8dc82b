package notify

import (
	"context"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/db"
	"levee/internal/trail"
)

// The types that a webhook may ask for, by their names or by a group's name with a star. A ping is sent whatever it asks for.
const (
	typeCreated     = "order.created"
	typePaid        = "order.paid"
	typeCancelled   = "order.cancelled"
	typeShipped     = "order.shipped"
	typeCompleted   = "order.completed"
	typeRefunded    = "order.refunded"
	typeSaleChanged = "sale.state_changed"
	typeOffered     = "line.offered"
	typeLost        = "line.lost"
	typeDrawn       = "line.drawn"
	typePing        = "ping"
)

var types = []string{typeCreated, typePaid, typeCancelled, typeShipped, typeCompleted, typeRefunded, typeSaleChanged, typeOffered, typeLost, typeDrawn}

// wishes is a set of types, one bit each.
type wishes uint32

// parseWishes reads types and groups ("order.paid", "order.*", "*").
func parseWishes(field string, list []string) (w wishes, err error) {
	for _, e := range list {
		var found wishes
		group, star := strings.CutSuffix(e, "*")
		for i, t := range types {
			if t == e || star && (group == "" || strings.HasSuffix(group, ".") && strings.HasPrefix(t, group)) {
				found |= 1 << i
			}
		}
		if found == 0 {
			return 0, levee.Invalid(field, "some of "+strings.Join(types, ", ")+", order.*, sale.*, line.* or *", e)
		}
		w |= found
	}
	if w == 0 {
		return 0, levee.Invalid(field, "at least one type of event", strings.Join(list, " "))
	}
	return w, nil
}

func (w wishes) has(t string) bool { i := slices.Index(types, t); return i >= 0 && w&(1<<i) != 0 }

// Webhook is where another system wants to hear of what happens here.
type Webhook struct {
	ID          levee.WebhookID
	URL         string
	Events      []string // as they were given
	Description string
	Rehearsals  bool // tell of rehearsals, too
	Enabled     bool
	CreatedAt   time.Time
	UpdatedAt   time.Time
	// Failures in a row up to now; FailingSince is the first of them, SucceededAt and FailedAt the last of each; zero for never.
	Failures     int64
	FailingSince time.Time
	SucceededAt  time.Time
	FailedAt     time.Time
	LastError    string
	// OldSecretUntil is until when the secret before the present one signs too; zero if there is none.
	OldSecretUntil time.Time
}

// webhook is a Webhook with what only this room may see.
type webhook struct {
	Webhook
	wishes            wishes
	since             time.Time // what happened before is not told
	secret, oldSecret string    // sealed
}

// wants reports whether the webhook is to be told of something that happened at the given time.
func (w *webhook) wants(t string, rehearsal bool, at time.Time) bool {
	return w.Enabled && w.wishes.has(t) && (!rehearsal || w.Rehearsals) && !at.Before(w.since)
}

// secrets returns what a delivery is signed with now.
func (s *Service) secrets(w *webhook, now time.Time) ([][]byte, error) {
	secret, err := s.vault.open(w.ID, w.secret)
	if err != nil {
		return nil, err
	}
	list := [][]byte{secret}
	if w.oldSecret != "" && now.Before(w.OldSecretUntil) {
		old, err := s.vault.open(w.ID, w.oldSecret)
		if err != nil {
			return nil, err
		}
		list = append(list, old)
	}
	return list, nil
}

// NewWebhook is a webhook to be.
type NewWebhook struct {
	URL         string
	Events      []string
	Description string
	Rehearsals  bool
}

// Change is what to change of a webhook; nil leaves a field as it is.
type Change struct {
	URL         *string
	Events      []string // nil: as they are
	Description *string
	Rehearsals  *bool
	Enabled     *bool
	Seen        func(Webhook) error // judges the webhook as it stands, in the transaction of the change; nil: any
}

// Create makes a webhook that is told of what happens from now on, and returns its secret, which is never shown again. For
// operators (CodeForbidden). CodeInvalid names the field; CodeConflict when there are 50 webhooks already.
func (s *Service) Create(ctx context.Context, in NewWebhook, from identity.Origin) (w Webhook, secret string, err error) {
	defer levee.Wrap(&err, "notify.Create")
	if err := somebody(ctx); err != nil {
		return w, "", err
	}
	hook := &webhook{Webhook: Webhook{URL: in.URL, Events: in.Events, Description: strings.TrimSpace(in.Description), Rehearsals: in.Rehearsals, Enabled: true}}
	if err := s.check(hook); err != nil {
		return w, "", err
	}
	id, err := s.ids.Next()
	if err != nil {
		return w, "", err
	}
	now, raw := s.clock().UTC().Truncate(time.Microsecond), newSecret()
	hook.ID, hook.CreatedAt, hook.UpdatedAt, hook.since = levee.WebhookID(id), now, now, now
	hook.secret = s.vault.seal(hook.ID, raw)
	err = s.db.Tx(ctx, "notify.create", func(ctx context.Context, tx *db.Tx) error {
		all, err := readWebhooks(ctx, tx.Query)
		if err != nil {
			return err
		}
		if len(all) >= maxWebhooks {
			return levee.E(levee.CodeConflict, "there are %d webhooks already, more are not allowed", len(all))
		}
		if err := insertWebhook(ctx, tx, hook); err != nil {
			return err
		}
		return s.recordTx(ctx, tx, "webhook.created", hook.ID, nil, auditWebhook(hook), from)
	})
	if err != nil {
		return w, "", err
	}
	return hook.Webhook, showSecret(raw), nil
}

// check refuses what a webhook cannot be, and reads its wishes.
func (s *Service) check(w *webhook) (err error) {
	if err := s.guard.checkURL("body.url", w.URL); err != nil {
		return err
	}
	d := w.Description
	if len(d) > maxDescription || !utf8.ValidString(d) || strings.ContainsFunc(d, unicode.IsControl) {
		return levee.Invalid("body.description", "one line of at most 180 bytes", d)
	}
	w.wishes, err = parseWishes("body.events", w.Events)
	return err
}

// Change alters a webhook. Switched on again, it is told of what happens from then on; deliveries that were waiting go on. For
// operators (CodeForbidden). CodeInvalid names the field; CodeNotFound.
func (s *Service) Change(ctx context.Context, id levee.WebhookID, c Change, from identity.Origin) (w Webhook, err error) {
	defer levee.Wrap(&err, "notify.Change(%d)", id)
	err = s.alter(ctx, id, "webhook.changed", from, func(w *webhook) error {
		if c.Seen != nil {
			if err := c.Seen(w.Webhook); err != nil {
				return err
			}
		}
		if c.URL != nil {
			w.URL = *c.URL
		}
		if c.Events != nil {
			w.Events = c.Events
		}
		if c.Description != nil {
			w.Description = strings.TrimSpace(*c.Description)
		}
		if c.Rehearsals != nil {
			w.Rehearsals = *c.Rehearsals
		}
		if c.Enabled != nil {
			if *c.Enabled && !w.Enabled {
				w.since = s.clock()
			}
			w.Enabled = *c.Enabled
		}
		return s.check(w)
	}, &w)
	return w, err
}

// Rotate gives a webhook a new secret and returns it, which is never shown again. The one before signs too for 24 h, so that the
// receiver can change over at leisure. For operators (CodeForbidden). CodeNotFound.
func (s *Service) Rotate(ctx context.Context, id levee.WebhookID, from identity.Origin) (w Webhook, secret string, err error) {
	defer levee.Wrap(&err, "notify.Rotate(%d)", id)
	raw := newSecret()
	err = s.alter(ctx, id, "webhook.secret_rotated", from, func(w *webhook) error {
		w.oldSecret, w.OldSecretUntil = w.secret, s.clock().Add(overlap).UTC()
		w.secret = s.vault.seal(w.ID, raw)
		return nil
	}, &w)
	if err != nil {
		return w, "", err
	}
	return w, showSecret(raw), nil
}

// Delete takes a webhook away; what was to be sent to it is not sent. For operators (CodeForbidden). CodeNotFound.
func (s *Service) Delete(ctx context.Context, id levee.WebhookID, from identity.Origin) (err error) {
	defer levee.Wrap(&err, "notify.Delete(%d)", id)
	if err := somebody(ctx); err != nil {
		return err
	}
	return s.db.Tx(ctx, "notify.delete", func(ctx context.Context, tx *db.Tx) error {
		w, err := readWebhook(ctx, tx.Query, id)
		if err != nil {
			return err
		}
		if err := hideWebhook(ctx, tx, id); err != nil {
			return err
		}
		return s.recordTx(ctx, tx, "webhook.deleted", id, auditWebhook(w), nil, from)
	})
}

// alter changes a webhook by a function, in one transaction with the trail.
func (s *Service) alter(ctx context.Context, id levee.WebhookID, action string, from identity.Origin, change func(w *webhook) error, out *Webhook) error {
	if err := somebody(ctx); err != nil {
		return err
	}
	return s.db.Tx(ctx, "notify.change", func(ctx context.Context, tx *db.Tx) error {
		w, err := readWebhook(ctx, tx.Query, id)
		if err != nil {
			return err
		}
		before := auditWebhook(w)
		if err := change(w); err != nil {
			return err
		}
		w.UpdatedAt = s.clock().UTC().Truncate(time.Microsecond)
		if err := updateWebhook(ctx, tx, w); err != nil {
			return err
		}
		*out = w.Webhook
		return s.recordTx(ctx, tx, action, id, before, auditWebhook(w), from)
	})
}

// recordTx writes the trail, and makes what is in memory follow at the commit.
func (s *Service) recordTx(ctx context.Context, tx *db.Tx, action string, id levee.WebhookID, before, after any, from identity.Origin) error {
	hooks, err := readWebhooks(ctx, tx.Query)
	if err != nil {
		return err
	}
	tx.AtCommit(func() {
		s.hooks.Store(&hooks)
		ring(s.changed)
		s.tellAsked()
	})
	return s.trail.RecordTx(ctx, tx, trail.Act{Action: action, Kind: levee.KindWebhook, Subject: int64(id), Before: before, After: after,
		Address: from.Address, RequestID: from.RequestID})
}

// auditWebhook is what the trail shows: no secret, and no query, which often holds one.
func auditWebhook(w *webhook) map[string]any {
	return map[string]any{"url": levee.Shorten(withoutQuery(w.URL), 500), "events": levee.Shorten(strings.Join(w.Events, " "), 500), "enabled": w.Enabled,
		"rehearsals": w.Rehearsals, "description": w.Description}
}

// ByID returns a webhook; Waiting is how many of its deliveries are not over, counted up to 10,000. For operators
// (CodeForbidden). CodeNotFound.
func (s *Service) ByID(ctx context.Context, id levee.WebhookID) (w Webhook, waiting int, err error) {
	defer levee.Wrap(&err, "notify.ByID(%d)", id)
	if err := somebody(ctx); err != nil {
		return w, 0, err
	}
	hook, err := readWebhook(ctx, s.db.Query, id)
	if err != nil {
		return w, 0, err
	}
	waiting, err = countWaiting(ctx, s.db.QueryRow, id)
	return hook.Webhook, waiting, err
}

// List returns all webhooks, oldest first. For operators (CodeForbidden).
func (s *Service) List(ctx context.Context) (list []Webhook, err error) {
	defer levee.Wrap(&err, "notify.List")
	if err := somebody(ctx); err != nil {
		return nil, err
	}
	hooks, err := readWebhooks(ctx, s.db.Query)
	for _, w := range hooks {
		list = append(list, w.Webhook)
	}
	return list, err
}

// Ping sends a webhook a message of type ping, like any other, and returns its delivery. For operators (CodeForbidden).
// CodeNotFound; CodeConflict for a webhook that is switched off.
func (s *Service) Ping(ctx context.Context, id levee.WebhookID) (d Delivery, err error) {
	defer levee.Wrap(&err, "notify.Ping(%d)", id)
	if err := somebody(ctx); err != nil {
		return d, err
	}
	number, err := s.ids.Next()
	if err != nil {
		return d, err
	}
	now := s.clock().UTC().Truncate(time.Microsecond)
	d = Delivery{ID: levee.DeliveryID(number), Webhook: id, SubjectKind: levee.KindDelivery, Subject: number, Type: typePing, Version: 1, data: "{}",
		At: now, state: stateReady, DueAt: now, GiveUpAt: now.Add(s.cfg.GiveUpAfter)}
	err = s.db.Tx(ctx, "notify.ping", func(ctx context.Context, tx *db.Tx) error {
		w, err := readWebhook(ctx, tx.Query, id)
		if err != nil {
			return err
		}
		if !w.Enabled {
			return levee.E(levee.CodeConflict, "the webhook is switched off")
		}
		tx.AfterCommit(func() { s.wake(id) })
		return tx.InsertRows(ctx, "notify_delivery", deliveryColumns, [][]any{d.row()})
	})
	return d, err
}

// somebody is nil for an actor whom the trail can name. Who of them may is the routes' matter.
func somebody(ctx context.Context) error {
	if !levee.ActorFrom(ctx).SignedIn() {
		return levee.E(levee.CodeUnauthenticated, "sign in first")
	}
	return nil
}
