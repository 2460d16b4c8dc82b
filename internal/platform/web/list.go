package web

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"levee"
	"levee/internal/platform/header"
)

// Param documents a query parameter that the handler reads and checks itself (platform/listing). Others are still refused.
type Param struct {
	Name, Doc   string
	Type        string // of JSON; default string
	Format      string
	Enum        []string
	Default     string
	MaxLength   int    // 0: no bound is told
	Pattern     string // the regular expression that a value matches; "": none is told
	Least, Most int    // of an integer; both 0: no bound is told
	Required    bool
	Deprecated  bool
}

func (p Param) document() *huma.Param {
	s := &huma.Schema{Type: p.Type, Format: p.Format, Pattern: p.Pattern}
	if s.Type == "" {
		s.Type = huma.TypeString
	}
	for _, v := range p.Enum {
		s.Enum = append(s.Enum, v)
	}
	if p.MaxLength > 0 {
		s.MaxLength = &p.MaxLength
	}
	if p.Least != 0 || p.Most != 0 {
		least := float64(p.Least)
		s.Minimum = &least
		if most := float64(p.Most); p.Most != 0 {
			s.Maximum = &most
		}
	}
	if p.Default != "" {
		s.Default = p.Default
		if n, err := strconv.Atoi(p.Default); err == nil && s.Type == huma.TypeInteger {
			s.Default = n
		}
	}
	return &huma.Param{Name: p.Name, In: "query", Description: p.Doc, Schema: s, Required: p.Required, Deprecated: p.Deprecated}
}

// Lists is what lists share: the key that seals their cursors, and what tells the audit trail of an export: the list's name and the query.
func (s *Server) Lists() (key []byte, exported func(ctx context.Context, list, query string) error) {
	key, exported = s.parts.ListKey, s.parts.Exported
	if len(key) == 0 {
		key = make([]byte, 32)
		_, _ = rand.Read(key) // never fails
	}
	if exported == nil {
		exported = func(context.Context, string, string) error {
			return levee.E(levee.CodeUnavailable, "exports cannot be told to the audit trail here")
		}
	}
	return key, exported
}

// Exchange returns the answer's writer and the request, for a typed handler that answers some requests itself: it writes, and returns nil and nil.
func Exchange(ctx context.Context) (http.ResponseWriter, *http.Request) {
	c := callOf(ctx)
	return c, c.r
}

// Accepts reports whether the caller takes an answer of this media type.
func Accepts(r *http.Request, mediaType string) bool {
	return header.Acceptable(r.Header["Accept"], callOf(r.Context()).route.version, []string{mediaType})
}

// Cut ends an answer in its middle, by cutting the connection: so that what was sent is not taken for the whole. It does not return.
func Cut(ctx context.Context, err error) {
	c := callOf(ctx)
	c.s.log.LogAttrs(ctx, slog.LevelWarn, "an answer was cut off", slog.String("request_id", c.id), slog.String("route", c.route.name), slog.String("err", err.Error()))
	panic(http.ErrAbortHandler)
}
