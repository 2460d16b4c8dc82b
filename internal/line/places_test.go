package line

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestPlaces holds the places against a plain count, while changes come in by themselves, from SQL, twice, together with later ones, or not
// at all until SQL is read again.
func TestPlaces(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 60 {
		n := 1 + r.Int64N(300)
		p, seq := newPlaces(true), int64(0)
		now := map[int64]change{} // SQL: the last change of each place
		if r.IntN(2) == 0 {
			seq = 1
			p = fullPlaces(n, seq)
			for i := int64(1); i <= n; i++ {
				now[i] = change{place: i, state: StateWaiting}
			}
		}
		since := func(seq int64) (list []change) {
			for _, c := range now {
				if c.seq > seq {
					list = append(list, c)
				}
			}
			return list
		}
		var late []change // own ones whose AtCommit has not come yet, in the order of the commits
		var read []change // read from SQL and not taken in yet
		missed, behind := 0, 0
		for range 600 {
			switch k := r.IntN(20); {
			case k < 12: // a change of one entry, here or elsewhere
				seq++
				c := change{place: 1 + r.Int64N(n+50), seq: seq, state: []State{StateWaiting, StateOffered, StateOrdered, StateLeft}[r.IntN(4)]}
				now[c.place] = c
				if r.IntN(3) > 0 {
					late = append(late, c)
				}
			case k < 16 && len(late) > 0:
				if c := late[0]; !p.own(c) {
					missed++
				}
				late = late[1:]
			case k < 18:
				read = since(p.at())
			default:
				p.follow(read, 0)
				read = nil
			}
			// Whatever came in, the tree adds up.
			before, all := p.ahead(n + 1000)
			if before != all || all < 0 || p.counts().Offered < 0 {
				t.Fatalf("%d wait by the tree, %d in all; %+v", before, all, p.counts())
			}
			if p.at() < seq {
				behind++
			}
			if r.IntN(10) > 0 {
				continue
			}
			for _, c := range late {
				p.own(c)
			}
			late = nil
			p.follow(read, 0)
			read = nil
			p.follow(since(p.at()), seq)
			var offered int64
			var waits []int64
			for place, c := range now {
				switch c.state {
				case StateWaiting:
					waits = append(waits, place)
				case StateOffered:
					offered++
				}
			}
			slices.Sort(waits)
			ask := 1 + r.Int64N(n+100)
			want, _ := slices.BinarySearch(waits, ask)
			if got, all := p.ahead(ask); got != int64(want) || all != int64(len(waits)) || p.counts().Offered != offered || p.at() != seq {
				t.Fatalf("%d of %d wait before %d, the tree says %d of %d; %d offers, it says %d", want, len(waits), ask, got, all, offered, p.counts().Offered)
			}
		}
		if missed == 0 || behind == 0 {
			t.Fatalf("nothing was ever missing: %d, %d", missed, behind)
		}
	}
}
