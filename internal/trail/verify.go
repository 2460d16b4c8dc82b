package trail

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"levee"
)

const (
	// verifyMost is how many entries one call of Verify looks at, but for the end of its last block.
	verifyMost = 20_000
	// maxProblems is how many problems one call of Verify names.
	maxProblems = 50
	readBatch   = 1000
)

// Pin is the head of the chain at some place, as somebody wrote it down outside of the house.
type Pin struct {
	Seq  int64
	Head Head
}

// String returns the pin as ParsePin reads it: 1042:9f86d0….
func (p Pin) String() string { return fmt.Sprintf("%d:%s", p.Seq, p.Head) }

// ParsePin reads a place, a colon and 64 hexadecimal digits; else CodeInvalid of the given field.
func ParsePin(field, text string) (p Pin, err error) {
	seq, head, _ := strings.Cut(text, ":")
	if p.Seq, err = strconv.ParseInt(seq, 10, 64); err == nil && p.Seq > 0 {
		if h, ok := parseHead(head); ok {
			p.Head = h
			return p, nil
		}
	}
	return Pin{}, levee.Invalid(field, "a place in the chain, a colon and 64 hexadecimal digits, as 1042:9f86…", text)
}

// Problem is something that the chain shows to have been changed outside of the house.
type Problem struct {
	Seq   int64 // the place, 0 for an entry that has none
	Entry int64 // the entry's id, 0 where there is none
	What  string
}

// Verified is what a stretch of the chain came to.
type Verified struct {
	// After is the place after which the stretch began, To where it ends, and Head the head there. The next call goes on after To.
	After, To int64
	Head      Head
	Entries   int64
	// Problems are at most 50; nil for an intact stretch.
	Problems []Problem
	// Done says that the end of the chain is reached. Only then the following are set.
	Done bool
	// Unsealed is how many entries wait for their place, OldestUnsealed when the first of them was.
	Unsealed       int64
	OldestUnsealed time.Time
}

func (v *Verified) problem(seq, entry int64, what string, args ...any) {
	if len(v.Problems) < maxProblems {
		v.Problems = append(v.Problems, Problem{seq, entry, fmt.Sprintf(what, args...)})
	}
}

// Verify checks the chain from after the given place (the To of an earlier call, or 0), some 20,000 entries at a time: the mark of each
// entry, that each place is there once, that the entries lead to the head of their block, the blocks' marks, and at the end those that
// wait for a place. A pin, unless zero, must be met on the way. It reads in small steps and holds
// nothing up. CodeInvalid when after is no end of a block, or when the pin's place was dropped by its age.
func (s *Service) Verify(ctx context.Context, after int64, pin Pin) (v Verified, err error) {
	defer levee.Wrap(&err, "trail.Verify(%d)", after)
	// First how far the entries reach, and then the blocks: what is sealed in between is not taken for a fault.
	lowest, highest, err := bounds(ctx, s.DB)
	if err != nil {
		return v, err
	}
	begin, err := s.beginning(ctx, after, &v, lowest)
	if err != nil {
		return v, err
	}
	if pin.Seq != 0 && pin.Seq < begin.Last && after == 0 {
		return v, levee.Invalid("head", fmt.Sprintf("%d or later: what is before was dropped by its age", begin.Last), pin.Seq)
	}
	v.After, v.To, v.Head = begin.Last, begin.Last, begin.Head
	if after == 0 {
		s.meet(&v, pin)
	}
	for !v.Done && v.Entries < verifyMost {
		blocks, err := blocksFrom(ctx, s.DB.Query, v.To+1, 20)
		if err != nil {
			return v, err
		}
		for i := range blocks {
			if err := s.verifyBlock(ctx, &v, &blocks[i], pin); err != nil {
				return v, err
			}
		}
		v.Done = len(blocks) < 20
	}
	if !v.Done {
		return v, nil
	}
	if highest > v.To {
		v.problem(highest, 0, "entries have places up to %d, but the chain ends at %d: its end was cut off", highest, v.To)
	}
	if pin.Seq > v.To {
		v.problem(pin.Seq, 0, "the chain ends at %d, before the place of the given head: its end was cut off", v.To)
	}
	return v, s.verifyUnsealed(ctx, &v)
}

// beginning returns the block after which a stretch begins.
func (s *Service) beginning(ctx context.Context, after int64, v *Verified, lowest int64) (Block, error) {
	if after != 0 {
		b, err := blockAt(ctx, s.DB.Query, after)
		if err == nil && b.Last != after {
			err = levee.Invalid("after", "the end of a block", after)
		}
		return b, err
	}
	blocks, err := blocksFrom(ctx, s.DB.Query, 0, 1)
	if err != nil || len(blocks) == 0 || !blocks[0].Dropped {
		return Block{}, err
	}
	b := blocks[0]
	if !s.blockMarked(&b) {
		v.problem(b.Last, 0, "that entries up to this place were dropped by their age was not written by the house")
	}
	if lowest != 0 && lowest <= b.Last {
		v.problem(lowest, 0, "an entry has a place among those that were dropped by their age")
	}
	return b, nil
}

// verifyBlock checks the entries up to the end of a block, which goes on from v.To.
func (s *Service) verifyBlock(ctx context.Context, v *Verified, b *Block, pin Pin) error {
	known := len(v.Problems)
	sure := true // the head is that of an unbroken chain
	switch {
	case b.First <= v.To:
		v.problem(b.First, 0, "a block of places %d to %d lies over another", b.First, b.Last)
		return nil
	case b.First > v.To+1:
		v.problem(v.To+1, 0, "places %d to %d are in no block: blocks were removed", v.To+1, b.First-1)
		v.To, sure = b.First-1, false
	}
	if !s.blockMarked(b) {
		v.problem(b.Last, 0, "the block of places %d to %d was not written so by the house", b.First, b.Last)
	}
	for v.To < b.Last {
		list, err := placed(ctx, s.DB.Query, v.To, b.Last, readBatch)
		if err != nil {
			return err
		}
		list = append(list, Entry{Seq: b.Last + 1}) // where the last must lead to
		if len(list) > readBatch {
			list = list[:readBatch]
		}
		for i := range list {
			e := &list[i]
			if e.Seq != v.To+1 {
				v.problem(v.To+1, 0, "places %d to %d are empty: entries were deleted", v.To+1, e.Seq-1)
				v.To, sure = e.Seq-1, false
			}
			if e.Seq > b.Last {
				break
			}
			if !s.marked(e) {
				v.problem(e.Seq, e.ID, "the entry was changed, or not written by the house")
			}
			v.Head, v.To = s.next(v.Head, e.Seq, e), e.Seq
			v.Entries++
			if sure && e.Seq < b.Last {
				s.meet(v, pin)
			}
		}
	}
	if sure && v.Head != b.Head {
		v.problem(b.Last, 0, "the entries of places %d to %d do not lead to the head of their block: something was changed or put in another order", b.First, b.Last)
	}
	v.Head = b.Head // so that a fault is not told again for all that follows
	s.meet(v, pin)
	if len(v.Problems) == known {
		return nil
	}
	// Unless the block was dropped by its age while it was read.
	if first, err := oneBlock(blocksFrom(ctx, s.DB.Query, 0, 1)); err != nil {
		return err
	} else if first.Dropped && s.blockMarked(&first) && first.Last >= b.Last {
		v.Problems = v.Problems[:known]
	}
	return nil
}

// meet compares the head with the pin, at its place.
func (s *Service) meet(v *Verified, pin Pin) {
	if v.To == pin.Seq && pin.Seq != 0 && v.Head != pin.Head {
		v.problem(pin.Seq, 0, "the head here is %s, not the given one: what is before was written anew", v.Head)
	}
}

// verifyUnsealed checks the marks of entries that wait for their place.
func (s *Service) verifyUnsealed(ctx context.Context, v *Verified) error {
	for after := int64(0); v.Unsealed < verifyMost; {
		list, err := unsealed(ctx, s.DB.Query, after, readBatch)
		if err != nil {
			return err
		}
		for i := range list {
			if v.OldestUnsealed.IsZero() || list[i].At.Before(v.OldestUnsealed) {
				v.OldestUnsealed = list[i].At
			}
			if !s.marked(&list[i]) {
				v.problem(0, list[i].ID, "the entry, which waits for its place, was changed, or not written by the house")
			}
			after = list[i].ID
		}
		v.Unsealed += int64(len(list))
		if len(list) < readBatch {
			return nil
		}
	}
	return nil
}
