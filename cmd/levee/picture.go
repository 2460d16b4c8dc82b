package main

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"math"
)

// drawPicture draws a product's picture: a sun over a river between two levees, in colours that differ with n. Drawn and not
// shipped, because the repository holds no pictures of others.
func drawPicture(n int) ([]byte, error) {
	const w, h = 480, 360
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	hue := float64(n) * 0.61803398875 // the golden ratio spreads hues evenly
	sunX, sunY, sunR := w*(0.25+0.5*math.Mod(hue, 1)), h*0.32, h*0.14
	for y := range h {
		for x := range w {
			fx, fy := float64(x), float64(y)
			horizon := h * (0.62 + 0.03*math.Sin(fx/70+float64(n)))
			bank := h*0.62 + math.Abs(fx-w/2)*0.28
			var c color.RGBA
			switch {
			case math.Hypot(fx-sunX, fy-sunY) < sunR:
				c = shade(hue+0.08, 0.35, 1)
			case fy < horizon:
				c = shade(hue, 0.35+0.35*fy/h, 0.98-0.25*fy/h)
			case fy > bank:
				wave := 0.05 * math.Sin(fy/3+4*math.Sin(fx/40))
				c = shade(hue+0.5, 0.45, 0.62+wave)
			default:
				c = shade(hue+0.33, 0.5, 0.45+0.1*(fy-horizon)/h)
			}
			img.SetRGBA(x, y, c)
		}
	}
	var b bytes.Buffer
	err := png.Encode(&b, img)
	return b.Bytes(), err
}

// shade converts hue (any number, its fraction counts), saturation and value to a colour (Smith, "Color gamut transform pairs",
// 1978).
func shade(hue, saturation, value float64) color.RGBA {
	channel := func(n float64) uint8 {
		k := math.Mod(n+hue*6, 6)
		return uint8(255 * (value - value*saturation*max(0, min(k, 4-k, 1))))
	}
	return color.RGBA{R: channel(5), G: channel(3), B: channel(1), A: 255}
}
