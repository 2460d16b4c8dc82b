package web

import (
	"context"
	"net/http"
	"time"

	"levee/internal/platform/db"
)

// Where the database has replicas, a session must not read less than it wrote, on whichever node its next request arrives. So the answer to a
// request that wrote carries a marker (db.DB.Marker), and a request that brings one reads the primary until the replicas have what
// was written. It travels twice: as a cookie, because that is what a browser sends with everything without a page's doing (other tabs,
// event streams, images), and as a header, for programs, which keep no cookies. Without replicas there is neither.
const (
	headerMarker = "Levee-Marker"
	cookieMarker = "levee_marker"
)

// Wrote says that somebody else has committed something for this request (a worker whose answer it waited for), so that its answer carries
// a marker. What the request's own context wrote is known without it.
func Wrote(ctx context.Context) { db.NoteWrite(ctx) }

// follow lets the request read what its session wrote before.
func (s *Server) follow(c *call, r *http.Request) {
	d := s.parts.DB
	if d == nil || d.StickyFor() == 0 {
		return
	}
	c.Context = db.Scope(c.Context)
	if lines := r.Header[headerMarker]; len(lines) > 0 {
		c.Context = d.Follow(c.Context, lines[0])
	}
	if cookie, err := r.Cookie(cookieMarker); err == nil {
		c.Context = d.Follow(c.Context, cookie.Value)
	}
}

// mark puts the marker on an answer whose request wrote. It is called when the headers are sent.
func (c *call) mark() {
	d := c.s.parts.DB
	if d == nil || d.StickyFor() == 0 {
		return
	}
	marker := d.Marker(c.Context)
	if marker == "" {
		return
	}
	c.Header()[headerMarker] = []string{marker}
	http.SetCookie(c.ResponseWriter, &http.Cookie{Name: cookieMarker, Value: marker, Path: "/", HttpOnly: true, Secure: c.secure,
		SameSite: http.SameSiteLaxMode, MaxAge: int((d.StickyFor() + time.Second - 1) / time.Second)})
}
