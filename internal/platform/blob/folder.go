package blob

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

// folder keeps each object in one file of a folder: the bytes as they came, so that any program shows them, and behind them what is known of
// them. One file, so that one rename makes both be there. Where a process or the machine dies, what is under a key is whole or not there.
//
// USE/xx/ID, xx being the id's first two letters; what is being written is in .tmp.
type folder struct {
	root  *os.Root
	ready sync.Map // folders that are known to be on the disk
}

const (
	unfinished = ".tmp"
	trailerEnd = "LEVEEF01" // the last bytes of each file
	trailerFix = 8 + len(trailerEnd)
	trailerMax = 4096

	folderMode = 0o750
	fileMode   = 0o640
)

// trailer is what stands behind the bytes: this as JSON, its length and CRC-32 (4 bytes each, big-endian), and trailerEnd.
type trailer struct {
	Type    string `json:"type"`
	Size    int64  `json:"size"`
	SHA256  string `json:"sha256"`
	Name    string `json:"name,omitempty"`
	Created int64  `json:"created"` // Unix time in microseconds
}

// OpenFolder keeps files in a folder, which is made. Several processes may share it where its file system is one for all of them. key signs links
// and is derived from the house's secret.
func OpenFolder(dir string, cfg Config, key []byte, o *obs.Obs) (_ *Store, err error) {
	defer levee.Wrap(&err, "blob.OpenFolder")
	s, err := newStore(cfg, key, o)
	if err != nil {
		return nil, err
	}
	if dir == "" {
		return nil, levee.Invalid("blob", `"file:PATH"`, "file:")
	}
	if err := os.MkdirAll(dir, folderMode); err != nil {
		return nil, levee.E(levee.CodeUnavailable, "the folder of files cannot be made").Because(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, levee.E(levee.CodeUnavailable, "the folder of files cannot be opened").Because(err)
	}
	f := &folder{root: root}
	if err := f.make(unfinished); err != nil {
		return nil, errors.Join(diskError(err), root.Close())
	}
	s.driver = f
	return s, nil
}

func (f *folder) path(k Key) string {
	_, name, _ := strings.Cut(string(k), "/")
	return path.Join(k.use(), name[:2], name)
}

// make makes a folder and sees to it that it is on the disk, with those above it.
func (f *folder) make(dir string) error {
	if _, ok := f.ready.Load(dir); ok {
		return nil
	}
	if err := f.root.MkdirAll(dir, folderMode); err != nil {
		return err
	}
	for d := path.Dir(dir); ; d = path.Dir(d) {
		if err := f.sync(d); err != nil {
			return err
		}
		if d == "." {
			break
		}
	}
	f.ready.Store(dir, true)
	return nil
}

// sync forces a folder's names to the disk.
func (f *folder) sync(dir string) error {
	if runtime.GOOS == "windows" { // which has no such call and writes names through
		return nil
	}
	d, err := f.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *folder) put(ctx context.Context, o *Object, m *meter) (err error) {
	defer func() {
		if errors.Is(err, fs.ErrNotExist) {
			err = levee.E(levee.CodeUnavailable, "the folder of files is gone").Because(err)
		}
		err = diskError(err)
	}()
	temporary := path.Join(unfinished, newID())
	w, err := f.root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = w.Close()
			_ = f.root.Remove(temporary)
		}
	}()
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{m}, make([]byte, 128<<10)); err != nil {
		return err
	}
	m.finish(o)
	end, err := json.Marshal(trailer{o.Type, o.Size, hex.EncodeToString(o.SHA256[:]), o.Name, o.Created.UnixMicro()})
	if err != nil {
		return err
	}
	sum := crc32.ChecksumIEEE(end)
	end = binary.BigEndian.AppendUint32(end, uint32(len(end)))
	end = binary.BigEndian.AppendUint32(end, sum)
	if _, err := w.Write(append(end, trailerEnd...)); err != nil {
		return err
	}
	if err := w.Sync(); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	final := f.path(o.Key)
	if err := f.make(path.Dir(final)); err != nil {
		return err
	}
	err = f.root.Rename(temporary, final)
	if errors.Is(err, fs.ErrNotExist) { // somebody removed an empty folder
		f.ready.Delete(path.Dir(final))
		if err = f.make(path.Dir(final)); err == nil {
			err = f.root.Rename(temporary, final)
		}
	}
	if err != nil {
		return err
	}
	return f.sync(path.Dir(final))
}

func (f *folder) get(ctx context.Context, k Key, from int64, wanted bool) (o Object, _ io.ReadCloser, err error) {
	if err := ctx.Err(); err != nil {
		return o, nil, err
	}
	r, err := f.root.Open(f.path(k))
	if err != nil {
		return o, nil, diskError(err)
	}
	if o, err = readTrailer(r, k); err != nil || !wanted {
		return o, nil, errors.Join(err, r.Close())
	}
	from = min(from, o.Size)
	return o, struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(r, from, o.Size-from), r}, nil
}

func readTrailer(r *os.File, k Key) (o Object, err error) {
	info, err := r.Stat()
	if err != nil {
		return o, diskError(err)
	}
	size := info.Size()
	room := min(size, trailerMax)
	buf := make([]byte, room)
	if _, err := r.ReadAt(buf, size-room); err != nil {
		return o, diskError(err)
	}
	rest, ok := strings.CutSuffix(string(buf), trailerEnd)
	if !ok || len(rest) < 8 {
		return o, errDamaged(k)
	}
	length, sum := binary.BigEndian.Uint32([]byte(rest[len(rest)-8:])), binary.BigEndian.Uint32([]byte(rest[len(rest)-4:]))
	rest = rest[:len(rest)-8]
	if int64(length) > int64(len(rest)) {
		return o, errDamaged(k)
	}
	text := rest[len(rest)-int(length):]
	var t trailer
	if crc32.ChecksumIEEE([]byte(text)) != sum || json.Unmarshal([]byte(text), &t) != nil || t.Size != size-int64(trailerFix)-int64(length) {
		return o, errDamaged(k)
	}
	o = Object{Key: k, Type: t.Type, Size: t.Size, Name: t.Name, Created: time.UnixMicro(t.Created).UTC()}
	if n, err := hex.Decode(o.SHA256[:], []byte(t.SHA256)); err != nil || n != len(o.SHA256) {
		return o, errDamaged(k)
	}
	return o, nil
}

func (f *folder) remove(ctx context.Context, k Key) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	name := f.path(k)
	err := f.root.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = f.sync(path.Dir(name))
	}
	return diskError(err)
}

func (f *folder) list(ctx context.Context, prefix string, after Key, n int) (list []Entry, err error) {
	use, begin, _ := strings.Cut(prefix, "/")
	_, last, _ := strings.Cut(string(after), "/")
	shards, err := f.names(use)
	if err != nil {
		return nil, err
	}
	for _, shard := range shards {
		if len(shard) != 2 || last != "" && shard < last[:2] || begin != "" && shard != begin[:2] {
			continue
		}
		names, err := f.names(path.Join(use, shard))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			k := Key(use + "/" + name)
			if name <= last || !strings.HasPrefix(name, begin) || k.check() != nil {
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			r, err := f.root.Open(f.path(k))
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			}
			if err != nil {
				return nil, diskError(err)
			}
			o, err := readTrailer(r, k)
			info, e := r.Stat()
			if err = errors.Join(err, e, r.Close()); err != nil {
				return nil, err
			}
			if list = append(list, Entry{k, o.Size, info.ModTime()}); len(list) == n {
				return list, nil
			}
		}
	}
	return list, nil
}

// names lists a folder by name; none when it is not there.
func (f *folder) names(dir string) (names []string, err error) {
	entries, err := fs.ReadDir(f.root.FS(), dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, diskError(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func (f *folder) sweep(ctx context.Context, before time.Time) (n int, err error) {
	entries, err := fs.ReadDir(f.root.FS(), unfinished)
	if err != nil {
		return 0, diskError(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.ModTime().Before(before) || ctx.Err() != nil {
			continue // removed meanwhile, or of an upload that may be under way
		}
		if f.root.Remove(path.Join(unfinished, e.Name())) == nil {
			n++
		}
	}
	return n, ctx.Err()
}

// diskError gives errors of the file system their codes. Their texts name paths, so they are for the log only.
func diskError(err error) error {
	switch {
	case err == nil || levee.CodeOf(err) != levee.CodeInternal || errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return levee.E(levee.CodeNotFound, "there is no such file").Because(err)
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG):
		return levee.E(levee.CodeUnavailable, "the store of files is full").After(time.Minute).Because(err)
	case errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE):
		return levee.E(levee.CodeUnavailable, "the store of files cannot be used now").After(time.Minute).Because(err)
	}
	return err
}
