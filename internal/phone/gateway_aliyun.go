package phone

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"levee/internal/platform/obs"
)

const (
	aliyunTimeout = 10 * time.Second
	aliyunAnswer  = 64 << 10 // most bytes of an answer
	aliyunSigns   = "ACS3-HMAC-SHA256"
)

// aliyun speaks to the SMS service of Alibaba Cloud: SendSms of Dysmsapi 2017-05-25, signed as "Request syntax and signature method V3"
// (help.aliyun.com/en/sdk/product-overview/v3-request-structure-and-signature) says.
type aliyun struct {
	cfg    AliyunConfig
	now    obs.Clock
	client *http.Client
}

func newAliyun(cfg AliyunConfig, now obs.Clock) *aliyun {
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck // it is one
	transport.MaxResponseHeaderBytes = 64 << 10
	return &aliyun{cfg: cfg, now: now, client: &http.Client{Timeout: aliyunTimeout, Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// Send asks for one message. The parameters stand in the query, as the service's description has them; no error shows it, as it holds the
// code.
func (a *aliyun) Send(ctx context.Context, phone string, code obs.Secret) error {
	param, err := json.Marshal(map[string]string{"code": code.Reveal()})
	if err != nil {
		return err
	}
	query := canonicalQuery(map[string]string{"PhoneNumbers": strings.TrimPrefix(phone, "+"), "SignName": a.cfg.SignName,
		"TemplateCode": a.cfg.Template, "TemplateParam": string(param)})
	var connected atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodPost, strings.TrimRight(a.cfg.Endpoint, "/")+"/?"+query, nil)
	if err != nil {
		return errors.New("the endpoint is no address")
	}
	headers := map[string]string{"host": r.URL.Host, "x-acs-action": "SendSms", "x-acs-version": "2017-05-25",
		"x-acs-date": a.now().UTC().Format("2006-01-02T15:04:05Z"), "x-acs-signature-nonce": rand.Text(), "x-acs-content-sha256": sum("")}
	for name, value := range headers {
		if name != "host" {
			r.Header.Set(name, value)
		}
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Authorization", authorization(a.cfg.KeyID, a.cfg.KeySecret, http.MethodPost, "/", query, headers))
	resp, err := a.client.Do(r)
	if err != nil {
		if !connected.Load() {
			return &refusal{kind: "refused", again: true, said: "it cannot be reached: " + cause(err)}
		}
		return errors.New("no answer: " + cause(err))
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct{ Code, RequestID string }
	body, err := io.ReadAll(io.LimitReader(resp.Body, aliyunAnswer))
	if err != nil {
		return errors.New("an answer that breaks off: " + cause(err))
	}
	if json.Unmarshal(body, &answer) != nil || answer.Code == "" {
		return fmt.Errorf("an answer of status %d that is not the service's", resp.StatusCode)
	}
	return verdict(resp.StatusCode, answer.Code, answer.RequestID)
}

// cause is an error without the address that it is about.
func cause(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return cmp.Or(err.Error(), "unknown")
}

// verdict reads the service's word. What it calls throttled or unavailable it has not taken; after an internal error of its own nobody knows.
func verdict(status int, code, request string) error {
	said := fmt.Sprintf("%s (status %d, request %s)", word(code), status, word(request))
	switch {
	case code == "OK" && status == http.StatusOK:
		return nil
	case code == "OK" || strings.HasPrefix(code, "InternalError"):
		return errors.New(said)
	case strings.HasPrefix(code, "Throttling") || strings.HasPrefix(code, "ServiceUnavailable") || code == "isp.SYSTEM_ERROR":
		return &refusal{kind: "refused", again: true, said: said}
	case code == "isv.MOBILE_NUMBER_ILLEGAL" || code == "isv.DOMESTIC_NUMBER_NOT_SUPPORTED":
		return &refusal{kind: "number", said: said}
	case code == "isv.BUSINESS_LIMIT_CONTROL" || code == "isv.DAY_LIMIT_CONTROL" || code == "isv.MONTH_LIMIT_CONTROL":
		return &refusal{kind: "limited", said: said}
	}
	return &refusal{kind: "refused", said: said}
}

// word leaves of a text from outside what a code or a request id is made of.
func word(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-' {
			return r
		}
		return -1
	}, text[:min(len(text), 80)])
}

// canonicalQuery writes parameters sorted and percent-encoded as RFC 3986 has it: what is sent and what is signed.
func canonicalQuery(params map[string]string) string {
	parts := make([]string, 0, len(params))
	for _, name := range slices.Sorted(maps.Keys(params)) {
		parts = append(parts, percent(name)+"="+percent(params[name]))
	}
	return strings.Join(parts, "&")
}

func percent(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

func sum(text string) string {
	h := sha256.Sum256([]byte(text))
	return hex.EncodeToString(h[:])
}

// authorization signs a request: its method, path, query, the given headers (names in lower case), and the body by x-acs-content-sha256 among them.
func authorization(keyID string, secret obs.Secret, method, path, query string, headers map[string]string) string {
	names := slices.Sorted(maps.Keys(headers))
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n%s\n", method, path, query)
	for _, name := range names {
		fmt.Fprintf(&b, "%s:%s\n", name, strings.TrimSpace(headers[name]))
	}
	signed := strings.Join(names, ";")
	fmt.Fprintf(&b, "\n%s\n%s", signed, headers["x-acs-content-sha256"])
	h := hmac.New(sha256.New, []byte(secret.Reveal()))
	h.Write([]byte(aliyunSigns + "\n" + sum(b.String())))
	return fmt.Sprintf("%s Credential=%s,SignedHeaders=%s,Signature=%s", aliyunSigns, keyID, signed, hex.EncodeToString(h.Sum(nil)))
}
