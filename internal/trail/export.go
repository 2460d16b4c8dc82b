package trail

import (
	"context"

	"levee"
)

// Line is one line of an export. The first has no Entry: it says where the chain begins, and with which head.
type Line struct {
	Seq   int64
	Entry *Entry // nil: the beginning
	// Head is the chain's head at Seq, made anew from what is exported.
	Head Head
}

// Export gives the sealed entries after a place to see, in the order of the chain, with the head of each, and first tells the trail who
// took it. It ends where the chain ended when it began. An error of see ends it and comes back.
func (s *Service) Export(ctx context.Context, after int64, see func(Line) error) (err error) {
	defer levee.Wrap(&err, "trail.Export(%d)", after)
	if err := s.Record(ctx, Act{Action: "audit.exported", After: map[string]int64{"after": after}}); err != nil {
		return err
	}
	end, err := lastBlock(ctx, s.DB.Query)
	if err != nil {
		return err
	}
	// The heads are counted from the last block that ends at or before the place.
	from := Block{}
	if first, err := oneBlock(blocksFrom(ctx, s.DB.Query, 0, 1)); err != nil {
		return err
	} else if first.Dropped {
		from, after = first, max(after, first.Last)
	}
	if b, err := blockAt(ctx, s.DB.Query, after+1); err != nil {
		return err
	} else if b.Last == after {
		from = b
	} else if b.First > 1 {
		if before, err := blockAt(ctx, s.DB.Query, b.First-1); err != nil {
			return err
		} else if before.Last > from.Last {
			from = before
		}
	}
	seq, head := from.Last, from.Head
	told := false
	tell := func() error {
		if told || seq < after {
			return nil
		}
		told = true
		return see(Line{Seq: seq, Head: head})
	}
	if err := tell(); err != nil {
		return err
	}
	for seq < end.Last {
		list, err := placed(ctx, s.DB.Query, seq, end.Last, readBatch)
		if err != nil || len(list) == 0 {
			return err
		}
		for i := range list {
			e := &list[i]
			before := told
			head, seq = s.next(head, e.Seq, e), e.Seq
			if !before {
				if err := tell(); err != nil {
					return err
				}
				continue
			}
			if err := see(Line{Seq: seq, Entry: e, Head: head}); err != nil {
				return err
			}
		}
	}
	return nil
}
