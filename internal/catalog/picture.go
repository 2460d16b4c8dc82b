package catalog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"image/jpeg"
	"image/png"

	"levee"
	"levee/internal/platform/db"
)

// pictureBytes is a picture with its bytes, which are shared by all readers and never written to.
type pictureBytes struct {
	Picture
	data []byte
}

// AddPicture adds a picture to a product, after those it has. For operators. What it is, is found from its bytes and not from what the
// sender says. CodeUnsupportedMedia: neither PNG, JPEG nor WebP; CodeTooLarge: more than MaxPicture bytes; CodeInvalid: more than
// MaxPictureSide pixels wide or high; CodeConflict: the product has MaxPictures already.
func (s *Service) AddPicture(ctx context.Context, product levee.ProductID, alt string, data []byte) (c Picture, err error) {
	defer levee.Wrap(&err, "catalog.AddPicture(%d, %d bytes)", product, len(data))
	kept, allowed := checkLine(alt, 0, MaxName)
	if err := refuse("alt", allowed, alt); err != nil {
		return c, err
	}
	if c, err = sniff(data); err != nil {
		return c, err
	}
	id, err := s.IDs.Next()
	if err != nil {
		return c, err
	}
	sum := sha256.Sum256(data)
	c.ID, c.Product, c.Alt = levee.PictureID(id), product, kept
	c.SHA256, c.CreatedAt = hex.EncodeToString(sum[:]), s.now()
	err = s.DB.Tx(ctx, "catalog.add_picture", func(ctx context.Context, tx *db.Tx) error {
		p, err := productByID(ctx, tx.Query, product)
		if err != nil {
			return err
		}
		if len(p.Pictures) >= MaxPictures {
			return levee.E(levee.CodeConflict, "the product has %d pictures, the most that it may have", len(p.Pictures))
		}
		if err := insertPicture(ctx, tx, c, data); err != nil {
			return err
		}
		if err := s.audit(ctx, tx, "picture.create", s.Sealer.Seal(levee.KindPicture, id), nil, c); err != nil {
			return err
		}
		return s.changedTx(ctx, tx, product)
	})
	return c, err
}

// RemovePicture removes a picture for good. For operators. CodeNotFound when there is none.
func (s *Service) RemovePicture(ctx context.Context, id levee.PictureID) (err error) {
	defer levee.Wrap(&err, "catalog.RemovePicture(%d)", id)
	return s.DB.Tx(ctx, "catalog.remove_picture", func(ctx context.Context, tx *db.Tx) error {
		c, err := pictureByID(ctx, tx.Query, id)
		if err != nil {
			return err
		}
		if err := deletePicture(ctx, tx, id); err != nil {
			return err
		}
		if err := s.audit(ctx, tx, "picture.remove", s.Sealer.Seal(levee.KindPicture, int64(id)), c.Picture, nil); err != nil {
			return err
		}
		tx.AfterCommit(func() { s.pictures.Invalidate(id) })
		return s.changedTx(ctx, tx, c.Product)
	})
}

// Picture returns a picture and its bytes, which must not be written to. A draft's pictures are for operators; those of a
// withdrawn product stay, because orders show them. CodeNotFound when there is none.
func (s *Service) Picture(ctx context.Context, id levee.PictureID) (Picture, []byte, error) {
	c, err := s.pictures.Get(ctx, id, func(ctx context.Context, id levee.PictureID) (pictureBytes, error) {
		return pictureByID(db.Primary(ctx), s.DB.Query, id)
	})
	if err != nil {
		return Picture{}, nil, err
	}
	if !operates(ctx) {
		p, err := s.products.Get(ctx, c.Product, func(ctx context.Context, id levee.ProductID) (Product, error) {
			return productByID(db.Primary(ctx), s.DB.Query, id)
		})
		if err != nil {
			return Picture{}, nil, err
		}
		if p.State == Draft {
			return Picture{}, nil, errNoPicture()
		}
	}
	return c.Picture, c.data, nil
}

// sniff finds out what the bytes are from their headers alone: nothing is unpacked, so a picture that would fill the memory costs
// nothing here.
func sniff(data []byte) (c Picture, err error) {
	if len(data) > MaxPicture {
		return c, levee.E(levee.CodeTooLarge, "a picture has at most %d bytes, got more", MaxPicture)
	}
	c.Size = int64(len(data))
	ok := false
	switch {
	case bytes.HasPrefix(data, []byte("\x89PNG\r\n\x1a\n")):
		c.MediaType = "image/png"
		if h, err := png.DecodeConfig(bytes.NewReader(data)); err == nil {
			c.Width, c.Height, ok = h.Width, h.Height, true
		}
	case bytes.HasPrefix(data, []byte("\xff\xd8\xff")):
		c.MediaType = "image/jpeg"
		if h, err := jpeg.DecodeConfig(bytes.NewReader(data)); err == nil {
			c.Width, c.Height, ok = h.Width, h.Height, true
		}
	case len(data) >= 12 && string(data[:4]) == "RIFF" && string(data[8:12]) == "WEBP":
		c.MediaType = "image/webp"
		c.Width, c.Height, ok = webpSize(data)
	}
	if !ok {
		return c, levee.E(levee.CodeUnsupportedMedia, "the bytes are not a picture in PNG, JPEG or WebP format")
	}
	if c.Width < 1 || c.Height < 1 || c.Width > MaxPictureSide || c.Height > MaxPictureSide {
		return c, levee.Invalid("picture", fmt.Sprintf("1 to %d pixels wide and high", MaxPictureSide),
			fmt.Sprintf("%d × %d", c.Width, c.Height))
	}
	return c, nil
}

// webpSize reads the size of a WebP picture from its first chunk (RFC 9649, sections 2.5 to 2.7).
func webpSize(d []byte) (width, height int, ok bool) {
	if len(d) < 30 || int64(binary.LittleEndian.Uint32(d[4:8]))+8 > int64(len(d))+1 {
		return 0, 0, false // the file says that it is longer than it is
	}
	u24 := func(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }
	switch string(d[12:16]) {
	case "VP8X":
		return u24(d[24:27]) + 1, u24(d[27:30]) + 1, true
	case "VP8 ":
		if d[20]&1 != 0 || d[23] != 0x9d || d[24] != 0x01 || d[25] != 0x2a {
			return 0, 0, false
		}
		return int(binary.LittleEndian.Uint16(d[26:28]) & 0x3fff), int(binary.LittleEndian.Uint16(d[28:30]) & 0x3fff), true
	case "VP8L":
		if d[20] != 0x2f {
			return 0, 0, false
		}
		bits := binary.LittleEndian.Uint32(d[21:25])
		return int(bits&0x3fff) + 1, int(bits>>14&0x3fff) + 1, true
	}
	return 0, 0, false
}
