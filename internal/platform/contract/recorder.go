package contract

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"sync"
)

// kept is how much of an answer is kept to be judged; of a longer one only status and headers are.
const kept = 4 << 20

// Recorder is an http.RoundTripper that judges each answer of the houses that it watches, as its body is read. It changes nothing.
type Recorder struct {
	Next http.RoundTripper

	mu     sync.RWMutex
	houses map[string]watch // by host and port
}

type watch struct {
	document *Document
	report   func(Breach)
}

// Watch judges what a host answers from here on, until the returned function is called. report may be called by many at once.
func (r *Recorder) Watch(host string, d *Document, report func(Breach)) (stop func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.houses == nil {
		r.houses = map[string]watch{}
	}
	r.houses[host] = watch{d, report}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.houses, host)
	}
}

// RoundTrip sends the request.
func (r *Recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.Next.RoundTrip(req)
	if err != nil {
		return resp, err
	}
	r.mu.RLock()
	w, ok := r.houses[req.URL.Host]
	r.mu.RUnlock()
	if !ok || resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, nil
	}
	answer := Answer{Method: req.Method, Path: req.URL.EscapedPath(), Query: req.URL.RawQuery, Status: resp.StatusCode, Header: resp.Header.Clone()}
	judge := func() {
		for _, b := range w.document.Judge(answer) {
			w.report(b)
		}
	}
	if mt, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); mt == "text/event-stream" {
		answer.Cut = true
		judge()
		return resp, nil
	}
	resp.Body = &tee{ReadCloser: resp.Body, answer: &answer, judge: judge}
	return resp, nil
}

// tee keeps what is read of a body, and judges at its end.
type tee struct {
	io.ReadCloser
	answer *Answer
	judge  func()
	once   sync.Once
}

func (t *tee) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	switch {
	case t.answer.Cut:
	case len(t.answer.Body)+n > kept:
		t.answer.Cut, t.answer.Body = true, bytes.Clone(t.answer.Body[:min(len(t.answer.Body), 1000)])
	default:
		t.answer.Body = append(t.answer.Body, p[:n]...)
	}
	if errors.Is(err, io.EOF) {
		t.once.Do(t.judge)
	}
	return n, err
}

// Close judges what was read so far.
func (t *tee) Close() error {
	t.once.Do(func() {
		t.answer.Cut = true
		t.judge()
	})
	return t.ReadCloser.Close()
}
