package catalog

import "levee"

// ProductsChanged says that something which a page shows of these products, other than stock, is new or different. It holds
// no values: who needs them reads them, so that a late delivery cannot bring an old title back. One event names at most
// eventProducts products.
type ProductsChanged struct {
	Products []levee.ProductID `json:"products"`
}

// eventProducts bounds one event, so that a large import makes many small rows in the outbox rather than a huge one.
const eventProducts = 500

// EventName is the event's name and version.
func (ProductsChanged) EventName() string { return "catalog.products_changed.v1" }

// EventKey keeps the order of changes of one product.
func (e ProductsChanged) EventKey() int64 {
	if len(e.Products) == 0 {
		return 0
	}
	return int64(e.Products[0])
}
