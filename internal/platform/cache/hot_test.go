package cache

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"
)

// Every key with more than a 64th of the reads is found, the counts hold what they promise, and among keys that are read alike none is hot.
func TestHotFindsTheMostRead(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // chance, not secrecy
	zipf := rand.NewZipf(r, 1.1, 1, 99_999)
	h, count := newHot[int](), map[int]int64{}
	const reads = 200_000
	for range reads {
		k := int(zipf.Uint64())
		count[k]++
		h.add(k, 1, 1)
	}
	list := h.list(1)
	is := map[int]HotKey[int]{}
	for i, k := range list {
		is[k.Key] = k
		if k.Reads < count[k.Key] || k.Surely > count[k.Key] || i > 0 && k.Reads > list[i-1].Reads {
			t.Errorf("%+v, it was read %d times", k, count[k.Key])
		}
	}
	often := 0
	for k, n := range count {
		// What it may be wrong by is a 64th of the reads at most.
		if n > 2*reads/hotMost {
			often++
			if _, ok := is[k]; !ok || !h.is(k, 1) {
				t.Errorf("key %d was read %d times of %d and is not hot", k, n, reads)
			}
		}
		if n < reads/hotMost && h.is(k, 1) {
			t.Errorf("key %d was read %d times of %d and is hot", k, n, reads)
		}
	}
	if often < 3 {
		t.Fatalf("%d keys were read often: this test says nothing", often)
	}
	even := newHot[int]()
	for range reads {
		even.add(r.IntN(1000), 1, 1)
	}
	if list := even.list(1); len(list) > 0 {
		t.Errorf("keys that are read alike are hot: %v", list)
	}
	// What nobody reads any more is forgotten, also by somebody who was not asked for long.
	if h.is(0, 1+100*int64(hotWindow)) || len(h.list(1<<62)) > 0 {
		t.Error("it is hot for ever")
	}
	few := newHot[int]()
	for range hotLeast - 1 {
		few.add(1, 1, 1)
	}
	if few.is(1, 1) {
		t.Error("a few reads of a quiet cache make a key hot")
	}
}

// A crawler that reads everything once pushes others out, and not what is hot.
func TestHotKeysStay(t *testing.T) {
	levels(t, func(t *testing.T, addr string) {
		const entries = 100
		s := node[int64](t, addr, SharedConfig{Loads: 64, MaxLoad: time.Minute, Config: Config{Entries: entries, TTL: time.Hour}})
		var loads [2]int
		load := func(_ context.Context, k int) (int64, int64, error) {
			if k < 2 {
				loads[k]++
			}
			return 1, 1, nil
		}
		s.hot.add(0, 1<<40, s.clock.NowNano()) // 1 is read as often in the first level, and not hot
		for k := range 2 {
			if _, err := s.Get(background, k, load); err != nil {
				t.Fatal(err)
			}
		}
		if list := s.Hot(); len(list) != 1 || list[0].Key != 0 {
			t.Fatalf("hot are %v", list)
		}
		for k := range 20 * entries {
			if _, err := s.Get(background, 10+k, load); err != nil {
				t.Fatal(err)
			}
		}
		s.first.CleanUp()
		_, hot := s.first.GetEntryQuietly(0)
		_, cold := s.first.GetEntryQuietly(1)
		if !hot || cold {
			t.Errorf("after a crawl the hot key is there: %v, and the control: %v", hot, cold)
		}
		if n := s.first.EstimatedSize(); n > entries+hotMost {
			t.Errorf("%d copies, the bound is %d", n, entries)
		}
	})
}

// A hot key's copy lives for HotTTL, another's for TTL.
func TestHotKeysLiveLonger(t *testing.T) {
	s := node[int64](t, "", SharedConfig{Config: Config{TTL: 20 * time.Millisecond}, HotTTL: time.Hour})
	var d table
	for k := range 2 {
		d.version[k].Store(1)
	}
	s.hot.add(0, 1<<40, s.clock.NowNano())
	for range 2 {
		for k := range 2 {
			if _, err := s.Get(background, k, d.load); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(60 * time.Millisecond)
	}
	if n := d.loads.Load(); n != 3 {
		t.Errorf("%d loads of a hot key and another one, each read again after TTL; want 3", n)
	}
	// A change ends it all the same.
	d.version[0].Store(2)
	if err := s.Invalidate(background, Change[int]{0, 2}); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Get(background, 0, d.load); v != 2 || err != nil {
		t.Errorf("after a change: %d, %v", v, err)
	}
}

// The first level's hits are counted by samples; if they were not, a key would cool down because it is hot.
func TestHitsOfTheFirstLevelCount(t *testing.T) {
	s := node[int64](t, "", SharedConfig{Config: Config{TTL: time.Hour}})
	var d table
	d.version[1].Store(1)
	const reads = 400_000
	for range reads {
		if _, err := s.Get(background, 1, d.load); err != nil {
			t.Fatal(err)
		}
	}
	list := s.Hot()
	if len(list) != 1 || list[0].Key != 1 || list[0].Reads < reads/4 || list[0].Reads > reads*3/2 {
		t.Errorf("%d reads of a key: %+v", reads, list)
	}
}
