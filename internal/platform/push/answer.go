package push

import (
	"encoding/json"
	"net/http"
	"strconv"

	"levee"
)

// fail answers a refused request when the house gave no function for it.
func fail(w http.ResponseWriter, _ *http.Request, err error) {
	status := http.StatusInternalServerError
	switch levee.CodeOf(err) {
	case levee.CodeForbidden:
		status = http.StatusForbidden
	case levee.CodeUnavailable:
		status = http.StatusServiceUnavailable
	case levee.CodeTooManyRequests:
		status = http.StatusTooManyRequests
	case levee.CodeMethodNotAllowed:
		status = http.StatusMethodNotAllowed
	case levee.CodeInvalid, levee.CodeMalformed:
		status = http.StatusBadRequest
	}
	answer(w, status, err)
}

func answer(w http.ResponseWriter, status int, err error) {
	body := map[string]any{"type": "about:blank", "title": http.StatusText(status), "status": status, "error": levee.CodeOf(err)}
	if e := asError(err); e != nil {
		body["detail"] = e.Message
		if e.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(e.RetryAfter.Seconds())))
		}
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the reader may be gone
}
