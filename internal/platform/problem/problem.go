// Package problem owns how an error is told over HTTP: problem details (RFC 9457) in English or Chinese, and the one table of codes and their
// statuses. It knows no request; the web part tells each which id it has.
package problem

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"levee"
	"levee/internal/platform/body"
	"levee/internal/platform/header"
	"levee/internal/platform/speech"
)

// Details is the body of every answer with a status of 400 and above (RFC 9457).
type Details struct {
	Type      string         `json:"type" format:"uri" doc:"Names the kind of problem; the error after urn:levee:error:"`
	Title     string         `json:"title" doc:"The status in words"`
	Status    int            `json:"status" minimum:"400" maximum:"599" doc:"The status of the answer"`
	Detail    string         `json:"detail" doc:"What went wrong this time, for people"`
	Code      string         `json:"error" doc:"What went wrong in a word that programs may act upon; words may be added, but never change"`
	Errors    []Field        `json:"errors,omitempty" nullable:"false" doc:"Each field that was refused"`
	RequestID string         `json:"request_id,omitempty" doc:"Under which the server's log knows this request"`
	Data      map[string]any `json:"data,omitempty" doc:"More for programs, by the error: the start of a sale, a link to what is held"`

	// Headers are sent with it.
	Headers  http.Header `json:"-"`
	language []string    // of its texts; nil: it says none
}

type Field struct {
	Field   string `json:"field" doc:"Where: body.items[2].quantity, query.limit, header.If-Match"`
	Allowed string `json:"allowed" doc:"What may stand there"`
	Given   string `json:"given" doc:"What was given, shortened; secrets are not repeated"`
}

// The methods by which huma treats a problem as the error it is.
func (p *Details) Error() string             { return p.Code + ": " + p.Detail }
func (p *Details) GetStatus() int            { return p.Status }
func (p *Details) ContentType(string) string { return Type }

// Type is the media type of problem details.
const Type = "application/problem+json"

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
	levee.CodeSecondFactor:         401,
	levee.CodeStepUp:               401,
}

// Status returns the status that a code is answered with; 500 for a code that the table does not have.
func Status(c levee.Code) int {
	if status, ok := statuses[c]; ok {
		return status
	}
	return http.StatusInternalServerError
}

// Codes returns every code of the table, in no order.
func Codes() []levee.Code { return slices.Collect(maps.Keys(statuses)) }

// With answers err with another status than its code's, where HTTP has a finer one (304, 408, 412), and with these headers; nil: none.
func With(err error, status int, headers http.Header) error {
	return &withStatus{err: err, status: status, header: headers}
}

type withStatus struct {
	err    error
	status int
	header http.Header
}

func (e *withStatus) Error() string { return e.err.Error() }
func (e *withStatus) Unwrap() error { return e.err }

// Of makes the problem that err is shown as. What has no code is internal and shows nothing of itself.
func Of(err error) *Details {
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
	p := &Details{Status: Status(e.Code), Detail: e.Message, Code: string(e.Code), Data: e.Data}
	if _, known := statuses[e.Code]; !known || e.Code == levee.CodeInternal {
		p.Code, p.Detail, p.Data = string(levee.CodeInternal), "internal error", nil
	}
	var ws *withStatus
	if errors.As(err, &ws) {
		p.Status = ws.status
		p.Headers = ws.header
	}
	p.Title = http.StatusText(p.Status)
	p.Type = "urn:levee:error:" + p.Code
	if p.Status != http.StatusInternalServerError {
		for _, f := range e.Fields {
			p.Errors = append(p.Errors, Field{Field: f.Field, Allowed: f.Allowed, Given: body.Showable(f.Field, f.Given)})
		}
	}
	if retry := e.RetryAfter; retry > 0 {
		p.SetHeader("Retry-After", strconv.FormatInt(int64((retry+time.Second-1)/time.Second), 10))
	} else if p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests {
		p.SetHeader("Retry-After", "1")
	}
	return p
}

// SetHeader sets a header that is sent with it.
func (p *Details) SetHeader(name, value string) {
	if p.Headers == nil {
		p.Headers = http.Header{}
	}
	p.Headers.Set(name, value)
}

// Fixed is the answer to an error that is made once and sent often: as Details.Write answers, but without a request id.
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
		p := Of(err)
		p.SayIn(lang)
		text := fixedText{body: p.Encode(), header: http.Header{}}
		p.WriteHeaders(text.header)
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

// SayIn puts the problem's texts into a language, as far as they are known in it; what is not stays English, and Content-Language says so.
func (p *Details) SayIn(lang string) {
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

// Encode returns the body of the answer.
func (p *Details) Encode() []byte {
	b, err := json.Marshal(p)
	if err != nil { // something in Data that is no JSON
		p.Data = nil
		b, _ = json.Marshal(p)
	}
	return b
}

// Write answers with it.
func (p *Details) Write(w http.ResponseWriter) {
	h := w.Header()
	if p.Status == http.StatusNotModified {
		maps.Copy(h, p.Headers)
		w.WriteHeader(p.Status)
		return
	}
	body := p.Encode()
	p.WriteHeaders(h)
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // the caller may have left
}

// WriteHeaders puts into h the headers that it is sent with.
func (p *Details) WriteHeaders(h http.Header) {
	maps.Copy(h, p.Headers)
	h["Content-Type"] = contentTypes
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
	contentTypes = []string{Type}
	noStore      = []string{"no-store"}
	noSniff      = []string{"nosniff"}
	inEnglish    = []string{"en"}
	inChinese    = []string{"zh"}
	inBoth       = []string{"zh, en"}
	byLanguage   = []string{"Accept-Language"}
)

// Refuse makes an error about one field.
func Refuse(code levee.Code, field, allowed, given, format string, args ...any) *levee.Error {
	e := levee.E(code, format, args...)
	e.Fields = []levee.Field{{Field: field, Allowed: allowed, Given: given}}
	return e
}

// InBody returns err with "body." before the names of its fields: for an error of rules that know no HTTP, about what came in a request's body.
func InBody(err error) error {
	var e *levee.Error
	if !errors.As(err, &e) || len(e.Fields) == 0 {
		return err
	}
	named := *e
	named.Fields = make([]levee.Field, len(e.Fields))
	for i, f := range e.Fields {
		f.Field = "body." + f.Field
		named.Fields[i] = f
	}
	return named.Because(err)
}
