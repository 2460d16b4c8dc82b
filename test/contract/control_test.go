package contract

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"levee/internal/platform/contract"
)

// spoil changes what a house is asked or what it answers.
type spoil struct {
	name    string
	op      string // on which it works
	check   string // that must find it
	request func(*http.Request)
	answer  func(*http.Response)
	hold    bool // no answer comes, until the caller gives up
}

func body(r *http.Response, text string) {
	r.Body.Close()
	r.Body = io.NopCloser(strings.NewReader(text))
	r.ContentLength = int64(len(text))
	r.Header.Set("Content-Length", strconv.Itoa(len(text)))
}

func replaced(r *http.Response, from, to string) {
	b, _ := io.ReadAll(r.Body)
	body(r, string(bytes.Replace(b, []byte(from), []byte(to), 1)))
}

func good(r *http.Response) bool { return r.StatusCode/100 == 2 }

var spoils = []spoil{
	{name: "an undocumented status", op: "listProducts", check: contract.Status, answer: func(r *http.Response) {
		if good(r) {
			r.StatusCode = 203
		}
	}},
	{name: "an extra field", op: "listProducts", check: contract.Body, answer: func(r *http.Response) {
		if good(r) {
			replaced(r, `{`, `{"cost_price":17,`)
		}
	}},
	{name: "a field of another type", op: "getTime", check: contract.Body, answer: func(r *http.Response) {
		if good(r) {
			replaced(r, `"unix_ms":`, `"unix_ms":"x","x":`)
		}
	}},
	{name: "a failure", op: "listProducts", check: contract.ServerError, answer: func(r *http.Response) {
		if good(r) {
			r.StatusCode = 500
		}
	}},
	{name: "another media type", op: "listProducts", check: contract.ContentType, answer: func(r *http.Response) {
		if good(r) {
			r.Header.Set("Content-Type", "text/html")
		}
	}},
	{name: "a header that is not there", op: "getTime", check: contract.Headers, answer: func(r *http.Response) { r.Header.Del("X-Request-Id") }},
	{name: "another Allow", op: "getTime", check: contract.Allow, answer: func(r *http.Response) {
		if r.StatusCode == 405 {
			r.Header.Set("Allow", "GET, DELETE")
		}
	}},
	{name: "every body is taken", op: "createProduct", check: negative, answer: func(r *http.Response) {
		if r.StatusCode == 422 {
			r.StatusCode = 201
		}
	}},
	{name: "no field is named", op: "createProduct", check: negative, answer: func(r *http.Response) {
		if r.StatusCode == 422 {
			b, _ := io.ReadAll(r.Body)
			body(r, strings.ReplaceAll(string(b), `"field":"`, `"field":"body.other`))
		}
	}},
	{name: "what is allowed is refused", op: "listProducts", check: positive, answer: func(r *http.Response) {
		if good(r) {
			r.StatusCode = 422
			r.Header.Set("Content-Type", "application/problem+json")
			body(r, `{"type":"urn:levee:error:invalid","title":"x","status":422,"detail":"no","error":"invalid","errors":[{"field":"query.limit","allowed":"x","given":"y"}]}`)
		}
	}},
	{name: "nobody is asked who he is", op: "getMe", check: noAuth, answer: func(r *http.Response) {
		if r.StatusCode == 401 {
			r.StatusCode = 200
		}
	}},
	{name: "a change without a version is taken", op: "updateProduct", check: needsHeader, request: func(r *http.Request) {
		if r.Method == http.MethodPatch && r.Header.Get("If-Match") == "" {
			r.Header.Set("If-Match", "*")
		}
	}},
	{name: "no answer", op: "getTime", check: slow, hold: true},
	{name: "every method is taken", op: "getTime", check: badMethod, answer: func(r *http.Response) {
		if r.StatusCode == 405 {
			r.StatusCode = 200
		}
	}},
}

// front stands before a house and spoils what one operation is asked or answers.
func front(t *testing.T, c *campaign, s spoil) string {
	t.Helper()
	house, err := url.Parse(c.house.Base)
	if err != nil {
		t.Fatal(err)
	}
	proxy := http.Handler(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(house)
			r.Out.Host = house.Host
			if op, _, _ := c.doc.Find(r.In.Method, r.In.URL.EscapedPath()); op != nil && op.ID == s.op && s.request != nil {
				s.request(r.Out)
			}
		},
		ModifyResponse: func(r *http.Response) error {
			op, _, others := c.doc.Find(r.Request.Method, r.Request.URL.EscapedPath())
			if s.answer != nil && (op != nil && op.ID == s.op || op == nil && others != nil) {
				s.answer(r)
			}
			return nil
		},
	})
	if s.hold {
		proxy = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	return server.URL
}

// TestControls spoils a house in each way that a check is for: the check must find it, and must find nothing in the house as it is.
func TestControls(t *testing.T) {
	scene := open(t)
	for _, s := range spoils {
		t.Run(s.name, func(t *testing.T) {
			for _, spoiled := range []bool{false, true} {
				c := newCampaign(scene, 1)
				asIs := s
				if !spoiled {
					asIs = spoil{op: s.op}
				}
				c.base = front(t, c, asIs)
				if asIs.hold {
					c.most = 20 * time.Millisecond // it never comes: how long is waited proves nothing
				}
				c.run(t.Context(), c.doc.Named(s.op), 0, 40)
				found := false
				for _, f := range c.report() {
					found = found || f.Check == s.check
				}
				if found != spoiled {
					t.Errorf("spoiled %v, found by %s %v: %v", spoiled, s.check, found, c.report())
				}
			}
		})
	}
	t.Run("a role is let in", func(t *testing.T) {
		c := newCampaign(scene, 1)
		op := c.doc.Named("listUsers")
		table, found := c.table()
		if found = append(found, c.roles([]*contract.Operation{op}, table)...); len(found) > 0 {
			t.Fatalf("the house as it is: %v", found)
		}
		c.base = front(t, c, spoil{op: op.ID, request: func(r *http.Request) {
			if r.Header.Get("Authorization") == "Bearer "+c.token(operator) {
				r.Header.Set("Authorization", "Bearer "+c.token(administrator))
			}
		}})
		if found := c.roles([]*contract.Operation{op}, table); len(found) != 1 || found[0].Check != functionLevel {
			t.Errorf("an operator was let in to what administrators do, and %s found %v", functionLevel, found)
		}
	})
	t.Run("another's order", func(t *testing.T) {
		c := newCampaign(scene, 1)
		op := c.doc.Named("getOrder")
		if found, _ := c.matrixOf(op, matrix[op.ID]); len(found) > 0 {
			t.Fatalf("the house as it is: %v", found)
		}
		c.base = front(t, c, spoil{op: op.ID, request: func(r *http.Request) {
			if r.Header.Get("Authorization") == "Bearer "+c.token(stranger) {
				r.Header.Set("Authorization", "Bearer "+c.token(customer))
			}
		}})
		wanted := map[string]bool{objectLevel: false, foreignData: false}
		found, _ := c.matrixOf(op, matrix[op.ID])
		for _, b := range found {
			wanted[b.Check] = true
		}
		for check, seen := range wanted {
			if !seen {
				t.Errorf("a stranger was shown a customer's order, and %s did not find it: %v", check, found)
			}
		}
	})
	t.Run("what is gone is still there", func(t *testing.T) {
		c := newCampaign(scene, 1)
		gone := false
		c.base = front(t, c, spoil{op: "deleteWebhook", request: func(r *http.Request) {
			if r.Method == http.MethodDelete && !gone {
				r.Method, gone = http.MethodGet, true
			}
		}})
		for _, ch := range chains(c.doc) {
			if ch.make.ID != "createWebhook" {
				continue
			}
			found, made := c.walk(t.Context(), fixed(c), ch, operator)
			ok := false
			for _, b := range found {
				ok = ok || b.Check == useAfterFree
			}
			if !ok || !made || !gone {
				t.Errorf("a webhook was not removed, and %s did not find it: %v", useAfterFree, found)
			}
		}
	})
}
