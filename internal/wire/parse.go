package wire

import (
	"bytes"
	"errors"
	"net/http"
	"time"

	"levee"
)

// Answer is one final HTTP/1.1 response. Its body points into buffers of the connection and is good until the next one is read.
type Answer struct {
	Status int
	// RetryAfter is negative when the header is missing or not readable.
	RetryAfter time.Duration
	// Close: the server ends the connection after this answer.
	Close bool
	Body  []byte
}

const (
	maxHead = 32 << 10
	maxBody = 1 << 20
)

var (
	errAnswer   = levee.E(levee.CodeMalformed, "the answer is not HTTP/1.1 as it should be")
	errTooLarge = levee.E(levee.CodeTooLarge, "the answer's head is larger than 32 KiB or its body larger than 1 MiB")
	errCut      = errors.New("the connection ended before the answer was whole")

	headEnd = []byte("\r\n\r\n")
	version = []byte("HTTP/1.")
)

// parser reads responses (RFC 9112) to requests that are not HEAD or CONNECT. It reads only what this package acts upon, but it is
// strict in what decides where an answer ends: two lengths, a length beside chunks or a bare line feed are refused.
type parser struct {
	chunks []byte // the joined body of a chunked answer
}

// parse reads one answer from the start of b, past any interim (1xx) ones, and returns how many bytes it took; 0 means that more
// are needed. ended says that no more will come.
func (p *parser) parse(b []byte, ended bool) (a Answer, n int, err error) {
	for {
		a, used, interim, err := p.parseOne(b[n:], ended)
		switch {
		case err != nil:
			return Answer{}, 0, err
		case used == 0 && ended:
			return Answer{}, 0, errCut
		case used == 0:
			return Answer{}, 0, nil
		}
		n += used
		if !interim {
			return a, n, nil
		}
		if n > maxHead {
			return Answer{}, 0, errTooLarge
		}
	}
}

// head is what the header says about the body.
type head struct {
	length  int // -1: not given
	chunked bool
}

func (p *parser) parseOne(b []byte, ended bool) (a Answer, n int, interim bool, err error) {
	if k := min(len(b), len(version)); !bytes.Equal(b[:k], version[:k]) {
		return a, 0, false, errAnswer
	}
	end := bytes.Index(b, headEnd)
	if end < 0 {
		if len(b) > maxHead {
			return a, 0, false, errTooLarge
		}
		return a, 0, false, nil
	}
	if end > maxHead {
		return a, 0, false, errTooLarge
	}
	var h head
	if a, h, err = parseHead(b[:end+2]); err != nil {
		return a, 0, false, err
	}
	n = end + len(headEnd)
	switch {
	case a.Status < 200:
		if a.Status == http.StatusSwitchingProtocols { // nobody asked for another protocol
			return a, 0, false, errAnswer
		}
		return a, n, true, nil
	case a.Status == http.StatusNoContent || a.Status == http.StatusNotModified:
		return a, n, false, nil
	case h.chunked:
		used, err := p.dechunk(b[n:])
		if used == 0 || err != nil {
			return a, 0, false, err
		}
		a.Body = p.chunks
		return a, n + used, false, nil
	case h.length > maxBody:
		return a, 0, false, errTooLarge
	case h.length >= 0:
		if len(b)-n < h.length {
			return a, 0, false, nil
		}
		a.Body = b[n : n+h.length]
		return a, n + h.length, false, nil
	case len(b)-n > maxBody:
		return a, 0, false, errTooLarge
	case !ended: // the body ends with the connection
		return a, 0, false, nil
	}
	a.Close = true
	a.Body = b[n:]
	return a, len(b), false, nil
}

// parseHead reads the status line and the header; b ends with the last line's CRLF.
func parseHead(b []byte) (a Answer, h head, err error) {
	a.RetryAfter, h.length = -1, -1
	line, rest, ok := cutLine(b)
	// HTTP/1.x SP 3DIGIT [SP reason]
	if !ok || len(line) < 12 || line[7] != '0' && line[7] != '1' || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return a, h, errAnswer
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return a, h, errAnswer
		}
		a.Status = a.Status*10 + int(c-'0')
	}
	if a.Status < 100 {
		return a, h, errAnswer
	}
	old := line[7] == '0'
	a.Close = old
	for len(rest) > 0 {
		if line, rest, ok = cutLine(rest); !ok {
			return a, h, errAnswer
		}
		if err := a.field(line, &h); err != nil {
			return a, h, err
		}
	}
	if old && h.chunked { // HTTP/1.0 has no chunks: somebody on the way is confused (RFC 9112, 6.1)
		return a, h, errAnswer
	}
	return a, h, nil
}

// cutLine cuts at the first CRLF; a line feed without its carriage return, or the other way round, is refused.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' || bytes.IndexByte(b[:i-1], '\r') >= 0 {
		return nil, nil, false
	}
	return b[:i-1], b[i+1:], true
}

func (a *Answer) field(line []byte, h *head) error {
	colon := bytes.IndexByte(line, ':')
	if colon < 1 {
		return errAnswer
	}
	name := line[:colon]
	for _, c := range name {
		if !token[c] { // also refuses a folded line, which begins with a space
			return errAnswer
		}
	}
	for _, c := range line[colon+1:] {
		if c < ' ' && c != '\t' || c == 0x7f {
			return errAnswer
		}
	}
	switch {
	case is(name, "content-length"):
		n, ok := decimal(trim(line[colon+1:]))
		if !ok || h.length >= 0 || h.chunked {
			return errAnswer
		}
		h.length = n
	case is(name, "transfer-encoding"):
		if !is(trim(line[colon+1:]), "chunked") || h.length >= 0 || h.chunked {
			return errAnswer
		}
		h.chunked = true
	case is(name, "connection"):
		for v := range bytes.SplitSeq(line[colon+1:], []byte{','}) {
			if is(trim(v), "close") {
				a.Close = true
			}
		}
	case is(name, "retry-after"):
		v := trim(line[colon+1:])
		if n, ok := decimal(v); ok {
			a.RetryAfter = time.Duration(min(n, 86400)) * time.Second
		} else if at, err := http.ParseTime(string(v)); err == nil {
			a.RetryAfter = min(max(0, time.Until(at)), 24*time.Hour)
		}
	}
	return nil
}

// token tells which bytes a header's name may have (RFC 9110, 5.6.2).
var token = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0
	}
	return t
}()

// is compares without case; lower is in lower case.
func is(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func trim(b []byte) []byte { return bytes.Trim(b, " \t") }

// decimal reads digits only: no sign, no space.
func decimal(b []byte) (n int, ok bool) {
	if len(b) == 0 || len(b) > 12 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

// dechunk joins the chunks at the start of b into p.chunks and returns how many bytes they and their trailer took; 0 means that
// more are needed.
func (p *parser) dechunk(b []byte) (n int, err error) {
	p.chunks = p.chunks[:0]
	for {
		size, used, err := chunkSize(b[n:])
		if used == 0 || err != nil {
			return 0, err
		}
		n += used
		if size == 0 {
			break
		}
		if len(p.chunks)+size > maxBody {
			return 0, errTooLarge
		}
		if len(b)-n < size+2 {
			return 0, nil
		}
		if b[n+size] != '\r' || b[n+size+1] != '\n' {
			return 0, errAnswer
		}
		p.chunks = append(p.chunks, b[n:n+size]...)
		n += size + 2
	}
	for start := n; ; { // the trailer, which is not used
		i := bytes.IndexByte(b[n:], '\n')
		if i < 0 {
			if len(b)-start > maxHead {
				return 0, errTooLarge
			}
			return 0, nil
		}
		line, _, ok := cutLine(b[n : n+i+1])
		if !ok {
			return 0, errAnswer
		}
		n += i + 1
		if len(line) == 0 {
			return n, nil
		}
		var a Answer
		if err := a.field(line, &head{length: 0, chunked: true}); err != nil {
			return 0, err
		}
	}
}

// chunkSize reads a chunk's first line; used 0 means that more bytes are needed.
func chunkSize(b []byte) (size, used int, err error) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		if len(b) > 256 {
			return 0, 0, errAnswer
		}
		return 0, 0, nil
	}
	line, _, ok := cutLine(b[:i+1])
	if !ok || len(line) > 256 {
		return 0, 0, errAnswer
	}
	digits, _, _ := bytes.Cut(line, []byte{';'})
	digits = trim(digits)
	if len(digits) == 0 || len(digits) > 7 {
		return 0, 0, errAnswer
	}
	for _, c := range digits {
		switch {
		case c >= '0' && c <= '9':
			size = size<<4 | int(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			size = size<<4 | int(c|0x20-'a'+10)
		default:
			return 0, 0, errAnswer
		}
	}
	return size, i + 1, nil
}
