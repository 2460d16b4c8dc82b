package main

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/internal/platform/backends"
)

// MariaDB's primary dies in the middle of a sale and a replica takes its place, while the nodes run on and the address stays the same. With
// semi-synchronous replication nobody loses an order; with a replica that was behind, which is the control, what it lacked is gone. In either
// case the sale goes on to its last unit and none is sold twice: Redis, which is ahead of the new primary then, is set right from the ledger.
func TestDatabaseFailsOver(t *testing.T) {
	if testing.Short() {
		t.Skip("starts MariaDB with a replica, Redis, nodes and nginx, twice")
	}
	if _, err := backends.Nginx(t.Context()); err != nil {
		if backends.MaySkip(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	_, levee := build(t)
	for _, semi := range []bool{true, false} {
		t.Run(map[bool]string{true: "semi-synchronous", false: "a replica that is behind"}[semi], func(t *testing.T) { failOver(t, levee, semi) })
	}
}

func failOver(t *testing.T, levee string, semi bool) {
	ctx := t.Context()
	c, err := start(ctx, levee, freeAddr(t), t.TempDir(), 2, 1)
	if err != nil {
		if backends.MaySkip(err) {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	defer c.stop()
	primary, replica := c.mysql, c.mysql.Replicas[0]
	do := func(s *backends.MySQLServer, statements ...string) {
		t.Helper()
		for _, statement := range statements {
			if err := s.Exec(ctx, statement); err != nil {
				t.Fatal(statement, err)
			}
		}
	}
	if semi {
		// As docs/operate.md says.
		do(replica, "SET GLOBAL rpl_semi_sync_slave_enabled = 1", "STOP SLAVE", "START SLAVE")
		do(primary, "SET GLOBAL rpl_semi_sync_master_wait_point = 'AFTER_SYNC'", "SET GLOBAL rpl_semi_sync_master_timeout = 60000",
			"SET GLOBAL rpl_semi_sync_master_enabled = 1")
	}
	// The address that moves.
	address, err := backends.StartProxy(ctx, primary.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = address.Close() }) // after the nodes have ended
	if c.dbURL, err = address.URL(primary.URL() + database); err != nil {
		t.Fatal(err)
	}
	for i := range c.nodes {
		if err := c.startNode(ctx, i, "serve"); err != nil {
			t.Fatal(err)
		}
	}
	accounts, err := c.accounts()
	if err != nil {
		t.Fatal(err)
	}
	people := gather(t, "http://"+c.address, accounts["operator"], 1000, 1200)
	if err := replica.CatchUp(ctx); err != nil {
		t.Fatal(err)
	}
	selling, stop := context.WithCancel(ctx)
	var sold sync.WaitGroup
	sold.Go(func() { people.sell(selling) })
	defer func() { stop(); sold.Wait() }()
	time.Sleep(2 * time.Second)
	if !semi {
		if err := replica.StopReplication(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
	}

	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	told := people.orders(killed)
	for semi { // what it has received is to be applied before it is promoted
		state, err := replica.QueryString(ctx, "SELECT STATE FROM information_schema.PROCESSLIST WHERE COMMAND = 'Slave_SQL'")
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(state, "Slave has read all relay log") {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(time.Second) // whoever decides on a fail-over takes some time
	next, err := primary.Promote(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = next.Close() })
	if err := address.SetUpstream(next.Addr()); err != nil {
		t.Fatal(err)
	}
	moved := time.Now()
	var first time.Duration
	for first == 0 && time.Since(moved) < 30*time.Second {
		time.Sleep(10 * time.Millisecond)
		people.mu.Lock()
		for _, p := range people.people {
			if p.order != "" && p.told.After(moved) {
				first = time.Since(moved)
			}
		}
		people.mu.Unlock()
	}
	time.Sleep(time.Second)
	stop()
	sold.Wait()
	if first == 0 {
		t.Errorf("nobody could buy within 30 s after the new primary was there")
	}
	t.Logf("%d orders told before the primary died; first order %v after the address had moved", len(told), first.Round(10*time.Millisecond))

	kept := told
	if !semi {
		kept = nil
	}
	people.finished(t, kept)
	lost := 0
	for p, order := range told {
		if p.order != order {
			lost++
		}
	}
	if !semi && lost == 0 {
		t.Error("a replica that lacked commits was promoted, and no order is gone: nothing is proved")
	}
	t.Logf("%d of the %d orders told before are gone", lost, len(told))
	c.mysql = next
	c.examined(t)
}
