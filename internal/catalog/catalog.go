// Package catalog owns products, their SKUs, prices and pictures, and the stock on hand with its ledger.
//
// It does not know who bought anything: orders and sales take units through TakeTx and give them back through ReturnTx, in
// transactions of their own.
//
// Stock is a promise with two witnesses. catalog_sku.on_hand is the number that a taking is decided on, in one conditional
// UPDATE; catalog_movement holds a row for each change, so that at every commit the movements of a SKU sum up to its stock.
// Audit compares the two. Changing stock never raises a SKU's version: a busy shop does not disturb an operator's edit.
package catalog

import (
	"context"
	"embed"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/platform/cache"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/listing"
	"levee/internal/platform/obs"
)

// State is where a product stands in its life.
type State string

// The states. A draft is seen by operators only; a product on sale by everybody; a withdrawn one answers CodeGone to
// visitors, and its pictures stay, because orders point to it. A product that was on sale never becomes a draft again.
const (
	Draft     State = "draft"
	OnSale    State = "on_sale"
	Withdrawn State = "withdrawn"
)

const stateNames = "draft, on_sale or withdrawn"

func (s State) valid() bool { return s == Draft || s == OnSale || s == Withdrawn }

// The bounds of what may be kept.
const (
	MaxCode        = 64                // bytes of a code
	MaxTitle       = 150               // characters; its search key has to fit into an index of 190
	MaxName        = 150               // characters of a SKU's name and of a picture's alternative text
	MaxDescription = 20_000            // bytes
	MaxPrice       = 1_000_000_000_000 // minor units; a line of an order checks its own product
	MaxQuantity    = 100_000_000       // units in one taking: a sale takes all of its units at once
	MaxOnHand      = 1_000_000_000     // units of one SKU
	MaxSKUs        = 200               // SKUs of one product
	MaxPictures    = 10                // pictures of one product
	MaxPicture     = 512 << 10         // bytes of one picture
	MaxPictureSide = 8192              // pixels: a browser has to unpack it
	MaxReason      = 40                // bytes of a movement's reason
	MaxRef         = 190               // bytes of a movement's reference
)

// Product is what a shop's page shows: one thing, sold as one or several SKUs.
type Product struct {
	ID          levee.ProductID
	Code        string // the shop's own name for it, unique; import and export know it by this
	Title       string
	Description string // plain text
	State       State
	Version     int64 // of title, description and state, rising from 1
	CreatedAt   time.Time
	UpdatedAt   time.Time
	SKUs        []SKU     // oldest first
	Pictures    []Picture // oldest first
}

// SKU is what can be bought: a variant of a product with its price and stock.
type SKU struct {
	ID      levee.SKUID
	Product levee.ProductID
	Title   string // the product's
	State   State  // the product's
	Code    string // unique over all products; import and export know it by this
	Name    string // of the variant ("red, 42"); empty when a product has only one
	Price   levee.Money
	OnHand  int64 // units; as of the last commit that this node has seen
	Version int64 // of code, name and price, rising from 1; stock does not change it
}

// Picture is one picture of a product, without its bytes. The bytes of an id never change.
type Picture struct {
	ID        levee.PictureID
	Product   levee.ProductID
	Alt       string // what it shows, for those who cannot see it
	MediaType string // image/png, image/jpeg or image/webp, found from the bytes
	Width     int    // pixels
	Height    int    // pixels
	Size      int64  // bytes
	SHA256    string // of the bytes, hexadecimal
	CreatedAt time.Time
}

// Movement is one change of a SKU's stock. Movements are never changed nor deleted.
type Movement struct {
	ID     int64
	SKU    levee.SKUID
	Delta  int64  // units; below zero they left the shelf
	Reason string // order, cancel, adjust, import …
	Ref    string // what it was done for: an order, a sale, an operator's note
	Actor  levee.UserID
	At     time.Time
}

// Config has the room's limits. The zero value is usable.
type Config struct {
	// Entries is how many products, and as many SKUs and stock counts, are kept in memory. Default 20,000 (about 40 MiB of
	// ordinary products). Too few and every page asks the database.
	Entries int
	// TTL is how long a product may be kept. Default 5 minutes. Every change on this node drops its entries at once, and those of other
	// nodes within milliseconds where they share a Redis; so this bounds only what another node without one sees late.
	TTL time.Duration
	// PictureEntries is how many pictures are kept in memory, of at most 512 KiB each. Default 64 (32 MiB at the most).
	PictureEntries int
	// ImportBytes is the size of the largest import. Default 20 MiB. An import is held in memory while it is checked: about
	// three times its size.
	ImportBytes int64
	// ImportRows is the most lines of an import. Default 100,000. In the default mode they are written in one transaction,
	// which holds up every other writer: about half a second for 100,000.
	ImportRows int
}

func (c Config) normal() Config {
	if c.Entries <= 0 {
		c.Entries = 20_000
	}
	if c.TTL <= 0 {
		c.TTL = 5 * time.Minute
	}
	if c.PictureEntries <= 0 {
		c.PictureEntries = 64
	}
	if c.ImportBytes <= 0 {
		c.ImportBytes = 20 << 20
	}
	if c.ImportRows <= 0 {
		c.ImportRows = 100_000
	}
	return c
}

// Audit writes who did what to which thing into the audit trail, in the transaction of the change. Before is nil for
// something new, after for something removed.
type Audit func(ctx context.Context, tx *db.Tx, act, subject string, before, after any) error

// Deps is what the room stands on.
type Deps struct {
	DB     *db.DB
	IDs    *id.Generator
	Sealer *id.Sealer
	Obs    *obs.Obs
	Events *event.Bus
	Audit  Audit     // nil: no trail is kept
	Bus    cache.Bus // tells other nodes what changed here; nil: they see it after Config.TTL
	Config Config
}

// Service is the catalog. It is safe for use by many goroutines.
type Service struct {
	Deps
	products *cache.Cache[levee.ProductID, Product] // without stock
	skus     *cache.Cache[levee.SKUID, SKU]         // without stock
	stock    *cache.Cache[levee.SKUID, int64]
	lists    *cache.Cache[string, *listing.Found[levee.ProductID]] // what visitors see
	pictures *cache.Cache[levee.PictureID, pictureBytes]
	list     *listing.List[productView]
	ledger   *listing.List[movementView]
	// importing is set while an import runs: one at a time bounds the memory that imports need.
	importing atomic.Bool
	drifts    prometheus.Gauge
}

// New builds the catalog. It registers metrics with d.Obs, so one Obs carries one catalog.
func New(d Deps) *Service {
	d.Config = d.Config.normal()
	c := func(name string, entries int, ttl time.Duration) cache.Config {
		return cache.Config{Name: name, Entries: entries, TTL: ttl, NegativeTTL: min(ttl, 30*time.Second), Bus: d.Bus}
	}
	return &Service{
		Deps:     d,
		drifts:   newDriftGauge(d.Obs.Metrics),
		products: cache.New[levee.ProductID, Product](c("catalog_product", d.Config.Entries, d.Config.TTL), d.Obs),
		skus:     cache.New[levee.SKUID, SKU](c("catalog_sku", d.Config.Entries, d.Config.TTL), d.Obs),
		// Other nodes' takings show after a second; this node's at once.
		stock: cache.New[levee.SKUID, int64](cache.Config{Name: "catalog_stock", Entries: d.Config.Entries, TTL: time.Second}, d.Obs),
		// A list is an order of ids; what it shows of each product is as fresh as the product.
		lists:    cache.New[string, *listing.Found[levee.ProductID]](c("catalog_list", 1000, 5*time.Second), d.Obs),
		pictures: cache.New[levee.PictureID, pictureBytes](c("catalog_picture", d.Config.PictureEntries, d.Config.TTL), d.Obs),
		list:     productList(d.Sealer),
		ledger:   movementList(d.Sealer),
	}
}

//go:embed schema/*.sql
var schemaFS embed.FS

// Schema returns the room's tables.
func Schema() db.Schema { return db.Schema{Owner: "catalog", FS: schemaFS} }

// now is the time as it is kept, so that what a change returns is what a later read returns.
func (s *Service) now() time.Time { return s.Obs.Clock().UTC().Truncate(time.Microsecond) }

func (s *Service) audit(ctx context.Context, tx *db.Tx, act, subject string, before, after any) error {
	if s.Audit == nil {
		return nil
	}
	return s.Audit(ctx, tx, act, subject, before, after)
}

func (s *Service) productName(id levee.ProductID) string {
	return s.Sealer.Seal(levee.KindProduct, int64(id))
}
func (s *Service) skuName(id levee.SKUID) string { return s.Sealer.Seal(levee.KindSKU, int64(id)) }

// forget drops what is remembered of a product and its SKUs, after the commit that changed them.
func (s *Service) forget(tx *db.Tx, product levee.ProductID, skus ...levee.SKUID) {
	tx.AfterCommit(func() {
		s.products.Invalidate(product)
		s.skus.Invalidate(skus...)
		s.lists.InvalidateAll()
	})
}

func skuIDs(skus []SKU) []levee.SKUID {
	ids := make([]levee.SKUID, len(skus))
	for i, k := range skus {
		ids[i] = k.ID
	}
	return ids
}
