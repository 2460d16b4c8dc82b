package rehearse

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strings"
)

// A plot is drawn as SVG by hand: one file, no scripts, colours from the page's style so that it follows light and dark.
const (
	plotWide, plotHigh                       = 960.0, 320.0
	plotLeft, plotRight, plotTop, plotBottom = 64.0, 16.0, 26.0, 40.0
)

type plot struct {
	b              strings.Builder
	x0, x1, y0, y1 float64 // what the edges stand for
	logY           bool
}

func newPlot(title, description string, x0, x1, y0, y1 float64, logY bool) *plot {
	p := &plot{x0: x0, x1: max(x1, x0+1e-9), y0: y0, y1: y1, logY: logY}
	if p.y1 <= p.y0 {
		p.y1 = p.y0 + 1
	}
	fmt.Fprintf(&p.b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s"><title>%s</title><desc>%s</desc>`, plotWide, plotHigh,
		html.EscapeString(title), html.EscapeString(title), html.EscapeString(description))
	return p
}

func (p *plot) x(v float64) float64 {
	return plotLeft + (v-p.x0)/(p.x1-p.x0)*(plotWide-plotLeft-plotRight)
}

func (p *plot) y(v float64) float64 {
	part := (v - p.y0) / (p.y1 - p.y0)
	if p.logY {
		part = math.Log(max(v, p.y0)/p.y0) / math.Log(p.y1/p.y0)
	}
	return plotHigh - plotBottom - min(max(part, 0), 1)*(plotHigh-plotTop-plotBottom)
}

func (p *plot) text(x, y float64, class, anchor, s string) {
	fmt.Fprintf(&p.b, `<text class="%s" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, class, x, y, anchor, html.EscapeString(s))
}

func (p *plot) gridY(v float64, label string) {
	y := p.y(v)
	fmt.Fprintf(&p.b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, plotLeft, plotWide-plotRight, y, y)
	p.text(plotLeft-8, y+4, "tick", "end", label)
}

func (p *plot) tickX(v float64, label string) {
	x := p.x(v)
	fmt.Fprintf(&p.b, `<line class="axis" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, x, x, plotHigh-plotBottom, plotHigh-plotBottom+5)
	anchor := "middle"
	if x > plotWide-plotRight-1 {
		anchor = "end"
	}
	p.text(x, plotHigh-plotBottom+18, "tick", anchor, label)
}

func (p *plot) axes(xLabel, yLabel string) {
	fmt.Fprintf(&p.b, `<line class="axis" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, plotLeft, plotWide-plotRight, plotHigh-plotBottom, plotHigh-plotBottom)
	p.text((plotLeft+plotWide-plotRight)/2, plotHigh-4, "name", "middle", xLabel)
	p.text(plotLeft, 14, "name", "start", yLabel)
}

type dot struct{ x, y float64 }

// line draws a line through the dots.
func (p *plot) line(class string, dots []dot) {
	if len(dots) == 0 {
		return
	}
	fmt.Fprintf(&p.b, `<path class="line %s" d="`, class)
	for i, d := range dots {
		p.move(i, d)
	}
	p.b.WriteString(`"/>`)
	if len(dots) == 1 {
		fmt.Fprintf(&p.b, `<circle class="dot %s" cx="%.1f" cy="%.1f" r="3"/>`, class, p.x(dots[0].x), p.y(dots[0].y))
	}
}

func (p *plot) move(i int, d dot) {
	verb := "L"
	if i == 0 {
		verb = "M"
	}
	fmt.Fprintf(&p.b, "%s%.1f %.1f", verb, p.x(d.x), p.y(d.y))
}

// mark draws a moment.
func (p *plot) mark(v float64, label string) {
	x := p.x(v)
	fmt.Fprintf(&p.b, `<line class="mark" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, x, x, plotTop, plotHigh-plotBottom)
	anchor, at := "start", x+5
	if x > plotWide*0.8 {
		anchor, at = "end", x-5
	}
	p.text(at, plotTop+10, "marked", anchor, label)
}

// tip is what a pointer shows over a part of the plot.
func (p *plot) tip(from, to float64, text string) {
	x0, x1 := p.x(from), p.x(to)
	fmt.Fprintf(&p.b, `<rect class="tip" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`, x0, plotTop, max(0, x1-x0),
		plotHigh-plotTop-plotBottom, html.EscapeString(text))
}

func (p *plot) end() template.HTML {
	p.b.WriteString("</svg>")
	return template.HTML(p.b.String()) // every text in it was escaped by text, tip or newPlot
}

// steps returns round numbers from 0 to at least most, about n of them.
func steps(most float64, n int) []float64 {
	if most <= 0 {
		return []float64{0, 1}
	}
	step := math.Pow(10, math.Floor(math.Log10(most/float64(n))))
	for _, m := range []float64{1, 2, 5, 10} {
		if step*m*float64(n) >= most {
			step *= m
			break
		}
	}
	list := []float64{0}
	for i := 1; list[len(list)-1] < most*(1-1e-9); i++ {
		list = append(list, float64(i)*step)
	}
	return list
}

func short(v float64) string {
	switch {
	case v >= 1e6:
		return number(math.Round(v/1e4)/100) + " M"
	case v >= 1e3:
		return number(math.Round(v/10)/100) + " k"
	}
	return number(math.Round(v*100) / 100)
}

// span is the time that the plots show: while people came, and a little of what came after.
func (r Report) span() (slots []Slot, end float64) {
	slots = r.Timeline
	for len(slots) > 0 && slots[len(slots)-1].Arrivals == 0 && total(slots[len(slots)-1].Answers) == 0 {
		slots = slots[:len(slots)-1]
	}
	return slots, max(float64(len(slots))*r.SlotSeconds, r.SlotSeconds)
}

func (r Report) timeAxis(p *plot, end float64, yLabel string) {
	for _, v := range steps(end, 10) {
		if v <= end+1e-9 {
			p.tickX(v, short(v))
		}
	}
	p.axes("seconds since the first people came", yLabel)
	if r.OpenedAfter > 0.5 {
		p.mark(r.OpenedAfter, "opened")
	}
	if r.SoldOutAfter != nil {
		p.mark(*r.SoldOutAfter, "sold out after "+seconds(max(0, *r.SoldOutAfter-r.OpenedAfter)))
	}
}

// plotAnswers draws what people were answered, stacked, and how many pressed.
func (r Report) plotAnswers() template.HTML {
	slots, end := r.span()
	most := 0.0
	for i := range slots {
		most = max(most, float64(total(slots[i].Answers))/r.SlotSeconds, float64(slots[i].Arrivals)/r.SlotSeconds)
	}
	ticks := steps(most, 5)
	p := newPlot("Presses and answers a second", "Answers by what they meant, stacked; the line is how many pressed.", 0, end, 0, ticks[len(ticks)-1], false)
	for _, v := range ticks {
		p.gridY(v, short(v))
	}
	base := make([]float64, len(slots))
	for c := range classes {
		name := classNames[c]
		if r.Answers[name] == 0 {
			continue
		}
		fmt.Fprintf(&p.b, `<path class="area c-%s" d="`, name)
		var back []dot
		n := 0
		for i := range slots {
			top := base[i] + float64(slots[i].Answers[name])/r.SlotSeconds
			from, to := float64(i)*r.SlotSeconds, float64(i+1)*r.SlotSeconds
			p.move(n, dot{from, top})
			p.move(n+1, dot{to, top})
			n += 2
			back = append(back, dot{from, base[i]}, dot{to, base[i]})
			base[i] = top
		}
		for i := len(back) - 2; i >= 0; i -= 2 {
			p.move(n, back[i+1])
			p.move(n+1, back[i])
		}
		p.b.WriteString(`Z"/>`)
	}
	var presses []dot
	for i := range slots {
		if rate := float64(slots[i].Arrivals) / r.SlotSeconds; r.Arrivals > 0 {
			presses = append(presses, dot{float64(i) * r.SlotSeconds, rate}, dot{float64(i+1) * r.SlotSeconds, rate})
		}
	}
	p.line("presses", presses)
	r.timeAxis(p, end, "a second")
	for i := range slots {
		text := fmt.Sprintf("%s s: %d presses", short(slots[i].At), slots[i].Arrivals)
		for c := range classes {
			if n := slots[i].Answers[classNames[c]]; n > 0 {
				text += fmt.Sprintf(", %d %s", n, classLabels[c])
			}
		}
		p.tip(float64(i)*r.SlotSeconds, float64(i+1)*r.SlotSeconds, text)
	}
	return p.end()
}

// decades returns the powers of ten around a range of milliseconds.
func decades(least, most float64) (list []float64) {
	from, to := math.Floor(math.Log10(max(least, 1e-3))), math.Ceil(math.Log10(max(most, 1e-2)))
	if to <= from {
		to = from + 1
	}
	for e := from; e <= to; e++ {
		list = append(list, math.Pow(10, e))
	}
	return list
}

// decade writes a power of ten of milliseconds.
func decade(ms float64) string {
	switch {
	case ms >= 1000:
		return short(ms/1000) + " s"
	case ms >= 1:
		return short(ms) + " ms"
	}
	return short(ms*1000) + " µs"
}

// plotLatency draws how long people waited by when they pressed.
func (r Report) plotLatency() template.HTML {
	slots, end := r.span()
	least, most := math.Inf(1), 0.0
	for i := range slots {
		if slots[i].Count > 0 {
			least, most = min(least, slots[i].P50), max(most, slots[i].P999)
		}
	}
	if most == 0 {
		least, most = 1, 10
	}
	ticks := decades(least, most)
	p := newPlot("Latency of purchases over time", "50th, 99th and 99.9th percentile of what people waited who pressed in that second.", 0, end,
		ticks[0], ticks[len(ticks)-1], true)
	for _, v := range ticks {
		p.gridY(v, decade(v))
	}
	for _, q := range []struct {
		class string
		of    func(*Slot) float64
	}{{"p50", func(s *Slot) float64 { return s.P50 }}, {"p99", func(s *Slot) float64 { return s.P99 }}, {"p999", func(s *Slot) float64 { return s.P999 }}} {
		var dots []dot
		for i := range slots {
			if slots[i].Count == 0 { // a gap in the line is a second in which nobody pressed
				p.line(q.class, dots)
				dots = nil
				continue
			}
			dots = append(dots, dot{(float64(i) + 0.5) * r.SlotSeconds, q.of(&slots[i])})
		}
		p.line(q.class, dots)
	}
	r.timeAxis(p, end, "from the intended moment to the answer")
	for i := range slots {
		if s := &slots[i]; s.Count > 0 {
			p.tip(float64(i)*r.SlotSeconds, float64(i+1)*r.SlotSeconds, fmt.Sprintf("%s s: p50 %s, p99 %s, p99.9 %s, max %s of %d", short(s.At),
				duration(s.P50), duration(s.P99), duration(s.P999), duration(s.Max), s.Count))
		}
	}
	return p.end()
}

// plotCurves draws the distributions over the share of people, stretched towards the tail.
func (r Report) plotCurves() template.HTML {
	least, most, tail := math.Inf(1), 0.0, 1.0
	where := func(q float64, count int64) float64 { // 0: everybody, 1: one in ten waits longer, 2: one in a hundred …
		return -math.Log10(max(1-q, 1/float64(max(2, count))))
	}
	for _, l := range r.Latencies {
		for _, d := range l.Curve {
			least, most, tail = min(least, max(d.Value, 1e-3)), max(most, d.Value), max(tail, where(d.Quantile, l.Count))
		}
	}
	if most == 0 {
		least, most = 1, 10
	}
	ticks := decades(least, most)
	p := newPlot("Latency by percentile", "How long the slowest share of people waited, by kind of answer.", 0, math.Ceil(tail), ticks[0], ticks[len(ticks)-1], true)
	for _, v := range ticks {
		p.gridY(v, decade(v))
	}
	for _, l := range r.Latencies {
		var dots []dot
		for _, d := range l.Curve {
			dots = append(dots, dot{where(d.Quantile, l.Count), max(d.Value, 1e-3)})
		}
		p.line("l-"+l.Name, dots)
	}
	for i := 0; i <= int(math.Ceil(tail)); i++ {
		label := "0 %"
		if i > 0 {
			label = number(math.Round((1-math.Pow(10, -float64(i)))*1e10)/1e8) + " %"
		}
		p.tickX(float64(i), label)
	}
	p.axes("share of the answers that were at least as fast", "from the intended moment to the answer")
	return p.end()
}
