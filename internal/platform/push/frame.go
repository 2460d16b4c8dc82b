package push

import (
	"bytes"
	"encoding/json"
	"sync"
	"unicode/utf8"
)

// frame is one published thing. It is shared by all who get it, and encoded once for each transport.
type frame struct {
	topic  *topic
	serial int64 // counts this hub's frames over all epochs
	at     position
	kind   string
	data   []byte // one line of valid JSON
	silent bool   // a turn that no listener is told of

	sseOnce, wsOnce   sync.Once
	sseBytes, wsBytes []byte
}

// frameCost is what a frame is counted as in the history's budget beyond its data: the struct, the kind and the framing in
// both encodings.
const frameCost = 512

func (f *frame) cost() int64 { return frameCost + 3*int64(len(f.data)) }

// sse returns the frame as an event of a text/event-stream.
func (f *frame) sse() []byte {
	f.sseOnce.Do(func() {
		b := make([]byte, 0, len(f.data)+len(f.kind)+64)
		b = append(b, "id: "...)
		b = f.at.append(b)
		b = append(b, "\nevent: "...)
		b = append(b, f.kind...)
		b = append(b, "\ndata: "...)
		b = append(b, f.data...)
		f.sseBytes = append(b, "\n\n"...)
	})
	return f.sseBytes
}

// ws returns the frame as the JSON text of a WebSocket message. Kinds and positions need no escaping.
func (f *frame) ws() []byte {
	f.wsOnce.Do(func() {
		b := make([]byte, 0, len(f.data)+len(f.kind)+80)
		b = append(b, `{"id":"`...)
		b = f.at.append(b)
		b = append(b, `","kind":"`...)
		b = append(b, f.kind...)
		b = append(b, `","data":`...)
		b = append(b, f.data...)
		f.wsBytes = append(b, '}')
	})
	return f.wsBytes
}

// oneLine returns data as JSON without line breaks: as it is when it is JSON, as a JSON string when not, null when empty.
// The result is a copy.
func oneLine(data []byte) []byte {
	if len(data) == 0 {
		return []byte("null")
	}
	if utf8.Valid(data) {
		var b bytes.Buffer
		b.Grow(len(data))
		if json.Compact(&b, data) == nil {
			return b.Bytes()
		}
	}
	b, err := json.Marshal(string(bytes.ToValidUTF8(data, []byte("\uFFFD"))))
	if err != nil { // a string always encodes
		return []byte("null")
	}
	return b
}

// validKind reports whether a kind is 1 to 64 of a-z, 0-9, '.', '_' and '-', and none of the hub's own.
func validKind(kind string) bool {
	if len(kind) == 0 || len(kind) > 64 {
		return false
	}
	for i := range len(kind) {
		switch c := kind[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	switch kind {
	case kindHello, kindHeartbeat, kindReset, kindPong:
		return false
	}
	return true
}

// The kinds of the hub's own frames. Over server-sent events hello and heartbeat show only as an id.
const (
	kindHello     = "hello"
	kindHeartbeat = "heartbeat"
	kindReset     = "reset"
	kindPong      = "pong"
)
