package line

import (
	"context"
	"io"
	"net/http"
	"time"

	"levee"
	"levee/internal/platform/limit"
	"levee/internal/platform/web"
	"levee/internal/sale"
)

// textTimeout is how long a reader may take over one of a draw's texts: 40 MB at most.
const textTimeout = 5 * time.Minute

func (s *Service) drawRoutes(srv *web.Server) {
	web.Add(srv, web.Route{Method: "GET", Path: "/v1/sales/{sale}/draw", ID: "getDraw", Tag: tag, Limit: limit.Read, Errors: []int{404},
		Summary: "What is public of a sale's draw", Description: "The hash of the seed before the entries, the seed and the results after the draw. " +
			"docs/draw.md tells how anybody can run the draw again."}, s.getDraw)
	for _, t := range []struct {
		kind          int
		path, id, sum string
	}{
		{kind: textEntries, path: "entries", id: "getDrawEntries", sum: "The entry list of a draw, byte for byte what entries_digest is over"},
		{kind: textResults, path: "results", id: "getDrawResults", sum: "The results of a draw: rank, entry, units won"},
	} {
		srv.Raw(web.Route{Method: "GET", Path: "/v1/sales/{sale}/draw/" + t.path, ID: t.id, Tag: tag, Limit: limit.Read, Timeout: textTimeout,
			Errors: []int{404}, Summary: t.sum}, s.serveText(t.kind),
			web.RawDoc{Produces: []string{"text/plain"}, Responses: map[int]any{200: nil, 304: nil}})
	}
}

type drawOut struct{ Body drawView }

func (s *Service) getDraw(ctx context.Context, in *salePath) (*drawOut, error) {
	v, err := s.Sales.ByPublicID(ctx, in.Sale)
	if err != nil {
		return nil, err
	}
	d, err := s.drawOfSale(ctx, v)
	if err != nil {
		return nil, err
	}
	return &drawOut{s.drawView(v, d)}, nil
}

func (s *Service) drawView(v *sale.Sale, d draw) drawView {
	now := s.Obs.Clock()
	self := "/v1/sales/" + s.saleRef(v.ID)
	out := drawView{Sale: s.saleRef(v.ID), State: drawClosed, Entries: d.entries, Units: d.units, DrawAt: v.DrawAt, Algorithm: Algorithm, SeedHash: d.hash,
		Links: drawLinks{Self: self + "/draw", Entries: self + "/draw/entries", Results: self + "/draw/results", Line: self + "/line"}}
	switch {
	case d.state == drawDone:
		out.State = drawDrawn
		out.Seed, out.ResultsDigest, out.Winners, out.DrawnAt = &d.seed, &d.resultsDigest, &d.winners, &d.drawnAt
	case d.state >= drawFrozen || !now.Before(v.DrawAt) || v.State == sale.StateEnded:
	case now.Before(v.StartsAt):
		out.State = drawPlanned
	default:
		out.State = drawOpen
	}
	if d.state < drawFrozen {
		out.Units = v.Units
	}
	if d.state >= drawListed {
		out.EntriesDigest = &d.entriesDigest
	}
	return out
}

// serveText streams one of a draw's texts. It never changes once it is there, so it may be kept for ever.
func (s *Service) serveText(kind int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		v, err := s.Sales.ByPublicID(ctx, r.PathValue("sale"))
		var d draw
		if err == nil {
			d, err = s.drawOfSale(ctx, v)
		}
		digest, ready := d.entriesDigest, d.state >= drawListed
		if kind == textResults {
			digest, ready = d.resultsDigest, d.state == drawDone
		}
		if err == nil && !ready {
			err = levee.E(levee.CodeNotFound, "it is published with the draw, at %s", v.DrawAt.Format(time.RFC3339))
		}
		if err != nil {
			web.WriteError(w, r, err)
			return
		}
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		if web.NotModified(w, r, `"`+digest+`"`) {
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		for part := 0; ; part++ {
			body, more, err := textAt(ctx, s.DB, v.ID, kind, part)
			if err != nil {
				if ctx.Err() == nil {
					s.log.Warn("a draw's text could not be read to its end", "sale", s.saleRef(v.ID), "err", err)
				}
				panic(http.ErrAbortHandler) // the status line is gone; a cut answer is how the reader learns of it
			}
			if !more {
				return
			}
			if _, err := io.WriteString(w, body); err != nil {
				return // the reader left
			}
		}
	}
}
