package admission

import "math/bits"

// blockBits is how many numbers one leaf of the index counts together.
const blockBits = 1024

// index is a set of numbers that tells how many of its members lie below one, and which is the least, in O(log n): a bit per
// number, and over blocks of 1,024 bits a Fenwick tree of counts (P. M. Fenwick, "A new data structure for cumulative frequency
// tables", 1994). It costs about 1.04 bits per number ever seen. The zero value is empty.
type index struct {
	words []uint64
	tree  []int32 // of block i: the members of the blocks (i - lowbit(i), i], counted from 1; tree[0] is unused
	count int
}

func (x *index) has(n uint32) bool {
	w := int(n >> 6)
	return w < len(x.words) && x.words[w]>>(n&63)&1 != 0
}

// add puts n in and reports whether it was not there.
func (x *index) add(n uint32) bool {
	if x.has(n) {
		return false
	}
	x.grow(n)
	x.words[n>>6] |= 1 << (n & 63)
	x.change(n, 1)
	return true
}

// fill makes an empty set that of all numbers from 1 to below end that f takes: faster than one by one.
func (x *index) fill(end uint32, f func(n uint32) bool) {
	x.grow(end)
	blocks := make([]int32, len(x.tree))
	for n := uint32(1); n < end; n++ {
		if f(n) {
			x.words[n>>6] |= 1 << (n & 63)
			blocks[n/blockBits+1]++
			x.count++
		}
	}
	copy(x.tree, blocks)
	for i := range x.tree {
		if up := i + i&-i; i > 0 && up < len(x.tree) {
			x.tree[up] += x.tree[i]
		}
	}
}

// remove takes n out and reports whether it was there.
func (x *index) remove(n uint32) bool {
	if !x.has(n) {
		return false
	}
	x.words[n>>6] &^= 1 << (n & 63)
	x.change(n, -1)
	return true
}

func (x *index) change(n uint32, by int32) {
	x.count += int(by)
	for i := int(n/blockBits) + 1; i < len(x.tree); i += i & -i {
		x.tree[i] += by
	}
}

// grow makes room for n, a block at a time.
func (x *index) grow(n uint32) {
	if len(x.tree) == 0 {
		x.tree = append(x.tree, 0)
	}
	for len(x.tree) <= int(n/blockBits)+1 {
		i := len(x.tree)
		// A new node covers older blocks too: what they hold is the difference of two sums.
		x.tree = append(x.tree, x.sum(i-1)-x.sum(i&(i-1)))
		x.words = append(x.words, make([]uint64, blockBits/64)...)
	}
}

// sum counts the members of the first i blocks.
func (x *index) sum(i int) (n int32) {
	for ; i > 0; i &= i - 1 {
		n += x.tree[i]
	}
	return n
}

// before counts the members below n.
func (x *index) before(n uint32) int {
	block := int(n / blockBits)
	if block >= len(x.tree)-1 {
		return x.count
	}
	total := int(x.sum(block))
	at := int(n >> 6)
	for w := block * (blockBits / 64); w < at; w++ {
		total += bits.OnesCount64(x.words[w])
	}
	return total + bits.OnesCount64(x.words[at]&(1<<(n&63)-1))
}

// first returns the least member; ok is false for an empty set.
func (x *index) first() (n uint32, ok bool) {
	if x.count == 0 {
		return 0, false
	}
	// The last block before which there is none: the tree is walked down from its largest power of two.
	block := 0
	for step := 1 << (bits.Len(uint(len(x.tree)-1)) - 1); step > 0; step >>= 1 {
		if next := block + step; next < len(x.tree) && x.tree[next] == 0 {
			block = next
		}
	}
	for w := block * (blockBits / 64); ; w++ {
		if x.words[w] != 0 {
			return uint32(w)<<6 | uint32(bits.TrailingZeros64(x.words[w])), true
		}
	}
}

// each calls f with every member in order. f may remove the member that it is given.
func (x *index) each(f func(n uint32)) {
	for w := range x.words {
		for word := x.words[w]; word != 0; word &= word - 1 {
			f(uint32(w)<<6 | uint32(bits.TrailingZeros64(word)))
		}
	}
}

// doneBlock is how many numbers one row of admission_done covers.
const doneBlock = 8192

// ledger is the set of numbers that are done, with the blocks that were changed since they were last written.
type ledger struct {
	words []uint64
	dirty map[uint32]struct{}
}

func (l *ledger) has(n uint32) bool {
	w := int(n >> 6)
	return w < len(l.words) && l.words[w]>>(n&63)&1 != 0
}

func (l *ledger) add(n uint32) {
	l.grow(n)
	if l.has(n) {
		return
	}
	l.words[n>>6] |= 1 << (n & 63)
	if l.dirty == nil {
		l.dirty = map[uint32]struct{}{}
	}
	l.dirty[n/doneBlock] = struct{}{}
}

func (l *ledger) grow(n uint32) {
	if need := (int(n)/doneBlock + 1) * (doneBlock / 64); need > len(l.words) {
		l.words = append(l.words, make([]uint64, need-len(l.words))...)
	}
}
