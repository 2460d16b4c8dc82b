package report

import (
	"fmt"
	"math"
	"strconv"
)

// Kind is a name for programs and the words for people.
type Kind struct{ Name, Label string }

// Answers are the kinds of answers, by what they meant to the person who asked; in the page they are stacked in this order.
var Answers = []Kind{
	{"ordered", "ordered"},
	{"queued", "queued"},
	{"sold_out", "sold out"},
	{"limit_reached", "limit reached"},
	{"ended", "over"},
	{"wait", "told to wait"},
	{"busy", "busy (429, 503)"},
	{"refused", "other refusals"},
	{"failed", "server errors"},
	{"lost", "lost replies"},
	{"place", "in the waiting room"},
	{"turn", "admitted"},
}

// Outcomes are the last words that a person was told, or that he had none.
var Outcomes = []Kind{
	{"none", "nothing yet"},
	{"ordered", "an order"},
	{"sold_out", "sold out"},
	{"limit_reached", "limit reached"},
	{"ended", "the sale is over"},
	{"gave_up", "gave up waiting"},
	{"refused", "an odd refusal"},
	{"not_sent", "never sent"},
	{"waiting", "still in the waiting room"},
	{"missed", "missed his turn"},
	{"unknown", "not known"},
}

// Thousands writes 1234567 as 1,234,567.
func Thousands(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Duration writes milliseconds so that three digits count.
func Duration(ms float64) string {
	switch {
	case ms >= 100_000:
		return fmt.Sprintf("%.0f s", ms/1000)
	case ms >= 10_000:
		return fmt.Sprintf("%.1f s", ms/1000)
	case ms >= 1000:
		return fmt.Sprintf("%.2f s", ms/1000)
	case ms >= 100:
		return fmt.Sprintf("%.0f ms", ms)
	case ms >= 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms >= 1:
		return fmt.Sprintf("%.2f ms", ms)
	}
	return fmt.Sprintf("%.0f µs", ms*1000)
}

func seconds(s float64) string { return Duration(s * 1000) }

// Number writes a number without trailing zeros.
func Number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// Share writes a part of one as a percentage.
func Share(f float64) string { return Number(math.Round(f*1e6)/1e4) + " %" }
