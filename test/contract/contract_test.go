package contract

import (
	"context"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// budget is how long this run may go on: CONTRACT minutes, or 0 for the short run with its fixed seed.
func budget(t testing.TB) time.Duration {
	t.Helper()
	text := os.Getenv("CONTRACT")
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 600 {
		t.Fatalf("CONTRACT is how many minutes the long run takes, from 1 to 600, got %q", text)
	}
	return time.Duration(n) * time.Minute
}

// rounds of the short run: trials of each operation.
const rounds = 24

// TestContract sends each operation what its document allows and forbids. It prints what is not as documented with the request that shows
// it, made as small as it can be, and the seed that makes it again.
func TestContract(t *testing.T) {
	seed := uint64(1)
	if text := os.Getenv("CONTRACT_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("CONTRACT_SEED is a number, got %q", text)
		}
	} else if budget(t) > 0 {
		seed = uint64(time.Now().UnixNano())
	}
	c := newCampaign(open(t), seed)
	t.Logf("CONTRACT_SEED=%d, %d operations", seed, len(c.doc.Operations))
	only, number, one := strings.Cut(os.Getenv("CONTRACT_ONLY"), "/")
	first, last := 0, rounds
	if one {
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("CONTRACT_ONLY is OPERATION or OPERATION/NUMBER, got %q", os.Getenv("CONTRACT_ONLY"))
		}
		first, last = n, n+1
	}
	end := time.Now().Add(budget(t))
	for {
		c.round(t.Context(), only, first, last)
		if one || time.Now().After(end) {
			break
		}
		first, last = last, last+rounds
		for who := range accounts { // the round has ended sessions, and taken keys out of use
			c.renew(who)
		}
		c.furnish()
	}
	for _, f := range c.report() {
		t.Error(f)
	}
	if only == "" {
		never := c.reached()
		t.Logf("%d of %d operations did their work; of the others only refusals were judged: %s", len(c.doc.Operations)-len(never), len(c.doc.Operations), strings.Join(never, ", "))
		if len(never) > len(c.doc.Operations)/2 {
			t.Errorf("%d of %d operations never did their work: the run proves little", len(never), len(c.doc.Operations))
		}
	}
}

// round sends trials first to last of each operation, four operations at a time.
func (c *campaign) round(ctx context.Context, only string, first, last int) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for _, op := range c.doc.Operations {
		if only != "" && op.ID != only || alone[op.ID] {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			c.run(ctx, op, first, last-first)
		})
	}
	wg.Wait()
	for _, op := range c.doc.Operations {
		if alone[op.ID] && (only == "" || op.ID == only) {
			c.run(ctx, op, first, last-first)
		}
	}
}
