package ops

import (
	"context"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/event"
	"levee/internal/platform/listing"
	"levee/internal/platform/web"
)

func (s *Service) eventRoutes(srv *web.Server) {
	const roles = levee.RoleAdministrator
	listing.Add(srv, web.Route{Method: "GET", Path: "/v1/event-listeners", ID: "listEventListeners", Tag: tag, Roles: roles, Errors: []int{503},
		Summary: "What waits for whom: the listeners, how far behind they are, and what is kept of past events"},
		listing.New[listenerView](listing.Spec{Name: "event-listeners", Whole: true}), s.getListeners)
	web.Add(srv, web.Route{Method: "DELETE", Path: "/v1/event-listeners/{listener}", ID: "forgetEventListener", Tag: tag, Roles: roles, Status: 204, Errors: []int{404, 409, 503},
		Summary: "Strike a listener that no program has any more", Description: "What lies ready for it goes, too; what is parked stays. 409: this program has it."}, s.deleteListener)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/event-listeners/{listener}/replay", ID: "replayEvents", Tag: tag, Roles: roles, Status: 202, Errors: []int{404, 422, 503},
		Summary: "Give a listener past events once more", Description: "In their order per key, live events after them. Effects of the first time are not undone."}, s.postReplay)
	listing.Add(srv, web.Route{Method: "GET", Path: "/v1/parked-events", ID: "listParkedEvents", Tag: tag, Roles: roles, Errors: []int{422, 503},
		Summary: "Deliveries of one listener that were given up, oldest event first"}, parkedList(), s.getParked)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/parked-events/{listener}/{event}/retry", ID: "retryParkedEvent", Tag: tag, Roles: roles, Status: 204, Errors: []int{404, 409, 503},
		Summary: "Deliver a parked event now", Description: "409: it failed again, and stays parked; the answer says why."}, s.postParkedRetry)
	web.Add(srv, web.Route{Method: "DELETE", Path: "/v1/parked-events/{listener}/{event}", ID: "discardParkedEvent", Tag: tag, Roles: roles, Status: 204, Errors: []int{404, 503},
		Summary: "Give up a parked event for good"}, s.deleteParked)
}

type listenerView struct {
	Name      string      `json:"name"`
	Events    []string    `json:"events" nullable:"false"`
	Here      bool        `json:"here" doc:"This node's program has it"`
	Behind    bool        `json:"behind" doc:"It gets its events from what is kept: a replay, or no program that has it delivers"`
	Gone      bool        `json:"gone" doc:"It stayed away for longer than events are kept"`
	FirstSeen *time.Time  `json:"first_seen,omitempty"`
	Seen      *time.Time  `json:"seen,omitempty" doc:"When a program that has it last started"`
	Waiting   int         `json:"waiting"`
	OldestMS  int64       `json:"oldest_ms" doc:"Age of the oldest event that waits; 0: none does"`
	Parked    int         `json:"parked"`
	PerSecond float64     `json:"per_second" doc:"Deliveries by this node over about the last minute"`
	Replay    *replayView `json:"replay,omitempty" doc:"Of one that is behind"`
}

type replayView struct {
	From int64 `json:"from" doc:"Number, in the log, of the first event that it gets or got"`
	At   int64 `json:"at" doc:"Of the last one on its way to it"`
	Head int64 `json:"head" doc:"Of the last one that is kept"`
}

type listenersView struct {
	Relays   bool       `json:"relays" doc:"This node delivers for all"`
	Waiting  int        `json:"waiting" doc:"Events that some listener has yet to handle"`
	OldestMS int64      `json:"oldest_ms"`
	KeptFrom *time.Time `json:"kept_from,omitempty" doc:"Of the oldest event that can be replayed"`
	Kept     int64      `json:"kept" doc:"Events that can be replayed, about"`
	listing.Page[listenerView]
}

func (s *Service) getListeners(ctx context.Context, _ *struct{}, _ *listing.Query) (*listenersView, error) {
	stats, err := s.Events.Stats(ctx)
	if err != nil {
		return nil, err
	}
	items := make([]listenerView, len(stats.Listeners))
	for n, l := range stats.Listeners {
		v := listenerView{Name: l.Name, Events: l.Events, Here: l.Here, Behind: l.Behind, Gone: l.Gone, FirstSeen: orNil(l.FirstSeen), Seen: orNil(l.Seen),
			Waiting: l.Waiting, OldestMS: l.Oldest.Milliseconds(), Parked: l.Parked, PerSecond: l.PerSecond}
		if v.Events == nil {
			v.Events = []string{}
		}
		if l.Behind {
			replay := replayView(l.Replay)
			v.Replay = &replay
		}
		items[n] = v
	}
	out := &listenersView{Relays: stats.Relays, Waiting: stats.Waiting, OldestMS: stats.Oldest.Milliseconds(), KeptFrom: orNil(stats.Log.Oldest),
		Page: *listing.Whole(items)}
	if stats.Log.Last > 0 {
		out.Kept = stats.Log.Last - stats.Log.First + 1
	}
	return out, nil
}

type listenerPath struct {
	Listener string `path:"listener" maxLength:"190"`
}

func (s *Service) deleteListener(ctx context.Context, in *listenerPath) (*struct{}, error) {
	return nil, s.act(ctx, "listener.forget", "", map[string]string{"listener": in.Listener}, nil, func(ctx context.Context) error {
		return s.Events.Forget(ctx, in.Listener)
	})
}

type replayOutput struct {
	Location string `header:"Location"`
	Body     struct {
		From int64 `json:"from" doc:"Number of the first event that it gets"`
		Head int64 `json:"head" doc:"Number of the last one that is kept"`
	}
}

func (s *Service) postReplay(ctx context.Context, in *struct {
	Listener string `path:"listener" maxLength:"190"`
	Body     struct {
		Since *time.Time `json:"since,omitempty" doc:"From the first event delivered then or later; left out: from the oldest that is kept"`
	}
}) (*replayOutput, error) {
	from, asked := event.Start(), map[string]any{"listener": in.Listener}
	if in.Body.Since != nil {
		from, asked["since"] = event.Since(*in.Body.Since), in.Body.Since.UTC()
	}
	out := &replayOutput{Location: "/v1/event-listeners"}
	return out, s.act(ctx, "listener.replay", "", nil, asked, func(ctx context.Context) error {
		state, err := s.Events.Replay(ctx, in.Listener, from)
		out.Body.From, out.Body.Head = state.From, state.Head
		return err
	})
}

type parkedView struct {
	Event    string    `json:"event" doc:"The event's id"`
	Listener string    `json:"listener"`
	Name     string    `json:"name"`
	Payload  any       `json:"payload" doc:"Without what is secret in it"`
	Attempts int       `json:"attempts"`
	Error    string    `json:"error" doc:"Of the last attempt"`
	ParkedAt time.Time `json:"parked_at"`
}

func parkedList() *listing.List[parkedView] {
	return listing.New[parkedView](listing.Spec{Name: "parked-events", Forward: true, Export: true,
		Fields: []listing.Field{{Name: "listener", Only: true, Required: true, Doc: "Whose deliveries"}},
		Keys:   []listing.Key{{Name: "event"}}})
}

func (s *Service) getParked(ctx context.Context, _ *struct{}, q *listing.Query) (*listing.Page[parkedView], error) {
	var after int64
	if key, ok := q.After(); ok {
		after, _ = key.(int64)
	}
	list, err := s.Events.ParkedOf(ctx, q.Value("listener"), after, q.Limit)
	if err != nil {
		return nil, err
	}
	views := make([]parkedView, len(list))
	for n, p := range list {
		views[n] = parkedView{Event: s.Sealer.Seal(levee.KindEvent, p.EventID), Listener: p.Listener, Name: p.Event, Payload: masked(p.Payload),
			Attempts: p.Attempts, Error: p.Error, ParkedAt: p.ParkedAt.UTC()}
	}
	if len(list) < q.Limit {
		return listing.Rest(q, views, nil), nil
	}
	return listing.Rest(q, views, list[len(list)-1].EventID), nil
}

type parkedPath struct {
	Listener string `path:"listener" maxLength:"190"`
	Event    string `path:"event" maxLength:"64"`
}

func (s *Service) parked(ctx context.Context, in *parkedPath, what string, do func(ctx context.Context, event int64) error) (*struct{}, error) {
	n, err := s.Sealer.Open(levee.KindEvent, in.Event)
	if err != nil {
		return nil, err
	}
	return nil, s.act(ctx, what, in.Event, map[string]string{"listener": in.Listener}, nil, func(ctx context.Context) error { return do(ctx, n) })
}

func (s *Service) postParkedRetry(ctx context.Context, in *parkedPath) (*struct{}, error) {
	return s.parked(ctx, in, "event.retry", func(ctx context.Context, n int64) error {
		_, err := s.Events.RetryParked(ctx, n, in.Listener)
		if err == nil || levee.CodeOf(err) != levee.CodeInternal {
			return err
		}
		// It is the listener's own failure: told, because it is what the person at the button wants to know.
		return levee.E(levee.CodeConflict, "it failed again: %s", levee.Shorten(strings.TrimSpace(err.Error()), 500)).Because(err)
	})
}

func (s *Service) deleteParked(ctx context.Context, in *parkedPath) (*struct{}, error) {
	return s.parked(ctx, in, "event.discard", func(ctx context.Context, n int64) error {
		_, err := s.Events.DiscardParked(ctx, n, in.Listener)
		return err
	})
}
