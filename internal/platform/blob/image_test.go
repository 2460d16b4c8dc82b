package blob

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/image/draw"

	"levee"
)

var avatars = Use{Name: "avatar", Sizes: []Size{{Name: "thumb", Width: 32, Height: 32, Crop: true}, {Name: "small", Width: 100, Height: 100}, {Name: "large", Width: 600, Height: 400}}}

var (
	red, green, blue, white = color.RGBA{250, 0, 0, 255}, color.RGBA{0, 250, 0, 255}, color.RGBA{0, 0, 250, 255}, color.RGBA{250, 250, 250, 255}
	corners                 = [4]color.RGBA{red, green, blue, white} // top left, top right, bottom left, bottom right
)

// quarters is a picture with another colour in each corner.
func quarters(w, h int) *image.RGBA {
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for i, c := range corners {
		x, y := i%2*(w/2), i/2*(h/2)
		draw.Draw(m, image.Rect(x, y, x+w-w/2, y+h-h/2), image.NewUniform(c), image.Point{}, draw.Src)
	}
	return m
}

// colours names what stands in the corners: the nearest of the four.
func colours(m image.Image) (s string) {
	b := m.Bounds()
	for i := range 4 {
		x, y := b.Min.X+b.Dx()/4+i%2*b.Dx()/2, b.Min.Y+b.Dy()/4+i/2*b.Dy()/2
		r, g, _, _ := m.At(x, y).RGBA()
		switch {
		case r > 0x8000 && g > 0x8000:
			s += "w"
		case r > 0x8000:
			s += "r"
		case g > 0x8000:
			s += "g"
		default:
			s += "b"
		}
	}
	return s
}

func asJPEG(t testing.TB, m image.Image) []byte {
	var w bytes.Buffer
	must(t, jpeg.Encode(&w, m, nil))
	return w.Bytes()
}

func asPNG(t testing.TB, m image.Image) []byte {
	var w bytes.Buffer
	must(t, png.Encode(&w, m))
	return w.Bytes()
}

// withEXIF puts an orientation and a place into a JPEG.
func withEXIF(data []byte, orientation uint16, order binary.ByteOrder) []byte {
	tiff := []byte("II*\x00")
	if order == binary.BigEndian {
		tiff = []byte("MM\x00*")
	}
	put16 := func(v uint16) { b := make([]byte, 2); order.PutUint16(b, v); tiff = append(tiff, b...) }
	put32 := func(v uint32) { b := make([]byte, 4); order.PutUint32(b, v); tiff = append(tiff, b...) }
	put32(8)
	put16(2)
	put16(271) // the maker
	put16(2)
	put32(4)
	tiff = append(tiff, "GPS\x00"...)
	put16(274)
	put16(3)
	put32(1)
	put16(orientation)
	put16(0)
	put32(0)
	tiff = append(tiff, "52.5200N 13.4050E the place"...)
	segment := append([]byte("Exif\x00\x00"), tiff...)
	out := append([]byte{0xff, 0xd8, 0xff, 0xe1}, byte((len(segment)+2)>>8), byte(len(segment)+2))
	return append(append(out, segment...), data[2:]...)
}

func decoded(t testing.TB, h *house, k Key) (image.Image, []byte) {
	t.Helper()
	b := read(t, h, k)
	m, _, err := image.Decode(bytes.NewReader(b))
	must(t, err)
	return m, b
}

// TestImage: sizes come out as asked for, upright, without what the camera wrote beside the picture, from each format.
func TestImage(t *testing.T) {
	on(t, func(t *testing.T, h *house) {
		i, err := h.PutImage(t.Context(), Upload{Use: avatars, Body: bytes.NewReader(withEXIF(asJPEG(t, quarters(1200, 600)), 6, binary.BigEndian)), Type: "image/jpeg", Name: "me.jpg"})
		must(t, err)
		want := map[string]image.Point{"thumb": {32, 32}, "small": {50, 100}, "large": {200, 400}} // lying on its side it is 600 by 1200
		for _, p := range i.Sizes {
			m, text := decoded(t, h, i.Key.Of(p.Form))
			if size := m.Bounds().Size(); size != want[p.Form] || size != image.Pt(p.Width, p.Height) {
				t.Errorf("%s: %v, said to be %d × %d, want %v", p.Form, size, p.Width, p.Height, want[p.Form])
			}
			if got := colours(m); got != "brwg" {
				t.Errorf("%s: corners %s, want brwg", p.Form, got)
			}
			if bytes.Contains(text, []byte("Exif")) || bytes.Contains(text, []byte("place")) || p.Type != "image/jpeg" || p.Name != "me.jpg" {
				t.Errorf("%s: %+v keeps what the camera wrote", p.Form, p)
			}
		}
		if again, err := h.Image(t.Context(), avatars, i.Key); err != nil || len(again.Sizes) != 3 || again.Sizes[1] != i.Sizes[1] {
			t.Errorf("read again: %+v, %v", again, err)
		}
		_, err = h.Stat(t.Context(), i.Key)
		wantCode(t, err, levee.CodeNotFound) // what was sent is not kept
		must(t, h.Delete(t.Context(), i.Key))
		if all := h.left(t); len(all) > 0 {
			t.Errorf("left: %q", all)
		}
		// By a Ticket the same.
		data := asPNG(t, quarters(64, 64))
		ticket, err := h.Direct(t.Context(), avatars, "anna", Declared{Size: int64(len(data)), Type: "image/png"}, time.Hour)
		must(t, err)
		if code := send(t, h, ticket, data); code >= 300 {
			t.Fatalf("sending: %d", code)
		}
		first, err := h.CommitImage(t.Context(), avatars, "anna", ticket.Token)
		must(t, err)
		again, err := h.CommitImage(t.Context(), avatars, "anna", ticket.Token)
		if err != nil || again.Key != first.Key || len(again.Sizes) != 3 || again.Sizes[0] != first.Sizes[0] || len(h.left(t)) != 3 {
			t.Errorf("the second Commit: %+v, %v; there are %q", again, err, h.left(t))
		}
	})
}

// TestFormats: whatever is taken comes out as JPEG, or PNG where one sees through it.
func TestFormats(t *testing.T) {
	h := folderHouse(t, Config{})
	clear := image.NewNRGBA(image.Rect(0, 0, 80, 80))
	draw.Draw(clear, image.Rect(0, 0, 40, 80), image.NewUniform(red), image.Point{}, draw.Src)
	var animated bytes.Buffer
	frames := &gif.GIF{}
	for range 30 {
		m := image.NewPaletted(image.Rect(0, 0, 60, 60), color.Palette{red, green, blue, white})
		draw.Draw(m, m.Bounds(), quarters(60, 60), image.Point{}, draw.Src)
		frames.Image, frames.Delay = append(frames.Image, m), append(frames.Delay, 1)
	}
	must(t, gif.EncodeAll(&animated, frames))
	webp, err := base64.StdEncoding.DecodeString("UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA")
	must(t, err)
	gray := image.NewGray16(image.Rect(0, 0, 70, 70))
	for _, test := range []struct {
		name, want string
		data       []byte
	}{{"PNG", "image/jpeg", asPNG(t, quarters(90, 90))}, {"see-through PNG", "image/png", asPNG(t, clear)}, {"animated GIF", "image/jpeg", animated.Bytes()}, {"WebP", "image/jpeg", webp},
		{"16 bits of gray", "image/jpeg", asPNG(t, gray)}, {"one pixel wide", "image/jpeg", asPNG(t, quarters(1, 3000))}} {
		i, err := h.PutImage(t.Context(), Upload{Use: avatars, Body: bytes.NewReader(test.data)})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		for _, p := range i.Sizes {
			m, _ := decoded(t, h, i.Key.Of(p.Form))
			if p.Type != test.want || m.Bounds().Dx() != p.Width || m.Bounds().Dy() != p.Height {
				t.Errorf("%s: %+v is %v", test.name, p, m.Bounds())
			}
		}
	}
}

// TestOrientation: all eight ways to hold a camera, in both byte orders.
func TestOrientation(t *testing.T) {
	h := folderHouse(t, Config{})
	use := Use{Name: "avatar", Sizes: avatars.Sizes[1:2]}
	plain := asJPEG(t, quarters(64, 48))
	for o, want := range []string{1: "rgbw", 2: "grwb", 3: "wbgr", 4: "bwrg", 5: "rbgw", 6: "brwg", 7: "wgbr", 8: "gwrb", 9: "rgbw"} {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			if o == 0 {
				continue
			}
			i, err := h.PutImage(t.Context(), Upload{Use: use, Body: bytes.NewReader(withEXIF(plain, uint16(o), order))})
			must(t, err)
			m, _ := decoded(t, h, i.Key.Of("small"))
			if got := colours(m); got != want {
				t.Errorf("orientation %d, %v: corners %s, want %s", o, order, got, want)
			}
		}
	}
	tiff := withEXIF(plain, 6, binary.LittleEndian)[12:60]
	asChunk := func(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }
	flat := asPNG(t, quarters(8, 8))
	inPNG := append(append(append([]byte{}, flat[:33]...), append(asChunk(append([]byte("eXIf"), tiff...))[4:], 0, 0, 0, 0)...), flat[33:]...)
	inPNG = append(append(append([]byte{}, flat[:33]...), binary.BigEndian.AppendUint32(nil, uint32(len(tiff)))...), inPNG[33:]...)
	if got := orientation(inPNG, "image/png"); got != 6 {
		t.Errorf("in a PNG: %d", got)
	}
	riff := append([]byte("RIFF\x00\x00\x00\x00WEBPVP8X\x03\x00\x00\x00abc\x00EXIF"), binary.LittleEndian.AppendUint32(nil, uint32(len(tiff)))...)
	if got := orientation(append(riff, tiff...), "image/webp"); got != 6 {
		t.Errorf("in a WebP: %d", got)
	}
}

// header is a PNG that says that it has so many pixels.
func bomb(w, h uint32) []byte {
	ihdr := append([]byte("IHDR"), binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, w), h)...)
	ihdr = append(ihdr, 8, 2, 0, 0, 0)
	b := append(bytes.Clone(pngHead), 0, 0, 0, 13)
	b = append(b, ihdr...)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(ihdr))
	return append(b, bytes.Repeat([]byte{0}, 1000)...)
}

// TestBadImages: bombs are refused before anything is unpacked, broken files with a code, and nothing is kept.
func TestBadImages(t *testing.T) {
	h := folderHouse(t, Config{Pixels: 1_000_000})
	good := asJPEG(t, quarters(300, 300))
	small := asPNG(t, quarters(300, 300))
	screen := []byte("GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x02\x02L\x01\x00;")
	for _, test := range []struct {
		name string
		data []byte
		code levee.Code
	}{
		{"a bomb of 4 thousand million pixels", bomb(65535, 65535), levee.CodeInvalid}, {"one over the side", bomb(30001, 1), levee.CodeInvalid},
		{"just over the pixels", bomb(1001, 1000), levee.CodeInvalid}, {"no pixels", bomb(0, 5), levee.CodeUnsupportedMedia}, {"more than numbers hold", bomb(1<<31-1, 1<<31-1), levee.CodeUnsupportedMedia},
		{"a GIF bomb", screen, levee.CodeInvalid}, {"a PNG without its picture", bomb(100, 100), levee.CodeUnsupportedMedia}, {"a JPEG cut in half", good[:len(good)/2], levee.CodeUnsupportedMedia},
		{"a PNG cut in half", small[:len(small)/2], levee.CodeUnsupportedMedia}, {"a JPEG's first bytes", good[:4], levee.CodeUnsupportedMedia},
		{"a GIF with a script", []byte("GIF89a/*\x01\x00/=1;alert(1)//"), levee.CodeUnsupportedMedia}, {"a WebP of nothing", []byte("RIFF\x20\x00\x00\x00WEBPVP8 \xff\xff\xff\xff"), levee.CodeUnsupportedMedia},
		{"HTML", []byte("<html>"), levee.CodeUnsupportedMedia},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := h.PutImage(t.Context(), Upload{Use: avatars, Body: bytes.NewReader(test.data)})
		runtime.ReadMemStats(&after)
		if levee.CodeOf(err) != test.code {
			t.Errorf("%s: want %q, got %v", test.name, test.code, err)
		}
		if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 16 {
			t.Errorf("%s: took %d MiB", test.name, took)
		}
	}
	if all := h.left(t); len(all) > 0 {
		t.Errorf("left: %q", all)
	}
	if _, err := h.PutImage(t.Context(), Upload{Use: avatars, Body: bytes.NewReader(good)}); err != nil {
		t.Errorf("the control: %v", err)
	}
}

// TestImagesWaitTheirTurn: pictures beyond the pixels that may be worked at wait, and give up with their callers.
func TestImagesWaitTheirTurn(t *testing.T) {
	h := folderHouse(t, Config{Pixels: 250_000})
	must(t, h.pixels.Acquire(t.Context(), 250_000)) // somebody's picture
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	data := asPNG(t, quarters(300, 300))
	_, err := h.PutImage(ctx, Upload{Use: avatars, Body: bytes.NewReader(data)})
	wantCode(t, err, levee.CodeTimeout)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if _, err := h.PutImage(t.Context(), Upload{Use: avatars, Body: bytes.NewReader(data)}); err != nil {
				t.Error(err)
			}
		})
	}
	h.pixels.Release(250_000)
	wg.Wait()
}

// TestResizeInBands: bands leave no seams: a picture with a smooth run of grey stays smooth, whatever the sizes.
func TestResizeInBands(t *testing.T) {
	src := image.NewRGBA(image.Rect(0, 0, 701, 503))
	for y := range 503 {
		for x := range 701 {
			v := uint8((x + y) / 5)
			src.SetRGBA(x, y, color.RGBA{v, v, v, 255})
		}
	}
	small := resize(src, 201, 149)
	whole := image.NewRGBA(small.Bounds())
	draw.CatmullRom.Scale(whole, whole.Bounds(), src, src.Bounds(), draw.Src, nil)
	worst := 0
	for i := range small.Pix {
		worst = max(worst, int(small.Pix[i])-int(whole.Pix[i]), int(whole.Pix[i])-int(small.Pix[i]))
	}
	if worst > 2 {
		t.Errorf("in bands a pixel differs by %d from the whole", worst)
	}
}

// FuzzImage: whatever the bytes, an answer comes with a code, and what is made fits its size and can be read.
func FuzzImage(f *testing.F) {
	h := folderHouse(f, Config{Pixels: 100_000})
	good := asJPEG(f, quarters(40, 30))
	webp, _ := base64.StdEncoding.DecodeString("UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA")
	var animated bytes.Buffer
	must(f, gif.Encode(&animated, quarters(20, 20), nil))
	for _, seed := range [][]byte{good, withEXIF(good, 6, binary.LittleEndian), withEXIF(good, 3, binary.BigEndian), asPNG(f, quarters(20, 30)), webp, animated.Bytes(), bomb(1000, 1000), []byte("GIF89a"), good[:50]} {
		f.Add(seed)
	}
	sizes := []Size{{Name: "a", Width: 16, Height: 8, Crop: true}, {Name: "b", Width: 20, Height: 20}}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := newMeter(t.Context(), Upload{Body: bytes.NewReader(data)}, 1<<20)
		media, err := m.sniff(Pictures(), "")
		if err == nil {
			all, _ := io.ReadAll(m)
			if !bytes.Equal(all, data) {
				t.Fatal("the bytes change on their way")
			}
			var pictures []rendered
			pictures, err = h.render(t.Context(), data, media, sizes)
			for i, p := range pictures {
				got, _, e := image.DecodeConfig(bytes.NewReader(p.data))
				if e != nil || got.Width != p.Width || got.Height != p.Height || p.Width > sizes[i].Width || p.Height > sizes[i].Height {
					t.Fatalf("%+v: %+v, %v", p.Picture, got, e)
				}
			}
		}
		if code := levee.CodeOf(err); code != "" && code != levee.CodeInvalid && code != levee.CodeUnsupportedMedia || err != nil && strings.Contains(err.Error(), "panicked") {
			t.Fatalf("%v", err)
		}
	})
}
