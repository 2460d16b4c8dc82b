package admission

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"testing"
	"time"

	"levee"
)

// crowded is a room with so many who wait, without disk.
func crowded(b testing.TB, people int, p Policy) (*Service, Window) {
	b.Helper()
	s := bare(b, 2)
	p.Room = true
	w := Window{Sale: theSale, Public: s.Sealer.Seal(levee.KindSale, int64(theSale)), Open: true, Opens: time.Now().Add(-time.Hour), Ends: time.Now().Add(time.Hour),
		Policy: p, Free: func() int64 { return 1 }}
	s.Follow(w)
	r := s.roomOf(theSale)
	if err := s.load(context.Background(), r, r.window.Load()); err != nil {
		b.Fatal(err)
	}
	q := r.q
	q.horizon = math.MaxUint32
	for n := range people {
		q.enter(person(n).User, 0)
	}
	return s, w
}

func BenchmarkEnter(b *testing.B) {
	s, w := crowded(b, 1_000_000, Policy{Multiple: 1})
	s.roomOf(theSale).q.terms.placesMax = math.MaxInt32
	n := 1_000_000
	b.ReportAllocs()
	for b.Loop() {
		n++
		if _, err := s.Enter(b.Context(), w.Public, person(n), Visit{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMine(b *testing.B) {
	s, w := crowded(b, 1_000_000, Policy{Multiple: 1})
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n = (n + 7919) % 1_000_000
		if _, err := s.Mine(w.Public, person(n)); err != nil {
			b.Fatal(err)
		}
	}
}

// A tick that admits five of a million, and one that only looks.
func BenchmarkTick(b *testing.B) {
	for _, admits := range []int{0, 5} {
		b.Run(fmt.Sprintf("admits=%d", admits), func(b *testing.B) {
			s, _ := crowded(b, 1_000_000, Policy{Multiple: 1})
			q := s.roomOf(theSale).q
			now := s.now()
			for b.Loop() {
				now += 50 * time.Millisecond
				if q.waiting.count < 1000 {
					b.StopTimer()
					s, _ = crowded(b, 1_000_000, Policy{Multiple: 1})
					q, now = s.roomOf(theSale).q, s.now()
					b.StartTimer()
				}
				q.pace(now, true, int32(20*admits), int64(admits)*math.MaxInt32)
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	s := bare(b, 2)
	now := time.Now()
	token := s.Issue(42, 7, now.Add(time.Hour))
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Verify(token, 42, 7, now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyForged(b *testing.B) {
	s := bare(b, 2)
	now := time.Now()
	token := bare(b, 3).Issue(42, 7, now.Add(time.Hour))
	b.ReportAllocs()
	for b.Loop() {
		if s.Verify(token, 42, 7, now) == nil {
			b.Fatal("taken")
		}
	}
}

func BenchmarkWorkChallenge(b *testing.B) {
	s := bare(b, 2)
	b.ReportAllocs()
	for b.Loop() {
		s.workChallenge(42, 7, 16, time.Now())
	}
}

func BenchmarkWorkVerify(b *testing.B) {
	s := bare(b, 2)
	w := &Window{Sale: 42, Policy: Policy{Brake: BrakeWork, WorkBits: 8}}
	text := s.workChallenge(42, 7, 8, time.Now().Add(time.Hour))
	answer := solve(text, 8)
	wrong := "1"
	for n := 1; ; n++ {
		wrong = strconv.Itoa(n)
		if sum := sha256.Sum256([]byte(text + "." + wrong)); leadingZeros(sum[:]) < 8 {
			break
		}
	}
	b.Run("right", func(b *testing.B) {
		for b.Loop() {
			if err := s.worked(w, 7, text, answer); levee.CodeOf(err) == levee.CodeInternal { // used up after the first
				b.Fatal(err)
			}
		}
	})
	b.Run("wrong", func(b *testing.B) {
		for b.Loop() {
			if s.worked(w, 7, text, wrong) == nil {
				b.Fatal("taken")
			}
		}
	})
	b.Run("forged", func(b *testing.B) {
		forged := bare(b, 3).workChallenge(42, 7, 8, time.Now().Add(time.Hour))
		for b.Loop() {
			if s.worked(w, 7, forged, answer) == nil {
				b.Fatal("taken")
			}
		}
	})
}

func BenchmarkPicture(b *testing.B) {
	size := 0
	for b.Loop() {
		p, err := drawDigits(draw5())
		if err != nil {
			b.Fatal(err)
		}
		size = max(size, len(p))
	}
	b.ReportMetric(float64(size), "B/largest")
}

func BenchmarkPictureVerify(b *testing.B) {
	s := bare(b, 2)
	w := &Window{Sale: 42, Policy: Policy{Brake: BrakePicture, WorkBits: 8}}
	text := s.pictureChallenge(42, 7, 12345, time.Now().Add(time.Hour))
	for b.Loop() {
		if s.seen(w, 7, text, "54321") == nil {
			b.Fatal("taken")
		}
	}
}

// What a proof of work costs a program here: hashes, and time on one core.
func BenchmarkSolve(b *testing.B) {
	s := bare(b, 2)
	for _, bits := range []int32{12, 16, 18, 20} {
		b.Run(fmt.Sprintf("bits=%d", bits), func(b *testing.B) {
			tries := 0
			for b.Loop() {
				n, _ := strconv.Atoi(solve(s.workChallenge(42, 7, bits, time.Now()), bits))
				tries += n + 1
			}
			b.ReportMetric(float64(tries)/float64(b.N), "hashes/op")
		})
	}
}

// The lots of a million, drawn: their pseudo-random function, the sort, and the numbering under the room's lock.
func BenchmarkDraw(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		s := bare(b, 2)
		q := newQueue(queueTerms{placesMax: 2_000_000}, OrderRandom)
		for n := range 1_000_000 {
			q.enter(person(n).User, 0)
		}
		q.horizon = math.MaxUint32
		b.StartTimer()
		started := time.Now()
		list := q.freeze()
		froze := time.Since(started)
		for i := range list {
			list[i].lot = s.lotOf(theSale, list[i].buyer)
		}
		sortLots(list)
		started = time.Now()
		q.finish(list)
		b.ReportMetric(float64(froze.Milliseconds()), "ms-freeze")
		b.ReportMetric(float64(time.Since(started).Milliseconds()), "ms-finish")
	}
}

// The memory of a place, with and without a count by address. Held to 100 bytes.
func TestMemoryPerPlace(t *testing.T) {
	const people = 300_000
	for _, addresses := range []bool{false, true} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		q := newQueue(queueTerms{placesMax: 2_000_000}, OrderArrival)
		q.horizon = math.MaxUint32
		for n := range people {
			address := uint64(0)
			if addresses {
				address = uint64(n/2)*0x9E3779B97F4A7C15 + 1 // two from each
			}
			q.enter(levee.UserID(n)<<20, address)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		each := float64(after.HeapAlloc-before.HeapAlloc) / people
		t.Logf("a place costs %.1f bytes, addresses counted: %v", each, addresses)
		if each > 100 {
			t.Errorf("a place costs %.1f bytes", each)
		}
		runtime.KeepAlive(q)
	}
}
