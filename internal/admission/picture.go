package admission

import (
	"bytes"
	cryptorand "crypto/rand"
	"image"
	"image/color"
	"image/png"
	"math"
	"math/rand/v2"
	"sync"
)

// The pictures are drawn by ourselves: each digit is a few strokes in a unit square (y downwards), turned, sheared, scaled and
// shifted at random; all of them are bent by two waves; lines and specks of the same ink lie over them. It keeps simple robots
// out and raises the cost for others; a trained model reads such pictures, as it reads everybody's.
const (
	pictureWidth, pictureHeight = 240, 80
	inks                        = 8 // grey levels; few, so that the file is small
)

// strokes of the ten digits: polylines. Curves are given by enough points to look round when drawn thick.
var strokes = func() (all [10][][]point) {
	arc := func(cx, cy, rx, ry, from, to float64) (line []point) {
		const steps = 14
		for i := range steps + 1 {
			a := (from + (to-from)*float64(i)/steps) * math.Pi / 180
			line = append(line, point{cx + rx*math.Cos(a), cy + ry*math.Sin(a)})
		}
		return line
	}
	all[0] = [][]point{arc(.5, .5, .3, .45, 0, 360)}
	all[1] = [][]point{{{.3, .25}, {.55, .05}, {.55, .95}}}
	all[2] = [][]point{append(arc(.5, .3, .28, .25, -170, 40), point{.2, .95}, point{.82, .95})}
	all[3] = [][]point{append(arc(.47, .28, .27, .23, -150, 90), arc(.47, .73, .31, .22, -90, 150)...)}
	all[4] = [][]point{{{.66, .95}, {.66, .05}, {.15, .68}, {.88, .68}}}
	all[5] = [][]point{append([]point{{.78, .06}, {.3, .06}, {.26, .44}}, arc(.47, .67, .3, .27, -110, 150)...)}
	all[6] = [][]point{append([]point{{.68, .05}, {.34, .4}}, arc(.5, .68, .27, .26, -160, 200)...)}
	all[7] = [][]point{{{.17, .06}, {.83, .06}, {.42, .95}}, {{.36, .5}, {.72, .5}}}
	all[8] = [][]point{arc(.5, .27, .23, .21, 0, 360), arc(.5, .72, .28, .23, 0, 360)}
	all[9] = [][]point{append(arc(.5, .32, .27, .26, 20, 380), point{.66, .6}, point{.34, .95})}
	return all
}()

type point struct{ x, y float64 }

// canvas holds what one picture is drawn on; they are used again.
type canvas struct {
	ink [pictureWidth * pictureHeight]float32 // 0 paper to 1 ink
	img *image.Paletted
	out bytes.Buffer
	enc png.Encoder
}

var canvases = sync.Pool{New: func() any {
	palette := make(color.Palette, inks)
	for i := range palette {
		v := uint8(255 - i*215/(inks-1)) // dark grey on white: legible, and as flat for those who trace edges
		palette[i] = color.Gray{Y: v}
	}
	return &canvas{img: image.NewPaletted(image.Rect(0, 0, pictureWidth, pictureHeight), palette), enc: png.Encoder{CompressionLevel: png.BestSpeed, BufferPool: buffers}}
}}

type bufferPool struct{ sync.Pool }

func (p *bufferPool) Get() *png.EncoderBuffer {
	b, _ := p.Pool.Get().(*png.EncoderBuffer)
	return b
}
func (p *bufferPool) Put(b *png.EncoderBuffer) { p.Pool.Put(b) }

var buffers = &bufferPool{}

// drawDigits draws the five digits of n as a PNG.
func drawDigits(n uint32) ([]byte, error) {
	var seed [32]byte
	_, _ = cryptorand.Read(seed[:])
	return drawDigitsWith(n, rand.New(rand.NewChaCha8(seed)))
}

// layout places the strokes of the five digits: all inside, whatever is drawn.
func layout(n uint32, r *rand.Rand) (lines [][]point, pens []float64) {
	between := func(low, high float64) float64 { return low + (high-low)*r.Float64() }
	// Two waves bend everything, so that no digit stands on a line.
	ax, ay := between(2, 4), between(3, 6)
	fx, fy := between(.04, .07), between(.025, .045)
	px, py := between(0, 2*math.Pi), between(0, 2*math.Pi)
	var widths, gaps [5]float64
	x := float64(pictureWidth)
	for i := range widths {
		widths[i], gaps[i] = between(25, 34), between(0, 9)
		x -= widths[i] + gaps[i]
	}
	x = x/2 + between(-8, 8)
	for i, digit := range digitsOf(n) {
		width, height := widths[i], between(40, 50)
		shear := between(-.22, .22)
		sin, cos := math.Sincos(between(-.35, .35))
		cx, cy, pen := x+width/2, pictureHeight/2+between(-4, 4), between(1.7, 2.7)
		for _, line := range strokes[digit-'0'] {
			bent := make([]point, len(line))
			for j, p := range line {
				u, v := (p.x-.5)*width, (p.y-.5)*height
				u += v * shear
				q := point{cx + u*cos - v*sin, cy + u*sin + v*cos}
				bent[j] = point{q.x + ax*math.Sin(q.y*fx+px), q.y + ay*math.Sin(q.x*fy+py)}
			}
			lines, pens = append(lines, bent), append(pens, pen)
		}
		x += width + gaps[i]
	}
	return lines, pens
}

func drawDigitsWith(n uint32, r *rand.Rand) ([]byte, error) {
	c := canvases.Get().(*canvas)
	defer canvases.Put(c)
	clear(c.ink[:])
	between := func(low, high float64) float64 { return low + (high-low)*r.Float64() }
	lines, pens := layout(n, r)
	for i, line := range lines {
		for j := 1; j < len(line); j++ {
			c.segment(line[j-1], line[j], pens[i], 1)
		}
	}
	for range 3 { // lines across, thinner than the digits so that people see through them
		last := point{-5, between(12, pictureHeight-12)}
		slope, wave, freq, phase := between(-.18, .18), between(3, 9), between(.03, .06), between(0, 7)
		y, pen := last.y, between(.7, 1.2)
		for x := 5.0; x <= pictureWidth+10; x += 10 {
			p := point{x, y + x*slope + wave*math.Sin(x*freq+phase)}
			c.segment(last, p, pen, float32(between(.6, 1)))
			last = p
		}
	}
	for range 60 {
		p := point{between(0, pictureWidth), between(0, pictureHeight)}
		c.segment(p, point{p.x + between(-2, 2), p.y + between(-2, 2)}, between(.4, 1), float32(between(.4, 1)))
	}
	for i, v := range c.ink {
		c.img.Pix[i] = uint8(v*(inks-1) + .5)
	}
	c.out.Reset()
	if err := c.enc.Encode(&c.out, c.img); err != nil {
		return nil, err
	}
	return bytes.Clone(c.out.Bytes()), nil
}

// segment lays a stroke of ink with round ends, its edge softened over one pixel.
func (c *canvas) segment(a, b point, pen float64, ink float32) {
	reach := pen + 1
	x0, x1 := max(int(math.Min(a.x, b.x)-reach), 0), min(int(math.Max(a.x, b.x)+reach)+1, pictureWidth-1)
	y0, y1 := max(int(math.Min(a.y, b.y)-reach), 0), min(int(math.Max(a.y, b.y)+reach)+1, pictureHeight-1)
	dx, dy := b.x-a.x, b.y-a.y
	length := dx*dx + dy*dy
	for y := y0; y <= y1; y++ {
		for x := x0; x <= x1; x++ {
			ex, ey := float64(x)-a.x, float64(y)-a.y
			t := 0.0
			if length > 0 {
				t = min(max((ex*dx+ey*dy)/length, 0), 1)
			}
			ex -= t * dx
			ey -= t * dy
			d := ex*ex + ey*ey
			if d >= reach*reach {
				continue
			}
			if v := ink * float32(min(max(pen+.5-math.Sqrt(d), 0), 1)); v > c.ink[y*pictureWidth+x] {
				c.ink[y*pictureWidth+x] = v
			}
		}
	}
}
