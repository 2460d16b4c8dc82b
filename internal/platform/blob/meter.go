package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"hash"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"levee"
)

// sniffed is how many bytes tell the type (WHATWG MIME Sniffing, 5.2: the resource header).
const sniffed = 512

// meter reads an upload: it counts, hashes, and ends with an error where a limit is crossed.
type meter struct {
	ctx  context.Context
	body io.Reader
	head []byte // what was read to know the type and is not given yet
	max  int64
	size int64  // that must come; 0: unknown
	sum  []byte // that must come out; nil: unknown
	n    int64
	hash hash.Hash
	err  error // why the body is refused
}

func newMeter(ctx context.Context, u Upload, most int64) *meter {
	return &meter{ctx: ctx, body: u.Body, max: most, size: u.Size, sum: u.SHA256, hash: sha256.New()}
}

func newReader(b []byte) io.Reader { return bytes.NewReader(b) }

// sniff reads the beginning, and returns the type that it says, when that is allowed and does not contradict what the sender said.
func (m *meter) sniff(allowed []string, said string) (string, error) {
	head := make([]byte, sniffed)
	n, err := io.ReadFull(m.body, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", m.refuse(unreadable(err))
	}
	m.head = head[:n]
	if n == 0 {
		return "", m.refuse(levee.Invalid("file", "at least one byte", "an empty file"))
	}
	is := typeOf(m.head)
	if !slices.Contains(allowed, is) {
		return "", m.refuse(unsupported(strings.Join(allowed, ", "), is))
	}
	if said = declared(said); said != "" && said != is {
		return "", m.refuse(unsupported("what the sender said it is ("+levee.Shorten(said, 60)+")", is))
	}
	return is, nil
}

// typeOf returns the media type that the beginning of a file says, without parameters.
func typeOf(head []byte) string {
	is, _, _ := strings.Cut(http.DetectContentType(head), ";")
	return is
}

// declared returns the media type that a sender named; "" for one that says nothing.
func declared(said string) string {
	if said == "" {
		return ""
	}
	media, _, err := mime.ParseMediaType(said)
	switch {
	case err != nil:
		return "unreadable"
	case media == "application/octet-stream":
		return ""
	case media == "image/jpg" || media == "image/pjpeg":
		return "image/jpeg"
	}
	return media
}

func unsupported(allowed, is string) error {
	e := levee.E(levee.CodeUnsupportedMedia, "the file must be %s; its bytes are %s", allowed, is)
	e.Fields = []levee.Field{{Field: "file", Allowed: allowed, Given: is}}
	return e
}

// unreadable says why a body could not be read; a code that is there already stays.
func unreadable(err error) error {
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &big):
		return errTooLarge(big.Limit)
	case levee.CodeOf(err) != levee.CodeInternal || errors.Is(err, context.Canceled):
		return err
	}
	return levee.E(levee.CodeMalformed, "the file could not be read to its end").Because(err)
}

// refuse keeps the first reason.
func (m *meter) refuse(err error) error {
	if m.err == nil {
		m.err = err
	}
	return m.err
}

// Read gives at most one byte over the limit to nobody: crossing it is the error.
func (m *meter) Read(p []byte) (n int, err error) {
	if m.err != nil {
		return 0, m.err
	}
	if err := m.ctx.Err(); err != nil {
		return 0, m.refuse(err)
	}
	if len(m.head) > 0 {
		n = copy(p, m.head)
		m.head = m.head[n:]
	} else if n, err = m.body.Read(p); err != nil && !errors.Is(err, io.EOF) {
		return 0, m.refuse(unreadable(err))
	}
	if m.n += int64(n); m.n > m.max {
		return 0, m.refuse(errTooLarge(m.max))
	}
	m.hash.Write(p[:n])
	if err != nil { // the end
		if e := m.verify(); e != nil {
			return 0, m.refuse(e)
		}
	}
	return n, err
}

// verify compares what came with what was to come.
func (m *meter) verify() error {
	if m.size > 0 && m.n != m.size {
		return levee.E(levee.CodeMalformed, "%d bytes were announced and %d came", m.size, m.n)
	}
	if m.sum != nil && subtle.ConstantTimeCompare(m.hash.Sum(nil), m.sum) != 1 {
		return levee.Invalid("sha256", "the hash of the bytes", "another one")
	}
	return nil
}

// finish writes what is known after the last byte into the object.
func (m *meter) finish(o *Object) {
	o.Size = m.n
	m.hash.Sum(o.SHA256[:0])
}
