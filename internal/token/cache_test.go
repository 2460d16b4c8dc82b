package token

import (
	"fmt"
	"testing"
)

func TestCacheIsBounded(t *testing.T) {
	c := NewCache[int](1000)
	for i := range 20_000 {
		c.Put(&Entry[int]{Credential: fmt.Sprint("token", i), Expires: int64(i)}, 0)
	}
	if n := c.Len(); n > 1000 {
		t.Errorf("%d entries, bound 1000", n)
	}
	late := 0
	for i := 15_000; i < 20_000; i++ {
		if c.Get(fmt.Sprint("token", i)) != nil {
			late++
		}
	}
	if late < c.Len()*8/10 {
		t.Errorf("only %d of %d kept entries are among the last to expire", late, c.Len())
	}
}

// What has expired must not stay until the cache is full.
func TestCacheForgets(t *testing.T) {
	c := NewCache[int](1_000_000)
	for i := range 200_000 {
		c.Put(&Entry[int]{Credential: fmt.Sprint("token", i), Expires: int64(i) + 1000}, int64(i)) // 1000 are good at any time
	}
	if n := c.Len(); n > cacheShards*minSweep+2*1000 {
		t.Errorf("%d entries kept", n)
	}
}
