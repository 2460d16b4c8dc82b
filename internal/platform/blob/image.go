package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"strings"
	"time"

	"golang.org/x/image/draw"
	"golang.org/x/image/webp"

	"levee"
)

// Size is one form in which a picture is kept.
type Size struct {
	// Name ends the size's key: lower-case letters and digits, at most 16, such as "thumb".
	Name string
	// Width and Height, from 1 to 4096 pixels, are the box that the picture is fitted into. A picture is never made larger.
	Width, Height int
	// Crop fills the whole box and cuts off what stands over, evenly on both sides.
	Crop bool
}

// Picture is one size of an Image.
type Picture struct {
	Object
	// Form is the Size's name.
	Form string
	// Width and Height in pixels.
	Width, Height int
}

// Image is a picture in its sizes. What was sent is not kept, and with it goes all that it held beside the picture: where it was taken and when,
// by which camera, thumbnails, comments, colour profiles.
type Image struct {
	// Key stands for all sizes: Key.Of("thumb") is one; Delete(Key) removes all. There is no object under Key itself.
	Key   Key
	Sizes []Picture // in the order of Use.Sizes
}

const (
	sideMost    = 4096  // of a Size
	sourceSide  = 30000 // pixels a side of what is sent
	band        = 64    // rows or columns that are scaled at a time
	jpegQuality = 85
)

// decoders know the pictures' headers and bytes. None reads more of a file than one picture: an animation's first.
var decoders = map[string]struct {
	config func(io.Reader) (image.Config, error)
	whole  func(io.Reader) (image.Image, error)
}{
	"image/jpeg": {jpeg.DecodeConfig, jpeg.Decode},
	"image/png":  {png.DecodeConfig, png.Decode},
	"image/gif":  {gif.DecodeConfig, gif.Decode},
	"image/webp": {webp.DecodeConfig, webp.Decode},
}

// PutImage stores a picture in the sizes of its Use, upright as its camera was held, as JPEG, or as PNG where it is see-through; of an animation
// its first picture. All sizes are stored, or none. Its errors are Put's, and CodeInvalid where there are more than Config.Pixels pixels or more than
// 30,000 a side, CodeUnsupportedMedia where the bytes begin as a picture and are none. It waits for its turn while others' pictures take up
// Config.Pixels.
func (s *Store) PutImage(ctx context.Context, u Upload) (i Image, err error) {
	defer levee.Wrap(&err, "blob.PutImage(%s)", u.Use.Name)
	defer s.done("put_image", time.Now(), &err)
	if err := checkSizes(u.Use); err != nil {
		return i, err
	}
	m, media, err := s.accept(ctx, u)
	if err != nil {
		return i, err
	}
	if decoders[media].whole == nil {
		return i, unsupported(strings.Join(Pictures(), ", "), media)
	}
	data, err := io.ReadAll(m)
	if err != nil {
		return i, err
	}
	pictures, err := s.render(ctx, data, media, u.Use.Sizes)
	if err != nil {
		return i, err
	}
	i.Key = newKey(u.Use.Name, u.id)
	for n, p := range pictures {
		p.Object, err = s.store(ctx, i.Key.Of(p.Form), p.Type, u.Name, newMeter(ctx, Upload{Body: bytes.NewReader(p.data)}, int64(len(p.data))))
		if err != nil {
			for _, stored := range pictures[:n] {
				err = errors.Join(err, s.driver.remove(context.WithoutCancel(ctx), i.Key.Of(stored.Form)))
			}
			return Image{}, err
		}
		i.Sizes = append(i.Sizes, p.Picture)
	}
	return i, nil
}

func checkSizes(u Use) error {
	if len(u.Sizes) == 0 {
		return fmt.Errorf("blob: the use %q has no sizes", u.Name)
	}
	for _, z := range u.Sizes {
		if !sizeForm.MatchString(z.Name) || z.Width < 1 || z.Height < 1 || z.Width > sideMost || z.Height > sideMost {
			return fmt.Errorf("blob: the use %q cannot have the size %+v", u.Name, z)
		}
	}
	return nil
}

// Image returns what PutImage stored under a key, in the sizes that the Use has now. CodeNotFound when one of them is not there.
func (s *Store) Image(ctx context.Context, u Use, k Key) (i Image, err error) {
	defer levee.Wrap(&err, "blob.Image(%s)", k)
	i.Key = k
	for _, z := range u.Sizes {
		f, err := s.Open(ctx, k.Of(z.Name))
		if err != nil {
			return Image{}, err
		}
		c, _, err := image.DecodeConfig(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return Image{}, err
		}
		i.Sizes = append(i.Sizes, Picture{f.Object, z.Name, c.Width, c.Height})
	}
	return i, nil
}

type rendered struct {
	Picture
	data []byte
}

// render makes the sizes. What a picture would take is known from its header before anything is unpacked.
func (s *Store) render(ctx context.Context, data []byte, media string, sizes []Size) ([]rendered, error) {
	c, err := decoders[media].config(bytes.NewReader(data))
	if err != nil {
		return nil, broken(media, err)
	}
	if most := s.config.Pixels; c.Width < 1 || c.Height < 1 || c.Width > sourceSide || c.Height > sourceSide || c.Width*c.Height > most {
		return nil, levee.Invalid("file", fmt.Sprintf("at most %d pixels, and %d a side", most, sourceSide), fmt.Sprintf("%d × %d", c.Width, c.Height))
	}
	weight := int64(c.Width * c.Height)
	if err := s.pixels.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	defer s.pixels.Release(weight)
	src, err := decode(data, media)
	if err != nil {
		return nil, err
	}
	b := src.Bounds()
	if b.Dx() < 1 || b.Dy() < 1 || b.Dx() > c.Width || b.Dy() > c.Height {
		return nil, broken(media, errors.New("the picture is not as large as its header says"))
	}
	turned := orientation(data, media)
	width, height := b.Dx(), b.Dy()
	if turned >= 5 {
		width, height = height, width
	}
	// The largest that is needed is made from the source, and all others from it.
	most := 0.0
	for _, z := range sizes {
		most = max(most, z.scale(width, height))
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	base := turn(resize(src, side(b.Dx(), most), side(b.Dy(), most)), turned)
	out := make([]rendered, len(sizes))
	for n, z := range sizes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if out[n], err = z.render(base, z.scale(width, height)/most); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// side is a scaled length, of at least one pixel.
func side(n int, scale float64) int { return max(1, int(float64(n)*scale+.5)) }

// scale is by how much a picture becomes smaller in this size; at most 1.
func (z Size) scale(width, height int) float64 {
	x, y := float64(z.Width)/float64(width), float64(z.Height)/float64(height)
	if z.Crop {
		return min(1, max(x, y))
	}
	return min(1, x, y)
}

func (z Size) render(base *image.RGBA, scale float64) (r rendered, err error) {
	m := resize(base, side(base.Bounds().Dx(), scale), side(base.Bounds().Dy(), scale))
	if b := m.Bounds(); z.Crop {
		x, y := max(0, b.Dx()-z.Width)/2, max(0, b.Dy()-z.Height)/2
		m = m.SubImage(image.Rect(x, y, x+min(b.Dx(), z.Width), y+min(b.Dy(), z.Height))).(*image.RGBA)
	}
	var w bytes.Buffer
	r = rendered{Picture: Picture{Form: z.Name, Width: m.Bounds().Dx(), Height: m.Bounds().Dy()}}
	if m.Opaque() {
		r.Type, err = "image/jpeg", jpeg.Encode(&w, m, &jpeg.Options{Quality: jpegQuality})
	} else {
		r.Type, err = "image/png", png.Encode(&w, m)
	}
	r.data = w.Bytes()
	return r, err
}

func broken(media string, err error) error {
	return levee.E(levee.CodeUnsupportedMedia, "the file begins as %s and cannot be read as one", media).Because(err)
}

// decode unpacks a picture. The decoders are other people's and the bytes anybody's: what makes one panic is refused like any broken file,
// and does not end a process that sells.
func decode(data []byte, media string) (m image.Image, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = broken(media, fmt.Errorf("the decoder panicked: %v", p))
		}
	}()
	if m, err = decoders[media].whole(bytes.NewReader(data)); err != nil {
		return nil, broken(media, err)
	}
	return m, nil
}

// resize scales by Catmull and Rom's cubic (draw.CatmullRom), first the width in bands of rows, then the height in bands of columns: at once, the
// library would take 32 bytes for each row of the source times column of the result, hundreds of megabytes for a camera's picture. In the
// direction that stays as it is the kernel leaves every pixel alone, so bands have no seams.
func resize(src image.Image, width, height int) *image.RGBA {
	b := src.Bounds()
	wide := image.NewRGBA(image.Rect(0, 0, width, b.Dy()))
	var rows *image.RGBA // a band in a form for which the library has a fast way
	switch src.(type) {
	case *image.YCbCr, *image.RGBA, *image.NRGBA, *image.Gray:
	default:
		rows = image.NewRGBA(image.Rect(0, 0, b.Dx(), min(band, b.Dy())))
	}
	// A scaler that is made once keeps its weights and its memory for all bands; the last, narrower one goes its own way.
	across := draw.CatmullRom.NewScaler(width, min(band, b.Dy()), b.Dx(), min(band, b.Dy()))
	for y := 0; y < b.Dy(); y += band {
		n := min(band, b.Dy()-y)
		from, at := src, image.Rect(b.Min.X, b.Min.Y+y, b.Max.X, b.Min.Y+y+n)
		if rows != nil {
			draw.Draw(rows, image.Rect(0, 0, b.Dx(), n), src, at.Min, draw.Src)
			from, at = rows, image.Rect(0, 0, b.Dx(), n)
		}
		scale(across, wide, image.Rect(0, y, width, y+n), from, at)
	}
	if height == b.Dy() {
		return wide
	}
	out := image.NewRGBA(image.Rect(0, 0, width, height))
	down := draw.CatmullRom.NewScaler(min(band, width), height, min(band, width), b.Dy())
	for x := 0; x < width; x += band {
		n := min(band, width-x)
		scale(down, out, image.Rect(x, 0, x+n, height), wide, image.Rect(x, 0, x+n, b.Dy()))
	}
	return out
}

func scale(by draw.Scaler, dst *image.RGBA, dr image.Rectangle, src image.Image, sr image.Rectangle) {
	if dr.Size() == sr.Size() {
		draw.Draw(dst, dr, src, sr.Min, draw.Src)
		return
	}
	by.Scale(dst, dr, src, sr, draw.Src, nil)
}

// turn sets a picture upright. The orientation is EXIF's: 1 upright, 2 mirrored, 3 upside down, 4 that mirrored, 5 to 8 lying on a side.
func turn(m *image.RGBA, orientation int) *image.RGBA {
	if orientation <= 1 {
		return m
	}
	w, h := m.Bounds().Dx(), m.Bounds().Dy()
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	if orientation >= 5 {
		out = image.NewRGBA(image.Rect(0, 0, h, w))
	}
	for y := range h {
		for x := range w {
			var at image.Point
			switch orientation {
			case 2:
				at = image.Pt(w-1-x, y)
			case 3:
				at = image.Pt(w-1-x, h-1-y)
			case 4:
				at = image.Pt(x, h-1-y)
			case 5:
				at = image.Pt(y, x)
			case 6:
				at = image.Pt(h-1-y, x)
			case 7:
				at = image.Pt(h-1-y, w-1-x)
			case 8:
				at = image.Pt(y, w-1-x)
			}
			copy(out.Pix[out.PixOffset(at.X, at.Y):][:4], m.Pix[m.PixOffset(x, y):][:4])
		}
	}
	return out
}
