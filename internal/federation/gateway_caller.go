package federation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

const (
	callLimit  = 5 * time.Second // for one call of a provider
	maxReply   = 64 << 10        // bytes
	maxHeaders = 16 << 10
)

// caller asks providers. It follows no redirect: a provider's endpoints are where its metadata says.
type caller struct{ client *http.Client }

func newCaller() *caller {
	return &caller{client: &http.Client{
		Timeout:       callLimit,
		Transport:     &http.Transport{MaxResponseHeaderBytes: maxHeaders, IdleConnTimeout: time.Minute, MaxIdleConns: 20, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// json sends a request and decodes the answer, whatever its status, of at most 64 KiB. Errors hold nothing of the request's address, in which WeChat
// wants its secret, and nothing of the answer.
func (c *caller) json(r *http.Request, v any) (status int, err error) {
	resp, err := c.client.Do(r)
	var inAddress *url.Error
	if errors.As(err, &inAddress) {
		err = inAddress.Err
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	switch {
	case err != nil:
		return resp.StatusCode, errors.New("the answer broke off")
	case len(text) > maxReply:
		return resp.StatusCode, fmt.Errorf("the answer has more than %d bytes", maxReply)
	case json.Unmarshal(text, v) != nil:
		return resp.StatusCode, fmt.Errorf("answered %d with something that is not the JSON that was expected", resp.StatusCode)
	}
	return resp.StatusCode, nil
}
