package blob

import (
	"bytes"
	"encoding/binary"
)

// orientation reads how a camera was held from a picture's EXIF (CIPA DC-008, tag 274): 1, upright, to 8. What cannot be read is upright: it
// decides nothing but which side is up.
func orientation(data []byte, media string) int {
	var exif []byte
	switch media {
	case "image/jpeg":
		exif = jpegEXIF(data)
	case "image/png":
		exif = chunk(data, 8, "eXIf", binary.BigEndian, 4)
	case "image/webp":
		exif = chunk(data, 12, "EXIF", binary.LittleEndian, 0)
	}
	exif = bytes.TrimPrefix(exif, []byte("Exif\x00\x00"))
	return tiffOrientation(exif)
}

// jpegEXIF returns the content of the first EXIF segment before the picture itself (ITU T.81, annex B).
func jpegEXIF(data []byte) []byte {
	for at := 2; at+4 <= len(data) && data[at] == 0xff; {
		marker, n := data[at+1], int(binary.BigEndian.Uint16(data[at+2:]))
		switch {
		case marker == 0xff: // filling
			at++
			continue
		case marker == 0xda || n < 2 || at+2+n > len(data):
			return nil
		}
		if segment := data[at+4 : at+2+n]; marker == 0xe1 && bytes.HasPrefix(segment, []byte("Exif\x00\x00")) {
			return segment
		}
		at += 2 + n
	}
	return nil
}

// chunk returns the content of a chunk of PNG (length, name, content, checksum) or of RIFF (name, length, content, padding to even).
func chunk(data []byte, at int, name string, order binary.ByteOrder, checksum int) []byte {
	for at+8 <= len(data) {
		length, is := order.Uint32(data[at:]), data[at+4:at+8]
		if checksum == 0 {
			length, is = order.Uint32(data[at+4:]), data[at:at+4]
		}
		if uint64(length) > uint64(len(data)-at-8) {
			return nil
		}
		content := data[at+8 : at+8+int(length)]
		if string(is) == name {
			return content
		}
		at += 8 + int(length) + checksum
		if checksum == 0 {
			at += int(length & 1)
		}
	}
	return nil
}

// tiffOrientation reads the tag from the first directory (TIFF 6.0, section 2).
func tiffOrientation(d []byte) int {
	if len(d) < 8 {
		return 1
	}
	var order binary.ByteOrder
	switch string(d[:4]) {
	case "II*\x00":
		order = binary.LittleEndian
	case "MM\x00*":
		order = binary.BigEndian
	default:
		return 1
	}
	at := uint64(order.Uint32(d[4:]))
	if at+2 > uint64(len(d)) {
		return 1
	}
	count := uint64(order.Uint16(d[at:]))
	for i := range count {
		e := at + 2 + 12*i
		if e+12 > uint64(len(d)) {
			return 1
		}
		const tag, short = 274, 3
		if order.Uint16(d[e:]) == tag && order.Uint16(d[e+2:]) == short && order.Uint32(d[e+4:]) == 1 {
			if v := order.Uint16(d[e+8:]); v >= 1 && v <= 8 {
				return int(v)
			}
			return 1
		}
	}
	return 1
}
