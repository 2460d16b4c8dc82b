package admission

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The index against a sorted list, with numbers that fall on the borders of words and blocks.
func TestIndexAgainstAList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x index
		var list []uint32
		number := rapid.OneOf(rapid.Uint32Range(0, 200), rapid.Uint32Range(960, 1100), rapid.Uint32Range(0, 70_000),
			rapid.SampledFrom([]uint32{0, 63, 64, 1023, 1024, 2047, 2048, 4095, 4096, 65_535, 65_536}))
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			n := number.Draw(t, "number")
			at, there := slices.BinarySearch(list, n)
			if rapid.Bool().Draw(t, "add") {
				if x.add(n) == there {
					t.Fatalf("add(%d) when it was there: %v", n, there)
				}
				if !there {
					list = slices.Insert(list, at, n)
				}
			} else {
				if x.remove(n) != there {
					t.Fatalf("remove(%d) when it was there: %v", n, there)
				}
				if there {
					list = slices.Delete(list, at, at+1)
				}
			}
			probe := number.Draw(t, "probe")
			want, has := slices.BinarySearch(list, probe)
			if got := x.before(probe); got != want || x.has(probe) != has {
				t.Fatalf("before(%d) is %d and has %v, want %d and %v", probe, got, x.has(probe), want, has)
			}
			first, ok := x.first()
			if ok != (len(list) > 0) || ok && first != list[0] {
				t.Fatalf("first is %d, %v of %v", first, ok, list)
			}
		}
		var all []uint32
		x.each(func(n uint32) { all = append(all, n); x.remove(n) })
		if !slices.Equal(all, list) || x.count != 0 {
			t.Fatalf("each gives %v of %v and leaves %d", all, list, x.count)
		}
	})
}

// Filled at once it is as filled one by one.
func TestIndexFill(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		end := rapid.Uint32Range(1, 9000).Draw(t, "end")
		of := rapid.Uint32Range(1, 50).Draw(t, "of")
		var filled, added index
		filled.fill(end, func(n uint32) bool { return n%of == 0 })
		added.grow(end)
		for n := of; n < end; n += of {
			added.add(n)
		}
		if !slices.Equal(filled.words, added.words) || !slices.Equal(filled.tree, added.tree) || filled.count != added.count {
			t.Fatal("they differ")
		}
	})
}
