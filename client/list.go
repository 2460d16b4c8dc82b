package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strings"

	"levee"
)

// List reads a list of the house to its end, page after page, each row into a T. query is what is asked of it (filters, sort, limit: the rows of
// a page); nil asks for nothing. An error ends it. Rows that are written meanwhile come once or not at all, never twice.
//
//	for p, err := range client.List[Product](ctx, c, "/v1/products", url.Values{"sort": {"-created_at"}}) {
func List[T any](ctx context.Context, c *Client, path string, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		at := path
		if len(query) > 0 {
			at += "?" + query.Encode()
		}
		for at != "" {
			var page struct {
				Items []T `json:"items"`
			}
			h, err := c.do(ctx, http.MethodGet, at, nil, &page, nil)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, v := range page.Items {
				if !yield(v, nil) {
					return
				}
			}
			next := nextIn(h.Values("Link"))
			if next == at {
				var none T
				yield(none, levee.E(levee.CodeMalformed, "the server's list goes round in a circle"))
				return
			}
			at = next
		}
	}
}

// nextIn returns the target of rel="next" (RFC 8288) among links as the house writes them, "" when there is none.
func nextIn(lines []string) string {
	for _, line := range lines {
		for line != "" {
			target, rest, ok := strings.Cut(strings.TrimLeft(line, " ,"), ">")
			if !ok || !strings.HasPrefix(target, "<") {
				break
			}
			parameters, more, _ := strings.Cut(rest, ",")
			if strings.Contains(parameters, `rel="next"`) {
				return target[1:]
			}
			line = more
		}
	}
	return ""
}
