package plot

import (
	"encoding/xml"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestStepsAreRoundAndReachTheMost(t *testing.T) {
	for _, c := range []struct {
		most float64
		n    int
		want []float64
	}{
		{0, 5, []float64{0, 1}},
		{1, 5, []float64{0, 0.2, 0.4, 0.6000000000000001, 0.8, 1}},
		{7, 5, []float64{0, 2, 4, 6, 8}},
		{960, 5, []float64{0, 200, 400, 600, 800, 1000}},
		{1e6, 4, []float64{0, 500_000, 1e6}},
	} {
		if got := Steps(c.most, c.n); !slices.Equal(got, c.want) {
			t.Errorf("Steps(%v, %d) = %v, want %v", c.most, c.n, got, c.want)
		}
	}
	for _, most := range []float64{1e-3, 0.7, 3, 19, 123, 9999, 1.1e6} {
		got := Steps(most, 5)
		if last := got[len(got)-1]; last < most*(1-1e-9) || last > 3*most || len(got) > 12 {
			t.Errorf("Steps(%v, 5) = %v", most, got)
		}
	}
}

func TestDecadesSurroundTheRange(t *testing.T) {
	for _, c := range []struct{ least, most float64 }{{0.2, 41}, {1, 1}, {0, 0}, {5, 1.2e6}} {
		got := Decades(c.least, c.most)
		if len(got) < 2 || got[0] > max(c.least, 1e-3) || got[len(got)-1] < c.most {
			t.Errorf("Decades(%v, %v) = %v", c.least, c.most, got)
		}
	}
	for ms, want := range map[float64]string{0.01: "10 µs", 1: "1 ms", 100: "100 ms", 1000: "1 s", 1e6: "1 k s"} {
		if got := Decade(ms); got != want {
			t.Errorf("Decade(%v) = %q, want %q", ms, got, want)
		}
	}
}

// Whatever the values and texts are, the picture is well formed, every point lies inside it, and a text stays a text.
func TestPictureIsWellFormed(t *testing.T) {
	hostile := `</svg><script>alert(1)</script>" onload="x`
	for _, log := range []bool{false, true} {
		p := New(hostile, hostile, 0, 0, 1, 1, log) // no width and no height
		p.GridY(1, hostile)
		p.TickX(0, hostile)
		p.Axes(hostile, hostile)
		p.Line("a", nil)
		p.Line("a", []Dot{{0, 5}})
		p.Line("a", []Dot{{0, -5}, {1e-9, 1e12}})
		p.Area("b", []Dot{{0, 1}, {0, 2}}, []Dot{{0, 0}, {0, 0}})
		p.Mark(0, hostile)
		p.Tip(0, 1, hostile)
		text := string(p.End())
		if strings.Contains(text, "<script") || strings.Contains(text, `" onload`) || strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
			t.Errorf("log %v: %s", log, text)
		}
		for d := xml.NewDecoder(strings.NewReader(text)); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("log %v: %v in %s", log, err, text)
			}
		}
	}
	p := New("t", "d", 0, 10, 0, 100, false)
	if x0, x1, y0, y1 := p.x(0), p.x(10), p.y(0), p.y(100); x0 != left || x1 != wide-right || y0 != high-bottom || y1 != top {
		t.Errorf("the edges are at %v to %v and %v to %v", x0, x1, y0, y1)
	}
	if p.y(1000) != top || p.y(-5) != high-bottom {
		t.Error("a value beyond the edges leaves the picture")
	}
}
