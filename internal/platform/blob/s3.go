package blob

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"levee"
	"levee/internal/platform/obs"
)

// s3 keeps each object in one object of a bucket, with what is known of it in its headers and metadata. A store shows an object when its last
// byte has come, so it is whole or not there.
type s3 struct {
	client *minio.Client
	core   minio.Core
	links  *minio.Client // whose endpoint signed links carry
	bucket string
	prefix string
}

const (
	s3Timeout   = 15 * time.Second
	s3Tries     = 3        // of one request, with growing pauses of up to a second between them
	s3Memory    = 1 << 20  // bytes of an upload that are kept in memory until they are checked; more are kept in a temporary file
	s3Part      = 16 << 20 // bytes; more are sent in parts
	s3Parallel  = 2        // parts at a time
	s3IdleConns = 64

	s3WriteBuffer = 256 << 10

	metaSum, metaName, metaCreated = "Levee-Sha256", "Levee-Name", "Levee-Created"
)

var (
	bucketForm = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	prefixForm = regexp.MustCompile(`^([A-Za-z0-9_.-]+/)*$`)
)

// OpenS3 keeps files in a bucket of an S3-compatible store. It does not ask the store anything: Check does. key signs the links of files that the
// house itself passes on.
func OpenS3(cfg Config, key []byte, o *obs.Obs) (_ *Store, err error) {
	defer levee.Wrap(&err, "blob.OpenS3")
	s, err := newStore(cfg, key, o)
	if err != nil {
		return nil, err
	}
	c := cfg.S3
	if c.Timeout == 0 {
		c.Timeout = s3Timeout
	}
	switch {
	case c.Timeout < time.Second || c.Timeout > 5*time.Minute:
		return nil, levee.Invalid("files.s3.timeout", "from 1s to 5m", c.Timeout)
	case !bucketForm.MatchString(c.Bucket):
		return nil, levee.Invalid("files.s3.bucket", "the name of a bucket: 3 to 63 of a-z, 0-9, - and .", c.Bucket)
	case !prefixForm.MatchString(c.Prefix) || len(c.Prefix) > 200 || strings.Contains("/"+c.Prefix, "/.") || strings.Contains(c.Prefix, ".."):
		return nil, levee.Invalid("files.s3.prefix", "empty, or words with a slash behind each", c.Prefix)
	case c.AccessKey == "" || c.SecretKey == "":
		return nil, levee.E(levee.CodeInvalid, "files.s3.access_key and files.s3.secret_key must be given")
	case c.Links != "" && c.Links != "store" && c.Links != "house":
		return nil, levee.Invalid("files.s3.links", `"store" or "house"`, c.Links)
	}
	if c.Region == "" {
		c.Region = "us-east-1"
	}
	d := &s3{bucket: c.Bucket, prefix: c.Prefix}
	if d.client, err = c.client("endpoint", c.Endpoint); err != nil {
		return nil, err
	}
	d.core = minio.Core{Client: d.client}
	d.links = d.client
	if c.PublicEndpoint != "" {
		if d.links, err = c.client("public_endpoint", c.PublicEndpoint); err != nil {
			return nil, err
		}
	}
	s.driver = d
	if c.Links != "house" {
		s.signer = d
	}
	return s, nil
}

func (c S3Config) client(field, endpoint string) (*minio.Client, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Scheme != "http" && u.Scheme != "https" {
		given := "an address of another form"
		if err == nil {
			given = u.Redacted()
		}
		return nil, levee.Invalid("files.s3."+field, "https://HOST or http://HOST:PORT", given)
	}
	styles := map[string]minio.BucketLookupType{"": minio.BucketLookupAuto, "auto": minio.BucketLookupAuto, "path": minio.BucketLookupPath, "host": minio.BucketLookupDNS}
	style, ok := styles[c.Style]
	if !ok {
		return nil, levee.Invalid("files.s3.style", `"auto", "path" or "host"`, c.Style)
	}
	return minio.New(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(c.AccessKey, c.SecretKey.Reveal(), ""), Secure: u.Scheme == "https", Region: c.Region, BucketLookup: style,
		Transport: transport(c.Timeout), MaxRetries: s3Tries,
	})
}

// transport gives up on a store that is silent: no step may take longer than the limit, also in the middle of a body.
func transport(limit time.Duration) *http.Transport {
	dialer := &net.Dialer{Timeout: min(limit, 5*time.Second), KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			if tcp, ok := c.(*net.TCPConn); ok { // what is written is on its way then, and not only in this machine's memory
				_ = tcp.SetWriteBuffer(s3WriteBuffer)
			}
			return &patient{c, limit}, nil
		},
		MaxIdleConns: s3IdleConns, MaxIdleConnsPerHost: s3IdleConns, IdleConnTimeout: limit, TLSHandshakeTimeout: limit,
		ExpectContinueTimeout: time.Second, DisableCompression: true,
	}
}

// patient is a connection on which something must move within a limit. The client always has a read under way, also while it sends a body, so
// every write moves the reader's limit, too.
type patient struct {
	net.Conn
	limit time.Duration
}

func (p *patient) Read(b []byte) (int, error) {
	_ = p.SetReadDeadline(time.Now().Add(p.limit))
	return p.Conn.Read(b)
}

func (p *patient) Write(b []byte) (int, error) {
	_ = p.SetDeadline(time.Now().Add(p.limit))
	n, err := p.Conn.Write(b)
	_ = p.SetReadDeadline(time.Now().Add(p.limit))
	return n, err
}

func (d *s3) name(k Key) string { return d.prefix + string(k) }

// put waits for the last byte before the first is sent: what is refused never reaches the store, a slow sender holds up no connection to it, and
// a request that failed can be sent again.
func (d *s3) put(ctx context.Context, o *Object, m *meter) error {
	var memory bytes.Buffer
	var body io.Reader = &memory
	_, err := io.CopyN(&memory, m, s3Memory)
	if err == nil { // there may be more
		spool, err := os.CreateTemp("", "levee-upload-*")
		if err != nil {
			return diskError(err)
		}
		// Without a name at once, where the system allows that: then a crash leaves nothing.
		if os.Remove(spool.Name()) != nil {
			defer os.Remove(spool.Name())
		}
		defer spool.Close()
		if _, err := io.Copy(spool, io.MultiReader(&memory, m)); err != nil {
			return diskError(err)
		}
		if _, err := spool.Seek(0, io.SeekStart); err != nil {
			return diskError(err)
		}
		body = spool
	} else if !errors.Is(err, io.EOF) {
		return err
	} else {
		body = bytes.NewReader(memory.Bytes())
	}
	m.finish(o)
	_, err = d.client.PutObject(ctx, d.bucket, d.name(o.Key), body, o.Size, minio.PutObjectOptions{
		ContentType: o.Type, ContentDisposition: disposition(*o), SendContentMd5: true, PartSize: s3Part, NumThreads: s3Parallel,
		UserMetadata: map[string]string{
			metaSum: hex.EncodeToString(o.SHA256[:]), metaName: url.QueryEscape(o.Name), metaCreated: strconv.FormatInt(o.Created.UnixMicro(), 10),
		},
	})
	return s3Error(ctx, err)
}

func (d *s3) get(ctx context.Context, k Key, from int64, wanted bool) (o Object, _ io.ReadCloser, err error) {
	if !wanted {
		info, err := d.client.StatObject(ctx, d.bucket, d.name(k), minio.StatObjectOptions{})
		if err != nil {
			return o, nil, s3Error(ctx, err)
		}
		o, err := object(k, info, info.Size)
		return o, nil, err
	}
	options := minio.GetObjectOptions{}
	if from > 0 {
		if err := options.SetRange(from, 0); err != nil {
			return o, nil, err
		}
	}
	body, info, header, err := d.core.GetObject(ctx, d.bucket, d.name(k), options)
	if err != nil {
		return o, nil, s3Error(ctx, err)
	}
	size := info.Size
	if from > 0 { // then it is the rest's; "bytes 5-9/10" has the whole
		_, whole, _ := strings.Cut(header.Get("Content-Range"), "/")
		if size, err = strconv.ParseInt(whole, 10, 64); err != nil {
			return o, nil, errors.Join(fmt.Errorf("the store answered a range without saying which"), body.Close())
		}
	}
	if o, err = object(k, info, size); err != nil {
		return o, nil, errors.Join(err, body.Close())
	}
	return o, &s3Body{ctx, body}, nil
}

// s3Body gives the errors of a body their codes.
type s3Body struct {
	ctx context.Context
	io.ReadCloser
}

func (b *s3Body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = s3Error(b.ctx, err)
	}
	return n, err
}

// object reads what put wrote. An object that a browser sent by a Ticket has none of it yet.
func object(k Key, info minio.ObjectInfo, size int64) (Object, error) {
	o := Object{Key: k, Type: declared(info.ContentType), Size: size, Created: info.LastModified.UTC()}
	sum := info.UserMetadata[metaSum]
	if sum == "" && k.use() == incoming {
		return o, nil
	}
	if n, err := hex.Decode(o.SHA256[:], []byte(sum)); err != nil || n != len(o.SHA256) {
		return o, errDamaged(k)
	}
	name, err := url.QueryUnescape(info.UserMetadata[metaName])
	created, e := strconv.ParseInt(info.UserMetadata[metaCreated], 10, 64)
	if err != nil || e != nil {
		return o, errDamaged(k)
	}
	o.Name, o.Created = name, time.UnixMicro(created).UTC()
	return o, nil
}

func (d *s3) remove(ctx context.Context, k Key) error {
	err := s3Error(ctx, d.client.RemoveObject(ctx, d.bucket, d.name(k), minio.RemoveObjectOptions{}))
	if levee.CodeOf(err) == levee.CodeNotFound {
		return nil
	}
	return err
}

func (d *s3) list(ctx context.Context, prefix string, after Key, n int) (list []Entry, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	options := minio.ListObjectsOptions{Prefix: d.prefix + prefix, Recursive: true, MaxKeys: n}
	if after != "" {
		options.StartAfter = d.name(after)
	}
	for info := range d.client.ListObjectsIter(ctx, d.bucket, options) {
		if info.Err != nil {
			return nil, s3Error(ctx, info.Err)
		}
		k := Key(strings.TrimPrefix(info.Key, d.prefix))
		if k.check() != nil {
			continue // somebody else's
		}
		if list = append(list, Entry{k, info.Size, info.LastModified.UTC()}); len(list) == n {
			break
		}
	}
	return list, nil
}

func (d *s3) sweep(ctx context.Context, before time.Time) (n int, err error) {
	for u := range d.client.ListIncompleteUploads(ctx, d.bucket, d.prefix, true) {
		switch {
		case err != nil: // the channel is read to its end
		case u.Err != nil:
			err = s3Error(ctx, u.Err)
		case u.Initiated.Before(before) && Key(strings.TrimPrefix(u.Key, d.prefix)).check() == nil:
			if err = s3Error(ctx, d.core.AbortMultipartUpload(ctx, d.bucket, u.Key, u.UploadID)); levee.CodeOf(err) == levee.CodeNotFound {
				err = nil
			}
			n++
		}
	}
	return n, err
}

// sign makes a link that the store itself serves.
func (d *s3) sign(ctx context.Context, method string, k Key, lifetime time.Duration, header http.Header) (string, error) {
	u, err := d.links.PresignHeader(ctx, method, d.bucket, d.name(k), lifetime, nil, header)
	if err != nil {
		return "", s3Error(ctx, err)
	}
	return u.String(), nil
}

// s3Error gives errors of the store their codes. The cause is for the log; it holds neither credentials nor signatures.
func s3Error(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if e := ctx.Err(); e != nil {
		return e
	}
	var said minio.ErrorResponse
	if !errors.As(err, &said) || said.Code == "" {
		var u *url.Error
		if errors.As(err, &u) { // it holds the request's address
			err = u.Err
		}
		return levee.E(levee.CodeUnavailable, "the store of files does not answer").After(time.Second).Because(err)
	}
	cause := fmt.Errorf("S3 says %s (%d): %s", said.Code, said.StatusCode, levee.Shorten(said.Message, 200))
	switch {
	case said.Code == "NoSuchKey" || said.Code == "NoSuchUpload":
		return levee.E(levee.CodeNotFound, "there is no such file").Because(cause)
	case said.Code == "QuotaExceeded" || said.Code == "InsufficientCapacity" || said.StatusCode == http.StatusInsufficientStorage:
		return levee.E(levee.CodeUnavailable, "the store of files is full").After(time.Minute).Because(cause)
	case said.StatusCode >= 500 || said.StatusCode == http.StatusTooManyRequests || said.StatusCode == http.StatusRequestTimeout:
		return levee.E(levee.CodeUnavailable, "the store of files cannot be used now").After(time.Second).Because(cause)
	}
	return cause // credentials, rights, the bucket: for whoever reads the log
}
