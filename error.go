package levee

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Code says what went wrong in a word that programs may act upon. Messages are for people and may change; codes do not.
// platform/web maps each to one HTTP status.
type Code string

// All codes. Those of one room stand here too, so that the list is whole.
const (
	CodeInternal             Code = "internal"               // a defect or an unexpected failure; the text is logged, never shown
	CodeMalformed            Code = "malformed"              // the request cannot be read: broken JSON, bad header, wrong type
	CodeInvalid              Code = "invalid"                // readable, but a field has a value that is not allowed
	CodeUnauthenticated      Code = "unauthenticated"        // no account, or a credential that is wrong, expired or revoked
	CodeForbidden            Code = "forbidden"              // signed in, but not allowed to do this
	CodeNotFound             Code = "not_found"              // no such thing, or not the caller's
	CodeMethodNotAllowed     Code = "method_not_allowed"     //
	CodeNotAcceptable        Code = "not_acceptable"         //
	CodeConflict             Code = "conflict"               // the thing's state, or a name already taken, does not allow it
	CodeGone                 Code = "gone"                   //
	CodePreconditionRequired Code = "precondition_required"  // the change needs an If-Match: which version has the caller seen
	CodeTooLarge             Code = "too_large"              // body, file or count over its limit
	CodeUnsupportedMedia     Code = "unsupported_media_type" //
	CodeTooManyRequests      Code = "too_many_requests"      // a rate limit; RetryAfter is set
	CodeUnavailable          Code = "unavailable"            // a backend is away, the node is stopping or full; RetryAfter is set
	CodeTimeout              Code = "timeout"                // the request took longer than its limit
	CodeIdempotencyMismatch  Code = "idempotency_mismatch"   // the key was used with another request
	CodeIdempotencyRunning   Code = "idempotency_running"    // the first request with this key is still under way
	CodeSoldOut              Code = "sold_out"               // sale: no unit is free (one may come back)
	CodeLimitReached         Code = "limit_reached"          // sale: the buyer holds all that he may
	CodePaused               Code = "paused"                 // sale: the operator holds it, or it is being rebuilt
	CodeNotOpen              Code = "not_open"               // sale: before its start; Data has the start
	CodeEnded                Code = "ended"                  // sale: over
	CodeNotWarmed            Code = "not_warmed"             // sale: this node has not loaded it yet; not the same as sold out
	CodeAdmissionMissing     Code = "admission_missing"      // sale: no admission token
	CodeAdmissionInvalid     Code = "admission_invalid"      // sale: forged, of another sale or of another buyer
	CodeAdmissionExpired     Code = "admission_expired"      // sale: ask for a new one
	CodeChallengeRequired    Code = "challenge_required"     // admission: a challenge must be solved first; Data has it
	CodeChallengeFailed      Code = "challenge_failed"       // admission: the answer is wrong, used up or too old
	CodeDrawOnly             Code = "draw_only"              // sale: units are given by a draw; enter it instead
	CodeEntriesClosed        Code = "entries_closed"         // line: the entry window of the draw is over
	CodeUnitsFree            Code = "units_free"             // line: no need to wait, units can be bought
	CodeOutOfStock           Code = "out_of_stock"           // catalog: fewer on hand than asked for
	CodeAlreadyPaid          Code = "already_paid"           //
	CodePaymentDeadlineOver  Code = "payment_deadline_over"  //
	CodeSecondFactor         Code = "second_factor_required" // factor: the sign-in goes on with a second factor; Data has the challenge
	CodeStepUp               Code = "step_up_required"       // factor: prove yourself again first; Data has the methods
)

// Error is the one error type that crosses a room's wall. An error without a code is internal: logged in full, shown as
// "internal error". Message is shown to the caller, so it never holds a secret, an address or an inner error's text.
type Error struct {
	Code    Code
	Message string
	// Fields names each field that was refused, what is allowed there and what was given.
	Fields []Field
	// RetryAfter, when positive, is how long the caller should wait before he asks again.
	RetryAfter time.Duration
	// Data is added to the answer as it is (the start of a sale, a link to what the buyer holds).
	Data map[string]any
	// Err is the cause, for the log only.
	Err error
}

// Field is one refused field: its path (body.quantity), what is allowed, and what was given (shortened).
type Field struct {
	Field   string
	Allowed string
	Given   string
}

// E makes an Error. The message is written for the caller.
func E(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Invalid makes a CodeInvalid error about one field.
func Invalid(field, allowed string, given any) *Error {
	g := Shorten(fmt.Sprint(given), 80)
	return &Error{
		Code:    CodeInvalid,
		Message: fmt.Sprintf("%s must be %s, got %q", field, allowed, g),
		Fields:  []Field{{Field: field, Allowed: allowed, Given: g}},
	}
}

// Error shows code, message and cause: the form for logs.
func (e *Error) Error() string {
	if e.Err != nil {
		return string(e.Code) + ": " + e.Message + ": " + e.Err.Error()
	}
	return string(e.Code) + ": " + e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// With returns the error with one more value in Data. The receiver is changed.
func (e *Error) With(key string, value any) *Error {
	if e.Data == nil {
		e.Data = map[string]any{}
	}
	e.Data[key] = value
	return e
}

// After returns the error with RetryAfter set. The receiver is changed.
func (e *Error) After(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

// Because returns the error with its cause set. The receiver is changed.
func (e *Error) Because(err error) *Error {
	e.Err = err
	return e
}

// CodeOf returns the code of the first Error in err's chain; CodeTimeout for a passed deadline; CodeInternal for any other
// error; and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return CodeTimeout
	}
	return CodeInternal
}

// Wrap puts a call's name and arguments before the error, so that a logged error reads like a call stack. It is meant as
// the first line of a fallible function: defer levee.Wrap(&err, "order.Pay(%d)", id). Codes stay readable through it.
func Wrap(err *error, format string, args ...any) {
	if *err != nil {
		*err = fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), *err)
	}
}

// Shorten cuts s to at most n bytes on a rune border and marks the cut with an ellipsis.
func Shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n] + "…"
}
