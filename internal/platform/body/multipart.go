package body

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/url"

	"levee"
)

// maxParts bounds the parts of a multipart form.
const maxParts = 1000

// FilePart is the name of the part of a multipart form that holds a file.
const FilePart = "file"

// FromMultipart is FromForm for a multipart form (RFC 7578) in buf; contentType has its boundary. A part that is a file is refused.
func FromMultipart(buf *bytes.Buffer, contentType string, want *Shape) error {
	fields, file, err := readParts(buf, contentType, int64(buf.Len()))
	if err != nil {
		return err
	}
	if file != nil {
		return levee.Invalid("body."+levee.Shorten(file.FormName(), 60), "left out: no file is taken here", file.FileName())
	}
	out, err := fromValues(fields, want)
	if err != nil {
		return err
	}
	buf.Reset()
	buf.Write(out)
	return nil
}

// File is the one file of a multipart form, read as it arrives.
type File struct {
	Name, MediaType string // as the sender says; neither is to be believed
	form            *multipart.Reader
	part            *multipart.Part
}

// OpenFile reads a multipart form as far as its file, which is the last part and is called file. The fields before it are returned as the
// JSON that means the same for a body of this shape, at most 64 KiB of them. CodeMalformed: the form is broken, or has no file.
func OpenFile(from io.Reader, contentType string, want *Shape) (_ *File, fields []byte, err error) {
	values, part, form, err := partsUntilFile(from, contentType, 64<<10)
	if err != nil {
		return nil, nil, err
	}
	if part == nil || part.FormName() != FilePart {
		return nil, nil, refuse(levee.CodeMalformed, "body."+FilePart, "a file", "nothing", "the form must hold a file in its part %q", FilePart)
	}
	if fields, err = fromValues(values, want); err != nil {
		return nil, nil, err
	}
	return &File{Name: part.FileName(), MediaType: part.Header.Get("Content-Type"), form: form, part: part}, fields, nil
}

// Read reads the file's bytes. What follows the file in the form is CodeMalformed in place of io.EOF.
func (f *File) Read(p []byte) (int, error) {
	n, err := f.part.Read(p)
	if err == io.EOF { //nolint:errorlint // readers return io.EOF itself
		next, e := f.form.NextRawPart()
		if e == nil {
			return n, refuse(levee.CodeMalformed, "body."+levee.Shorten(next.FormName(), 60), "before the file", "behind it",
				"the file must be the form's last part, and there is only one")
		}
		if e != io.EOF { //nolint:errorlint // as above
			return n, brokenForm(e)
		}
	}
	if err != nil && err != io.EOF { //nolint:errorlint // as above
		err = brokenForm(err)
	}
	return n, err
}

func readParts(buf *bytes.Buffer, contentType string, most int64) (url.Values, *multipart.Part, error) {
	fields, file, _, err := partsUntilFile(bytes.NewReader(buf.Bytes()), contentType, most)
	return fields, file, err
}

// partsUntilFile reads fields until the first part that is a file, or the end.
func partsUntilFile(from io.Reader, contentType string, most int64) (url.Values, *multipart.Part, *multipart.Reader, error) {
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil || params["boundary"] == "" {
		return nil, nil, nil, refuse(levee.CodeMalformed, "header.Content-Type", "multipart/form-data; boundary=…", contentType, "the form's boundary is missing")
	}
	form, fields := multipart.NewReader(from, params["boundary"]), url.Values{}
	for n := 0; ; n++ {
		part, err := form.NextRawPart()
		if err == io.EOF { //nolint:errorlint // readers return io.EOF itself
			return fields, nil, form, nil
		}
		if err != nil {
			return nil, nil, nil, brokenForm(err)
		}
		if part.FileName() != "" || part.FormName() == FilePart {
			return fields, part, form, nil
		}
		if n == maxParts {
			return nil, nil, nil, refuse(levee.CodeMalformed, "body", fmt.Sprintf("at most %d parts", maxParts), "more", "the form has more than %d parts", maxParts)
		}
		value, err := io.ReadAll(io.LimitReader(part, most+1))
		if err != nil {
			return nil, nil, nil, brokenForm(err)
		}
		if most -= int64(len(value)); most < 0 {
			return nil, nil, nil, levee.E(levee.CodeTooLarge, "the form's fields hold too much")
		}
		fields.Add(part.FormName(), string(value))
	}
}

// brokenForm keeps what the body's reader says of it (too large, too slow), and says the rest itself.
func brokenForm(err error) error {
	var tooLarge interface{ Timeout() bool }
	if errors.As(err, &tooLarge) || levee.CodeOf(err) != levee.CodeInternal {
		return err
	}
	return refuse(levee.CodeMalformed, "body", "parts between the boundary", "", "the body is not a well formed multipart form").Because(err)
}
