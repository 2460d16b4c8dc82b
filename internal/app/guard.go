package app

import (
	"context"
	"net/http"
	"time"

	"levee"
	"levee/internal/platform/permit"
)

// guard keeps live connections to those who may still have them: about a second after a session has ended, an account was shut, roles or
// permissions were taken away or an access token has expired, its streams end. Their readers come back and are judged as anybody who comes.
func (a *App) guard(ctx context.Context) error {
	places := map[string]permit.Index{} // of what not everybody may, by the route
	for _, r := range a.backends.permits.Resources() {
		if _, i, _ := a.backends.permits.Find(r.Name); r.Method != "" && !r.Open {
			places[r.Method+" "+r.Route] = i
		}
	}
	return a.backends.push.Guard(ctx, time.Second, func(r *http.Request) bool {
		was := levee.ActorFrom(r.Context())
		if !was.SignedIn() {
			return true
		}
		is, err := a.Rooms.authenticate(r)
		if err != nil { // or else SQL does not answer: then what was true stays
			return levee.CodeOf(err) != levee.CodeUnauthenticated
		}
		// With other roles or abilities the topics may be others, too: he comes back and asks anew.
		if is.User != was.User || is.Session != was.Session || is.Roles != was.Roles || is.Abilities != was.Abilities {
			return false
		}
		i, closed := places[r.Pattern]
		return !closed || a.backends.permits.May(i, is.Roles)
	})
}
