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

	"levee"
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

// record is what one slot says: that up to the horizon (milliseconds since the epoch, exclusive) ids may have been given.
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
	if err1 != nil || err2 != nil || r.turn < 1 || r.horizon < 0 || r.horizon > maxMillis {
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

// errStolen tells that somebody else has written to, or replaced, the worker file of a living process.
var errStolen = errors.New("the worker file was taken over, replaced or deleted")

// claimWorker takes the lowest free worker number in dir.
func claimWorker(ctx context.Context, dir string, log *slog.Logger, opt claimOptions) (*claim, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of the worker numbers: %w", err)
	}
	for worker := range maxWorkers {
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
	return nil, levee.E(levee.CodeUnavailable, "all %d worker numbers are in use", maxWorkers)
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
		ok, err := tryLock(raw)
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
func (c *claim) write(horizon int64) error {
	if err := c.check(); err != nil {
		return err
	}
	r := record{turn: c.turn + 1, horizon: horizon, owner: c.owner}
	if _, err := c.f.WriteAt(r.append(make([]byte, 0, recordSize)), c.slot*slotSize); err != nil {
		return fmt.Errorf("write the worker file: %w", err)
	}
	if err := c.f.Sync(); err != nil {
		return fmt.Errorf("flush the worker file: %w", err)
	}
	c.turn, c.horizon, c.slot, c.wrote = r.turn, horizon, 1-c.slot, true
	return nil
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
