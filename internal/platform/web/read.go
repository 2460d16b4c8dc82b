package web

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"reflect"
	"sync"
	"time"

	"levee"
	"levee/internal/platform/body"
	"levee/internal/platform/header"
	"levee/internal/platform/problem"
)

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// putBuffer gives a buffer back, unless it has grown so much that keeping it would hold memory for nothing.
func putBuffer(b *bytes.Buffer) {
	if b.Cap() <= 64<<10 {
		b.Reset()
		buffers.Put(b)
	}
}

// ReadJSON reads a raw handler's body into v, a pointer, strictly: at most max bytes (0: what the route allows), one JSON value,
// fields that v has and in their very spelling, each once, of their type and range, nesting at most 64 deep. Errors name the
// field, what is allowed and what was given: CodeTooLarge, CodeUnsupportedMedia, CodeMalformed, CodeInvalid, CodeTimeout (the
// caller was too slow).
func ReadJSON(r *http.Request, max int64, v any) error {
	if ct := r.Header["Content-Type"]; len(ct) > 0 && !header.IsJSON(header.MediaType(ct[0])) {
		return errMedia(ct[0], []string{"application/json"})
	}
	buf := buffers.Get().(*bytes.Buffer) //nolint:errcheck // the pool holds nothing else
	defer putBuffer(buf)
	if err := readBody(buf, r, max); err != nil {
		return err
	}
	return decodeJSON(buf.Bytes(), v)
}

func decodeJSON(data []byte, v any) error {
	t := reflect.TypeOf(v)
	if t.Kind() != reflect.Pointer {
		return errors.New("web.ReadJSON needs a pointer")
	}
	if err := body.Check(data, body.Of(t.Elem())); err != nil {
		// What is no JSON at all is told before what is wrong inside, as in typed routes.
		if broken := body.Check(data, nil); levee.CodeOf(broken) == levee.CodeMalformed {
			return broken
		}
		return err
	}
	if err := unmarshalJSON(data, v); err != nil {
		// A type with its own reader refused a value: its words are for the log.
		return errValue(err)
	}
	return nil
}

func errValue(cause error) error {
	return problem.Refuse(levee.CodeInvalid, "body", "values as documented", "", "the body holds a value that is not allowed where it stands").Because(cause)
}

// readBody reads the whole body into buf: at most max bytes when max is positive.
func readBody(buf *bytes.Buffer, r *http.Request, max int64) error {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	if max > 0 && r.ContentLength > max {
		return errTooLarge(max, r.ContentLength)
	}
	if n := r.ContentLength; n > 0 && n <= 64<<10 { // what a caller announces is believed only up to here
		buf.Grow(int(n))
		whole := buf.AvailableBuffer()[:n]
		if _, err := io.ReadFull(r.Body, whole); err != nil {
			return bodyError(err)
		}
		_, _ = buf.Write(whole) // never fails
		return nil
	}
	var from io.Reader = r.Body
	if max > 0 {
		from = io.LimitReader(r.Body, max+1)
	}
	if _, err := buf.ReadFrom(from); err != nil {
		return bodyError(err)
	}
	if max > 0 && int64(buf.Len()) > max {
		return errTooLarge(max, -1)
	}
	return nil
}

func errTooLarge(max, given int64) error {
	if given < 0 {
		return levee.E(levee.CodeTooLarge, "the body must be at most %d bytes, it is more", max)
	}
	return levee.E(levee.CodeTooLarge, "the body must be at most %d bytes, it is %d", max, given)
}

// bodyError says why a body could not be read to its end.
func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	var netErr net.Error
	switch {
	case errors.As(err, &tooLarge):
		return errTooLarge(tooLarge.Limit, -1)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		e := levee.E(levee.CodeTimeout, "the body did not arrive in time").Because(err)
		return problem.With(e, http.StatusRequestTimeout, http.Header{"Connection": {"close"}})
	case errors.Is(err, context.Canceled):
		return err
	}
	return levee.E(levee.CodeMalformed, "the body is broken off or wrongly framed").Because(err)
}

// noteBody remembers why the body could not be read, for those who are told only in words (multipart).
type noteBody struct {
	io.ReadCloser
	c *call
}

func (b *noteBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF && b.c.body == nil { //nolint:errorlint // readers return io.EOF itself
		b.c.body = bodyError(err)
	}
	return n, err
}

// bodyDeadline is how long a body of this many bytes may take: the usual time, or longer where that would ask for more than
// 64 KiB a second.
func (s *Server) bodyDeadline(size int64) time.Duration {
	d := time.Duration(size>>16) * time.Second
	if usual := s.cfg.RequestTimeout + s.bodyGrace; d < usual {
		return usual
	}
	return d
}
