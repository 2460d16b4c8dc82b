// Package smstest is an SMS service that delivers nothing, for tests: it speaks the protocol of the real one, checks requests as it does, and fails as it is told.
package smstest

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"sync"
	"time"
)

// Fault is what an SMS server does wrong, on purpose.
type Fault string

// The faults. Those that are words of the service itself are answered as the service does.
const (
	Throttled   Fault = "Throttling.User"
	Unavailable Fault = "ServiceUnavailable"
	Internal    Fault = "InternalError"
	BadNumber   Fault = "isv.MOBILE_NUMBER_ILLEGAL"
	Limited     Fault = "isv.BUSINESS_LIMIT_CONTROL"
	NoMoney     Fault = "isv.AMOUNT_NOT_ENOUGH"
	Broken      Fault = "broken" // a proxy before it answers 502 with a page
	Lost        Fault = "lost"   // the message goes out, the answer does not arrive
	Slow        Fault = "slow"   // the message goes out, and the answer waits until the caller gives up
)

// Message is one that went out.
type Message struct {
	Phone string // digits with country code
	Code  string
}

// Server speaks the protocol of Alibaba Cloud's SMS service (SendSms of Dysmsapi 2017-05-25, signature version 3), checks as it does, and
// delivers nothing. Its signature check is written from the service's documents, apart from the product's.
type Server struct {
	// URL is its address; KeyID, KeySecret, SignName and Template are what it takes.
	URL, KeyID, KeySecret, SignName, Template string
	// Now is the clock that dates of requests are held against; time.Now when nil. It is set before the first request.
	Now func() time.Time

	server *http.Server
	mu     sync.Mutex // guards what follows
	nonces map[string]bool
	faults []Fault // of the next requests
	went   []Message
	codes  []string // what was answered, oldest first
}

// Start starts one on a free port of this machine.
func Start() (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{URL: "http://" + l.Addr().String(), KeyID: "LTAI" + rand.Text()[:16], KeySecret: rand.Text(), SignName: "堤 & levee", Template: "SMS_154950909",
		nonces: map[string]bool{}}
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.server.Serve(l) }()
	return s, nil
}

// Close stops the server and cuts what is under way.
func (s *Server) Close() error { return s.server.Close() }

// Fail has the next requests that are signed well fail, each in its way.
func (s *Server) Fail(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, faults...)
}

// Sent returns the messages that went out, oldest first.
func (s *Server) Sent() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Message(nil), s.went...)
}

// Answered returns the codes that were answered, oldest first, "" where there was no answer.
func (s *Server) Answered() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.codes...)
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	m, status, code := s.judge(r, body)
	if code == "" {
		s.mu.Lock()
		fault := Fault("")
		if len(s.faults) > 0 {
			fault, s.faults = s.faults[0], s.faults[1:]
		}
		switch fault {
		case "":
			status, code = http.StatusOK, "OK"
		case Throttled:
			status, code = http.StatusBadRequest, string(fault)
		case Unavailable:
			status, code = http.StatusServiceUnavailable, string(fault)
		case Internal:
			status, code = http.StatusInternalServerError, string(fault)
		case Broken:
			status, code = http.StatusBadGateway, ""
		case Lost, Slow:
			status, code = 0, ""
		default: // what is about the message and not about the request is said with 200
			status, code = http.StatusOK, string(fault)
		}
		if code == "OK" || fault == Lost || fault == Slow {
			s.went = append(s.went, m)
		}
		s.mu.Unlock()
		if fault == Slow {
			<-r.Context().Done()
		}
	}
	s.mu.Lock()
	s.codes = append(s.codes, code)
	s.mu.Unlock()
	switch {
	case status == 0:
		panic(http.ErrAbortHandler)
	case code == "":
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<html>bad gateway</html>")
	default:
		w.Header().Set("Content-Type", "application/json;charset=utf-8")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"Code": code, "Message": "about " + m.Phone, "RequestId": rand.Text(), "BizId": "9006"})
	}
}

// judge checks a request as the service does and reads its message; code is "" when it is well.
func (s *Server) judge(r *http.Request, body []byte) (m Message, status int, code string) {
	refused := func(code string) (Message, int, string) { return m, http.StatusBadRequest, code }
	if r.Method != http.MethodPost || r.URL.Path != "/" || r.Header.Get("x-acs-action") != "SendSms" || r.Header.Get("x-acs-version") != "2017-05-25" {
		return refused("InvalidAction.NotFound")
	}
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	date, err := time.Parse("2006-01-02T15:04:05Z", r.Header.Get("x-acs-date"))
	if err != nil || date.Sub(now()).Abs() > 15*time.Minute {
		return refused("InvalidTimeStamp.Expired")
	}
	if err := s.signed(r, body); err != nil {
		return refused(err.Error())
	}
	nonce := r.Header.Get("x-acs-signature-nonce")
	s.mu.Lock()
	used := s.nonces[nonce]
	s.nonces[nonce] = true
	s.mu.Unlock()
	if used || nonce == "" {
		return refused("SignatureNonceUsed")
	}
	q := r.URL.Query()
	var param map[string]string
	switch m.Phone = q.Get("PhoneNumbers"); {
	case q.Get("SignName") != s.SignName:
		return m, http.StatusOK, "isv.SMS_SIGNATURE_ILLEGAL"
	case q.Get("TemplateCode") != s.Template:
		return m, http.StatusOK, "isv.SMS_TEMPLATE_ILLEGAL"
	case m.Phone == "" || strings.Trim(m.Phone, "0123456789") != "":
		return m, http.StatusOK, "isv.MOBILE_NUMBER_ILLEGAL"
	case json.Unmarshal([]byte(q.Get("TemplateParam")), &param) != nil:
		return m, http.StatusOK, "isv.INVALID_JSON_PARAM"
	case param["code"] == "":
		return m, http.StatusOK, "isv.TEMPLATE_MISSING_PARAMETERS"
	}
	m.Code = param["code"]
	return m, 0, ""
}

// signed checks the Authorization header; the error is the service's code.
func (s *Server) signed(r *http.Request, body []byte) error {
	kind, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	given := map[string]string{}
	for _, part := range strings.Split(rest, ",") {
		name, value, _ := strings.Cut(part, "=")
		given[name] = value
	}
	if kind != "ACS3-HMAC-SHA256" || given["Signature"] == "" {
		return errors.New("IncompleteSignature")
	}
	if given["Credential"] != s.KeyID {
		return errors.New("InvalidAccessKeyId.NotFound")
	}
	digest := sha256.Sum256(body)
	if r.Header.Get("x-acs-content-sha256") != hex.EncodeToString(digest[:]) {
		return errors.New("SignatureDoesNotMatch")
	}
	// All x-acs- headers that are there have to be signed, with the host and the type of a body.
	names := []string{"host"}
	for name := range r.Header {
		if low := strings.ToLower(name); strings.HasPrefix(low, "x-acs-") || low == "content-type" {
			names = append(names, low)
		}
	}
	sort.Strings(names)
	if given["SignedHeaders"] != strings.Join(names, ";") {
		return errors.New("IncompleteSignature")
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return errors.New("SignatureDoesNotMatch")
	}
	var params []string
	for name, values := range query {
		for _, v := range values {
			params = append(params, rfc3986(name)+"="+rfc3986(v))
		}
	}
	sort.Strings(params)
	lines := []string{r.Method, r.URL.Path, strings.Join(params, "&")}
	for _, name := range names {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		lines = append(lines, name+":"+strings.TrimSpace(value))
	}
	lines = append(lines, "", strings.Join(names, ";"), hex.EncodeToString(digest[:]))
	request := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	h := hmac.New(sha256.New, []byte(s.KeySecret))
	h.Write([]byte("ACS3-HMAC-SHA256\n" + hex.EncodeToString(request[:])))
	if !hmac.Equal([]byte(hex.EncodeToString(h.Sum(nil))), []byte(given["Signature"])) {
		return errors.New("SignatureDoesNotMatch")
	}
	return nil
}

// rfc3986 encodes all bytes but letters, digits, '-', '_', '.' and '~'.
func rfc3986(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteString("%" + strings.ToUpper(hex.EncodeToString([]byte{c})))
	}
	return b.String()
}

// WaitSent waits until n messages went out, and returns the last of them.
func (s *Server) WaitSent(ctx context.Context, n int) (Message, error) {
	for {
		if went := s.Sent(); len(went) >= n {
			return went[n-1], nil
		}
		select {
		case <-ctx.Done():
			return Message{}, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}
