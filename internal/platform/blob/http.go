package blob

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"levee"
)

// contentPolicy keeps whatever a file holds from running, wherever it is opened.
const contentPolicy = "default-src 'none'; sandbox"

// Get answers GET and HEAD of Path/{use}/{id}, a signed link: ranges, If-None-Match, and headers with which nothing in the file can run.
func (s *Store) Get(w http.ResponseWriter, r *http.Request) {
	k, q, err := parts(r)
	if err != nil {
		s.config.Fail(w, r, err)
		return
	}
	end, _, err := s.verify(http.MethodGet, k, q)
	if err != nil {
		s.config.Fail(w, r, err)
		return
	}
	f, err := s.openLazily(r.Context(), k)
	if err != nil {
		s.config.Fail(w, r, err)
		return
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", f.Type)
	h.Set("Content-Disposition", disposition(f.Object))
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", fmt.Sprintf("private, max-age=%d, immutable", max(0, int64(end.Sub(s.clock())/time.Second))))
	h.Set("ETag", f.ETag())
	http.ServeContent(w, r, "", f.Created, f)
	if f.err != nil && r.Context().Err() == nil {
		s.log.Warn("a file broke off while it was served", "key", string(k), "error", f.err)
	}
}

// Take answers PUT of Path/{use}/{id}, a Ticket's link.
func (s *Store) Take(w http.ResponseWriter, r *http.Request) {
	if err := s.take(r); err != nil {
		s.config.Fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Store) take(r *http.Request) (err error) {
	defer s.done("take", time.Now(), &err)
	k, q, err := parts(r)
	if err != nil {
		return err
	}
	_, size, err := s.verify(http.MethodPut, k, q)
	if err != nil {
		return err
	}
	if r.ContentLength >= 0 && r.ContentLength != size {
		return levee.Invalid("Content-Length", fmt.Sprintf("%d, as was declared", size), r.ContentLength)
	}
	_, err = s.store(r.Context(), k, "application/octet-stream", "", newMeter(r.Context(), Upload{Body: r.Body, Size: size}, size))
	return err
}

// parts reads key and query of a request.
func parts(r *http.Request) (Key, url.Values, error) {
	k, err := ParseKey(r.PathValue("use") + "/" + r.PathValue("id"))
	return k, r.URL.Query(), err
}
