package app

import (
	"context"

	"levee/internal/catalog"
	"levee/internal/line"
	"levee/internal/order"
	"levee/internal/payment"
	"levee/internal/platform/bridge"
	"levee/internal/platform/node"
	"levee/internal/sale"
)

// openBridge joins the house to the broker that the configuration names. What people's accounts are is not among the events that may leave; no
// room has an event yet that is meant to come in.
func (b *backends) openBridge(cfg *Config) error {
	br, err := bridge.Open(bridge.Deps{DB: b.db, IDs: b.ids, Bus: b.events, Obs: b.obs, Out: []bridge.Type{
		bridge.Of[catalog.ProductsChanged](),
		bridge.Of[order.CreatedBatch](), bridge.Of[order.Paid](), bridge.Of[order.Cancelled](), bridge.Of[order.Shipped](), bridge.Of[order.Completed](), bridge.Of[order.Refunded](),
		bridge.Of[payment.Received](), bridge.Of[payment.Returned](), bridge.Of[payment.ReturnRefused](),
		bridge.Of[line.Offered](), bridge.Of[line.Lost](), bridge.Of[line.Drawn](),
		bridge.Of[sale.StateChanged](),
	}}, cfg.Bridge)
	if err != nil || !br.On() {
		return err
	}
	if err := b.events.Register(br.Listeners()...); err != nil { // on every node: whoever relays writes what is to go out
		return err
	}
	if b.redis != nil {
		connect(b.redis, "bridge", br.Connect)
	}
	if cfg.Role != "web" {
		b.nodes.Keep("bridge", func(ctx context.Context, _ node.Term) error { return br.Run(ctx) })
	}
	b.use("bridge", cfg.Bridge.URL, nil)
	return nil
}
