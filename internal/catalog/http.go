package catalog

import (
	"context"
	"net/http"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/web"
)

const operators = levee.RoleOperator | levee.RoleAdministrator

// Routes adds the room's operations.
func (s *Service) Routes(srv *web.Server) {
	const products, pictures = "products", "pictures"
	listing.Add(srv, web.Route{Method: http.MethodGet, Path: "/v1/products", ID: "listProducts", Tag: products,
		Summary: "Products on sale; for operators all products", Status: 200, Limit: limit.Read, Errors: []int{403},
		Description: "Newest first, or by title when a prefix is given. A page may hold fewer products than asked for and still have a next one."},
		s.list, s.getProducts)
	web.Add(srv, web.Route{Method: http.MethodPost, Path: "/v1/products", ID: "createProduct", Tag: products,
		Summary: "Make a product with its SKUs",
		Roles:   operators, Status: 201, Limit: limit.Write, Idempotent: true, Errors: []int{401, 403, 409, 422}}, s.postProduct)
	web.Add(srv, web.Route{Method: http.MethodGet, Path: "/v1/products/{id}", ID: "getProduct", Tag: products,
		Summary:     "One product",
		Description: "410 when it is not sold any more. Answers 304 to a fresh If-None-Match; the tag changes with the stock too.",
		Status:      200, Limit: limit.Read, Errors: []int{304, 404, 410}}, s.getProduct)
	web.Add(srv, web.Route{Method: http.MethodPatch, Path: "/v1/products/{id}", ID: "updateProduct", Tag: products,
		Summary: "Change or withdraw a product",
		Description: "Only the fields given are changed. Say which version you saw, in If-Match or in the body: 412 " +
			"or 409 when it is not the product's any more, so that nobody's work is lost.",
		Roles: operators, Status: 200, Limit: limit.Write, Current: s.currentProduct, Errors: []int{401, 403, 404, 409, 422}}, s.patchProduct)
	web.Add(srv, web.Route{Method: http.MethodPost, Path: "/v1/products/{id}/skus", ID: "createSKU", Tag: products,
		Summary: "Add a SKU to a product",
		Roles:   operators, Status: 201, Limit: limit.Write, Idempotent: true, Errors: []int{401, 403, 404, 409, 422}}, s.postSKU)
	web.Add(srv, web.Route{Method: http.MethodGet, Path: "/v1/skus/{id}", ID: "getSKU", Tag: products,
		Summary: "One SKU",
		Status:  200, Limit: limit.Read, Errors: []int{304, 404, 410}}, s.getSKU)
	web.Add(srv, web.Route{Method: http.MethodPatch, Path: "/v1/skus/{id}", ID: "updateSKU", Tag: products,
		Summary: "Change a SKU's code, name or price",
		Description: "Only the fields given are changed. 412 or 409 when the version that you saw is not the SKU's any more. " +
			"Stock is changed by movements, which do not raise it.",
		Roles: operators, Status: 200, Limit: limit.Write, Current: s.currentSKU, Errors: []int{401, 403, 404, 409, 422}}, s.patchSKU)
	web.Add(srv, web.Route{Method: http.MethodPost, Path: "/v1/skus/{id}/movements", ID: "adjustStock", Tag: products,
		Summary:     "Add or remove stock",
		Description: "409 out_of_stock when fewer units are on hand than would be removed.",
		Roles:       operators, Status: 201, Limit: limit.Write, Idempotent: true, Errors: []int{401, 403, 404, 409, 422}}, s.postMovement)
	listing.Add(srv, web.Route{Method: http.MethodGet, Path: "/v1/skus/{id}/movements", ID: "listMovements", Tag: products, Replica: true,
		Summary:     "A SKU's stock ledger",
		Description: "Newest first. The deltas of all movements sum up to the stock on hand.",
		Roles:       operators, Status: 200, Limit: limit.Read, Errors: []int{401, 403, 404, 422}}, s.ledger, s.getMovements)
	web.Add(srv, web.Route{Method: http.MethodDelete, Path: "/v1/pictures/{id}", ID: "deletePicture", Tag: pictures,
		Summary: "Remove a picture",
		Roles:   operators, Status: 204, Limit: limit.Write, Errors: []int{401, 403, 404}}, s.deletePicture)
	s.rawRoutes(srv)
}

type moneyRequest struct {
	Amount   int64  `json:"amount" minimum:"0" maximum:"1000000000000" doc:"In the currency's minor unit (cent, fen)"`
	Currency string `json:"currency" pattern:"^[A-Z]{3}$" doc:"ISO 4217" example:"CNY"`
}

func (m moneyRequest) money() levee.Money { return levee.Money{Minor: m.Amount, Currency: m.Currency} }

type skuRequest struct {
	Code   string       `json:"code" minLength:"1" maxLength:"64" doc:"Your own name of it, unique over all products"`
	Name   string       `json:"name,omitempty" maxLength:"150" doc:"Of the variant; may be empty when the product has only one"`
	Price  moneyRequest `json:"price"`
	OnHand int64        `json:"on_hand,omitempty" minimum:"0" maximum:"1000000000" doc:"The first stock, in units"`
}

func (r skuRequest) sku() NewSKU {
	return NewSKU{Code: r.Code, Name: r.Name, Price: r.Price.money(), OnHand: r.OnHand}
}

type productRequest struct {
	Code        string       `json:"code,omitempty" maxLength:"64" doc:"Your own name of it, unique; without one it is the id"`
	Title       string       `json:"title" minLength:"1" maxLength:"150"`
	Description string       `json:"description,omitempty" maxLength:"20000" doc:"Plain text, at most 20,000 bytes"`
	State       State        `json:"state,omitempty" enum:"draft,on_sale" default:"draft"`
	SKUs        []skuRequest `json:"skus,omitempty" maxItems:"200"`
}

type productPatch struct {
	Version     int64   `json:"version,omitempty" minimum:"1" doc:"The version that you saw; or say it in If-Match"`
	Code        *string `json:"code,omitempty" minLength:"1" maxLength:"64"`
	Title       *string `json:"title,omitempty" minLength:"1" maxLength:"150"`
	Description *string `json:"description,omitempty" maxLength:"20000"`
	State       *State  `json:"state,omitempty" enum:"draft,on_sale,withdrawn" doc:"What was on sale never becomes a draft again"`
}

type skuPatch struct {
	Version int64         `json:"version,omitempty" minimum:"1" doc:"The version that you saw; or say it in If-Match"`
	Code    *string       `json:"code,omitempty" minLength:"1" maxLength:"64"`
	Name    *string       `json:"name,omitempty" maxLength:"150"`
	Price   *moneyRequest `json:"price,omitempty"`
}

type movementRequest struct {
	Delta int64  `json:"delta" minimum:"-1000000000" maximum:"1000000000" doc:"Units to add, or below zero to remove; not 0"`
	Note  string `json:"note,omitempty" maxLength:"150" doc:"Why; kept in the ledger"`
}

type skuView struct {
	ID      string    `json:"id"`
	Product string    `json:"product"`
	Code    string    `json:"code"`
	Name    string    `json:"name"`
	Price   web.Money `json:"price"`
	OnHand  int64     `json:"on_hand" doc:"Units; a purchase decides on the number of its own moment"`
	Version int64     `json:"version" doc:"Give it when you change the SKU"`
	Links   selfView  `json:"links"`
}

type pictureView struct {
	ID        string   `json:"id"`
	Alt       string   `json:"alt" doc:"What it shows, for those who cannot see it"`
	MediaType string   `json:"media_type" enum:"image/png,image/jpeg,image/webp"`
	Width     int      `json:"width" doc:"Pixels"`
	Height    int      `json:"height" doc:"Pixels"`
	Size      int64    `json:"size" doc:"Bytes"`
	Links     selfView `json:"links"`
}

type selfView struct {
	Self string `json:"self"`
}

type productView struct {
	ID          string        `json:"id"`
	Code        string        `json:"code"`
	Title       string        `json:"title"`
	Description string        `json:"description,omitempty" doc:"Plain text: escape it before you show it. Not in lists"`
	State       State         `json:"state" enum:"draft,on_sale,withdrawn"`
	Version     int64         `json:"version" doc:"Give it when you change the product"`
	CreatedAt   time.Time     `json:"created_at"`
	UpdatedAt   time.Time     `json:"updated_at"`
	SKUs        []skuView     `json:"skus"`
	Pictures    []pictureView `json:"pictures"`
	Links       selfView      `json:"links"`
}

type movementView struct {
	Delta  int64     `json:"delta" doc:"Units; below zero they left the shelf"`
	Reason string    `json:"reason" doc:"create, adjust, import, order, cancel, …"`
	Ref    string    `json:"ref,omitempty" doc:"What it was done for"`
	By     string    `json:"by,omitempty" doc:"The account that did it"`
	At     time.Time `json:"at"`
}

type idInput struct {
	ID string `path:"id" maxLength:"64"`
}

type productOutput struct {
	Location string `header:"Location"`
	ETag     string `header:"ETag"`
	Body     productView
}

type skuOutput struct {
	Location string `header:"Location"`
	ETag     string `header:"ETag"`
	Body     skuView
}

func (s *Service) getProducts(ctx context.Context, _ *struct{}, q *listing.Query) (*listing.Page[productView], error) {
	found, err := s.List(ctx, q)
	if err != nil {
		return nil, err
	}
	return listing.Show(q, found, func(p Product) productView {
		p.Description = ""
		return s.productView(p)
	}), nil
}

func (s *Service) postProduct(ctx context.Context, in *struct{ Body productRequest }) (*productOutput, error) {
	n := NewProduct{Code: in.Body.Code, Title: in.Body.Title, Description: in.Body.Description, State: in.Body.State}
	for _, k := range in.Body.SKUs {
		n.SKUs = append(n.SKUs, k.sku())
	}
	v, err := web.Once(ctx, s.DB, "createProduct", web.KeyFrom(ctx), in.Body, func(ctx context.Context, tx *db.Tx) (*productView, error) {
		p, err := s.CreateTx(ctx, tx, n)
		if err != nil {
			return nil, err
		}
		v := s.productView(p)
		return &v, nil
	})
	if err != nil {
		return nil, err
	}
	return shownProduct(*v), nil
}

func (s *Service) getProduct(ctx context.Context, in *struct {
	ID string `path:"id" maxLength:"64"`
	web.Conditional
}) (*struct {
	ETag         string `header:"ETag"`
	CacheControl string `header:"Cache-Control"`
	Body         productView
}, error) {
	id, err := s.openProduct(in.ID)
	if err != nil {
		return nil, err
	}
	p, err := s.Shown(ctx, id)
	if err != nil {
		return nil, err
	}
	v := s.productView(p)
	tag := productTag(v)
	if err := in.NotModified(tag); err != nil {
		return nil, err
	}
	return &struct {
		ETag         string `header:"ETag"`
		CacheControl string `header:"Cache-Control"`
		Body         productView
	}{tag, "private, no-cache", v}, nil
}

// A tag begins with the version, by which changes go, and tells the stock and the pictures apart behind it.
func productTag(v productView) string { return web.Tag(v.Version, v) }
func skuTag(v skuView) string         { return web.Tag(v.Version, v) }

func shownProduct(v productView) *productOutput {
	return &productOutput{Location: v.Links.Self, ETag: productTag(v), Body: v}
}

func shownSKU(v skuView) *skuOutput {
	return &skuOutput{Location: v.Links.Self, ETag: skuTag(v), Body: v}
}

func (s *Service) currentProduct(ctx context.Context, public string) (doc any, tag string, err error) {
	id, err := s.openProduct(public)
	if err != nil {
		return nil, "", err
	}
	p, err := s.Shown(ctx, id)
	if err != nil {
		return nil, "", err
	}
	return productPatch{Code: &p.Code, Title: &p.Title, Description: &p.Description, State: &p.State}, productTag(s.productView(p)), nil
}

func (s *Service) currentSKU(ctx context.Context, public string) (doc any, tag string, err error) {
	id, err := s.openSKU(public)
	if err != nil {
		return nil, "", err
	}
	k, err := s.ShownSKU(ctx, id)
	if err != nil {
		return nil, "", err
	}
	return skuPatch{Code: &k.Code, Name: &k.Name, Price: &moneyRequest{k.Price.Minor, k.Price.Currency}}, skuTag(s.skuView(k)), nil
}

func (s *Service) patchProduct(ctx context.Context, in *struct {
	ID string `path:"id" maxLength:"64"`
	web.Precondition
	Body productPatch
}) (*productOutput, error) {
	id, err := s.openProduct(in.ID)
	if err != nil {
		return nil, err
	}
	b := in.Body
	p, err := s.Update(ctx, id, ProductChange{Version: b.Version, Seen: in.Seen(b.Version != 0), Code: b.Code, Title: b.Title, Description: b.Description, State: b.State})
	if err != nil {
		return nil, err
	}
	return shownProduct(s.productView(p)), nil
}

func (s *Service) postSKU(ctx context.Context, in *struct {
	ID   string `path:"id" maxLength:"64"`
	Body skuRequest
}) (*skuOutput, error) {
	id, err := s.openProduct(in.ID)
	if err != nil {
		return nil, err
	}
	request := struct {
		Product levee.ProductID
		Body    skuRequest
	}{id, in.Body}
	v, err := web.Once(ctx, s.DB, "createSKU", web.KeyFrom(ctx), request, func(ctx context.Context, tx *db.Tx) (*skuView, error) {
		k, err := s.AddSKUTx(ctx, tx, id, in.Body.sku())
		if err != nil {
			return nil, err
		}
		v := s.skuView(k)
		return &v, nil
	})
	if err != nil {
		return nil, err
	}
	return shownSKU(*v), nil
}

func (s *Service) getSKU(ctx context.Context, in *struct {
	ID string `path:"id" maxLength:"64"`
	web.Conditional
}) (*skuOutput, error) {
	id, err := s.openSKU(in.ID)
	if err != nil {
		return nil, err
	}
	k, err := s.ShownSKU(ctx, id)
	if err != nil {
		return nil, err
	}
	out := shownSKU(s.skuView(k))
	if err := in.NotModified(out.ETag); err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Service) patchSKU(ctx context.Context, in *struct {
	ID string `path:"id" maxLength:"64"`
	web.Precondition
	Body skuPatch
}) (*skuOutput, error) {
	id, err := s.openSKU(in.ID)
	if err != nil {
		return nil, err
	}
	c := SKUChange{Version: in.Body.Version, Seen: in.Seen(in.Body.Version != 0), Code: in.Body.Code, Name: in.Body.Name}
	if in.Body.Price != nil {
		price := in.Body.Price.money()
		c.Price = &price
	}
	k, err := s.UpdateSKU(ctx, id, c)
	if err != nil {
		return nil, err
	}
	return shownSKU(s.skuView(k)), nil
}

type stockView struct {
	SKU    string `json:"sku"`
	OnHand int64  `json:"on_hand" doc:"Units, after it"`
}

func (s *Service) postMovement(ctx context.Context, in *struct {
	ID   string `path:"id" maxLength:"64"`
	Body movementRequest
}) (*struct{ Body stockView }, error) {
	id, err := s.openSKU(in.ID)
	if err != nil {
		return nil, err
	}
	request := struct {
		SKU  levee.SKUID
		Body movementRequest
	}{id, in.Body}
	v, err := web.Once(ctx, s.DB, "adjustStock", web.KeyFrom(ctx), request, func(ctx context.Context, tx *db.Tx) (*stockView, error) {
		left, err := s.adjustTx(ctx, tx, id, in.Body.Delta, in.Body.Note)
		return &stockView{SKU: s.skuName(id), OnHand: left}, err
	})
	if err != nil {
		return nil, err
	}
	return &struct{ Body stockView }{*v}, nil
}

func (s *Service) getMovements(ctx context.Context, in *idInput, q *listing.Query) (*listing.Page[movementView], error) {
	id, err := s.openSKU(in.ID)
	if err != nil {
		return nil, err
	}
	found, err := s.Movements(ctx, id, q)
	if err != nil {
		return nil, err
	}
	return listing.Show(q, found, func(m Movement) movementView {
		v := movementView{Delta: m.Delta, Reason: m.Reason, Ref: m.Ref, At: m.At}
		if m.Actor != 0 {
			v.By = s.Sealer.Seal(levee.KindUser, int64(m.Actor))
		}
		return v
	}), nil
}

func (s *Service) deletePicture(ctx context.Context, in *idInput) (*struct{}, error) {
	id, err := s.openPicture(in.ID)
	if err != nil {
		return nil, err
	}
	return nil, s.RemovePicture(ctx, id)
}

func (s *Service) openProduct(public string) (levee.ProductID, error) {
	id, err := s.Sealer.Open(levee.KindProduct, public)
	if err != nil {
		return 0, levee.E(levee.CodeNotFound, "there is no such product")
	}
	return levee.ProductID(id), nil
}

func (s *Service) openSKU(public string) (levee.SKUID, error) {
	id, err := s.Sealer.Open(levee.KindSKU, public)
	if err != nil {
		return 0, errNoSKU()
	}
	return levee.SKUID(id), nil
}

func (s *Service) openPicture(public string) (levee.PictureID, error) {
	id, err := s.Sealer.Open(levee.KindPicture, public)
	if err != nil {
		return 0, errNoPicture()
	}
	return levee.PictureID(id), nil
}

func (s *Service) productView(p Product) productView {
	id := s.productName(p.ID)
	v := productView{ID: id, Code: p.Code, Title: p.Title, Description: p.Description, State: p.State, Version: p.Version,
		CreatedAt: p.CreatedAt.UTC(), UpdatedAt: p.UpdatedAt.UTC(), Links: selfView{"/v1/products/" + id},
		SKUs: make([]skuView, len(p.SKUs)), Pictures: make([]pictureView, len(p.Pictures))}
	for i, k := range p.SKUs {
		v.SKUs[i] = s.skuView(k)
	}
	for i, c := range p.Pictures {
		v.Pictures[i] = s.pictureView(c)
	}
	return v
}

func (s *Service) skuView(k SKU) skuView {
	id := s.skuName(k.ID)
	return skuView{ID: id, Product: s.productName(k.Product), Code: k.Code, Name: k.Name, Price: web.MoneyOf(k.Price),
		OnHand: k.OnHand, Version: k.Version, Links: selfView{"/v1/skus/" + id}}
}

func (s *Service) pictureView(c Picture) pictureView {
	id := s.Sealer.Seal(levee.KindPicture, int64(c.ID))
	return pictureView{ID: id, Alt: c.Alt, MediaType: c.MediaType, Width: c.Width, Height: c.Height, Size: c.Size,
		Links: selfView{"/v1/pictures/" + id}}
}
