package notify

import (
	"context"
	"encoding/json"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/web"
)

func (s *Service) webhookRoutes(srv *web.Server) {
	const tag = "webhooks"
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/webhooks", ID: "createWebhook", Tag: tag, Roles: operators, Status: 201, Limit: limit.Write,
		Errors: []int{409, 422}, Summary: "Have another system told of orders, sales and draws",
		Description: "Deliveries are signed by the Standard Webhooks scheme with the secret, which is shown this once. " +
			"Those of one order come one after the other; a delivery may come twice, with the same webhook-id."}, s.postWebhook)
	listing.Add(srv, web.Route{Method: "GET", Path: "/v1/webhooks", ID: "listWebhooks", Tag: tag, Roles: operators, Limit: limit.Read,
		Summary: "All webhooks, oldest first"}, listing.New[webhookView](listing.Spec{Name: "webhooks", Whole: true}), s.getWebhooks)
	web.Add(srv, web.Route{Method: "GET", Path: "/v1/webhooks/{id}", ID: "getWebhook", Tag: tag, Roles: operators, Limit: limit.Read,
		Errors: []int{404}, Summary: "One webhook and how it fares"}, s.getWebhook)
	web.Add(srv, web.Route{Method: "PATCH", Path: "/v1/webhooks/{id}", ID: "updateWebhook", Tag: tag, Roles: operators, Limit: limit.Write,
		Current: s.currentWebhook, Errors: []int{404, 422}, Summary: "Change a webhook, or switch it off or on",
		Description: "Switched off, it is told of nothing that happens meanwhile; what was waiting goes on when it is on again."}, s.patchWebhook)
	web.Add(srv, web.Route{Method: "DELETE", Path: "/v1/webhooks/{id}", ID: "deleteWebhook", Tag: tag, Roles: operators, Status: 204, Limit: limit.Write,
		Errors: []int{404}, Summary: "Take a webhook away"}, s.deleteWebhook)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/webhooks/{id}/secrets", ID: "rotateSecret", Tag: tag, Roles: operators, Status: 201, Limit: limit.Write,
		Errors: []int{404}, Summary: "Give a webhook a new secret; for 24 hours the old one signs too"}, s.postSecret)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/webhooks/{id}/pings", ID: "pingWebhook", Tag: tag, Roles: operators, Status: 201, Limit: limit.Write,
		Errors: []int{404, 409}, Summary: "Send a webhook a message of type ping"}, s.postPing)
	listing.Add(srv, web.Route{Method: "GET", Path: "/v1/webhooks/{id}/deliveries", ID: "listDeliveries", Tag: tag, Roles: operators, Limit: limit.Read,
		Errors: []int{404, 422}, Summary: "What a webhook was told and is still to be told",
		Description: "Newest first; failed and parked ones by when they are due or were parked. Kept 30 days. " +
			"A page may hold fewer than asked for and still have a next one: go on until next is missing."}, s.deliveries, s.getDeliveries)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/webhooks/{id}/replays", ID: "replayWebhook", Tag: tag, Roles: operators, Status: 202, Limit: limit.Write,
		Errors: []int{404, 409, 422}, Timeout: time.Minute, Summary: "Send again what a webhook was told of within a time, and what was parked"}, s.postReplays)
	web.Add(srv, web.Route{Method: "GET", Path: "/v1/webhook-deliveries/{id}", ID: "getDelivery", Tag: tag, Roles: operators, Limit: limit.Read,
		Errors: []int{404}, Summary: "One delivery: its body, and each attempt with its answer"}, s.getDelivery)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/webhook-deliveries/{id}/replays", ID: "replayDelivery", Tag: tag, Roles: operators, Status: 202,
		Limit: limit.Write, Errors: []int{404, 409}, Summary: "Send a delivery again, under the same webhook-id"}, s.postReplay)
}

type healthView struct {
	State        string     `json:"state" enum:"unused,ok,failing" doc:"failing: the last ten attempts or more failed; one delivery at a time is tried until one arrives"`
	Failures     int64      `json:"failures" doc:"Failed attempts in a row"`
	FailingSince *time.Time `json:"failing_since,omitempty" doc:"The first of them"`
	SucceededAt  *time.Time `json:"succeeded_at,omitempty" doc:"The last delivery"`
	FailedAt     *time.Time `json:"failed_at,omitempty"`
	LastError    string     `json:"last_error,omitempty"`
	Waiting      *int       `json:"waiting,omitempty" doc:"Deliveries that are not over, counted up to 10,000; where one webhook is shown"`
}

type webhookLinks struct {
	Self       string `json:"self"`
	Deliveries string `json:"deliveries"`
}

type webhookView struct {
	ID          string   `json:"id"`
	URL         string   `json:"url"`
	Events      []string `json:"events"`
	Description string   `json:"description"`
	Rehearsals  bool     `json:"rehearsals" doc:"It is told of rehearsals, too"`
	Enabled     bool     `json:"enabled"`
	// Secret is set in the answer that gives it, and never again.
	Secret         string       `json:"secret,omitempty" doc:"Shown this once"`
	OldSecretUntil *time.Time   `json:"old_secret_until,omitempty" doc:"Until when the secret before this one signs too"`
	Health         healthView   `json:"health"`
	CreatedAt      time.Time    `json:"created_at"`
	UpdatedAt      time.Time    `json:"updated_at"`
	Links          webhookLinks `json:"links"`
}

func (s *Service) viewWebhook(w Webhook) webhookView {
	id := s.sealer.Seal(levee.KindWebhook, int64(w.ID))
	v := webhookView{ID: id, URL: w.URL, Events: w.Events, Description: w.Description, Rehearsals: w.Rehearsals, Enabled: w.Enabled, CreatedAt: w.CreatedAt,
		UpdatedAt: w.UpdatedAt, Links: webhookLinks{Self: "/v1/webhooks/" + id, Deliveries: "/v1/webhooks/" + id + "/deliveries"},
		Health: healthView{State: "ok", Failures: w.Failures, FailingSince: orNil(w.FailingSince), SucceededAt: orNil(w.SucceededAt), FailedAt: orNil(w.FailedAt)}}
	if s.clock().Before(w.OldSecretUntil) {
		v.OldSecretUntil = orNil(w.OldSecretUntil)
	}
	switch {
	case w.Failures >= int64(s.cfg.FailingAfter):
		v.Health.State = "failing"
	case w.SucceededAt.IsZero() && w.FailedAt.IsZero():
		v.Health.State = "unused"
	}
	if w.Failures > 0 {
		v.Health.LastError = w.LastError
	}
	return v
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

type webhookOutput struct {
	Location     string `header:"Location"`
	ETag         string `header:"ETag"`
	CacheControl string `header:"Cache-Control"`
	Body         webhookView
}

// shown is the answer to what made or changed a webhook; with a secret it must not be kept anywhere.
func (s *Service) shown(w Webhook, secret string) *webhookOutput {
	out := &webhookOutput{Body: s.viewWebhook(w), ETag: web.Tag(webhookVersion(w))}
	if out.Location, out.Body.Secret = out.Body.Links.Self, secret; secret != "" {
		out.CacheControl = "no-store"
	}
	return out
}

// webhookVersion changes with all that a change can change, and not with how the webhook fares.
func webhookVersion(w Webhook) string {
	return web.Digest(w.URL, w.Events, w.Description, w.Rehearsals, w.Enabled)
}

// webhookPatch is what may be said of a webhook; what is left out stays.
type webhookPatch struct {
	URL         *string  `json:"url,omitempty" minLength:"8" maxLength:"1000"`
	Events      []string `json:"events,omitempty" minItems:"1" maxItems:"20"`
	Description *string  `json:"description,omitempty" maxLength:"180"`
	Rehearsals  *bool    `json:"rehearsals,omitempty"`
	Enabled     *bool    `json:"enabled,omitempty"`
}

func (s *Service) currentWebhook(ctx context.Context, public string) (doc any, tag string, err error) {
	id, err := s.open(public)
	if err != nil {
		return nil, "", err
	}
	w, _, err := s.ByID(ctx, id)
	return webhookPatch{&w.URL, w.Events, &w.Description, &w.Rehearsals, &w.Enabled}, web.Tag(webhookVersion(w)), err
}

type webhookPath struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	ID        string `path:"id" doc:"The webhook's id" maxLength:"64"`
}

// open returns the webhook's number. What is no id of one is not found.
func (s *Service) open(id string) (levee.WebhookID, error) {
	n, err := s.sealer.Open(levee.KindWebhook, id)
	return levee.WebhookID(n), err
}

func (s *Service) openDelivery(id string) (levee.DeliveryID, error) {
	n, err := s.sealer.Open(levee.KindDelivery, id)
	return levee.DeliveryID(n), err
}

func (s *Service) postWebhook(ctx context.Context, in *struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	Body      struct {
		URL         string   `json:"url" minLength:"8" maxLength:"1000" doc:"Where to send: an https address that everybody can reach, or one that the house's configuration lists"`
		Events      []string `json:"events" minItems:"1" maxItems:"20" doc:"order.created, order.paid, order.cancelled, order.shipped, order.completed, order.refunded, sale.state_changed, line.offered, line.lost, line.drawn; order.*, sale.*, line.*; *"`
		Description string   `json:"description,omitempty" maxLength:"180"`
		Rehearsals  bool     `json:"rehearsals,omitempty" doc:"Tell of rehearsals, too"`
	}
}) (*webhookOutput, error) {
	w, secret, err := s.Create(ctx, NewWebhook{URL: in.Body.URL, Events: in.Body.Events, Description: in.Body.Description, Rehearsals: in.Body.Rehearsals},
		identity.From(ctx, in.UserAgent))
	if err != nil {
		return nil, err
	}
	return s.shown(w, secret), nil
}

func (s *Service) getWebhooks(ctx context.Context, _ *struct{}, _ *listing.Query) (*listing.Page[webhookView], error) {
	list, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	views := make([]webhookView, len(list))
	for i, w := range list {
		views[i] = s.viewWebhook(w)
	}
	return listing.Whole(views), nil
}

func (s *Service) getWebhook(ctx context.Context, in *webhookPath) (*webhookOutput, error) {
	id, err := s.open(in.ID)
	if err != nil {
		return nil, err
	}
	w, waiting, err := s.ByID(ctx, id)
	if err != nil {
		return nil, err
	}
	out := s.shown(w, "")
	out.Body.Health.Waiting = &waiting
	return out, nil
}

func (s *Service) patchWebhook(ctx context.Context, in *struct {
	UserAgent string `header:"User-Agent" hidden:"true"`
	ID        string `path:"id" maxLength:"64"`
	web.Precondition
	Body webhookPatch
}) (*webhookOutput, error) {
	id, err := s.open(in.ID)
	if err != nil {
		return nil, err
	}
	b, seen := in.Body, in.Seen(false)
	w, err := s.Change(ctx, id, Change{Seen: func(w Webhook) error { return seen(webhookVersion(w)) }, URL: b.URL, Events: b.Events, Description: b.Description, Rehearsals: b.Rehearsals, Enabled: b.Enabled}, identity.From(ctx, in.UserAgent))
	if err != nil {
		return nil, err
	}
	return s.shown(w, ""), nil
}

func (s *Service) deleteWebhook(ctx context.Context, in *webhookPath) (*struct{}, error) {
	id, err := s.open(in.ID)
	if err != nil {
		return nil, err
	}
	return nil, s.Delete(ctx, id, identity.From(ctx, in.UserAgent))
}

func (s *Service) postSecret(ctx context.Context, in *webhookPath) (*webhookOutput, error) {
	id, err := s.open(in.ID)
	if err != nil {
		return nil, err
	}
	w, secret, err := s.Rotate(ctx, id, identity.From(ctx, in.UserAgent))
	if err != nil {
		return nil, err
	}
	return s.shown(w, secret), nil
}

type attemptView struct {
	Number     int       `json:"number"`
	At         time.Time `json:"at"`
	DurationMS float64   `json:"duration_ms"`
	Status     int       `json:"status,omitempty" doc:"Of the answer; absent when there was none"`
	Answer     string    `json:"answer,omitempty" doc:"Its first KiB"`
	Error      string    `json:"error,omitempty" doc:"Why there was no answer"`
}

type deliveryView struct {
	ID       string     `json:"id" doc:"Also the webhook-id that the receiver gets"`
	Webhook  string     `json:"webhook"`
	Type     string     `json:"type"`
	Subject  string     `json:"subject,omitempty" doc:"The order, sale or entry it is about"`
	Version  int64      `json:"version" doc:"Of the subject; grows from step to step"`
	State    string     `json:"state" enum:"pending,failed,delivered,parked" doc:"failed: it is due again at due_at; parked: given up"`
	Tries    int        `json:"tries" doc:"How often it was sent"`
	Status   int        `json:"status,omitempty" doc:"Of the last answer"`
	At       time.Time  `json:"at" doc:"When it happened"`
	TriedAt  *time.Time `json:"tried_at,omitempty"`
	DueAt    *time.Time `json:"due_at,omitempty" doc:"When it is tried again"`
	GiveUpAt *time.Time `json:"give_up_at,omitempty" doc:"When it is parked if it fails until then"`
	Links    struct {
		Self string `json:"self"`
	} `json:"links"`
}

func (s *Service) viewDelivery(d Delivery) deliveryView {
	v := deliveryView{ID: s.sealer.Seal(levee.KindDelivery, int64(d.ID)), Webhook: s.sealer.Seal(levee.KindWebhook, int64(d.Webhook)), Type: d.Type,
		Version: d.Version, State: d.State(), Tries: d.Attempts, Status: d.Status, At: d.At, TriedAt: orNil(d.TriedAt)}
	if d.SubjectKind != levee.KindDelivery {
		v.Subject = s.sealer.Seal(d.SubjectKind, d.Subject)
	}
	if d.state < stateDelivered {
		v.DueAt, v.GiveUpAt = orNil(d.DueAt), orNil(d.GiveUpAt)
	}
	v.Links.Self = "/v1/webhook-deliveries/" + v.ID
	return v
}

type deliveryOutput struct {
	Location string `header:"Location"`
	Body     deliveryView
}

func (s *Service) postPing(ctx context.Context, in *webhookPath) (*deliveryOutput, error) {
	id, err := s.open(in.ID)
	if err != nil {
		return nil, err
	}
	d, err := s.Ping(ctx, id)
	if err != nil {
		return nil, err
	}
	v := s.viewDelivery(d)
	return &deliveryOutput{Location: v.Links.Self, Body: v}, nil
}

func (s *Service) getDeliveries(ctx context.Context, in *pathID, q *listing.Query) (*listing.Page[deliveryView], error) {
	id, err := s.open(in.ID)
	if err != nil {
		return nil, err
	}
	found, err := s.Deliveries(ctx, id, q)
	if err != nil {
		return nil, err
	}
	return listing.Show(q, found, s.viewDelivery), nil
}

type pathID struct {
	ID string `path:"id" maxLength:"64"`
}

// DeliveryView is exported because the document knows the fields of what is embedded by an exported name only.
type DeliveryView = deliveryView

type wholeDelivery struct {
	Body struct {
		DeliveryView
		Payload  json.RawMessage `json:"payload" doc:"The body as it is sent"`
		Attempts []attemptView   `json:"attempts" doc:"Oldest first, the last 200"`
	}
}

func (s *Service) getDelivery(ctx context.Context, in *struct {
	ID string `path:"id" maxLength:"64"`
}) (*wholeDelivery, error) {
	id, err := s.openDelivery(in.ID)
	if err != nil {
		return nil, err
	}
	d, body, attempts, err := s.Delivery(ctx, id)
	if err != nil {
		return nil, err
	}
	out := &wholeDelivery{}
	out.Body.DeliveryView, out.Body.Payload, out.Body.Attempts = s.viewDelivery(d), body, make([]attemptView, len(attempts))
	for i, a := range attempts {
		out.Body.Attempts[i] = attemptView{Number: a.Number, At: a.At, DurationMS: float64(a.Duration.Microseconds()) / 1000, Status: a.Status, Answer: a.Answer, Error: a.Error}
	}
	return out, nil
}

func (s *Service) postReplay(ctx context.Context, in *struct {
	ID string `path:"id" maxLength:"64"`
}) (*deliveryOutput, error) {
	id, err := s.openDelivery(in.ID)
	if err != nil {
		return nil, err
	}
	d, err := s.Replay(ctx, id)
	if err != nil {
		return nil, err
	}
	v := s.viewDelivery(d)
	return &deliveryOutput{Location: v.Links.Self, Body: v}, nil
}

type replayedOutput struct {
	Location string `header:"Location"`
	Body     struct {
		Replayed int  `json:"replayed" doc:"Deliveries that will be sent again"`
		More     bool `json:"more" doc:"There are more than one request sends again: ask for a later time"`
	}
}

func (s *Service) postReplays(ctx context.Context, in *struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		From time.Time  `json:"from" doc:"What happened at or after this moment"`
		To   *time.Time `json:"to,omitempty" doc:"and before this one; now if left out"`
	}
}) (*replayedOutput, error) {
	id, err := s.open(in.ID)
	if err != nil {
		return nil, err
	}
	var to time.Time
	if in.Body.To != nil {
		to = *in.Body.To
	}
	out := &replayedOutput{Location: "/v1/webhooks/" + in.ID + "/deliveries?state=pending"}
	out.Body.Replayed, out.Body.More, err = s.ReplaySince(ctx, id, in.Body.From, to)
	return out, err
}
