package bridge_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"levee/internal/platform/bridge"
	"levee/internal/platform/db"
	"levee/internal/platform/event"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
)

// paid goes out, counted comes in.
type paid struct{ Order int64 }

func (paid) EventName() string { return "order.paid.v1" }
func (p paid) EventKey() int64 { return p.Order }

type counted struct{ SKU, Units int64 }

func (counted) EventName() string { return "stock.counted.v1" }
func (c counted) EventKey() int64 { return c.SKU }

// A site's NATS has one stream for what the shop says and one for what the warehouse says.
func site(dir string) (*server.Server, jetstream.JetStream) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true})
	check(err)
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		panic("the server is not ready")
	}
	c, err := nats.Connect(s.ClientURL())
	check(err)
	js, err := jetstream.New(c)
	check(err)
	for name, subject := range map[string]string{"SHOP": "shop.>", "WAREHOUSE": "warehouse.>"} {
		_, err = js.CreateStream(context.Background(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}})
		check(err)
	}
	return s, js
}

func Example() {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	dir, err := os.MkdirTemp("", "bridge")
	check(err)
	defer os.RemoveAll(dir)
	nats, js := site(filepath.Join(dir, "nats"))
	defer nats.Shutdown()

	// The house: a database, ids, a bus.
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	check(err)
	d, err := db.Open(ctx, db.Config{URL: "sqlite:" + filepath.Join(dir, "levee.db")}, o)
	check(err)
	defer d.Close()
	_, err = d.Migrate(ctx, []db.Schema{event.Schema(), bridge.Schema()})
	check(err)
	ids, err := id.Open(ctx, id.Config{Dir: filepath.Join(dir, "id")}, o)
	check(err)
	defer ids.Close()
	bus := event.Open(d, ids, o)

	b, err := bridge.Open(bridge.Deps{DB: d, IDs: ids, Bus: bus, Obs: o,
		Out: []bridge.Type{bridge.Of[paid]()},
		In:  []bridge.Type{bridge.Of[counted]()},
	}, bridge.Config{URL: "nats://" + nats.Addr().String(), Source: "shop.example/levee",
		Out: []string{"order.*=shop.{event}"},
		In:  []string{"warehouse.stock=stock.counted.v1"}})
	check(err)
	heard := make(chan counted, 1)
	check(bus.Register(append(b.Listeners(), event.Listen("example.stock", func(_ context.Context, tx *db.Tx, c counted) error {
		tx.AfterCommit(func() { heard <- c })
		return nil
	}))...))
	var wg sync.WaitGroup
	run, end := context.WithCancel(ctx)
	wg.Go(func() { _ = bus.Run(run) })
	wg.Go(func() { _ = b.Run(run) })

	// Out: an event of the house, as another program reads it.
	check(d.Tx(ctx, "pay", func(ctx context.Context, tx *db.Tx) error { return bus.Emit(ctx, tx, paid{Order: 4711}) }))
	reader, err := js.OrderedConsumer(ctx, "SHOP", jetstream.OrderedConsumerConfig{})
	check(err)
	m, err := reader.Next()
	check(err)
	var e struct {
		Source, Type, Subject string
		Data                  json.RawMessage
	}
	check(json.Unmarshal(m.Data(), &e))
	fmt.Println(m.Subject(), e.Source, e.Type, e.Subject, string(e.Data))

	// In: another program says something, and a room hears it.
	_, err = js.Publish(ctx, "warehouse.stock", []byte(`{"SKU":7,"Units":100}`))
	check(err)
	fmt.Println(<-heard)
	end()
	wg.Wait()
	// Output:
	// shop.order.paid.v1 shop.example/levee order.paid.v1 4711 {"Order":4711}
	// {7 100}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
