package limit

import (
	"strconv"
	"time"
)

// policy is a limit's item in RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers, structured fields): its name, how many may come at once
// (q), and in how many seconds so many come again (w).
func policy(n Name, r Rate) string {
	w := r.Per
	if !r.Exact() {
		w = time.Duration(r.Most()) * r.every()
	}
	return `"` + n.String() + `";q=` + strconv.Itoa(r.Most()) + ";w=" + strconv.FormatInt(seconds(w), 10)
}

// Policy returns the limit's item of the header RateLimit-Policy, such as "write";q=40;w=2, or "" while it is off.
func (l *Limits) Policy(n Name) string { return l.classes[n].Load().policy }

// AppendState appends the limit's item of the header RateLimit, such as "write";r=39;t=1: how many remain, and in how many seconds all do
// again. Without a limit, or without knowing (Away), it appends nothing.
func (d Decision) AppendState(b []byte, n Name) []byte {
	if d.Limit == 0 {
		return b
	}
	b = append(b, '"')
	b = append(b, n.String()...)
	b = append(b, `";r=`...)
	b = strconv.AppendInt(b, int64(d.Remaining), 10)
	b = append(b, ";t="...)
	return strconv.AppendInt(b, seconds(d.Reset), 10)
}

// seconds rounds up: who waits so long has waited long enough.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
