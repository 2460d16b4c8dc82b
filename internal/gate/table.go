package gate

import "levee"

// buyerEntry is one buyer's line: 16 bytes, no pointers, so that a million of them cost the garbage collector nothing.
type buyerEntry struct {
	buyer levee.UserID // 0: empty
	held  int32        // units, settled and unsettled
	slot  uint32       // his latest unsettled Taking; keptBit: SQL has a row of his
}

// keptBit marks a buyer of whom SQL has a row, released or not: his keys count, so he is never forgotten.
const keptBit = 1 << 31

// noSlot is the slot of no taking.
const noSlot = ^uint32(0) &^ keptBit

func (e *buyerEntry) last() uint32 { return e.slot &^ keptBit }

func (e *buyerEntry) setLast(slot uint32) { e.slot = e.slot&keptBit | slot }

// buyerTable is an open-addressing hash table with linear probing (Knuth, The Art of Computer Programming 3, 6.4, algorithms
// L and R) at a load of at most 3/4: 21 to 43 bytes a buyer. Ids are time-ordered, so they are mixed before use.
type buyerTable struct {
	entries []buyerEntry
	count   int
}

func newBuyerTable(expected int) buyerTable {
	size := 64
	for size*3/4 <= expected {
		size *= 2
	}
	return buyerTable{entries: make([]buyerEntry, size)}
}

// home is the entry where a buyer's search begins (Fibonacci hashing with a final fold).
func (b *buyerTable) home(buyer levee.UserID) int {
	h := uint64(buyer) * 0x9E3779B97F4A7C15
	h ^= h >> 32
	return int(h & uint64(len(b.entries)-1))
}

// find returns the buyer's entry, or nil. It is valid until the next add or remove.
func (b *buyerTable) find(buyer levee.UserID) *buyerEntry {
	if b.count == 0 {
		return nil
	}
	for i := b.home(buyer); ; i = (i + 1) & (len(b.entries) - 1) {
		switch b.entries[i].buyer {
		case buyer:
			return &b.entries[i]
		case 0:
			return nil
		}
	}
}

// add makes an entry for a buyer who has none.
func (b *buyerTable) add(buyer levee.UserID) *buyerEntry {
	if (b.count+1)*4 > len(b.entries)*3 {
		old := b.entries
		*b = newBuyerTable(b.count + b.count/2 + 1)
		for i := range old {
			if old[i].buyer != 0 {
				*b.add(old[i].buyer) = old[i]
			}
		}
	}
	i := b.home(buyer)
	for b.entries[i].buyer != 0 {
		i = (i + 1) & (len(b.entries) - 1)
	}
	b.entries[i] = buyerEntry{buyer: buyer, slot: noSlot}
	b.count++
	return &b.entries[i]
}

// remove takes a buyer out and closes the gap (algorithm R), so that no tombstones pile up.
func (b *buyerTable) remove(buyer levee.UserID) {
	i := b.home(buyer)
	for b.entries[i].buyer != buyer {
		if b.entries[i].buyer == 0 {
			return
		}
		i = (i + 1) & (len(b.entries) - 1)
	}
	mask := len(b.entries) - 1
	for j := (i + 1) & mask; b.entries[j].buyer != 0; j = (j + 1) & mask {
		if h := b.home(b.entries[j].buyer); (j-h)&mask >= (j-i)&mask {
			b.entries[i] = b.entries[j]
			i = j
		}
	}
	b.entries[i] = buyerEntry{}
	b.count--
}
