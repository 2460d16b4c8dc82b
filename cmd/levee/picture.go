package main

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"math"
)

// The demonstration's pictures are drawn and not shipped, because the repository holds no pictures of others. A picture is a few
// flat shapes on a quiet ground, each given by its signed distance: negative inside, in points.

const pictureWide, pictureHigh = 640, 480

// shape is the distance of a point from a border, negative inside. It changes by at most one a point.
type shape func(x, y float64) float64

// canvas is a picture under way.
type canvas struct{ img *image.RGBA }

// paint lays a colour over a shape with soft edges. Tiles that no border crosses are filled or left as a whole.
func (c *canvas) paint(s shape, col color.RGBA) {
	const tile = 16
	for ty := 0; ty < pictureHigh; ty += tile {
		for tx := 0; tx < pictureWide; tx += tile {
			d := s(float64(tx)+tile/2, float64(ty)+tile/2)
			if d > tile {
				continue
			}
			for y := ty; y < min(ty+tile, pictureHigh); y++ {
				for x := tx; x < min(tx+tile, pictureWide); x++ {
					cover := 1.0
					if d > -tile {
						cover = min(max(0.5-s(float64(x)+0.5, float64(y)+0.5), 0), 1)
					}
					c.blend(x, y, col, cover*float64(col.A)/255)
				}
			}
		}
	}
}

func (c *canvas) blend(x, y int, col color.RGBA, part float64) {
	if part <= 0 {
		return
	}
	p := c.img.Pix[c.img.PixOffset(x, y):]
	for i, v := range [3]uint8{col.R, col.G, col.B} {
		p[i] = uint8(math.Round(float64(p[i])*(1-part) + float64(v)*part))
	}
}

func disc(cx, cy, r float64) shape {
	return func(x, y float64) float64 { return math.Hypot(x-cx, y-cy) - r }
}

// box is a rectangle by its middle, half its sides and the radius of its corners.
func box(cx, cy, halfWide, halfHigh, round float64) shape {
	return func(x, y float64) float64 {
		dx, dy := math.Abs(x-cx)-halfWide+round, math.Abs(y-cy)-halfHigh+round
		return math.Hypot(max(dx, 0), max(dy, 0)) + min(max(dx, dy), 0) - round
	}
}

// bar is a straight line with round ends.
func bar(x0, y0, x1, y1, thick float64) shape {
	return func(x, y float64) float64 {
		dx, dy := x1-x0, y1-y0
		t := min(max(((x-x0)*dx+(y-y0)*dy)/(dx*dx+dy*dy), 0), 1)
		return math.Hypot(x-x0-t*dx, y-y0-t*dy) - thick/2
	}
}

// poly is a polygon by its corners in turn (distance after Quilez, "2D distance functions").
func poly(at ...float64) shape {
	n := len(at) / 2
	return func(x, y float64) float64 {
		d, sign := math.Inf(1), 1.0
		for i, j := 0, n-1; i < n; j, i = i, i+1 {
			ax, ay, bx, by := at[2*i], at[2*i+1], at[2*j], at[2*j+1]
			ex, ey, wx, wy := bx-ax, by-ay, x-ax, y-ay
			t := min(max((wx*ex+wy*ey)/(ex*ex+ey*ey), 0), 1)
			d = min(d, math.Hypot(wx-ex*t, wy-ey*t))
			if c0, c1, c2 := y >= ay, y < by, ex*wy > ey*wx; c0 == c1 && c1 == c2 {
				sign = -sign
			}
		}
		return sign * d
	}
}

// ring is the border of a shape as a band.
func ring(s shape, thick float64) shape {
	return func(x, y float64) float64 { return math.Abs(s(x, y)) - thick/2 }
}

func both(a, b shape) shape    { return func(x, y float64) float64 { return max(a(x, y), b(x, y)) } }
func without(a, b shape) shape { return func(x, y float64) float64 { return max(a(x, y), -b(x, y)) } }
func either(list ...shape) shape {
	return func(x, y float64) float64 {
		d := math.Inf(1)
		for _, s := range list {
			d = min(d, s(x, y))
		}
		return d
	}
}

// round makes a shape's corners round by growing it.
func round(s shape, r float64) shape { return func(x, y float64) float64 { return s(x, y) - r } }

func rgb(v uint32) color.RGBA {
	return color.RGBA{R: uint8(v >> 16), G: uint8(v >> 8), B: uint8(v), A: 255}
}

func faint(v uint32, alpha uint8) color.RGBA {
	c := rgb(v)
	c.A = alpha
	return c
}

// drawPicture draws the n-th product of the demonstration as a PNG.
func drawPicture(n int) ([]byte, error) {
	c := &canvas{img: image.NewRGBA(image.Rect(0, 0, pictureWide, pictureHigh))}
	for i := range c.img.Pix {
		c.img.Pix[i] = 255
	}
	p := demoProducts[n]
	c.paint(box(320, 240, 400, 400, 0), rgb(p.ground))
	c.paint(disc(320, 236, 186), faint(0xffffff, 90))
	c.paint(squash(disc(320, 418*4, 150*1.0), 4), faint(0x1d2b36, 34)) // the shadow on the floor
	p.draw(c)
	var b bytes.Buffer
	err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, c.img)
	return b.Bytes(), err
}

// squash flattens a shape that was drawn so many times too high.
func squash(s shape, by float64) shape {
	return func(x, y float64) float64 { return s(x, y*by) / by }
}

func drawLantern(c *canvas) {
	c.paint(ring(disc(320, 108, 34), 9), rgb(0x3b3a36))
	c.paint(box(320, 150, 62, 16, 8), rgb(0x3b3a36))
	c.paint(box(320, 276, 92, 112, 22), rgb(0xc8452f))
	for _, x := range []float64{252, 286, 320, 354, 388} {
		c.paint(bar(x, 172, x, 380, 5), faint(0x8f2c1d, 130))
	}
	c.paint(disc(320, 286, 52), faint(0xffd98a, 235))
	c.paint(poly(320, 232, 342, 286, 320, 318, 298, 286), rgb(0xfff3cf))
	c.paint(box(320, 398, 70, 16, 8), rgb(0x3b3a36))
}

func drawKettle(c *canvas) {
	c.paint(ring(both(disc(320, 232, 118), box(320, 150, 200, 82, 0)), 15), rgb(0x26384a))
	c.paint(round(poly(430, 268, 520, 196, 534, 210, 452, 342), 6), rgb(0x2f6f9f))
	c.paint(both(disc(320, 300, 142), box(320, 304, 160, 104, 46)), rgb(0x3a86bd))
	c.paint(both(disc(286, 272, 96), box(270, 290, 60, 60, 30)), faint(0xffffff, 46))
	c.paint(box(320, 206, 74, 12, 6), rgb(0x26384a))
	c.paint(disc(320, 184, 15), rgb(0xe7b45c))
	c.paint(box(320, 404, 116, 9, 4), rgb(0x26384a))
	for i, y := range []float64{170, 132} {
		c.paint(both(ring(disc(540, y, 19), 6), box(540+20-40*float64(i), y, 20, 40, 0)), faint(0x26384a, 90))
	}
}

func drawBlanket(c *canvas) {
	colors := []uint32{0x8a3b4a, 0xb9505f, 0xd98a6a, 0xf0c27b}
	for i, v := range colors {
		y := 376 - float64(i)*62
		c.paint(box(320, y, 168-float64(i)*7, 34, 26), rgb(v))
		c.paint(bar(180+float64(i)*7, y+12, 458-float64(i)*7, y+12, 4), faint(0xffffff, 70))
	}
	for x := 176.0; x <= 464; x += 16 {
		c.paint(bar(x, 408, x-3, 424, 5), rgb(0x8a3b4a))
	}
	c.paint(poly(214, 152, 300, 152, 272, 226, 214, 226), rgb(0xb9505f))
}

func drawCompass(c *canvas) {
	c.paint(ring(disc(320, 92, 24), 10), rgb(0x9a7431))
	c.paint(box(320, 122, 16, 14, 5), rgb(0x9a7431))
	c.paint(disc(320, 272, 148), rgb(0xc89b46))
	c.paint(disc(320, 272, 124), rgb(0xfdf8ea))
	for i := range 24 {
		s, co := math.Sincos(float64(i) * math.Pi / 12)
		long := 10.0
		if i%6 == 0 {
			long = 24
		}
		c.paint(bar(320+112*s, 272-112*co, 320+(112-long)*s, 272-(112-long)*co, 4), rgb(0x4b4a44))
	}
	c.paint(poly(320-16*0.87, 272-16*0.5, 320-88*0.5+132*0.2, 272-96, 320+16*0.87, 272+16*0.5), rgb(0xc8452f))
	c.paint(poly(320-16*0.87, 272-16*0.5, 320+88*0.5-132*0.2, 272+96, 320+16*0.87, 272+16*0.5), rgb(0x33475a))
	c.paint(disc(320, 272, 13), rgb(0xc89b46))
}

func drawFlask(c *canvas) {
	c.paint(box(320, 112, 44, 34, 12), rgb(0x2b4a45))
	c.paint(box(320, 158, 52, 16, 6), rgb(0x20372f))
	c.paint(box(320, 296, 82, 124, 34), rgb(0x4f9183))
	c.paint(box(282, 296, 14, 100, 12), faint(0xffffff, 76))
	c.paint(box(320, 300, 82, 26, 0), rgb(0xf1e3c2))
	c.paint(ring(disc(320, 300, 13), 5), rgb(0x2b4a45))
	c.paint(box(320, 408, 74, 12, 6), rgb(0x20372f))
}

func drawParasol(c *canvas) {
	c.paint(bar(320, 130, 320, 410, 11), rgb(0x8b5e34))
	c.paint(both(ring(disc(341, 410, 21), 11), box(341, 430, 40, 20, 0)), rgb(0x8b5e34))
	dome := both(disc(320, 316, 204), box(320, 176, 260, 96, 0))
	c.paint(dome, rgb(0xe07a5f))
	for i, w := range []float64{150, 62} {
		narrow := both(dome, squeeze(disc(320, 316, 204), 204/w))
		c.paint(narrow, rgb([]uint32{0xf2a488, 0xf7cdb8}[i]))
	}
	for _, x := range []float64{136, 228, 320, 412, 504} {
		c.paint(disc(x, 272, 7), rgb(0x8b5e34))
	}
	c.paint(disc(320, 112, 10), rgb(0x8b5e34))
}

// squeeze makes a shape narrower around the picture's middle.
func squeeze(s shape, by float64) shape {
	return func(x, y float64) float64 { return s(320+(x-320)*by, y) / by }
}

func drawRadio(c *canvas) {
	c.paint(bar(430, 168, 500, 78, 7), rgb(0x55606b))
	c.paint(disc(502, 76, 9), rgb(0x55606b))
	c.paint(ring(both(box(300, 150, 120, 40, 26), box(300, 130, 200, 40, 0)), 14), rgb(0x6b4a32))
	c.paint(box(320, 294, 196, 116, 30), rgb(0xd9a441))
	c.paint(box(320, 294, 176, 96, 20), rgb(0xf6e6c4))
	c.paint(disc(236, 294, 74), rgb(0x6b4a32))
	for r := 16.0; r < 70; r += 16 {
		c.paint(ring(disc(236, 294, r), 5), faint(0xf6e6c4, 130))
	}
	c.paint(box(412, 252, 68, 26, 8), rgb(0x33475a))
	c.paint(bar(392, 234, 392, 270, 5), rgb(0xe4572e))
	c.paint(disc(376, 334, 25), rgb(0x6b4a32))
	c.paint(disc(446, 334, 25), rgb(0x6b4a32))
	c.paint(bar(376, 334, 388, 318, 6), rgb(0xf6e6c4))
	c.paint(bar(446, 334, 446, 314, 6), rgb(0xf6e6c4))
}

func drawBoat(c *canvas) {
	c.paint(bar(312, 96, 312, 330, 9), rgb(0x6b4a32))
	c.paint(poly(324, 108, 324, 306, 470, 306), rgb(0xfbfaf5))
	c.paint(poly(300, 140, 300, 306, 196, 306), rgb(0xe9edf0))
	c.paint(poly(312, 96, 312, 126, 364, 112), rgb(0xe4572e))
	hull := without(poly(160, 322, 490, 322, 430, 396, 214, 396), box(320, 300, 300, 20, 0))
	c.paint(round(hull, 5), rgb(0xb5533c))
	c.paint(bar(176, 340, 474, 340, 6), faint(0xffffff, 110))
	for i, x := range []float64{150, 262, 374, 486} {
		c.paint(both(disc(x, 446, 66), box(x, 402+4*float64(i%2), 60, 16, 0)), rgb(0x4f93b8))
	}
	c.paint(box(320, 430, 236, 17, 12), rgb(0x4f93b8))
}
