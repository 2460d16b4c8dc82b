package web

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/body"
	"levee/internal/platform/header"
	"levee/internal/platform/speech"
)

// problem is the body of every answer with a status of 400 and above (RFC 9457).
type problem struct {
	Type      string         `json:"type" format:"uri" doc:"Names the kind of problem; the error after urn:levee:error:"`
	Title     string         `json:"title" doc:"The status in words"`
	Status    int            `json:"status" minimum:"400" maximum:"599" doc:"The status of the answer"`
	Detail    string         `json:"detail" doc:"What went wrong this time, for people"`
	Code      string         `json:"error" doc:"What went wrong in a word that programs may act upon; words may be added, but never change"`
	Errors    []problemField `json:"errors,omitempty" nullable:"false" doc:"Each field that was refused"`
	RequestID string         `json:"request_id,omitempty" doc:"Under which the server's log knows this request"`
	Data      map[string]any `json:"data,omitempty" doc:"More for programs, by the error: the start of a sale, a link to what is held"`

	headers  http.Header
	language []string // of its texts; nil: it says none
}

type problemField struct {
	Field   string `json:"field" doc:"Where: body.items[2].quantity, query.limit, header.If-Match"`
	Allowed string `json:"allowed" doc:"What may stand there"`
	Given   string `json:"given" doc:"What was given, shortened; secrets are not repeated"`
}

// The methods by which huma treats a problem as the error it is.
func (p *problem) Error() string             { return p.Code + ": " + p.Detail }
func (p *problem) GetStatus() int            { return p.Status }
func (p *problem) ContentType(string) string { return problemType }

const problemType = "application/problem+json"

// statuses maps each code to its status: the one table.
var statuses = map[levee.Code]int{
	levee.CodeInternal:             500,
	levee.CodeMalformed:            400,
	levee.CodeInvalid:              422,
	levee.CodeUnauthenticated:      401,
	levee.CodeForbidden:            403,
	levee.CodeNotFound:             404,
	levee.CodeMethodNotAllowed:     405,
	levee.CodeNotAcceptable:        406,
	levee.CodeConflict:             409, // 412 when If-Match says so, 424 for what was not tried
	levee.CodeGone:                 410,
	levee.CodeTooLarge:             413,
	levee.CodeUnsupportedMedia:     415,
	levee.CodePreconditionRequired: 428,
	levee.CodeTooManyRequests:      429,
	levee.CodeUnavailable:          503,
	levee.CodeTimeout:              503, // 408 when it was the caller who was slow
	levee.CodeIdempotencyMismatch:  422,
	levee.CodeIdempotencyRunning:   409,
	levee.CodeSoldOut:              409,
	levee.CodeLimitReached:         409,
	levee.CodePaused:               409,
	levee.CodeNotOpen:              409,
	levee.CodeEnded:                410,
	levee.CodeNotWarmed:            503,
	levee.CodeAdmissionMissing:     403,
	levee.CodeAdmissionInvalid:     403,
	levee.CodeAdmissionExpired:     403,
	levee.CodeChallengeRequired:    403,
	levee.CodeChallengeFailed:      403,
	levee.CodeDrawOnly:             409,
	levee.CodeEntriesClosed:        409,
	levee.CodeUnitsFree:            409,
	levee.CodeOutOfStock:           409,
	levee.CodeAlreadyPaid:          409,
	levee.CodePaymentDeadlineOver:  410,
}

// StatusOf returns the HTTP status that a code is answered with; 500 for a code it does not know.
func (s *Server) StatusOf(c levee.Code) int { return statusOf(c) }

func statusOf(c levee.Code) int {
	if status, ok := statuses[c]; ok {
		return status
	}
	return http.StatusInternalServerError
}

// withStatus answers an error with another status than its code's, where HTTP has a finer one (408, 412).
type withStatus struct {
	err    error
	status int
	header http.Header
}

func (e *withStatus) Error() string { return e.err.Error() }
func (e *withStatus) Unwrap() error { return e.err }

// statusClientGone is logged when the caller left before he was answered; nobody sees it.
const statusClientGone = 499

// describe makes the problem that err is shown as. What has no code is internal and shows nothing of itself.
func describe(err error) *problem {
	var e *levee.Error
	var cause *levee.Error
	switch {
	case errors.As(err, &cause):
		e = cause
	case errors.Is(err, context.DeadlineExceeded):
		e = levee.E(levee.CodeTimeout, "the request took longer than its limit; ask again").After(time.Second)
	default:
		e = levee.E(levee.CodeInternal, "internal error")
	}
	p := &problem{Status: statusOf(e.Code), Detail: e.Message, Code: string(e.Code), Data: e.Data}
	if _, known := statuses[e.Code]; !known || e.Code == levee.CodeInternal {
		p.Code, p.Detail, p.Data = string(levee.CodeInternal), "internal error", nil
	}
	var ws *withStatus
	if errors.As(err, &ws) {
		p.Status = ws.status
		p.headers = ws.header
	}
	p.Title = http.StatusText(p.Status)
	p.Type = "urn:levee:error:" + p.Code
	if p.Status != http.StatusInternalServerError {
		for _, f := range e.Fields {
			p.Errors = append(p.Errors, problemField{Field: f.Field, Allowed: f.Allowed, Given: body.Showable(f.Field, f.Given)})
		}
	}
	if retry := e.RetryAfter; retry > 0 {
		p.setHeader("Retry-After", strconv.FormatInt(int64((retry+time.Second-1)/time.Second), 10))
	} else if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests {
		p.setHeader("Retry-After", "1")
	}
	return p
}

func (p *problem) setHeader(name, value string) {
	if p.headers == nil {
		p.headers = http.Header{}
	}
	p.headers.Set(name, value)
}

// Fixed is the answer to an error that is made once and sent often: as WriteError answers, but without a request id.
type Fixed struct {
	status int
	in     []fixedText // by speech.Languages
}

type fixedText struct {
	body   []byte
	header http.Header // shared by all answers: one slice for each value, so that a refusal allocates none
}

// NewFixed makes the answer to err.
func NewFixed(err error) *Fixed {
	f := &Fixed{}
	for _, lang := range speech.Languages {
		p := describe(err)
		p.sayIn(lang)
		text := fixedText{body: p.encode(), header: http.Header{}}
		p.writeHeaders(text.header)
		text.header["Content-Length"] = []string{strconv.Itoa(len(text.body))}
		text.header["X-Content-Type-Options"] = noSniff
		f.status, f.in = p.Status, append(f.in, text)
	}
	return f
}

// Write answers a request, in its language.
func (f *Fixed) Write(w http.ResponseWriter, r *http.Request) {
	text := &f.in[0]
	if lines := r.Header["Accept-Language"]; lines != nil {
		text = &f.in[slices.Index(speech.Languages, header.Language(lines, speech.Languages...))]
	}
	maps.Copy(w.Header(), text.header)
	w.WriteHeader(f.status)
	_, _ = w.Write(text.body) // the caller may have left
}

// sayIn puts the problem's texts into a language, as far as they are known in it; what is not stays English, and Content-Language says so.
func (p *problem) sayIn(lang string) {
	p.language = inEnglish
	if lang != "zh" {
		return
	}
	whole := true
	say := func(text *string) {
		said, known := speech.Chinese(*text)
		*text, whole = said, whole && known
	}
	say(&p.Title)
	say(&p.Detail)
	for i := range p.Errors {
		say(&p.Errors[i].Allowed)
	}
	if p.language = inChinese; !whole {
		p.language = inBoth
	}
}

func (p *problem) encode() []byte {
	b, err := marshalJSON(p)
	if err != nil { // something in Data that is no JSON
		p.Data = nil
		b, _ = marshalJSON(p)
	}
	return b
}

// problemFor is describe, for the request: with its id and the headers that its status needs, and noted for the log.
func (c *call) problemFor(r *http.Request, err error) *problem {
	p := describe(err)
	p.RequestID = c.id
	for i := range p.Errors {
		p.Errors[i].Field = c.route.locate(p.Errors[i].Field)
	}
	p.sayIn(header.Language(r.Header["Accept-Language"], speech.Languages...))
	if p.Status != http.StatusNotModified {
		c.err, c.code = err, levee.Code(p.Code)
	}
	if p.Status == http.StatusUnauthorized {
		challenge := `Bearer realm="levee"`
		if r.Header["Authorization"] != nil {
			challenge += `, error="invalid_token"`
		}
		p.setHeader("WWW-Authenticate", challenge)
	}
	return p
}

// WriteError answers a request with err as problem details. Errors without a code, and those with CodeInternal, are shown as
// "internal error" and logged in full. It works outside of a server too (the fast hook, a test): then nothing is logged.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	c := callOf(r.Context())
	if c != nil && c.clientGone(err) {
		c.err, c.status = err, statusClientGone
		return
	}
	var p *problem
	if c != nil {
		p = c.problemFor(r, err)
	} else {
		p = describe(err)
		p.sayIn("en")
	}
	p.write(w)
}

func (p *problem) write(w http.ResponseWriter) {
	h := w.Header()
	if p.Status == http.StatusNotModified {
		maps.Copy(h, p.headers)
		w.WriteHeader(p.Status)
		return
	}
	body := p.encode()
	p.writeHeaders(h)
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // the caller may have left
}

func (p *problem) writeHeaders(h http.Header) {
	maps.Copy(h, p.headers)
	h["Content-Type"] = problemTypes
	h["Cache-Control"] = noStore
	h["Content-Language"] = p.language
	if h["Vary"] == nil {
		h["Vary"] = byLanguage
	} else {
		h["Vary"] = append(slices.Clip(h["Vary"]), byLanguage...)
	}
	delete(h, "Etag")
}

var (
	problemTypes = []string{problemType}
	jsonTypes    = []string{"application/json"}
	noStore      = []string{"no-store"}
	noSniff      = []string{"nosniff"}
	inEnglish    = []string{"en"}
	inChinese    = []string{"zh"}
	inBoth       = []string{"zh, en"}
	byLanguage   = []string{"Accept-Language"}
	privateOnly  = []string{"private, no-store"}
)

// WriteJSON answers a request with v as JSON. A value that cannot be encoded is answered as an internal error.
func WriteJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := marshalJSON(v)
	if err != nil {
		WriteError(w, r, fmt.Errorf("encoding the answer: %w", err))
		return
	}
	h := w.Header()
	h["Content-Type"] = jsonTypes
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// refuse makes an error about one field.
func refuse(code levee.Code, field, allowed, given, format string, args ...any) *levee.Error {
	e := levee.E(code, format, args...)
	e.Fields = []levee.Field{{Field: field, Allowed: allowed, Given: given}}
	return e
}

// Errors of the router itself.
func (s *Server) errNoRoute(r *http.Request) error {
	if v, ok := versionOf(r.URL.Path); ok && !slices.Contains(s.versions, v) {
		v = levee.Shorten(v, 20)
		return refuse(levee.CodeNotFound, "path", "/v"+strings.Join(s.versions, ", /v"), "/v"+v, "there is no version %q of the API, only %s", v, strings.Join(s.versions, ", "))
	}
	return levee.E(levee.CodeNotFound, "there is nothing at %s", levee.Shorten(strings.ToValidUTF8(r.URL.Path, "\uFFFD"), 120))
}

func errMethod(r *http.Request, allowed []string) error {
	list := strings.Join(allowed, ", ")
	e := refuse(levee.CodeMethodNotAllowed, "method", list, r.Method, "%s is not allowed here, only %s", levee.Shorten(r.Method, 16), list)
	return &withStatus{err: e, status: http.StatusMethodNotAllowed, header: http.Header{"Allow": {list}}}
}
