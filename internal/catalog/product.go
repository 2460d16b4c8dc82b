package catalog

import (
	"context"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/listing"
)

// NewProduct is a product to be made.
type NewProduct struct {
	Code        string // unique, 1 to MaxCode bytes; empty: the public id
	Title       string // 1 to MaxTitle characters
	Description string // up to MaxDescription bytes
	State       State  // Draft or OnSale; empty: Draft. On sale needs a SKU
	SKUs        []NewSKU
}

// NewSKU is a SKU to be made.
type NewSKU struct {
	Code   string // unique, 1 to MaxCode bytes
	Name   string // up to MaxName characters
	Price  levee.Money
	OnHand int64 // the first stock, 0 to MaxOnHand; becomes the ledger's first movement
}

// ProductChange is what an operator wants different. Nil leaves a field as it is.
type ProductChange struct {
	Version     int64                   // the version that the operator saw; 0: Seen judges
	Seen        func(version any) error // judges the version that stands, in the transaction; nil: any
	Code        *string
	Title       *string
	Description *string
	State       *State
}

// SKUChange is what an operator wants different. Nil leaves a field as it is. Stock is changed by Adjust.
type SKUChange struct {
	Version int64                   // the version that the operator saw; 0: Seen judges
	Seen    func(version any) error // judges the version that stands, in the transaction; nil: any
	Code    *string
	Name    *string
	Price   *levee.Money
}

// Create makes a product with its SKUs and pictures to come. For operators. CodeInvalid names the field; CodeConflict: a code
// is taken.
func (s *Service) Create(ctx context.Context, in NewProduct) (p Product, err error) {
	err = s.DB.Tx(ctx, "catalog.create", func(ctx context.Context, tx *db.Tx) (err error) {
		p, err = s.CreateTx(ctx, tx, in)
		return err
	})
	return p, err
}

// CreateTx is Create in the caller's transaction.
func (s *Service) CreateTx(ctx context.Context, tx *db.Tx, in NewProduct) (p Product, err error) {
	defer levee.Wrap(&err, "catalog.CreateTx(%s)", shown(in.Code))
	id, err := s.IDs.Next()
	if err != nil {
		return p, err
	}
	now := s.now()
	p = Product{ID: levee.ProductID(id), Code: in.Code, Title: in.Title, Description: in.Description, State: in.State,
		Version: 1, CreatedAt: now, UpdatedAt: now}
	if p.Code == "" {
		p.Code = s.productName(p.ID)
	}
	if p.State == "" {
		p.State = Draft
	}
	if p.State == Withdrawn {
		return p, levee.Invalid("state", "draft or on_sale for a new product", p.State)
	}
	if err := p.check(); err != nil {
		return p, err
	}
	if err := mayBecome(Draft, p.State, len(in.SKUs)); err != nil {
		return p, err
	}
	if len(in.SKUs) > MaxSKUs {
		return p, levee.Invalid("skus", "at most "+decimal(MaxSKUs)+" SKUs", len(in.SKUs))
	}
	if err := s.freeProductCode(ctx, tx, p.Code, 0); err != nil {
		return p, err
	}
	if err := insertProduct(ctx, tx, p); err != nil {
		return p, taken(err)
	}
	for _, n := range in.SKUs {
		k, err := s.addSKU(ctx, tx, p, n)
		if err != nil {
			return p, err
		}
		p.SKUs = append(p.SKUs, k)
	}
	if err := s.audit(ctx, tx, "product.create", s.productName(p.ID), nil, p); err != nil {
		return p, err
	}
	return p, s.changedTx(ctx, tx, p.ID, skuIDs(p.SKUs)...)
}

// Update changes a product. For operators. CodeConflict: somebody changed it since (Data has the version to look at), a code is
// taken, or its state does not allow it.
func (s *Service) Update(ctx context.Context, id levee.ProductID, c ProductChange) (p Product, err error) {
	err = s.DB.Tx(ctx, "catalog.update", func(ctx context.Context, tx *db.Tx) (err error) {
		p, err = s.UpdateTx(ctx, tx, id, c)
		return err
	})
	return p, err
}

// UpdateTx is Update in the caller's transaction.
func (s *Service) UpdateTx(ctx context.Context, tx *db.Tx, id levee.ProductID, c ProductChange) (p Product, err error) {
	defer levee.Wrap(&err, "catalog.UpdateTx(%d)", id)
	p, err = productByID(ctx, tx.Query, id)
	if err != nil {
		return p, err
	}
	if err := c.seen(p.Version); err != nil {
		return p, err
	}
	before := p
	set(&p.Code, c.Code)
	set(&p.Title, c.Title)
	set(&p.Description, c.Description)
	set(&p.State, c.State)
	if err := p.check(); err != nil {
		return p, err
	}
	if p.Code == before.Code && p.Title == before.Title && p.Description == before.Description && p.State == before.State {
		return p, nil
	}
	if err := mayBecome(before.State, p.State, len(p.SKUs)); err != nil {
		return p, err
	}
	if err := s.freeProductCode(ctx, tx, p.Code, id); err != nil {
		return p, err
	}
	p.Version++
	p.UpdatedAt = s.now()
	ok, err := updateProduct(ctx, tx, p)
	if err != nil {
		return p, taken(err)
	}
	if !ok {
		return p, stale("the product", p.Version, c.Version)
	}
	for i := range p.SKUs {
		p.SKUs[i].Title, p.SKUs[i].State = p.Title, p.State
	}
	if err := s.audit(ctx, tx, "product.update", s.productName(id), before, p); err != nil {
		return p, err
	}
	return p, s.changedTx(ctx, tx, id, skuIDs(p.SKUs)...)
}

// AddSKU adds a SKU to a product. For operators. CodeConflict: the code is taken, or the product is full.
func (s *Service) AddSKU(ctx context.Context, product levee.ProductID, in NewSKU) (k SKU, err error) {
	err = s.DB.Tx(ctx, "catalog.add_sku", func(ctx context.Context, tx *db.Tx) (err error) {
		k, err = s.AddSKUTx(ctx, tx, product, in)
		return err
	})
	return k, err
}

// AddSKUTx is AddSKU in the caller's transaction.
func (s *Service) AddSKUTx(ctx context.Context, tx *db.Tx, product levee.ProductID, in NewSKU) (k SKU, err error) {
	defer levee.Wrap(&err, "catalog.AddSKUTx(%d, %s)", product, shown(in.Code))
	p, err := productByID(ctx, tx.Query, product)
	if err != nil {
		return k, err
	}
	if len(p.SKUs) >= MaxSKUs {
		return k, levee.E(levee.CodeConflict, "the product has %d SKUs, the most that it may have", len(p.SKUs))
	}
	k, err = s.addSKU(ctx, tx, p, in)
	if err != nil {
		return k, err
	}
	if err := s.audit(ctx, tx, "sku.create", s.skuName(k.ID), nil, k); err != nil {
		return k, err
	}
	return k, s.changedTx(ctx, tx, product, k.ID)
}

func (s *Service) addSKU(ctx context.Context, tx *db.Tx, p Product, in NewSKU) (SKU, error) {
	id, err := s.IDs.Next()
	if err != nil {
		return SKU{}, err
	}
	k := SKU{ID: levee.SKUID(id), Product: p.ID, Title: p.Title, State: p.State,
		Code: in.Code, Name: in.Name, Price: in.Price, OnHand: in.OnHand, Version: 1}
	if err := k.check(); err != nil {
		return k, err
	}
	if err := refuse("on_hand", checkOnHand(k.OnHand), decimal(k.OnHand)); err != nil {
		return k, err
	}
	if err := s.freeSKUCode(ctx, tx, k.Code, 0); err != nil {
		return k, err
	}
	if err := insertSKU(ctx, tx, k, s.now()); err != nil {
		return k, taken(err)
	}
	if k.OnHand != 0 {
		err = s.record(ctx, tx, k.ID, k.OnHand, ReasonCreate, "")
	}
	return k, err
}

// UpdateSKU changes a SKU's code, name or price. For operators. CodeConflict: somebody changed it since (Data has the version to
// look at), or the code is taken.
func (s *Service) UpdateSKU(ctx context.Context, id levee.SKUID, c SKUChange) (k SKU, err error) {
	err = s.DB.Tx(ctx, "catalog.update_sku", func(ctx context.Context, tx *db.Tx) (err error) {
		k, err = s.UpdateSKUTx(ctx, tx, id, c)
		return err
	})
	return k, err
}

// UpdateSKUTx is UpdateSKU in the caller's transaction.
func (s *Service) UpdateSKUTx(ctx context.Context, tx *db.Tx, id levee.SKUID, c SKUChange) (k SKU, err error) {
	defer levee.Wrap(&err, "catalog.UpdateSKUTx(%d)", id)
	k, err = s.SKUTx(ctx, tx, id)
	if err != nil {
		return k, err
	}
	if err := c.seen(k.Version); err != nil {
		return k, err
	}
	before := k
	set(&k.Code, c.Code)
	set(&k.Name, c.Name)
	set(&k.Price, c.Price)
	if err := k.check(); err != nil {
		return k, err
	}
	if k == before {
		return k, nil
	}
	if err := s.freeSKUCode(ctx, tx, k.Code, id); err != nil {
		return k, err
	}
	k.Version++
	ok, err := updateSKU(ctx, tx, k, s.now())
	if err != nil {
		return k, taken(err)
	}
	if !ok {
		return k, stale("the SKU", k.Version, c.Version)
	}
	if err := s.audit(ctx, tx, "sku.update", s.skuName(id), before, k); err != nil {
		return k, err
	}
	return k, s.changedTx(ctx, tx, k.Product, id)
}

// ByID returns a product in any state, with its stock. CodeNotFound when there is none. For other rooms; what a visitor may see
// is Shown's business.
func (s *Service) ByID(ctx context.Context, id levee.ProductID) (p Product, err error) {
	p, err = s.products.Get(ctx, id, func(ctx context.Context, id levee.ProductID) (Product, error) {
		return productByID(db.Primary(ctx), s.DB.Query, id)
	})
	if err != nil {
		return p, err
	}
	// The kept product is shared by all its readers, and its stock is as old as the product: both are made good on a copy.
	skus := make([]SKU, len(p.SKUs))
	for i, k := range p.SKUs {
		if k.OnHand, err = s.OnHand(ctx, k.ID); err != nil {
			return p, err
		}
		skus[i] = k
	}
	p.SKUs = skus
	return p, nil
}

// Shown returns a product as the actor of ctx may see it: an operator sees all; a visitor gets CodeNotFound for a draft and CodeGone
// for what was withdrawn.
func (s *Service) Shown(ctx context.Context, id levee.ProductID) (Product, error) {
	p, err := s.ByID(ctx, id)
	if err == nil {
		err = hidden(ctx, p.State, "product")
	}
	if err != nil {
		return Product{}, err
	}
	return p, nil
}

// ShownSKU is Shown for one SKU.
func (s *Service) ShownSKU(ctx context.Context, id levee.SKUID) (SKU, error) {
	k, err := s.SKUByID(ctx, id)
	if err == nil {
		err = hidden(ctx, k.State, "SKU")
	}
	if err != nil {
		return SKU{}, err
	}
	return k, nil
}

// hidden returns the answer that the actor of ctx gets instead of a product in this state, or nil when he may see it.
func hidden(ctx context.Context, state State, what string) error {
	switch {
	case state == OnSale || operates(ctx):
		return nil
	case state == Withdrawn:
		return levee.E(levee.CodeGone, "this %s is not sold any more", what)
	}
	return levee.E(levee.CodeNotFound, "there is no such %s", what)
}

// operates reports whether the actor of ctx sees what is not on sale.
func operates(ctx context.Context) bool {
	return levee.ActorFrom(ctx).May(levee.ProductsUnsold)
}

// Ask reads a question about the list of products, as GET /v1/products takes it after its question mark. CodeInvalid names the parameter.
func (s *Service) Ask(question string) (*listing.Query, error) { return s.list.Ask(question) }

// List returns a page of products: for operators all, for others those on sale. A page may hold fewer than asked for and still have a next one.
func (s *Service) List(ctx context.Context, q *listing.Query) (_ *listing.Found[Product], err error) {
	defer levee.Wrap(&err, "catalog.List")
	var found *listing.Found[levee.ProductID]
	visitor := !operates(ctx)
	if visitor {
		q.Where("state = ?", OnSale)
		found, err = s.lists.Get(db.Primary(ctx), q.CacheKey(), func(ctx context.Context, _ string) (*listing.Found[levee.ProductID], error) {
			return listProducts(ctx, s.DB.Query, q)
		})
	} else {
		found, err = listProducts(ctx, s.DB.Query, q)
	}
	if err != nil {
		return nil, err
	}
	list := make([]Product, 0, len(found.Rows))
	for _, id := range found.Rows {
		p, err := s.ByID(ctx, id)
		if err != nil {
			return nil, err
		}
		// The list may be some seconds older than the product.
		if !visitor || p.State == OnSale {
			list = append(list, p)
		}
	}
	return listing.With(found, list), nil
}

// SKUByID returns a SKU in any state, with its product's title and state and its stock. CodeNotFound when there is none.
func (s *Service) SKUByID(ctx context.Context, id levee.SKUID) (SKU, error) {
	k, err := s.skus.Get(ctx, id, func(ctx context.Context, id levee.SKUID) (SKU, error) {
		return skuByID(db.Primary(ctx), s.DB.Query, id)
	})
	if err != nil {
		return k, err
	}
	k.OnHand, err = s.OnHand(ctx, id)
	return k, err
}

// SKUTx returns a SKU as it is in the caller's transaction, and locks it: what a purchase should take its price and state from.
// Who asks for several SKUs does so in the order of their ids.
func (s *Service) SKUTx(ctx context.Context, tx *db.Tx, id levee.SKUID) (SKU, error) {
	if err := lockSKU(ctx, tx, s.DB.Dialect(), id); err != nil {
		return SKU{}, err
	}
	return skuByID(ctx, tx.Query, id)
}

// changedTx tells everybody who remembers or follows these that they changed, once the transaction is committed.
func (s *Service) changedTx(ctx context.Context, tx *db.Tx, product levee.ProductID, skus ...levee.SKUID) error {
	s.forget(tx, product, skus...)
	return s.Events.Emit(ctx, tx, ProductsChanged{Products: []levee.ProductID{product}})
}

// check brings a product's own fields into the form that is kept, or names the field that cannot be.
func (p *Product) check() error {
	var allowed string
	given := *p
	if p.Code, allowed = checkCode(p.Code); allowed != "" {
		return refuse("code", allowed, given.Code)
	}
	if p.Title, allowed = checkLine(p.Title, 1, MaxTitle); allowed != "" {
		return refuse("title", allowed, given.Title)
	}
	if p.Description, allowed = checkDescription(p.Description); allowed != "" {
		return refuse("description", allowed, given.Description)
	}
	if !p.State.valid() {
		return refuse("state", stateNames, string(p.State))
	}
	return nil
}

// check brings a SKU's own fields into the form that is kept, or names the field that cannot be.
func (k *SKU) check() error {
	var allowed string
	given := *k
	if k.Code, allowed = checkCode(k.Code); allowed != "" {
		return refuse("code", allowed, given.Code)
	}
	if k.Name, allowed = checkLine(k.Name, 0, MaxName); allowed != "" {
		return refuse("name", allowed, given.Name)
	}
	if err := refuse("price.amount", checkPrice(k.Price.Minor), decimal(k.Price.Minor)); err != nil {
		return err
	}
	return refuse("price.currency", checkCurrency(k.Price.Currency), k.Price.Currency)
}

// mayBecome holds the order of states: what was once public stays known, and what is on sale can be bought.
func mayBecome(from, to State, skus int) error {
	if to == Draft && from != Draft {
		return levee.E(levee.CodeConflict, "a product that is %s cannot become a draft again: withdraw it", from)
	}
	if to == OnSale && skus == 0 {
		return levee.E(levee.CodeConflict, "a product without a SKU cannot be on sale")
	}
	return nil
}

func (s *Service) freeProductCode(ctx context.Context, tx *db.Tx, code string, except levee.ProductID) error {
	id, err := productIDByCode(ctx, tx.Query, code)
	if err == nil && id != 0 && id != except {
		err = levee.E(levee.CodeConflict, "the product code %q is taken", shown(code)).With("product", s.productName(id))
	}
	return err
}

func (s *Service) freeSKUCode(ctx context.Context, tx *db.Tx, code string, except levee.SKUID) error {
	id, product, err := skuIDByCode(ctx, tx.Query, code)
	if err == nil && id != 0 && id != except {
		err = levee.E(levee.CodeConflict, "the SKU code %q is taken", shown(code)).
			With("sku", s.skuName(id)).With("product", s.productName(product))
	}
	return err
}

// taken names what a unique index refused when another node was faster than our look-up.
func taken(err error) error {
	if db.IsUnique(err) {
		return levee.E(levee.CodeConflict, "the code was taken a moment ago").Because(err)
	}
	return err
}

func (c ProductChange) seen(version int64) error {
	return seen("the product", version, c.Version, c.Seen)
}

func (c SKUChange) seen(version int64) error { return seen("the SKU", version, c.Version, c.Seen) }

// seen refuses a change by somebody who has not seen the version that stands.
func seen(what string, is, given int64, judge func(version any) error) error {
	if is != given && (given != 0 || judge == nil) {
		return stale(what, is, given)
	}
	if judge == nil {
		return nil
	}
	return judge(is)
}

func stale(what string, is, given int64) error {
	return levee.E(levee.CodeConflict, "%s was changed meanwhile: it is at version %d, you saw %d", what, is, given).With("version", is)
}

func set[T any](dst *T, v *T) {
	if v != nil {
		*dst = *v
	}
}
