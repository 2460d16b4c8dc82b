package trail

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/job"
	"levee/internal/platform/schedule"
)

const (
	sealEvery = 10 * time.Second
	// sealBatch is how many entries one block takes at most.
	sealBatch = 500
	// dropBatch is how many entries are dropped in one transaction, or those of one block.
	dropBatch = 5000
)

// Block is a stretch of the chain that was sealed at once.
type Block struct {
	First, Last int64 // places
	Head        Head  // after Last
	At          time.Time
	// Dropped says that the block's entries are gone by their age: the chain is verified from its head on.
	Dropped bool
	// Mark is the house's HMAC over the block, in hexadecimal.
	Mark string
}

// markBlock is the house's HMAC over what a block says.
func (s *Service) markBlock(b *Block) string {
	text := appendText(nil, "block")
	text = appendNumber(text, b.First)
	text = appendNumber(text, b.Last)
	text = appendText(text, b.Head[:])
	text = appendNumber(text, b.At.UnixMicro())
	text = appendNumber(text, int64(flag(b.Dropped)))
	m := hmac.New(sha256.New, s.Key)
	m.Write(text)
	return hex.EncodeToString(m.Sum(nil))
}

func (s *Service) blockMarked(b *Block) bool {
	return hmac.Equal([]byte(s.markBlock(b)), []byte(b.Mark))
}

// Work returns the room's timed work.
func (s *Service) Work() []schedule.Work {
	return []schedule.Work{
		schedule.Every("trail.seal", sealEvery, job.Options{Timeout: 10 * time.Minute}, s.Seal).If(func(ctx context.Context) (bool, error) {
			list, err := unsealed(ctx, s.DB.Query, 0, 1)
			return len(list) > 0, err
		}),
		schedule.Every("trail.drop", 24*time.Hour, job.Options{Timeout: time.Hour}, s.Drop),
	}
}

// Seal links all entries that are committed and stand in no block to the end of the chain. An entry gets its place here and not when it
// is written: its writers wait for nobody, and one that commits late finds its place in a later block. Any node may call it at any time; of two
// that do at once one gets CodeConflict and changes nothing.
func (s *Service) Seal(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "trail.Seal")
	for {
		if n, err := s.sealSome(ctx); err != nil || n < sealBatch {
			return err
		}
	}
}

// sealSome makes one block and returns how many entries it has.
func (s *Service) sealSome(ctx context.Context) (n int, err error) {
	// Read outside of the transaction: inside, it would wait for those who write entries now, and they for it. What is read does not
	// change, and that nobody sealed it meanwhile is found out below.
	last, err := lastBlock(ctx, s.DB.Query)
	if err != nil {
		return 0, err
	}
	list, err := unsealed(ctx, s.DB.Query, 0, sealBatch)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	b := Block{First: last.Last + 1, Last: last.Last, Head: last.Head, At: s.Obs.Clock()}
	for i := range list {
		b.Last++
		list[i].Seq = b.Last
		b.Head = s.next(b.Head, b.Last, &list[i])
	}
	b.Mark = s.markBlock(&b)
	err = s.DB.Tx(ctx, "trail.seal", func(ctx context.Context, tx *db.Tx) error {
		if err := insertBlock(ctx, tx, &b); db.IsUnique(err) {
			return levee.E(levee.CodeConflict, "another node seals the trail")
		} else if err != nil {
			return err
		}
		return placeEntries(ctx, tx, list)
	})
	if err != nil {
		return 0, err
	}
	// Whoever keeps the log elsewhere holds the heads there, out of reach of who holds the database.
	s.log.LogAttrs(ctx, slog.LevelInfo, "trail sealed", slog.Int64("seq", b.Last), slog.String("head", b.Head.String()))
	return len(list), nil
}

// Drop deletes the entries of blocks that were sealed longer ago than Config.Keep. The head of the last of them stays, and the chain is verified
// from there. That they were dropped is told in the trail.
func (s *Service) Drop(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "trail.Drop")
	if s.Config.Keep == 0 {
		return nil
	}
	for {
		last, n, err := s.oldest(ctx, s.Obs.Clock().Add(-s.Config.Keep))
		if err != nil || n == 0 {
			return err
		}
		was := last
		last.Dropped = true
		last.Mark = s.markBlock(&last)
		err = s.DB.Tx(levee.WithActor(ctx, levee.System), "trail.drop", func(ctx context.Context, tx *db.Tx) error {
			if err := dropBlocks(ctx, tx, &last, was.Mark); err != nil {
				return err
			}
			return s.RecordTx(ctx, tx, Act{Action: "audit.dropped", After: map[string]any{"to": last.Last, "head": last.Head.String(), "entries": n}})
		})
		if err != nil {
			return err
		}
	}
}

// oldest returns the last of the blocks to be dropped at once, and how many entries they have; 0 when none is old enough.
func (s *Service) oldest(ctx context.Context, before time.Time) (last Block, n int64, err error) {
	blocks, err := blocksFrom(ctx, s.DB.Query, 0, dropBatch)
	if err != nil {
		return last, 0, err
	}
	for _, b := range blocks {
		if n >= dropBatch || !b.At.Before(before) {
			break
		}
		if !b.Dropped {
			last, n = b, n+b.Last-b.First+1
		}
	}
	return last, n, nil
}
