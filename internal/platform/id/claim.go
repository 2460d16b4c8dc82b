package id

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/filelock"
)

// A worker file holds two records, one per slot, written in turn. The slots lie in different pages, so that a write torn by
// a crash damages at most the record being written, which no id relies upon yet. A record is one line of text, so that a
// person can read the file.
const (
	slotSize   = 4096
	fileSize   = 2 * slotSize
	recordForm = "levee-id 1 turn=%019d horizon=%019d owner=%s crc="
	recordSize = len("levee-id 1 turn= horizon= owner= crc=") + 19 + 19 + 32 + 8 + 1
)

// record is what one slot says: that up to the horizon (ticks of the layout, exclusive) ids may have been given.
type record struct {
	turn    int64  // grows by one with each write; the higher one counts
	horizon int64  //
	owner   string // 32 hexadecimal digits, drawn anew by each life
}

func (r record) append(b []byte) []byte {
	b = fmt.Appendf(b, recordForm, r.turn, r.horizon, r.owner)
	return fmt.Appendf(b, "%08x\n", crc32.ChecksumIEEE(b))
}

// parseRecord reads a slot. ok is false for anything but exactly what append writes.
func parseRecord(b []byte) (r record, ok bool) {
	if len(b) < recordSize {
		return record{}, false
	}
	b = b[:recordSize]
	const turnAt = len("levee-id 1 turn=")
	const horizonAt = turnAt + 19 + len(" horizon=")
	const ownerAt = horizonAt + 19 + len(" owner=")
	var err1, err2 error
	r.turn, err1 = strconv.ParseInt(string(b[turnAt:turnAt+19]), 10, 64)
	r.horizon, err2 = strconv.ParseInt(string(b[horizonAt:horizonAt+19]), 10, 64)
	r.owner = string(b[ownerAt : ownerAt+32])
	if err1 != nil || err2 != nil || r.turn < 1 || r.horizon < 0 || r.horizon > 1<<48 {
		return record{}, false
	}
	if string(r.append(make([]byte, 0, recordSize))) != string(b) {
		return record{}, false
	}
	return r, true
}

// file is what a claim needs of *os.File.
type file interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Stat() (fs.FileInfo, error)
	Close() error
}

// claimOptions are seams of the suite; zero in production.
type claimOptions struct {
	wrap    func(*os.File) file // a disk that fails, tears writes or loses power
	noLocks bool                // a file system whose locks do not hold
}

// claim is one life's hold on one worker file. It is used by one goroutine at a time.
type claim struct {
	worker  int
	path    string
	f       file
	horizon int64 // the one that counted at the claim, later the last one written
	damaged bool  // one of the two records was unreadable at the claim
	turn    int64
	owner   string
	slot    int64 // where the next record goes
	wrote   bool  // this life has written a record
}

// errStolen tells that somebody else has written to, replaced or deleted what holds the worker number of a living process.
var errStolen = errors.New("the worker number was taken over, or its file or row replaced or deleted")

// claimWorker takes the lowest free worker number of a space.
func claimWorker(ctx context.Context, cfg Config, log *slog.Logger, opt claimOptions) (*claim, error) {
	dir := filepath.Join(cfg.Dir, cfg.Space)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, levee.E(levee.CodeUnavailable, "the folder of the worker numbers cannot be made").Because(err)
	}
	if cfg.Space != "" {
		if err := keepLayout(filepath.Join(dir, "layout"), cfg); err != nil {
			return nil, err
		}
	}
	for worker := range cfg.Layout.workers() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		path := filepath.Join(dir, fmt.Sprintf("worker-%04d", worker))
		c, err := claimFile(path, opt)
		switch {
		case errors.Is(err, errHeld):
			continue
		case errors.Is(err, errUnreadable):
			// Its horizon is unknown, so its number may not be used again; the next one may.
			log.Error("a worker file is damaged and its number is left out; it may be deleted once every id that it gave is in the past",
				"file", path)
			continue
		case err != nil:
			return nil, err
		}
		c.worker = worker
		return c, nil
	}
	return nil, allInUse(cfg.Layout)
}

func allInUse(l Layout) error {
	return levee.E(levee.CodeUnavailable, "all %d worker numbers are in use", l.workers()).After(time.Minute)
}

// otherLayout is the error for a space that was made with another layout.
func otherLayout(cfg Config, has string) error {
	return levee.E(levee.CodeConflict, "the space %q of ids has another layout, %s, not %s; another layout needs another space", cfg.Space,
		levee.Shorten(strings.ToValidUTF8(has, "?"), 100), cfg.Layout)
}

// keepLayout writes down the layout of a new space, and checks that of one that is there.
func keepLayout(path string, cfg Config) error {
	has, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		// Whole or not at all, and never over another process's: a link fails where the name is taken.
		text := cfg.Layout.String()
		var f *os.File
		if f, err = os.CreateTemp(filepath.Dir(path), "new-layout-*"); err != nil {
			return err
		}
		_, err = f.WriteString(text + "\n")
		err = errors.Join(err, f.Sync(), f.Close())
		if err == nil {
			if err = os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
				err = nil
			}
		}
		if err = errors.Join(err, os.Remove(f.Name())); err == nil {
			err = syncDir(filepath.Dir(path))
		}
		if err == nil {
			has, err = os.ReadFile(path)
		}
	}
	if err != nil {
		return levee.E(levee.CodeUnavailable, "the layout of the space of ids cannot be read or written").Because(err)
	}
	if given := strings.TrimSpace(string(has)); given != cfg.Layout.String() {
		return otherLayout(cfg, given)
	}
	return nil
}

var (
	errHeld       = errors.New("held by another process")
	errUnreadable = errors.New("no record can be read")
)

// claimFile locks and reads one worker file.
func claimFile(path string, opt claimOptions) (c *claim, err error) {
	raw, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the worker file: %w", err)
	}
	var f file = raw
	if opt.wrap != nil {
		f = opt.wrap(raw)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if !opt.noLocks {
		ok, err := filelock.Try(raw)
		if err != nil {
			return nil, fmt.Errorf("lock the worker file %s: %w", path, err)
		}
		if !ok {
			return nil, errHeld
		}
	}
	var owner [16]byte
	if _, err := rand.Read(owner[:]); err != nil {
		return nil, err
	}
	c = &claim{path: path, f: f, owner: hex.EncodeToString(owner[:])}
	if !c.samePlace() {
		return nil, errHeld // deleted or replaced between open and lock: somebody is at work here
	}
	b, err := c.read()
	if err != nil {
		return nil, err
	}
	a, okA := parseRecord(b[:slotSize])
	z, okZ := parseRecord(b[slotSize:])
	switch {
	case okA && (!okZ || a.turn >= z.turn):
		c.turn, c.horizon, c.slot = a.turn, a.horizon, 1
	case okZ:
		c.turn, c.horizon, c.slot = z.turn, z.horizon, 0
	case !blank(b):
		return nil, errUnreadable
	default:
		// A new file, or one whose maker died before its first id: both records are written before any id is given.
		if err := c.format(); err != nil {
			return nil, err
		}
		return c, nil
	}
	c.damaged = !okA || !okZ
	return c, nil
}

// read returns both slots; what lies past the end of the file reads as zeros.
func (c *claim) read() ([]byte, error) {
	b := make([]byte, fileSize)
	if _, err := c.f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the worker file %s: %w", c.path, err)
	}
	return b, nil
}

// format fills a new file and makes its name durable.
func (c *claim) format() error {
	b := make([]byte, fileSize)
	for i := range b {
		b[i] = ' '
	}
	for slot := range 2 {
		c.turn++
		copy(b[slot*slotSize:], record{turn: c.turn, owner: c.owner}.append(nil))
	}
	if _, err := c.f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("write the new worker file %s: %w", c.path, err)
	}
	if err := c.f.Sync(); err != nil {
		return fmt.Errorf("flush the new worker file %s: %w", c.path, err)
	}
	return syncDir(filepath.Dir(c.path))
}

// write makes a new horizon durable. A failed write leaves the other slot as it was and is repeated in the same place: after
// a failed flush the old pages may count as clean, so they have to be written again.
func (c *claim) write(horizon int64) (grant, error) {
	if err := c.check(); err != nil {
		return grant{}, err
	}
	r := record{turn: c.turn + 1, horizon: horizon, owner: c.owner}
	if _, err := c.f.WriteAt(r.append(make([]byte, 0, recordSize)), c.slot*slotSize); err != nil {
		return grant{}, fmt.Errorf("write the worker file: %w", err)
	}
	if err := c.f.Sync(); err != nil {
		return grant{}, fmt.Errorf("flush the worker file: %w", err)
	}
	c.turn, c.horizon, c.slot, c.wrote = r.turn, horizon, 1-c.slot, true
	return grant{horizon: horizon}, nil
}

// check tells by errStolen whether the file stopped being ours although it was locked: deleted, replaced by a restore, or
// taken by a process for which locks do not count. Moving a horizon in such a file could meet another life's ids.
func (c *claim) check() error {
	if !c.samePlace() {
		return errStolen
	}
	if !c.wrote {
		return nil
	}
	b, err := c.read()
	if err != nil {
		return err
	}
	for slot := range 2 {
		r, ok := parseRecord(b[slot*slotSize : (slot+1)*slotSize])
		if ok && r.turn >= c.turn && r.owner != c.owner {
			return errStolen
		}
	}
	if r, ok := parseRecord(b[(1-c.slot)*slotSize:][:slotSize]); !ok || r.turn != c.turn || r.owner != c.owner {
		return errStolen
	}
	return nil
}

// samePlace reports whether the file's name still leads to the locked file.
func (c *claim) samePlace() bool {
	mine, err := c.f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(c.path)
	return err == nil && os.SameFile(mine, there)
}

// free writes down that no id at or above first was given, and frees the number.
func (c *claim) free(first int64) error {
	_, err := c.write(first)
	return errors.Join(err, c.release())
}

// release frees the number: closing the file ends its lock.
func (c *claim) release() error { return c.f.Close() }

// blank reports whether nothing was ever written: only zeros (not yet written, or lost with the power) and spaces.
func blank(b []byte) bool {
	for _, x := range b {
		if x != 0 && x != ' ' {
			return false
		}
	}
	return true
}
