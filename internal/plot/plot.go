// Package plot draws figures as SVG by hand, for reports that are one file: no scripts, and colours from the page's style by
// class names, so that they follow light and dark.
//
// It owns axes, lines, areas and round numbers. It does not own what is shown, nor the style.
package plot

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strconv"
	"strings"
)

// The size of every plot and its margins, in its own units.
const (
	wide, high               = 960.0, 320.0
	left, right, top, bottom = 64.0, 16.0, 26.0, 40.0
)

// Plot is one picture. Classes of its parts: grid, axis, tick, name, marked, mark, tip; line, area and Dot with a class of their own.
type Plot struct {
	b              strings.Builder
	x0, x1, y0, y1 float64 // what the edges stand for
	logY           bool
}

// New begins a plot whose edges stand for x0 to x1 and y0 to y1. With logY the upper axis is logarithmic and y0 must be positive.
func New(title, description string, x0, x1, y0, y1 float64, logY bool) *Plot {
	p := &Plot{x0: x0, x1: max(x1, x0+1e-9), y0: y0, y1: y1, logY: logY}
	if p.y1 <= p.y0 {
		p.y1 = p.y0 + 1
	}
	fmt.Fprintf(&p.b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s"><title>%s</title><desc>%s</desc>`, wide, high,
		html.EscapeString(title), html.EscapeString(title), html.EscapeString(description))
	return p
}

func (p *Plot) x(v float64) float64 {
	return left + (v-p.x0)/(p.x1-p.x0)*(wide-left-right)
}

func (p *Plot) y(v float64) float64 {
	part := (v - p.y0) / (p.y1 - p.y0)
	if p.logY {
		part = math.Log(max(v, p.y0)/p.y0) / math.Log(p.y1/p.y0)
	}
	return high - bottom - min(max(part, 0), 1)*(high-top-bottom)
}

func (p *Plot) text(x, y float64, class, anchor, s string) {
	fmt.Fprintf(&p.b, `<text class="%s" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, class, x, y, anchor, html.EscapeString(s))
}

// GridY draws a line across at v.
func (p *Plot) GridY(v float64, label string) {
	y := p.y(v)
	fmt.Fprintf(&p.b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, left, wide-right, y, y)
	p.text(left-8, y+4, "tick", "end", label)
}

// TickX marks v on the lower axis.
func (p *Plot) TickX(v float64, label string) {
	x := p.x(v)
	fmt.Fprintf(&p.b, `<line class="axis" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, x, x, high-bottom, high-bottom+5)
	anchor := "middle"
	if x > wide-right-1 {
		anchor = "end"
	}
	p.text(x, high-bottom+18, "tick", anchor, label)
}

// Axes draws the lower axis and names both.
func (p *Plot) Axes(xLabel, yLabel string) {
	fmt.Fprintf(&p.b, `<line class="axis" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, left, wide-right, high-bottom, high-bottom)
	p.text((left+wide-right)/2, high-4, "name", "middle", xLabel)
	p.text(left, 14, "name", "start", yLabel)
}

// Dot is a point in the plot's own values.
type Dot struct{ X, Y float64 }

// Line draws a line through the dots.
func (p *Plot) Line(class string, dots []Dot) {
	if len(dots) == 0 {
		return
	}
	fmt.Fprintf(&p.b, `<path class="line %s" d="`, class)
	for i, d := range dots {
		p.move(i, d)
	}
	p.b.WriteString(`"/>`)
	if len(dots) == 1 {
		fmt.Fprintf(&p.b, `<circle class="dot %s" cx="%.1f" cy="%.1f" r="3"/>`, class, p.x(dots[0].X), p.y(dots[0].Y))
	}
}

// Area fills what lies between two lines. base has as many dots as upper.
func (p *Plot) Area(class string, upper, base []Dot) {
	fmt.Fprintf(&p.b, `<path class="area %s" d="`, class)
	for i, d := range upper {
		p.move(i, d)
	}
	for i := len(base) - 1; i >= 0; i-- {
		p.move(1, base[i])
	}
	p.b.WriteString(`Z"/>`)
}

func (p *Plot) move(i int, d Dot) {
	verb := "L"
	if i == 0 {
		verb = "M"
	}
	fmt.Fprintf(&p.b, "%s%.1f %.1f", verb, p.x(d.X), p.y(d.Y))
}

// Mark draws a moment.
func (p *Plot) Mark(v float64, label string) {
	x := p.x(v)
	fmt.Fprintf(&p.b, `<line class="mark" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, x, x, top, high-bottom)
	anchor, at := "start", x+5
	if x > wide*0.8 {
		anchor, at = "end", x-5
	}
	p.text(at, top+10, "marked", anchor, label)
}

// Tip is what a pointer shows over a part of the plot.
func (p *Plot) Tip(from, to float64, text string) {
	x0, x1 := p.x(from), p.x(to)
	fmt.Fprintf(&p.b, `<rect class="tip" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`, x0, top, max(0, x1-x0),
		high-top-bottom, html.EscapeString(text))
}

// End returns the picture.
func (p *Plot) End() template.HTML {
	p.b.WriteString("</svg>")
	return template.HTML(p.b.String()) // every text in it was escaped by text, Tip or New
}

// Steps returns round numbers from 0 to at least most, about n of them.
func Steps(most float64, n int) []float64 {
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

// Short writes a number with k and M.
func Short(v float64) string {
	switch {
	case v >= 1e6:
		return number(math.Round(v/1e4)/100) + " M"
	case v >= 1e3:
		return number(math.Round(v/10)/100) + " k"
	}
	return number(math.Round(v*100) / 100)
}

// Decades returns the powers of ten around a range of milliseconds.
func Decades(least, most float64) (list []float64) {
	from, to := math.Floor(math.Log10(max(least, 1e-3))), math.Ceil(math.Log10(max(most, 1e-2)))
	if to <= from {
		to = from + 1
	}
	for e := from; e <= to; e++ {
		list = append(list, math.Pow(10, e))
	}
	return list
}

// Decade writes a power of ten of milliseconds.
func Decade(ms float64) string {
	switch {
	case ms >= 1000:
		return Short(ms/1000) + " s"
	case ms >= 1:
		return Short(ms) + " ms"
	}
	return Short(ms*1000) + " µs"
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
