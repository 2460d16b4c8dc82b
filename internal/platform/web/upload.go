package web

import (
	"io"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"levee/internal/platform/body"
	"levee/internal/platform/header"
)

// UploadDoc documents a raw route whose body is a file: as it is, or as the part file of a multipart form.
type UploadDoc struct {
	Types  []string // media types of the file
	Fields any      // a value of the type of the form's other fields; nil: it has none
}

// Upload is a file that is being sent.
type Upload struct {
	io.Reader
	MediaType string // as the sender says
	Name      string // as the sender says; "" when the body is the file itself
}

// ReadUpload begins to read a raw handler's file. In a multipart form the fields come before the file, which is the last part and is called
// file; they are checked against the type of fields, a pointer, and put there: fields that are not given keep what they have. The
// file is read by the caller; errors of Read are already in words.
func ReadUpload(r *http.Request, fields any) (*Upload, error) {
	ct := r.Header.Get("Content-Type")
	if header.MediaType(ct) != multipartType {
		return &Upload{Reader: worded{r.Body}, MediaType: header.MediaType(ct)}, nil
	}
	shape := body.Of(reflect.TypeFor[struct{}]())
	if fields != nil {
		shape = body.Of(reflect.TypeOf(fields).Elem())
	}
	f, given, err := body.OpenFile(worded{r.Body}, ct, shape)
	if err != nil {
		return nil, err
	}
	if fields != nil {
		if err := decodeJSON(given, fields); err != nil {
			return nil, err
		}
	}
	return &Upload{Reader: f, MediaType: header.MediaType(f.MediaType), Name: f.Name}, nil
}

// worded says in our words why a body could not be read.
type worded struct{ io.Reader }

func (w worded) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // readers return io.EOF itself
		err = bodyError(err)
	}
	return n, err
}

func (d *UploadDoc) body(registry huma.Registry, id string) *huma.RequestBody {
	file := &huma.Schema{Type: huma.TypeString, Format: "binary"}
	form := &huma.Schema{Type: huma.TypeObject, Properties: map[string]*huma.Schema{body.FilePart: file}, Required: []string{body.FilePart}, AdditionalProperties: false}
	if d.Fields != nil {
		fields := registry.Schema(reflect.TypeOf(d.Fields), false, id+"Fields")
		for name, s := range fields.Properties {
			form.Properties[name] = s
		}
	}
	b := &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{multipartType: {Schema: form}}}
	for _, mt := range d.Types {
		b.Content[mt] = &huma.MediaType{Schema: file}
	}
	return b
}
