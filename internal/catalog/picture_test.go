package catalog

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/jpeg"
	"image/png"
	"strings"
	"testing"

	"levee"
)

func pngOf(t testing.TB, w, h int) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, w, h))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func jpegOf(t testing.TB, w, h int) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, image.NewGray(image.Rect(0, 0, w, h)), nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// webpOf makes the beginning of a WebP file with one chunk, which is all that a size is read from.
func webpOf(chunk string, payload ...byte) []byte {
	payload = append(payload, make([]byte, max(0, 10-len(payload)))...)
	b := []byte("RIFF\x00\x00\x00\x00WEBP" + chunk)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, payload...)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-8))
	return b
}

func TestSniff(t *testing.T) {
	for name, c := range map[string]struct {
		data []byte
		want Picture
		code levee.Code
	}{
		"png":                {pngOf(t, 3, 2), Picture{MediaType: "image/png", Width: 3, Height: 2}, ""},
		"jpeg":               {jpegOf(t, 30, 20), Picture{MediaType: "image/jpeg", Width: 30, Height: 20}, ""},
		"webp extended":      {webpOf("VP8X", 0, 0, 0, 0, 0x8f, 0x01, 0, 0x2b, 0x01, 0), Picture{MediaType: "image/webp", Width: 400, Height: 300}, ""},
		"webp lossy":         {webpOf("VP8 ", 0, 0, 0, 0x9d, 0x01, 0x2a, 0x90, 0x01, 0x2c, 0x41), Picture{MediaType: "image/webp", Width: 400, Height: 300}, ""},
		"webp lossless":      {webpOf("VP8L", 0x2f, 0x8f, 0xc1, 0x4a, 0x00), Picture{MediaType: "image/webp", Width: 400, Height: 300}, ""},
		"empty":              {nil, Picture{}, levee.CodeUnsupportedMedia},
		"gif":                {[]byte("GIF89a\x01\x00\x01\x00\x00\x00\x00;"), Picture{}, levee.CodeUnsupportedMedia},
		"svg":                {[]byte(`<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>`), Picture{}, levee.CodeUnsupportedMedia},
		"page":               {[]byte("<!doctype html><script>alert(1)</script>"), Picture{}, levee.CodeUnsupportedMedia},
		"png by its name":    {[]byte("\x89PNG\r\n\x1a\n<script>alert(1)</script>"), Picture{}, levee.CodeUnsupportedMedia},
		"png cut off":        {pngOf(t, 3, 2)[:20], Picture{}, levee.CodeUnsupportedMedia},
		"jpeg by its name":   {[]byte("\xff\xd8\xff\xe0 and nothing else"), Picture{}, levee.CodeUnsupportedMedia},
		"webp cut off":       {webpOf("VP8X", 0, 0, 0, 0, 0x8f, 0x01, 0, 0x2b, 0x01, 0)[:29], Picture{}, levee.CodeUnsupportedMedia},
		"webp says longer":   {append([]byte("RIFF\xff\xff\xff\x00"), webpOf("VP8X")[8:]...), Picture{}, levee.CodeUnsupportedMedia},
		"webp unknown chunk": {webpOf("ALPH"), Picture{}, levee.CodeUnsupportedMedia},
		"webp no start code": {webpOf("VP8 "), Picture{}, levee.CodeUnsupportedMedia},
		"webp no signature":  {webpOf("VP8L"), Picture{}, levee.CodeUnsupportedMedia},
		"too wide":           {pngOf(t, MaxPictureSide+1, 1), Picture{}, levee.CodeInvalid},
		"too high":           {webpOf("VP8X", 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff), Picture{}, levee.CodeInvalid},
		"no height":          {webpOf("VP8 ", 0, 0, 0, 0x9d, 0x01, 0x2a, 0x90, 0x01, 0, 0), Picture{}, levee.CodeInvalid},
		"too large":          {append(pngOf(t, 1, 1), make([]byte, MaxPicture)...), Picture{}, levee.CodeTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := sniff(c.data)
			wantCode(t, err, c.code)
			if c.want.Size = int64(len(c.data)); err == nil && got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func FuzzSniff(f *testing.F) {
	f.Add(pngOf(f, 3, 2))
	f.Add(jpegOf(f, 3, 2))
	f.Add(webpOf("VP8X", 0, 0, 0, 0, 0x8f, 0x01, 0, 0x2b, 0x01, 0))
	f.Add(webpOf("VP8 ", 0, 0, 0, 0x9d, 0x01, 0x2a, 0x90, 0x01, 0x2c, 0x01))
	f.Add(webpOf("VP8L", 0x2f, 0x8f, 0xc1, 0x4a, 0x00))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := sniff(data)
		if err == nil && (c.Width < 1 || c.Height < 1 || c.Width > MaxPictureSide || c.Height > MaxPictureSide || !strings.HasPrefix(c.MediaType, "image/")) {
			t.Errorf("taken: %+v", c)
		}
	})
}

func TestPictures(t *testing.T) {
	h := open(t, Config{})
	ctx, visitor := operator(t.Context()), t.Context()
	p, err := h.Create(ctx, NewProduct{Code: "vase", Title: "Vase", SKUs: []NewSKU{{Code: "vase-1", Price: yuan(1)}}})
	if err != nil {
		t.Fatal(err)
	}
	data := pngOf(t, 40, 30)
	c, err := h.AddPicture(ctx, p.ID, " a blue vase ", data)
	if err != nil {
		t.Fatal(err)
	}
	if c.Alt != "a blue vase" || c.Width != 40 || c.Height != 30 || c.Size != int64(len(data)) || len(c.SHA256) != 64 {
		t.Errorf("%+v", c)
	}
	if _, got, err := h.Picture(ctx, c.ID); err != nil || !bytes.Equal(got, data) {
		t.Errorf("other bytes came back, %v", err)
	}
	if got, err := h.ByID(ctx, p.ID); err != nil || len(got.Pictures) != 1 || got.Pictures[0].ID != c.ID {
		t.Errorf("the product shows %+v, %v", got.Pictures, err)
	}
	// What everybody may see follows the product, also out of the cache.
	_, _, err = h.Picture(visitor, c.ID)
	wantCode(t, err, levee.CodeNotFound)
	for i, state := range []State{OnSale, Withdrawn} {
		if _, err := h.Update(ctx, p.ID, ProductChange{Version: int64(i + 1), State: &state}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := h.Picture(visitor, c.ID); err != nil {
			t.Errorf("%s: %v", state, err)
		}
	}
	for range MaxPictures - 1 {
		if _, err := h.AddPicture(ctx, p.ID, "", data); err != nil {
			t.Fatal(err)
		}
	}
	_, err = h.AddPicture(ctx, p.ID, "", data)
	wantCode(t, err, levee.CodeConflict, "10 pictures")
	_, err = h.AddPicture(ctx, 1, "", data)
	wantCode(t, err, levee.CodeNotFound)
	_, err = h.AddPicture(ctx, p.ID, "a\nb", data)
	wantCode(t, err, levee.CodeInvalid, "alt")

	if err := h.RemovePicture(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	_, _, err = h.Picture(visitor, c.ID)
	wantCode(t, err, levee.CodeNotFound)
	wantCode(t, h.RemovePicture(ctx, c.ID), levee.CodeNotFound)
	if got, err := h.ByID(ctx, p.ID); err != nil || len(got.Pictures) != MaxPictures-1 {
		t.Errorf("%d pictures left, %v", len(got.Pictures), err)
	}
}
