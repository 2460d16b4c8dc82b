package notify

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"levee"
)

// answer is what a receiver said.
type answer struct {
	status     int
	text       string        // the first KiB
	retryAfter time.Duration // as the receiver asked for; 0: it did not
}

// poster sends one request; tests have their own.
type poster func(ctx context.Context, to string, header map[string]string, body []byte) (answer, error)

// newPoster returns a poster that speaks HTTP to where guard lets it: no proxy, because the proxy would resolve the name; no
// redirect, because it leads elsewhere; each webhook's connections are its own by its host.
func newPoster(s *Service) poster {
	client := &http.Client{
		Transport: &http.Transport{
			Proxy: nil, DialContext: s.dial, MaxIdleConnsPerHost: s.cfg.Parallel, MaxIdleConns: 256, IdleConnTimeout: 90 * time.Second,
			TLSHandshakeTimeout: s.cfg.Timeout, MaxResponseHeaderBytes: 64 << 10, DisableCompression: true, // a small answer cannot blow up
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context, to string, header map[string]string, body []byte) (a answer, err error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
		if err != nil {
			return a, err
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("User-Agent", "Levee-Webhooks/1")
		for name, value := range header {
			r.Header.Set(name, value)
		}
		resp, err := client.Do(r)
		if err != nil {
			return a, err
		}
		defer resp.Body.Close()
		a.status = resp.StatusCode
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
			a.retryAfter = time.Duration(min(n, 86400)) * time.Second
		}
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		a.text = readable(text)
		if err != nil && a.status >= 200 && a.status < 300 { // it has said yes; what it says beside that is not needed
			err = nil
		}
		return a, err
	}
}

// readable is the first KiB of an answer as text that SQL and a page can hold.
func readable(text []byte) string {
	s := strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7F {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(text[:min(len(text), keptAnswer)]), "\uFFFD"))
	return levee.Shorten(s, keptAnswer)
}

// failure says why there was no answer, without the address's query, which often holds a token.
func failure(err error) string {
	var e *levee.Error
	var u *url.Error
	var dns *net.DNSError
	switch {
	case errors.As(err, &e):
		return levee.Shorten(e.Message, keptError)
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &dns):
		return levee.Shorten("the name cannot be resolved: "+dns.Name, keptError)
	case errors.As(err, &u):
		err = u.Err
		if u.Timeout() {
			return "no answer in time"
		}
	}
	return levee.Shorten(readable([]byte(err.Error())), keptError)
}
