package main

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"levee"
)

type eventsCmd struct {
	Listeners eventsListenersCmd `cmd:"" help:"Who hears what, and how far behind each is."`
	Parked    eventsParkedCmd    `cmd:"" help:"List what one listener could not handle."`
	Retry     eventsRetryCmd     `cmd:"" help:"Deliver parked events again."`
	Discard   eventsDiscardCmd   `cmd:"" help:"Give up parked events for good."`
	Replay    eventsReplayCmd    `cmd:"" help:"Give a listener past events once more."`
	Forget    eventsForgetCmd    `cmd:"" help:"Strike a listener that no program has any more."`
}

type eventsListenersCmd struct{ remote }

func (c *eventsListenersCmd) Run(env *common) error {
	return c.with(env, func(s *caller) error {
		if c.JSON {
			return s.show("/v1/event-listeners")
		}
		var all struct {
			Items []struct {
				Name               string
				Here, Behind, Gone bool
				Waiting, Parked    int
				OldestMS           int64 `json:"oldest_ms"`
			}
		}
		if err := s.call(env.ctx, http.MethodGet, "/v1/event-listeners", nil, &all); err != nil {
			return err
		}
		t := newColumns(env, "LISTENER", "STATE", "WAITING", "OLDEST", "PARKED")
		for _, l := range all.Items {
			state := "hears"
			switch {
			case l.Gone:
				state = "gone"
			case l.Behind:
				state = "catches up"
			case !l.Here:
				state = "elsewhere"
			}
			t.row(l.Name, state, fmt.Sprint(l.Waiting), (time.Duration(l.OldestMS) * time.Millisecond).String(), fmt.Sprint(l.Parked))
		}
		return t.end()
	})
}

type eventsParkedCmd struct {
	remote
	Listener string `arg:"" help:"The listener's name."`
	Limit    int    `default:"100" help:"At most so many, 1 to 100000."`
}

func (c *eventsParkedCmd) Run(env *common) error {
	type parked struct {
		Event, Name, Error string
		Attempts           int
		ParkedAt           *time.Time `json:"parked_at"`
	}
	return c.with(env, func(s *caller) error {
		var t columns
		if !c.JSON {
			t = newColumns(env, "EVENT", "NAME", "ATTEMPTS", "PARKED", "ERROR")
		}
		err := pages(s, "/v1/parked-events", url.Values{"listener": {c.Listener}}, c.Limit, func(p parked) error {
			t.row(p.Event, p.Name, fmt.Sprint(p.Attempts), at(p.ParkedAt), fmt.Sprintf("%.100q", p.Error))
			return nil
		})
		if err != nil || c.JSON {
			return err
		}
		return t.end()
	})
}

type eventsOf struct {
	remote
	Listener string   `arg:"" help:"The listener's name."`
	Event    []string `arg:"" help:"Ids of parked events."`
}

func (c *eventsOf) do(env *common, did, method, tail string) error {
	return c.each(env, c.Event, did, func(s *caller, event string) error {
		return s.call(env.ctx, method, "/v1/parked-events/"+url.PathEscape(c.Listener)+"/"+url.PathEscape(event)+tail, nil, nil)
	})
}

type eventsRetryCmd struct{ eventsOf }

func (c *eventsRetryCmd) Run(env *common) error {
	return c.do(env, "delivered", http.MethodPost, "/retry")
}

type eventsDiscardCmd struct{ eventsOf }

func (c *eventsDiscardCmd) Run(env *common) error {
	return c.do(env, "given up", http.MethodDelete, "")
}

type eventsReplayCmd struct {
	remote
	Listener string `arg:"" help:"The listener's name."`
	Since    string `placeholder:"TIME" help:"From the first event delivered then or later (2026-11-21T10:00:00Z). Default: from the oldest that is kept."`
}

func (c *eventsReplayCmd) Run(env *common) error {
	body := map[string]any{}
	if c.Since != "" {
		since, err := time.Parse(time.RFC3339, c.Since)
		if err != nil {
			return levee.Invalid("--since", "a time such as 2026-11-21T10:00:00Z", c.Since)
		}
		body["since"] = since
	}
	return c.each(env, []string{c.Listener}, "gets its events once more", func(s *caller, name string) error {
		return s.call(env.ctx, http.MethodPost, "/v1/event-listeners/"+url.PathEscape(name)+"/replay", body, nil)
	})
}

type eventsForgetCmd struct {
	remote
	Listener []string `arg:"" help:"Names of listeners."`
}

func (c *eventsForgetCmd) Run(env *common) error {
	return c.each(env, c.Listener, "forgotten", func(s *caller, name string) error {
		return s.call(env.ctx, http.MethodDelete, "/v1/event-listeners/"+url.PathEscape(name), nil, nil)
	})
}
