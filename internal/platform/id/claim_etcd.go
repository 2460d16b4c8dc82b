package id

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"levee"
	"levee/internal/platform/obs"
)

// EtcdConfig says where etcd is. URL is needed; the zero value of everything else is usable.
type EtcdConfig struct {
	// URL names the members: etcd://[USER@]HOST:PORT,HOST:PORT… (at most 16), with etcds in place of etcd for TLS. A password has no place
	// in it.
	URL string
	// Password of the user. Default: none.
	Password obs.Secret
	// CA is the path of a PEM file with the certificates that may have signed the servers', for etcds. Default: those of the system.
	CA string
	// Prefix is put before each key, so that several houses may share a cluster: up to 64 of a-z, 0-9, '-', '_', '.', ':' and '/'.
	// Default "levee/".
	Prefix string
}

// Etcd is a connection to an etcd cluster. Its methods may be called by many goroutines at once.
type Etcd struct {
	client *clientv3.Client
	prefix string
}

const etcdForm = "etcd://[USER@]HOST:PORT,HOST:PORT… (etcds for TLS), without a password, which has a field of its own"

// OpenEtcd connects to etcd and asks it for a sign of life. CodeInvalid for a bad config, CodeUnavailable when no member answers within
// five seconds or ctx ends. Close ends it.
func OpenEtcd(ctx context.Context, cfg EtcdConfig) (_ *Etcd, err error) {
	defer levee.Wrap(&err, "id.OpenEtcd")
	scheme, rest, ok := strings.Cut(cfg.URL, "://")
	if len(cfg.URL) > 2048 || !ok || scheme != "etcd" && scheme != "etcds" || strings.ContainsAny(rest, "/?# ") {
		return nil, levee.Invalid("etcd", etcdForm, "something else")
	}
	c := clientv3.Config{DialTimeout: 5 * time.Second, DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 2 * time.Second, Logger: zap.NewNop(),
		Password: cfg.Password.Reveal()}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		c.Username, rest = rest[:at], rest[at+1:]
		if c.Username == "" || strings.Contains(c.Username, ":") {
			return nil, levee.Invalid("etcd", etcdForm, "a user with a password, or without a name")
		}
	}
	for host := range strings.SplitSeq(rest, ",") {
		name, port, err := net.SplitHostPort(host)
		if n, bad := strconv.Atoi(port); err != nil || bad != nil || name == "" || n < 1 || n > 65535 {
			return nil, levee.Invalid("etcd", etcdForm, "host "+levee.Shorten(strings.ToValidUTF8(host, "?"), 60))
		}
		c.Endpoints = append(c.Endpoints, host)
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "levee/"
	}
	switch {
	case len(c.Endpoints) > 16:
		return nil, levee.Invalid("etcd", "at most 16 members", len(c.Endpoints))
	case len(cfg.Prefix) > 64 || strings.Trim(cfg.Prefix, "abcdefghijklmnopqrstuvwxyz0123456789-_.:/") != "":
		return nil, levee.Invalid("etcd.prefix", "up to 64 of a-z, 0-9, '-', '_', '.', ':' and '/'", cfg.Prefix)
	case cfg.CA != "" && scheme != "etcds":
		return nil, levee.Invalid("etcd.ca", "set for etcds:// alone", cfg.CA)
	}
	if scheme == "etcds" {
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		if cfg.CA != "" {
			text, err := os.ReadFile(cfg.CA)
			c.TLS.RootCAs = x509.NewCertPool()
			if err != nil || !c.TLS.RootCAs.AppendCertsFromPEM(text) {
				return nil, levee.Invalid("etcd.ca", "a PEM file with a certificate that can be read", cfg.CA).Because(err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client, err := clientv3.New(c)
	if err != nil {
		return nil, levee.E(levee.CodeUnavailable, "etcd cannot be reached").Because(err).After(time.Second)
	}
	e := &Etcd{client: client, prefix: cfg.Prefix}
	if _, err := client.Get(ctx, e.prefix); err != nil {
		_ = client.Close()
		return nil, away(err)
	}
	return e, nil
}

// Close ends the connection. Generators on it give ids up to their horizons and then fail.
func (e *Etcd) Close() error { return e.client.Close() }

func away(err error) error {
	return levee.E(levee.CodeUnavailable, "etcd does not answer, or refuses").Because(err).After(time.Second)
}

// etcdStore keeps worker numbers as keys: PREFIXid/SPACE/w0001 is "owner horizon turn node".
type etcdStore struct {
	client *clientv3.Client
	prefix string
}

func openEtcd(ctx context.Context, cfg Config) (store, error) {
	s := &etcdStore{client: cfg.Etcd.client, prefix: cfg.Etcd.prefix + "id/" + cfg.Space + "/"}
	key := s.prefix + "layout"
	answer, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, cfg.Layout.String())).Else(clientv3.OpGet(key)).Commit()
	switch {
	case err != nil:
		return nil, away(err)
	case answer.Succeeded:
	case string(answer.Responses[0].GetResponseRange().Kvs[0].Value) != cfg.Layout.String():
		return nil, otherLayout(cfg, string(answer.Responses[0].GetResponseRange().Kvs[0].Value))
	}
	return s, nil
}

func (s *etcdStore) key(worker int) string { return fmt.Sprintf("%sw%05d", s.prefix, worker) }

func (r workerRow) text(node string) string {
	owner := r.owner
	if owner == "" {
		owner = noOwner
	}
	return fmt.Sprintf("%s %d %d %s", owner, r.horizon, r.turn, node)
}

// parseRow reads what text wrote; turn 0 for anything else, so that the number is left out.
func parseRow(worker int, text string) (r workerRow, node string) {
	r.worker = worker
	parts := strings.SplitN(text, " ", 4)
	if len(parts) != 4 {
		return r, ""
	}
	horizon, err1 := strconv.ParseInt(parts[1], 10, 64)
	turn, err2 := strconv.ParseInt(parts[2], 10, 64)
	if err1 != nil || err2 != nil {
		return r, ""
	}
	r.horizon, r.turn = horizon, turn
	if parts[0] != noOwner {
		r.owner = parts[0]
	}
	return r, parts[3]
}

func (s *etcdStore) rows(ctx context.Context) ([]workerRow, error) {
	answer, err := s.client.Get(ctx, s.prefix+"w", clientv3.WithPrefix())
	if err != nil {
		return nil, away(err)
	}
	var all []workerRow
	for _, kv := range answer.Kvs {
		if worker, err := strconv.Atoi(strings.TrimPrefix(string(kv.Key), s.prefix+"w")); err == nil {
			r, _ := parseRow(worker, string(kv.Value))
			all = append(all, r)
		}
	}
	return all, nil
}

// swap writes the row if its key has not changed since the revision (0: is not there).
func (s *etcdStore) swap(ctx context.Context, revision int64, r workerRow, node string) (bool, error) {
	key := s.key(r.worker)
	answer, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).Then(clientv3.OpPut(key, r.text(node))).Commit()
	if err != nil {
		return false, away(err)
	}
	return answer.Succeeded, nil
}

// read returns the row with its revision.
func (s *etcdStore) read(ctx context.Context, worker int) (r workerRow, node string, revision int64, err error) {
	answer, err := s.client.Get(ctx, s.key(worker))
	if err != nil {
		return r, "", 0, away(err)
	}
	if len(answer.Kvs) == 0 {
		return workerRow{worker: worker}, "", 0, nil
	}
	r, node = parseRow(worker, string(answer.Kvs[0].Value))
	return r, node, answer.Kvs[0].ModRevision, nil
}

func (s *etcdStore) take(ctx context.Context, at workerRow, owner, node string) (bool, int64, error) {
	r, _, revision, err := s.read(ctx, at.worker)
	if err != nil || r != at {
		return false, 0, err
	}
	won, err := s.swap(ctx, revision, workerRow{at.worker, owner, at.horizon, at.turn + 1}, node)
	return won, at.horizon, err
}

func (s *etcdStore) raise(ctx context.Context, worker int, owner string, horizon int64) (grant, error) {
	return grant{horizon: horizon}, s.change(ctx, worker, owner, func(r *workerRow) { r.horizon = max(r.horizon, horizon) })
}

func (s *etcdStore) free(ctx context.Context, worker int, owner string, first int64) error {
	return s.change(ctx, worker, owner, func(r *workerRow) { r.owner, r.horizon = "", first })
}

// change writes the owner's row anew. An own write whose answer was lost may come in between: then it looks again.
func (s *etcdStore) change(ctx context.Context, worker int, owner string, how func(*workerRow)) error {
	for range 5 {
		r, node, revision, err := s.read(ctx, worker)
		switch {
		case err != nil:
			return err
		case revision == 0 || r.owner != owner || owner == "":
			return errStolen
		}
		how(&r)
		r.turn++
		if done, err := s.swap(ctx, revision, r, node); err != nil || done {
			return err
		}
	}
	return away(errors.New("the row changes all the time"))
}
