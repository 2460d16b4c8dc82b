package blob

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"levee"
)

// signer is a driver whose store serves signed links itself.
type signer interface {
	sign(ctx context.Context, method string, k Key, lifetime time.Duration, header http.Header) (string, error)
}

// Path is where the house serves links; two parts, USE and ID, follow.
const Path = "/v1/files"

// A link's lifetime: S3 allows no longer ones. leeway is how long a Ticket may be committed after its link has ended.
const (
	lifetimeLeast = time.Second
	lifetimeMost  = 7 * 24 * time.Hour
	leeway        = time.Hour
)

func checkLifetime(d time.Duration) error {
	if d < lifetimeLeast || d > lifetimeMost {
		return levee.Invalid("lifetime", "from 1s to 168h", d)
	}
	return nil
}

// URL returns a link by which anybody may read the file until its lifetime (1 s to 7 days, counted in whole seconds) is over: an absolute one to
// the store itself, or a path in the house. It does not ask whether there is such a file. Whoever has a link can pass it on.
func (s *Store) URL(ctx context.Context, k Key, lifetime time.Duration) (_ string, err error) {
	defer levee.Wrap(&err, "blob.URL(%s)", k)
	if err := k.check(); err != nil {
		return "", err
	}
	if err := checkLifetime(lifetime); err != nil {
		return "", err
	}
	if s.signer != nil {
		return s.signer.sign(ctx, http.MethodGet, k, lifetime, nil)
	}
	return s.link(http.MethodGet, k, s.clock().Add(lifetime), 0), nil
}

// link is a path in the house with its end and signature.
func (s *Store) link(method string, k Key, end time.Time, size int64) string {
	expires := end.Unix()
	q := url.Values{"expires": {strconv.FormatInt(expires, 10)}, "signature": {s.signature(method, k, expires, size)}}
	if method == http.MethodPut {
		q.Set("size", strconv.FormatInt(size, 10))
	}
	return Path + "/" + string(k) + "?" + q.Encode()
}

// signature is over everything that the link allows.
func (s *Store) signature(method string, k Key, expires, size int64) string {
	return s.mac("link", []byte(method), []byte(k), binary.BigEndian.AppendUint64(nil, uint64(expires)), binary.BigEndian.AppendUint64(nil, uint64(size)))
}

// mac signs parts, each with its length before it, so that no two lists of parts come to the same bytes.
func (s *Store) mac(purpose string, parts ...[]byte) string {
	h := hmac.New(sha256.New, s.key)
	for _, p := range append([][]byte{[]byte(purpose)}, parts...) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		h.Write(p)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// verify reads a link. CodeForbidden: it was not signed here, or for something else; CodeGone: its time is over.
func (s *Store) verify(method string, k Key, q url.Values) (end time.Time, size int64, err error) {
	expires, err := strconv.ParseInt(q.Get("expires"), 10, 64)
	if method == http.MethodPut && err == nil {
		size, err = strconv.ParseInt(q.Get("size"), 10, 64)
	}
	if err != nil || !hmac.Equal([]byte(q.Get("signature")), []byte(s.signature(method, k, expires, size))) {
		return end, 0, levee.E(levee.CodeForbidden, "the link is not one that was made here")
	}
	if end = time.Unix(expires, 0); !s.clock().Before(end) {
		return end, 0, levee.E(levee.CodeGone, "the link has ended; ask for a new one")
	}
	return end, size, nil
}

// Ticket lets somebody send one file straight to the store. What he sends counts for nothing until Commit has looked at it.
type Ticket struct {
	// Method, URL and Header are the request to make, with the file as its body. The URL is absolute, or a path in the house.
	Method, URL string
	Header      map[string]string
	// Token is what Commit asks for.
	Token string
	// Expires is when the request must have begun.
	Expires time.Time
}

// Declared is what somebody says of a file that he will send. Size and Type must be given.
type Declared struct {
	Size   int64
	Type   string
	Name   string
	SHA256 []byte // nil: not said
}

// claim is what a Token says.
type claim struct {
	ID      string `json:"id"`
	Use     string `json:"use"`
	Owner   string `json:"owner"`
	Size    int64  `json:"size"`
	Type    string `json:"type"`
	Name    string `json:"name,omitempty"`
	SHA256  []byte `json:"sha256,omitempty"`
	Expires int64  `json:"expires"`
}

// Direct lets owner, any text that names who may commit it, send a file of exactly the size that he declared. The same file may be sent again
// until the lifetime is over, each time over the one before. CodeTooLarge, CodeUnsupportedMedia and CodeInvalid as Put, by what was declared.
func (s *Store) Direct(ctx context.Context, u Use, owner string, d Declared, lifetime time.Duration) (t Ticket, err error) {
	defer levee.Wrap(&err, "blob.Direct(%s)", u.Name)
	use, err := s.normal(u)
	if err != nil {
		return t, err
	}
	media := declared(d.Type)
	switch err := checkLifetime(lifetime); {
	case err != nil:
		return t, err
	case d.Size < 1:
		return t, levee.Invalid("size", "at least 1", d.Size)
	case d.Size > use.Max:
		return t, errTooLarge(use.Max)
	case !slices.Contains(use.Types, media):
		return t, unsupported(strings.Join(use.Types, ", "), levee.Shorten(d.Type, 60))
	case len(d.SHA256) != 0 && len(d.SHA256) != sha256.Size:
		return t, levee.Invalid("sha256", "32 bytes", hex.EncodeToString(d.SHA256))
	}
	end := s.clock().Add(lifetime).UTC()
	c := claim{ID: newID(), Use: use.Name, Owner: owner, Size: d.Size, Type: media, Name: cleanName(d.Name, media), SHA256: d.SHA256, Expires: end.Unix()}
	text, err := json.Marshal(c)
	if err != nil {
		return t, err
	}
	t = Ticket{Method: http.MethodPut, Expires: end, Token: base64.RawURLEncoding.EncodeToString(text) + "." + s.mac("ticket", text),
		Header: map[string]string{"Content-Type": media}}
	k := newKey(incoming, c.ID)
	if s.signer == nil {
		t.URL = s.link(http.MethodPut, k, end, d.Size)
		return t, nil
	}
	// The store refuses a body of another length: it is part of what was signed. Browsers set it themselves.
	t.URL, err = s.signer.sign(ctx, http.MethodPut, k, lifetime, http.Header{"Content-Type": {media}, "Content-Length": {strconv.FormatInt(d.Size, 10)}})
	return t, err
}

// Commit makes a file that was sent by a Ticket one of the store's, after the same checks as Put's: its size, its type by its bytes, and its hash when
// one was declared. What it looks at is what it keeps: the bytes are read once and stored anew, so a link that still lives changes nothing
// any more. Asking again gives the same object. CodeNotFound: nothing was sent, or too long ago; CodeForbidden: not this owner's Ticket or
// not of this use; CodeGone: the Ticket is over. After a refusal the file is removed.
func (s *Store) Commit(ctx context.Context, u Use, owner, token string) (o Object, err error) {
	defer levee.Wrap(&err, "blob.Commit(%s)", u.Name)
	defer s.done("commit", time.Now(), &err)
	err = s.commit(ctx, u, owner, token, func(up Upload) (bool, error) {
		if up.Body == nil {
			o, err = s.Stat(ctx, newKey(u.Name, up.id))
			return err == nil, err
		}
		o, err = s.Put(ctx, up)
		return err == nil, err
	})
	return o, err
}

// CommitImage is Commit for a picture of which PutImage makes the sizes.
func (s *Store) CommitImage(ctx context.Context, u Use, owner, token string) (i Image, err error) {
	defer levee.Wrap(&err, "blob.CommitImage(%s)", u.Name)
	defer s.done("commit", time.Now(), &err)
	err = s.commit(ctx, u, owner, token, func(up Upload) (bool, error) {
		if up.Body == nil {
			i, err = s.Image(ctx, u, newKey(u.Name, up.id))
			return err == nil, err
		}
		i, err = s.PutImage(ctx, up)
		return err == nil, err
	})
	return i, err
}

// commit asks keep first, with no body, whether it is done already.
func (s *Store) commit(ctx context.Context, u Use, owner, token string, keep func(Upload) (bool, error)) error {
	text, sum, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(text)
	var c claim
	if err != nil || !hmac.Equal([]byte(sum), []byte(s.mac("ticket", raw))) || json.Unmarshal(raw, &c) != nil || c.Owner != owner || c.Use != u.Name {
		return levee.E(levee.CodeForbidden, "the ticket is not this caller's for this use")
	}
	if s.clock().After(time.Unix(c.Expires, 0).Add(leeway)) {
		return levee.E(levee.CodeGone, "the ticket is over; ask for a new one")
	}
	up := Upload{Use: u, Size: c.Size, Type: c.Type, Name: c.Name, SHA256: c.SHA256, id: c.ID}
	if done, err := keep(up); done || levee.CodeOf(err) != levee.CodeNotFound {
		return err
	}
	sent := newKey(incoming, c.ID)
	f, err := s.Open(ctx, sent)
	if err != nil {
		return err
	}
	defer f.Close()
	up.Body = f
	_, err = keep(up)
	switch code := levee.CodeOf(err); {
	case err != nil && (code == levee.CodeInternal || code == levee.CodeUnavailable || code == levee.CodeTimeout):
		return err // not the file's fault: it may be asked for again
	default:
		if e := s.driver.remove(ctx, sent); e != nil {
			s.log.Warn("a file that was sent is left for the sweep", "error", fmt.Errorf("removing %s: %w", sent, e))
		}
		return err
	}
}
