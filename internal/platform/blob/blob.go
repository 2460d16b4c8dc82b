// Package blob owns uploaded files: photos, avatars, covers. It takes their bytes within limits, finds out what they are, makes the sizes of
// pictures, keeps them whole or not at all in a folder or in an S3-compatible store, and hands out links that end.
//
// It does not own who may upload or see what, nor which files belong to what: a room keeps the keys in its rows, and asks for links to them.
package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"levee"
	"levee/internal/platform/obs"
)

// Config of the store. The zero value suits a folder.
type Config struct {
	// Max is the most bytes of one file, from 1 KiB to 1 GiB. Default 20 MiB, what deploy/nginx.conf lets through. A Use may allow less, never more.
	Max int64
	// Pixels is the most pixels of one picture that is made smaller, and of all that are worked at in the same moment, from 10,000 to 200
	// million. Default 40 million. Each takes 4 to 16 bytes of memory while its picture is worked at.
	Pixels int
	// S3 says where the store is, for the driver "s3:".
	S3 S3Config
	// Fail answers a request with an error. Set by the house.
	Fail func(w http.ResponseWriter, r *http.Request, err error)
}

// S3Config says where an S3-compatible store is and how to speak to it.
type S3Config struct {
	// Endpoint is its address, https://HOST or http://HOST:PORT. Files travel and credentials are proven over it: http only on a network
	// that is your own.
	Endpoint string
	// PublicEndpoint is the address that signed links carry, when browsers reach the store by another one. Default: Endpoint.
	PublicEndpoint string
	// Bucket is there already; it is not made. Prefix is put before each key, such as "shop/", so that several may share a bucket.
	Bucket, Prefix string
	// Region is signed into requests. Default us-east-1, which most servers other than Amazon's take.
	Region string
	// Style is where the bucket stands in an address: "path" (https://HOST/BUCKET/KEY), "host" (https://BUCKET.HOST/KEY) or "auto" (default:
	// host at the large clouds, path elsewhere).
	Style string
	// AccessKey and SecretKey are the credentials.
	AccessKey string
	SecretKey obs.Secret
	// Links says who serves signed links: "store" (default) sends browsers to the store itself; "house" has the house pass the bytes on, for a
	// store that browsers cannot reach.
	Links string
	// Timeout is how long the store may be silent before a call fails, from 1 s to 5 min. Default 15 s.
	Timeout time.Duration
}

const (
	maxDefault, maxLeast, maxMost          = 20 << 20, 1 << 10, 1 << 30
	pixelsDefault, pixelsLeast, pixelsMost = 40_000_000, 10_000, 200_000_000

	// leftoverAge is from when on something unfinished is a leftover: no upload takes a day.
	leftoverAge = 24 * time.Hour
	listMost    = 1000
)

// Object is a stored file. Its bytes never change.
type Object struct {
	Key Key
	// Type is the media type that its bytes say, such as image/png.
	Type string
	// Size in bytes.
	Size int64
	// SHA256 of the bytes.
	SHA256 [sha256.Size]byte
	// Name is what the file was called by whoever sent it, made harmless; "" when it had no name. For downloads only.
	Name string
	// Created is when it was stored.
	Created time.Time
}

// ETag is the object's strong entity tag (RFC 9110, 8.8.3).
func (o Object) ETag() string { return `"` + hex.EncodeToString(o.SHA256[:16]) + `"` }

// Use is what a room takes files for, and within which limits. Rooms declare theirs as variables.
type Use struct {
	// Name begins the keys: lower-case letters, digits and _, at most 31, such as "avatar".
	Name string
	// Types are the media types that are taken. Default: those of [Pictures]. Each must be one that bytes can be known by: see [Known].
	Types []string
	// Max is the most bytes. Default, and never more than, Config.Max.
	Max int64
	// Sizes that PutImage makes.
	Sizes []Size
}

// Upload is a file on its way in.
type Upload struct {
	Use Use
	// Body is read to its end, or to one byte over the limit.
	Body io.Reader
	// Size is how many bytes the sender said there are; 0: he did not. Fewer or more is CodeMalformed.
	Size int64
	// Type is what the sender said it is; "" or application/octet-stream: he did not.
	Type string
	// Name is the sender's name for the file. It is kept for downloads, never for keys or paths.
	Name string
	// SHA256, when not nil, is what the bytes must come to; CodeInvalid otherwise.
	SHA256 []byte

	id string // of the key, when it is settled already
}

// driver keeps objects. Keys are valid; several calls for one key may run at once, and then one of them wins as a whole.
type driver interface {
	// put stores what the meter gives, under o.Key. When it returns an error, nothing is left under the key that was not there before. It
	// calls m.finish(o) between the last byte and the moment from which the object can be seen.
	put(ctx context.Context, o *Object, m *meter) error
	// get returns an object, and the bytes from one on; wanted false: without the bytes. CodeNotFound.
	get(ctx context.Context, k Key, from int64, wanted bool) (Object, io.ReadCloser, error)
	// remove is done, too, when there is none.
	remove(ctx context.Context, k Key) error
	// list returns up to n objects whose keys begin with the prefix, which holds a whole Use's name and the slash, and come after one, by key.
	list(ctx context.Context, prefix string, after Key, n int) ([]Entry, error)
	// sweep removes what unfinished puts have left that were last touched before then.
	sweep(ctx context.Context, before time.Time) (int, error)
}

// Store keeps files. OpenFolder and OpenS3 make it; it is safe for concurrent use.
type Store struct {
	driver driver
	signer signer // nil: the house serves the links
	key    []byte
	config Config
	clock  obs.Clock
	log    *slog.Logger
	pixels *semaphore.Weighted

	seconds *prometheus.HistogramVec
	bytes   *prometheus.CounterVec
	swept   prometheus.Counter
}

func newStore(cfg Config, key []byte, o *obs.Obs) (*Store, error) {
	cfg.Max = cfg.Most()
	if cfg.Max < maxLeast || cfg.Max > maxMost {
		return nil, levee.Invalid("files.max", fmt.Sprintf("from %d to %d bytes", maxLeast, maxMost), cfg.Max)
	}
	if cfg.Pixels == 0 {
		cfg.Pixels = pixelsDefault
	}
	if cfg.Pixels < pixelsLeast || cfg.Pixels > pixelsMost {
		return nil, levee.Invalid("files.pixels", fmt.Sprintf("from %d to %d", pixelsLeast, pixelsMost), cfg.Pixels)
	}
	if len(key) < sha256.Size {
		return nil, errors.New("blob: the key that signs links needs 32 bytes")
	}
	if cfg.Fail == nil {
		cfg.Fail = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusInternalServerError) }
	}
	return &Store{
		key: key, config: cfg, clock: o.Clock, log: o.Named("blob"), pixels: semaphore.NewWeighted(int64(cfg.Pixels)),
		seconds: obs.Register(o.Metrics, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "levee_blob_seconds", Help: "Calls to the store of files by operation and result (an error's code, or ok).",
			Buckets: []float64{.0005, .002, .01, .05, .2, 1, 5, 20},
		}, []string{"op", "result"})),
		bytes: obs.Register(o.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "levee_blob_bytes_total", Help: "Bytes of files stored and read.",
		}, []string{"direction"})),
		swept: obs.Register(o.Metrics, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "levee_blob_swept_total", Help: "Leftovers of uploads that did not finish, removed.",
		})),
	}, nil
}

// done counts a call that began at start.
func (s *Store) done(op string, start time.Time, err *error) {
	result := "ok"
	switch code := levee.CodeOf(*err); {
	case errors.Is(*err, context.Canceled):
		result = "canceled"
	case code != "":
		result = string(code)
	}
	s.seconds.WithLabelValues(op, result).Observe(time.Since(start).Seconds())
}

// Put stores a file under a new key that nobody can guess, durably, and returns it; on an error nothing is kept. CodeTooLarge: over the limit;
// CodeUnsupportedMedia: the bytes are of a type that the Use does not take, or not what the sender said; CodeInvalid: no bytes, or other
// ones than SHA256 says; CodeMalformed: the body could not be read, or has not its Size; CodeUnavailable: the store is away or full.
func (s *Store) Put(ctx context.Context, u Upload) (o Object, err error) {
	defer levee.Wrap(&err, "blob.Put(%s)", u.Use.Name)
	defer s.done("put", time.Now(), &err)
	m, media, err := s.accept(ctx, u)
	if err != nil {
		return Object{}, err
	}
	return s.store(ctx, newKey(u.Use.Name, u.id), media, u.Name, m)
}

// accept checks what can be known of an upload before it is stored.
func (s *Store) accept(ctx context.Context, u Upload) (*meter, string, error) {
	use, err := s.normal(u.Use)
	if err != nil {
		return nil, "", err
	}
	if u.Size > use.Max {
		return nil, "", errTooLarge(use.Max)
	}
	m := newMeter(ctx, u, use.Max)
	media, err := m.sniff(use.Types, u.Type)
	return m, media, err
}

// normal fills a Use's defaults in. What is wrong with one is a defect of its room.
func (s *Store) normal(u Use) (Use, error) {
	if !useForm.MatchString(u.Name) || u.Name == incoming {
		return u, fmt.Errorf("blob: a Use cannot be called %q", u.Name)
	}
	if u.Max <= 0 || u.Max > s.config.Max {
		u.Max = s.config.Max
	}
	if len(u.Types) == 0 {
		u.Types = Pictures()
	}
	for _, t := range u.Types {
		if _, ok := known[t]; !ok {
			return u, fmt.Errorf("blob: files of type %q cannot be known by their bytes", t)
		}
	}
	return u, nil
}

func (s *Store) store(ctx context.Context, k Key, media, name string, m *meter) (Object, error) {
	o := Object{Key: k, Type: media, Name: cleanName(name, media), Created: s.clock().UTC().Truncate(time.Microsecond)}
	if err := s.driver.put(ctx, &o, m); err != nil {
		if m.err != nil { // the body's fault, however the driver puts it
			err = m.err
		}
		return Object{}, err
	}
	s.bytes.WithLabelValues("in").Add(float64(o.Size))
	return o, nil
}

// Stat returns a file without its bytes. CodeNotFound when there is none.
func (s *Store) Stat(ctx context.Context, k Key) (o Object, err error) {
	defer levee.Wrap(&err, "blob.Stat(%s)", k)
	defer s.done("stat", time.Now(), &err)
	if err := k.check(); err != nil {
		return o, err
	}
	o, _, err = s.driver.get(ctx, k, 0, false)
	return o, err
}

// Delete removes a file and, when the key is a picture's, all of its sizes. It is done, too, when there is none. Links to it end with it.
func (s *Store) Delete(ctx context.Context, k Key) (err error) {
	defer levee.Wrap(&err, "blob.Delete(%s)", k)
	defer s.done("delete", time.Now(), &err)
	if err := k.check(); err != nil {
		return err
	}
	if k.size() == "" {
		sizes, err := s.driver.list(ctx, string(k)+".", "", listMost)
		if err != nil {
			return err
		}
		for _, e := range sizes {
			if err := s.driver.remove(ctx, e.Key); err != nil {
				return err
			}
		}
	}
	return s.driver.remove(ctx, k)
}

// Entry is one line of a list.
type Entry struct {
	Key     Key
	Size    int64
	Created time.Time // when it was stored, by the store's clock
}

// List returns up to n files of a use in the order of their keys, which says nothing about their age, from the one after `after` on (""
// for the first). n is from 1 to 1000. Fewer than n are the last. It is how files that no row names any more are found: look at those that are
// older than any upload under way.
func (s *Store) List(ctx context.Context, use string, after Key, n int) (list []Entry, err error) {
	defer levee.Wrap(&err, "blob.List(%s)", use)
	defer s.done("list", time.Now(), &err)
	if !useForm.MatchString(use) {
		return nil, levee.Invalid("use", "the name of a use", use)
	}
	if n < 1 || n > listMost {
		return nil, levee.Invalid("n", "from 1 to 1000", n)
	}
	if after != "" && (after.check() != nil || after.use() != use) {
		return nil, levee.Invalid("after", "a key of this use", after)
	}
	return s.driver.list(ctx, use+"/", after, n)
}

// Check stores, reads and removes a small file: for whoever asks whether the store works. It leaves nothing.
func (s *Store) Check(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "blob.Check")
	text := []byte("Levee was here.\n")
	k := newKey(incoming, "")
	o, err := s.store(ctx, k, plainText, "", newMeter(ctx, Upload{Body: newReader(text)}, int64(len(text))))
	if err != nil {
		return err
	}
	_, body, err := s.driver.get(ctx, k, 0, true)
	if err != nil {
		return err
	}
	read, err := io.ReadAll(body)
	err = errors.Join(err, body.Close(), s.driver.remove(ctx, k))
	if err == nil && sha256.Sum256(read) != o.SHA256 {
		return errDamaged(k)
	}
	return err
}

// Most is the most bytes of a file.
func (c Config) Most() int64 {
	if c.Max == 0 {
		return maxDefault
	}
	return c.Max
}

// Sweep removes what uploads that did not finish have left: unfinished writes, and files sent by a Ticket that nobody committed. Only what was
// last touched a day ago goes. It returns how many it removed. Call it about every hour, on any node.
func (s *Store) Sweep(ctx context.Context) (n int, err error) {
	defer levee.Wrap(&err, "blob.Sweep")
	defer s.done("sweep", time.Now(), &err)
	before := time.Now().Add(-leftoverAge) // the files' own times, not the house's clock
	if n, err = s.driver.sweep(ctx, before); err != nil {
		return n, err
	}
	for after := Key(""); ; {
		list, err := s.driver.list(ctx, incoming+"/", after, listMost)
		if err != nil {
			return n, err
		}
		for _, e := range list {
			after = e.Key
			if e.Created.Before(before) {
				if err := s.driver.remove(ctx, e.Key); err != nil {
					return n, err
				}
				n++
			}
		}
		if len(list) < listMost {
			s.swept.Add(float64(n))
			return n, nil
		}
	}
}

func errNotFound() error { return levee.E(levee.CodeNotFound, "there is no such file") }

func errTooLarge(most int64) error {
	return levee.E(levee.CodeTooLarge, "a file has at most %d bytes here, this one has more", most)
}

func errDamaged(k Key) error { return fmt.Errorf("the file %s is damaged in its store", k) }
