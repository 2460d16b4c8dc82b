package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"levee"
)

// File reads a stored file, from its beginning or from wherever Seek says. One goroutine uses it at a time.
type File struct {
	Object
	s     *Store
	ctx   context.Context
	at    int64         // where the next Read begins
	body  io.ReadCloser // nil: not open
	tries int           // openings in a row that gave nothing
	err   error
}

const (
	// readTries is how often a reader goes on where a connection broke before it gives up, and readPause how long it waits.
	readTries = 3
	readPause = 100 * time.Millisecond
)

// Open opens a file for reading. CodeNotFound when there is none. ctx bounds the reading too. Close must be called.
func (s *Store) Open(ctx context.Context, k Key) (f *File, err error) {
	defer levee.Wrap(&err, "blob.Open(%s)", k)
	defer s.done("get", time.Now(), &err)
	if err := k.check(); err != nil {
		return nil, err
	}
	f = &File{s: s, ctx: ctx}
	f.Object, f.body, err = s.driver.get(ctx, k, 0, true)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// openLazily opens a file of which perhaps nothing is read.
func (s *Store) openLazily(ctx context.Context, k Key) (*File, error) {
	o, err := s.Stat(ctx, k)
	return &File{Object: o, s: s, ctx: ctx}, err
}

// Seek sets where the next Read begins; beyond the end, that is the end.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.at
	case io.SeekEnd:
		offset += f.Size
	}
	if offset < 0 {
		return 0, errors.New("blob: seeking before the beginning")
	}
	if offset != f.at {
		f.drop()
	}
	f.at = offset
	return offset, nil
}

// Read goes on where a connection broke: a file's bytes never change. Fewer bytes than the file has are never taken for all.
func (f *File) Read(p []byte) (int, error) {
	for {
		if f.err != nil {
			return 0, f.err
		}
		if f.at >= f.Size {
			return 0, io.EOF
		}
		if len(p) == 0 {
			return 0, nil
		}
		var err error
		if f.body == nil {
			var o Object
			if o, f.body, err = f.s.driver.get(f.ctx, f.Key, f.at, true); err != nil {
				f.err = err // the driver has tried several times
				continue
			}
			if o.Size != f.Size || o.SHA256 != f.SHA256 {
				f.err = fmt.Errorf("the file %s was replaced while it was read", f.Key)
				f.drop()
				continue
			}
		}
		var n int
		n, err = f.body.Read(p[:min(int64(len(p)), f.Size-f.at)])
		f.at += int64(n)
		if n > 0 {
			f.tries = 0
			f.s.bytes.WithLabelValues("out").Add(float64(n))
			if err != nil {
				f.drop()
			}
			return n, nil
		}
		if err == nil {
			continue
		}
		f.drop()
		if f.err = f.again(err); f.err != nil {
			return 0, f.err
		}
	}
}

// again returns why there is no further try, or nil after a pause.
func (f *File) again(err error) error {
	f.tries++
	switch code := levee.CodeOf(err); {
	case f.ctx.Err() != nil:
		return f.ctx.Err()
	case f.tries > readTries && (code == levee.CodeInternal || code == levee.CodeTimeout):
		return levee.E(levee.CodeUnavailable, "the store of files broke off").After(time.Second).Because(err)
	case f.tries > readTries:
		return err
	}
	select {
	case <-f.ctx.Done():
		return f.ctx.Err()
	case <-time.After(readPause):
		return nil
	}
}

func (f *File) drop() {
	if f.body != nil {
		_ = f.body.Close()
		f.body = nil
	}
}

// Close ends the reading.
func (f *File) Close() error {
	f.drop()
	f.err = errors.New("blob: the file is closed")
	return nil
}
