package report

import (
	"fmt"
	"html/template"
	"math"

	"levee/internal/plot"
)

// span is the time that the plots show: while people came, and a little of what came after.
func (r Report) span() (slots []Slot, end float64) {
	slots = r.Timeline
	for len(slots) > 0 && slots[len(slots)-1].Arrivals == 0 && Total(slots[len(slots)-1].Answers) == 0 {
		slots = slots[:len(slots)-1]
	}
	return slots, max(float64(len(slots))*r.SlotSeconds, r.SlotSeconds)
}

func (r Report) timeAxis(p *plot.Plot, end float64, yLabel string) {
	for _, v := range plot.Steps(end, 10) {
		if v <= end+1e-9 {
			p.TickX(v, plot.Short(v))
		}
	}
	p.Axes("seconds since the first people came", yLabel)
	if r.OpenedAfter > 0.5 {
		p.Mark(r.OpenedAfter, "opened")
	}
	if r.SoldOutAfter != nil {
		p.Mark(*r.SoldOutAfter, "sold out after "+seconds(max(0, *r.SoldOutAfter-r.OpenedAfter)))
	}
}

// plotAnswers draws what people were answered, stacked, and how many pressed.
func (r Report) plotAnswers() template.HTML {
	slots, end := r.span()
	most := 0.0
	for i := range slots {
		most = max(most, float64(Total(slots[i].Answers))/r.SlotSeconds, float64(slots[i].Arrivals)/r.SlotSeconds)
	}
	ticks := plot.Steps(most, 5)
	p := plot.New("Presses and answers a second", "Answers by what they meant, stacked; the line is how many pressed.", 0, end, 0, ticks[len(ticks)-1], false)
	for _, v := range ticks {
		p.GridY(v, plot.Short(v))
	}
	base := make([]float64, len(slots))
	for _, k := range Answers {
		name := k.Name
		if r.Answers[name] == 0 {
			continue
		}
		var upper, lower []plot.Dot
		for i := range slots {
			top := base[i] + float64(slots[i].Answers[name])/r.SlotSeconds
			from, to := float64(i)*r.SlotSeconds, float64(i+1)*r.SlotSeconds
			upper = append(upper, plot.Dot{X: from, Y: top}, plot.Dot{X: to, Y: top})
			lower = append(lower, plot.Dot{X: from, Y: base[i]}, plot.Dot{X: to, Y: base[i]})
			base[i] = top
		}
		p.Area("c-"+name, upper, lower)
	}
	var presses []plot.Dot
	for i := range slots {
		if rate := float64(slots[i].Arrivals) / r.SlotSeconds; r.Arrivals > 0 {
			presses = append(presses, plot.Dot{X: float64(i) * r.SlotSeconds, Y: rate}, plot.Dot{X: float64(i+1) * r.SlotSeconds, Y: rate})
		}
	}
	p.Line("presses", presses)
	r.timeAxis(p, end, "a second")
	for i := range slots {
		text := fmt.Sprintf("%s s: %d presses", plot.Short(slots[i].At), slots[i].Arrivals)
		for _, k := range Answers {
			if n := slots[i].Answers[k.Name]; n > 0 {
				text += fmt.Sprintf(", %d %s", n, k.Label)
			}
		}
		p.Tip(float64(i)*r.SlotSeconds, float64(i+1)*r.SlotSeconds, text)
	}
	return p.End()
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
	ticks := plot.Decades(least, most)
	p := plot.New("Latency of purchases over time", "50th, 99th and 99.9th percentile of what people waited who pressed in that second.", 0, end,
		ticks[0], ticks[len(ticks)-1], true)
	for _, v := range ticks {
		p.GridY(v, plot.Decade(v))
	}
	for _, q := range []struct {
		class string
		of    func(*Slot) float64
	}{{"p50", func(s *Slot) float64 { return s.P50 }}, {"p99", func(s *Slot) float64 { return s.P99 }}, {"p999", func(s *Slot) float64 { return s.P999 }}} {
		var dots []plot.Dot
		for i := range slots {
			if slots[i].Count == 0 { // a gap in the line is a second in which nobody pressed
				p.Line(q.class, dots)
				dots = nil
				continue
			}
			dots = append(dots, plot.Dot{X: (float64(i) + 0.5) * r.SlotSeconds, Y: q.of(&slots[i])})
		}
		p.Line(q.class, dots)
	}
	r.timeAxis(p, end, "from the intended moment to the answer")
	for i := range slots {
		if s := &slots[i]; s.Count > 0 {
			p.Tip(float64(i)*r.SlotSeconds, float64(i+1)*r.SlotSeconds, fmt.Sprintf("%s s: p50 %s, p99 %s, p99.9 %s, max %s of %d", plot.Short(s.At),
				Duration(s.P50), Duration(s.P99), Duration(s.P999), Duration(s.Max), s.Count))
		}
	}
	return p.End()
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
	ticks := plot.Decades(least, most)
	p := plot.New("Latency by percentile", "How long the slowest share of people waited, by kind of answer.", 0, math.Ceil(tail), ticks[0], ticks[len(ticks)-1], true)
	for _, v := range ticks {
		p.GridY(v, plot.Decade(v))
	}
	for _, l := range r.Latencies {
		var dots []plot.Dot
		for _, d := range l.Curve {
			dots = append(dots, plot.Dot{X: where(d.Quantile, l.Count), Y: max(d.Value, 1e-3)})
		}
		p.Line("l-"+l.Name, dots)
	}
	for i := 0; i <= int(math.Ceil(tail)); i++ {
		label := "0 %"
		if i > 0 {
			label = Number(math.Round((1-math.Pow(10, -float64(i)))*1e10)/1e8) + " %"
		}
		p.TickX(float64(i), label)
	}
	p.Axes("share of the answers that were at least as fast", "from the intended moment to the answer")
	return p.End()
}
