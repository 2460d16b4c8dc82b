package blob

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/minio/minio-go/v7"
)

// The figures of docs/files.md: each way beside the bare one to the same disk or server.
//
//	go test ./internal/platform/blob -run '^$' -bench . -benchtime 2s

// each runs a call by 1 and by 16 callers at once.
func each(b *testing.B, name string, size int, call func(n int64) error) {
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("%s/%dKB/callers=%d", name, size>>10, callers), func(b *testing.B) {
			b.SetBytes(int64(size))
			var n atomic.Int64
			work := func(more func() bool) {
				for more() {
					if err := call(n.Add(1)); err != nil {
						b.Error(err)
						return
					}
				}
			}
			if callers == 1 {
				work(b.Loop)
				return
			}
			b.SetParallelism(callers / 2) // times the cores, of which the machine of the figures has two
			b.RunParallel(func(pb *testing.PB) { work(pb.Next) })
		})
	}
}

var benchSizes = []int{100 << 10, 8 << 20}

func BenchmarkPut(b *testing.B) {
	for _, size := range benchSizes {
		data := pngOf(size)
		ctx := context.Background()
		folder := folderHouse(b, Config{})
		onDisk := folder.driver.(interface{ make(dir string) error })
		for i := range 1024 { // as in a store that has been used: the folders within are there
			const letters = "abcdefghijklmnopqrstuvwxyz234567"
			must(b, onDisk.make("photo/"+letters[i/32:i/32+1]+letters[i%32:i%32+1]))
		}
		put := func(h *house) func(int64) error {
			return func(int64) error {
				o, err := h.Put(ctx, Upload{Use: photos, Body: bytes.NewReader(data)})
				if err == nil {
					_ = h.driver.remove(ctx, o.Key) // the disk must not fill; the bare ways remove, too
				}
				return err
			}
		}
		dir := b.TempDir()
		each(b, "bare-disk", size, func(n int64) error { return bareWrite(dir, n, data, true) })
		each(b, "bare-disk-unsynced", size, func(n int64) error { return bareWrite(dir, n, data, false) })
		each(b, "folder", size, put(folder))
		s := s3House(b, Config{})
		each(b, "bare-client", size, func(n int64) error {
			name := fmt.Sprint(s.s3.prefix, "bare/", n)
			_, err := s.s3.client.PutObject(ctx, s.s3.bucket, name, bytes.NewReader(data), int64(size), minio.PutObjectOptions{PartSize: s3Part})
			if err == nil {
				err = s.s3.client.RemoveObject(ctx, s.s3.bucket, name, minio.RemoveObjectOptions{})
			}
			return err
		})
		each(b, "s3", size, put(s))
	}
}

// bareWrite is what a careful program does for one file: write, sync, rename, sync the folder; and remove it again.
func bareWrite(dir string, n int64, data []byte, synced bool) error {
	name := filepath.Join(dir, fmt.Sprint(n))
	f, err := os.Create(name + ".new")
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil && synced {
		err = f.Sync()
	}
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	sync := func() error {
		if !synced {
			return nil
		}
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer d.Close()
		return d.Sync()
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	if err := sync(); err != nil {
		return err
	}
	if err := os.Remove(name); err != nil {
		return err
	}
	return sync()
}

func BenchmarkGet(b *testing.B) {
	for _, size := range benchSizes {
		data := pngOf(size)
		ctx := context.Background()
		get := func(h *house) func(int64) error {
			o, err := h.Put(ctx, Upload{Use: photos, Body: bytes.NewReader(data)})
			must(b, err)
			return func(int64) error {
				f, err := h.Open(ctx, o.Key)
				if err != nil {
					return err
				}
				defer f.Close()
				return drain(f, size)
			}
		}
		name := filepath.Join(b.TempDir(), "file")
		must(b, os.WriteFile(name, data, 0o600))
		each(b, "bare-disk", size, func(int64) error {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			return drain(struct{ io.Reader }{f}, size)
		})
		each(b, "folder", size, get(folderHouse(b, Config{})))
		s := s3House(b, Config{})
		o, err := s.Put(ctx, Upload{Use: photos, Body: bytes.NewReader(data)})
		must(b, err)
		each(b, "bare-client", size, func(int64) error {
			body, _, _, err := s.s3.core.GetObject(ctx, s.s3.bucket, s.s3.name(o.Key), minio.GetObjectOptions{})
			if err != nil {
				return err
			}
			defer body.Close()
			return drain(body, size)
		})
		each(b, "s3", size, get(s))
	}
}

func drain(r io.Reader, size int) error {
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, 64<<10))
	if err == nil && n != int64(size) {
		err = fmt.Errorf("%d bytes of %d", n, size)
	}
	return err
}

// BenchmarkImage makes the sizes of a picture of 12 million pixels, as telephones take them.
func BenchmarkImage(b *testing.B) {
	m := image.NewRGBA(image.Rect(0, 0, 4000, 3000))
	for i := range m.Pix {
		m.Pix[i] = uint8(i*7 ^ i>>9)
	}
	for y := range 3000 {
		m.SetRGBA(y, y, color.RGBA{1, 2, 3, 255})
	}
	data := asJPEG(b, m)
	h := folderHouse(b, Config{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.render(context.Background(), data, "image/jpeg", avatars.Sizes); err != nil {
			b.Fatal(err)
		}
	}
}
