package catalog

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"time"

	"levee"
	"levee/internal/platform/limit"
	"levee/internal/platform/problem"
	"levee/internal/platform/web"
)

// bulkTimeout is how long an import or export may take: 20 MiB over a slow line.
const bulkTimeout = 2 * time.Minute

type importErrorView struct {
	Line    int    `json:"line" doc:"Where the line begins in the file, from 1"`
	Field   string `json:"field" doc:"The column, or line when the whole line cannot be read"`
	Allowed string `json:"allowed"`
	Given   string `json:"given"`
}

type importView struct {
	Lines           int               `json:"lines" doc:"Lines of data in the file"`
	Failed          int               `json:"failed" doc:"Lines that were not imported; 0 unless mode is partial"`
	ProductsCreated int               `json:"products_created"`
	ProductsChanged int               `json:"products_changed"`
	SKUsCreated     int               `json:"skus_created"`
	SKUsChanged     int               `json:"skus_changed"`
	StockChanged    int               `json:"stock_changed" doc:"SKUs whose stock was set, new ones not included"`
	Errors          []importErrorView `json:"errors" doc:"The first 100"`
}

// formSpare is what a form around a file may add to it, and the one byte by which a file is known to be too large.
const formSpare = 68 << 10

type pictureFields struct {
	Alt string `json:"alt,omitempty" maxLength:"150" doc:"What the picture shows, for those who cannot see it"`
}

type importFields struct {
	Mode  string `json:"mode,omitempty" enum:"all,partial" doc:"As the parameter"`
	Stock string `json:"stock,omitempty" enum:"keep,set" doc:"As the parameter"`
}

// rawRoutes adds the operations whose bodies are files.
func (s *Service) rawRoutes(srv *web.Server) {
	srv.Raw(web.Route{Method: http.MethodPost, Path: "/v1/products/{id}/pictures", ID: "createPicture", Tag: "pictures",
		Summary: "Add a picture to a product",
		Description: "The body is the picture itself, or a form with it: PNG, JPEG or WebP, at most 512 KiB, 8,192 pixels a side. " +
			"What it is, is found from its bytes.",
		Roles: operators, Status: 201, Limit: limit.Write, BodyMax: MaxPicture + formSpare, Errors: []int{401, 403, 404, 409, 413, 415, 422}},
		http.HandlerFunc(s.postPicture), web.RawDoc{Responses: map[int]any{201: pictureView{}},
			Upload: &web.UploadDoc{Types: []string{"image/png", "image/jpeg", "image/webp", "application/octet-stream"}, Fields: pictureFields{}},
			Query:  map[string]string{"alt": "What the picture shows, for those who cannot see it; at most 150 characters"}})
	srv.Raw(web.Route{Method: http.MethodGet, Path: "/v1/pictures/{id}", ID: "getPicture", Tag: "pictures",
		Summary:     "A picture's bytes",
		Description: "The bytes of an id never change. Answers 304 to a fresh If-None-Match, and ranges.",
		Status:      200, Limit: limit.Read, Quiet: true, Errors: []int{304, 404}},
		http.HandlerFunc(s.getPicture), web.RawDoc{Responses: map[int]any{200: []byte(nil)},
			Produces: []string{"image/png", "image/jpeg", "image/webp"},
			Headers:  map[string]string{"If-None-Match": "Answer 304 when the picture's entity tag is one of these"}})
	srv.Raw(web.Route{Method: http.MethodPost, Path: "/v1/products/import", ID: "importProducts", Tag: "products",
		Summary: "Make and change many products",
		Description: "CSV (text/csv, the first line names the columns) or JSON Lines (application/x-ndjson), one SKU with its product on a line. " +
			"Products and SKUs are known by their codes; what is not in the file is left alone; importing a file again changes nothing. " +
			"When a line is refused nothing is imported, and errors names line, field, what is allowed and what was given.",
		Roles: operators, Status: 200, Limit: limit.Import, BodyMax: s.Config.ImportBytes + formSpare, Timeout: bulkTimeout,
		Errors: []int{400, 401, 403, 409, 413, 415, 422, 503}},
		http.HandlerFunc(s.postImport), web.RawDoc{Responses: map[int]any{200: importView{}},
			Upload: &web.UploadDoc{Types: []string{"text/csv", "application/x-ndjson"}, Fields: importFields{}},
			Forms:  map[string]string{"mode": "^(all|partial)?$", "stock": "^(keep|set)?$"},
			Query: map[string]string{
				"mode":  "all (default): all lines or none, in one transaction; partial: the good lines, in many small ones",
				"stock": "keep (default): on_hand counts for new SKUs only; set: existing SKUs get it too",
			}})
	srv.Raw(web.Route{Method: http.MethodGet, Path: "/v1/products/export", ID: "exportProducts", Tag: "products", Replica: true,
		Summary: "All products as a file",
		Description: "What import reads, as it stands in one moment. Text that a spreadsheet would run as a formula begins with " +
			"an apostrophe, which import takes away.",
		Roles: operators, Status: 200, Limit: limit.Import, Timeout: bulkTimeout, Errors: []int{401, 403, 422}},
		http.HandlerFunc(s.getExport), web.RawDoc{Responses: map[int]any{200: ""}, Produces: []string{"text/csv", "application/x-ndjson"},
			Forms: map[string]string{"format": "^(csv|jsonl)?$", "bom": "^(true|false)?$"},
			Query: map[string]string{
				"format": "csv (default) or jsonl",
				"bom":    "true: begin a CSV file with a byte order mark, by which spreadsheets know UTF-8",
			}})
}

func (s *Service) postPicture(w http.ResponseWriter, r *http.Request) {
	v, err := s.upload(r)
	if err != nil {
		web.WriteError(w, r, err)
		return
	}
	w.Header().Set("Location", v.Links.Self)
	web.WriteJSON(w, r, http.StatusCreated, v)
}

func (s *Service) upload(r *http.Request) (v pictureView, err error) {
	id, err := s.openProduct(r.PathValue("id"))
	if err != nil {
		return v, err
	}
	// One byte over the limit is enough to refuse it.
	alt := r.URL.Query().Get("alt")
	fields := pictureFields{Alt: alt}
	file, err := web.ReadUpload(r, &fields)
	if err != nil {
		return v, err
	}
	data, err := io.ReadAll(io.LimitReader(file, MaxPicture+1))
	if err != nil && len(data) <= MaxPicture {
		return v, err
	}
	c, err := s.AddPicture(r.Context(), id, fields.Alt, data)
	if fields.Alt != alt { // of the form
		err = problem.InBody(err)
	}
	return s.pictureView(c), err
}

func (s *Service) getPicture(w http.ResponseWriter, r *http.Request) {
	id, err := s.openPicture(r.PathValue("id"))
	if err != nil {
		web.WriteError(w, r, err)
		return
	}
	c, data, err := s.Picture(r.Context(), id)
	if err != nil {
		web.WriteError(w, r, err)
		return
	}
	h := w.Header()
	h.Set("ETag", `"`+c.SHA256+`"`)
	h.Set("Content-Type", c.MediaType)
	// Bytes that people sent: opened by themselves they may do nothing. The server says nosniff to all.
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	if operates(r.Context()) {
		h.Set("Cache-Control", "private, max-age=86400") // it may be a draft's
	} else {
		h.Set("Cache-Control", "public, max-age=86400, immutable")
	}
	http.ServeContent(w, r, "", c.CreatedAt, bytes.NewReader(data))
}

func (s *Service) postImport(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	fields := importFields{Mode: q.Get("mode"), Stock: q.Get("stock")}
	file, err := web.ReadUpload(r, &fields)
	if err != nil {
		web.WriteError(w, r, err)
		return
	}
	o, err := importOptions(file.MediaType, fields)
	if err != nil {
		web.WriteError(w, r, err)
		return
	}
	res, err := s.Import(r.Context(), file, o)
	if err != nil {
		web.WriteError(w, r, err)
		return
	}
	v := importView{Lines: res.Lines, Failed: res.Failed, ProductsCreated: res.ProductsCreated, ProductsChanged: res.ProductsChanged,
		SKUsCreated: res.SKUsCreated, SKUsChanged: res.SKUsChanged, StockChanged: res.StockChanged,
		Errors: make([]importErrorView, len(res.Errors))}
	for i, e := range res.Errors {
		v.Errors[i] = importErrorView(e)
	}
	web.WriteJSON(w, r, http.StatusOK, v)
}

func importOptions(media string, f importFields) (o ImportOptions, err error) {
	switch media {
	case "text/csv":
		o.Format = CSV
	case "application/x-ndjson", "application/jsonl", "application/jsonlines", "application/x-jsonlines":
		o.Format = JSONL
	default:
		return o, levee.E(levee.CodeUnsupportedMedia, "an import is text/csv or application/x-ndjson, got %q", shown(media))
	}
	if o.Partial, err = either("mode", f.Mode, "all", "partial"); err != nil {
		return o, err
	}
	o.SetStock, err = either("stock", f.Stock, "keep", "set")
	return o, err
}

// either reads a parameter of two values and reports whether it is the second.
func either(name, v, usual, other string) (bool, error) {
	switch v {
	case "", usual:
		return false, nil
	case other:
		return true, nil
	default:
		return false, levee.Invalid("query."+name, usual+" or "+other, shown(v))
	}
}

// getExport writes into a file first: a slow reader then holds no database reader, and an error is an answer instead of a file that ends too
// early without anybody seeing it.
func (s *Service) getExport(w http.ResponseWriter, r *http.Request) {
	if err := s.export(w, r); err != nil {
		web.WriteError(w, r, err)
	}
}

func (s *Service) export(w http.ResponseWriter, r *http.Request) (err error) {
	format, media := CSV, "text/csv; charset=utf-8"
	jsonl, err := either("format", r.URL.Query().Get("format"), string(CSV), string(JSONL))
	if err != nil {
		return err
	}
	if jsonl {
		format, media = JSONL, "application/x-ndjson"
	}
	bom, err := either("bom", r.URL.Query().Get("bom"), "false", "true")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp("", "levee-export-*")
	if err != nil {
		return err
	}
	defer func() { _, _ = f.Close(), os.Remove(f.Name()) }()
	if bom && !jsonl {
		if _, err := f.WriteString("\ufeff"); err != nil {
			return err
		}
	}
	if _, err := s.Export(r.Context(), f, format); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", media)
	h.Set("Content-Disposition", `attachment; filename="products.`+string(format)+`"`)
	h.Set("Cache-Control", "no-store")
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}
