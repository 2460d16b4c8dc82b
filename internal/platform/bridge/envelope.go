package bridge

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"levee/internal/platform/bridge/broker"
	"levee/internal/platform/event"
)

// The form of messages: CloudEvents 1.0 (https://github.com/cloudevents/spec), JSON, structured mode: the whole event is the message's body. So it
// is the same over every broker, and a reader needs nothing but a JSON parser.

const maxData = 256 << 10 // bytes of one event, as package event has it

// cloudEvent is the body.
type cloudEvent struct {
	SpecVersion string          `json:"specversion"`
	ID          string          `json:"id"`
	Source      string          `json:"source"`
	Type        string          `json:"type"`
	Subject     string          `json:"subject,omitempty"`
	Time        string          `json:"time,omitempty"`
	DataType    string          `json:"datacontenttype,omitempty"`
	Partition   string          `json:"partitionkey,omitempty"`
	Data        json.RawMessage `json:"data,omitempty"`
	DataBase64  string          `json:"data_base64,omitempty"`
}

// encode makes the message of a row of bridge_out.
func (s *settled) encode(topic, name string, id, key int64, at time.Time, data []byte) (*broker.Message, error) {
	k := strconv.FormatInt(key, 10)
	m := &broker.Message{Topic: topic, ID: strconv.FormatInt(id, 10), Key: k, Name: name}
	var err error
	m.Body, err = json.Marshal(cloudEvent{SpecVersion: "1.0", ID: m.ID, Source: s.Source, Type: name, Subject: k, Partition: k,
		Time: at.UTC().Format(time.RFC3339Nano), DataType: "application/json", Data: data})
	return m, err
}

// arrival is an incoming message as it was understood: an event, or why it is none.
type arrival struct {
	source, id, name string
	digest           string // of source and id; "": it has none
	ev               event.Event
	size             int // of ev as JSON
	reason           string
	m                *broker.Message
}

// Names that the CloudEvents bindings of brokers put before an attribute in binary mode.
var attributePrefixes = []string{"ce_", "ce-", "cloudevents:", "cloudevents_"}

func attribute(m *broker.Message, name string) string {
	for _, p := range attributePrefixes {
		if v := m.Header[p+name]; v != "" {
			return v
		}
	}
	return ""
}

// read makes out what a message says: a CloudEvent in structured mode (by its content type or its body) or in binary mode (by its headers), or
// plain JSON, whose id is the broker's, or the place where it stands.
func (in *intake) read(m *broker.Message, most int) *arrival {
	a := &arrival{m: m}
	var data []byte
	var err error
	if len(m.Body) > most {
		err = fmt.Errorf("the message has %d bytes, allowed are %d", len(m.Body), most)
	} else {
		data, err = a.unwrap(m)
	}
	if a.source == "" {
		a.source = "topic:" + in.topic
	}
	if a.id == "" {
		a.id = m.ID
	}
	if a.id == "" {
		a.id = m.Header[broker.HeaderID]
	}
	if a.id == "" && m.Place != "" {
		a.id = "at:" + m.Place
	}
	if in.event != "" {
		a.name = in.event
	}
	if err == nil {
		err = in.resolve(a, data)
	}
	if a.id != "" { // else nothing tells it from another one, and it is better taken twice than lost
		sum := sha256.Sum256([]byte(in.topic + "\x00" + a.source + "\x00" + a.id))
		a.digest = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	if err != nil {
		a.ev, a.reason = nil, err.Error()
	}
	return a
}

// unwrap takes the envelope off.
func (a *arrival) unwrap(m *broker.Message) ([]byte, error) {
	structured := strings.HasPrefix(m.Header["content-type"], "application/cloudevents")
	if id := attribute(m, "id"); id != "" && !structured {
		a.source, a.id, a.name = attribute(m, "source"), id, attribute(m, "type")
		if v := attribute(m, "specversion"); v != "" && v != "1.0" {
			return nil, fmt.Errorf("CloudEvents version %q is not known here, 1.0 is", v)
		}
		return m.Body, nil
	}
	var e cloudEvent
	err := json.Unmarshal(m.Body, &e)
	if !structured && (err != nil || e.SpecVersion == "") {
		if !json.Valid(m.Body) {
			return nil, errors.New("the message is not JSON")
		}
		return m.Body, nil
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("the CloudEvent cannot be read: %w", err)
	case e.SpecVersion != "1.0":
		return nil, fmt.Errorf("CloudEvents version %q is not known here, 1.0 is", e.SpecVersion)
	case e.ID == "" || e.Source == "" || e.Type == "":
		return nil, errors.New("the CloudEvent lacks its id, source or type")
	}
	a.source, a.id, a.name = e.Source, e.ID, e.Type
	if e.DataBase64 != "" {
		data, err := base64.StdEncoding.DecodeString(e.DataBase64)
		if err != nil {
			return nil, fmt.Errorf("data_base64 cannot be read: %w", err)
		}
		return data, nil
	}
	return e.Data, nil
}

// resolve makes the event.
func (in *intake) resolve(a *arrival, data []byte) error {
	t, ok := in.types[a.name]
	switch {
	case a.name == "":
		return errors.New("the message names no event, and bridge.in gives its topic none")
	case !ok:
		return fmt.Errorf("the event %q may not come in here", a.name)
	case len(data) > maxData:
		return fmt.Errorf("the data have %d bytes, allowed are %d", len(data), maxData)
	case len(bytes.TrimSpace(data)) == 0 || bytes.Equal(bytes.TrimSpace(data), []byte("null")):
		return errors.New("the message has no data")
	case !utf8.Valid(data):
		return errors.New("the data are not UTF-8")
	}
	e, err := t.decode(data)
	if err != nil {
		return fmt.Errorf("the data are not those of %s: %w", a.name, err)
	}
	text, err := json.Marshal(e)
	if err == nil && len(text) > maxData {
		err = fmt.Errorf("the event has %d bytes, allowed are %d", len(text), maxData)
	}
	a.ev, a.size = e, len(text)
	return err
}
