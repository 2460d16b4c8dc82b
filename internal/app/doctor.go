package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/blob"
	"levee/internal/platform/db/bastion"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// Finding is what the doctor says about one thing.
type Finding struct {
	// Check names what was looked at.
	Check string `json:"check"`
	// State is "ok", "warn" (it works, and will not in some event that comes) or "wrong".
	State string `json:"state"`
	// Said is what was found, Do what to do about it; empty with "ok".
	Said string `json:"said"`
	Do   string `json:"do,omitempty"`
}

// The states of a Finding.
const (
	FindingOK    = "ok"
	FindingWarn  = "warn"
	FindingWrong = "wrong"
)

// Doctor looks at what a house stands on: servers, clocks, nodes, certificate, disk. It needs none of them to be there: what does not answer
// is a finding. It changes nothing but the number in db_beat, which every node counts up each second.
type Doctor struct {
	Config Config
	// Clock is this machine's. Default: time.Now.
	Clock func() time.Time
	// Roots have signed the certificate of http.public_url. Default: those of the system.
	Roots *x509.CertPool
	// DiskFloor is how many bytes must be free. Default 1 GiB: a sale of a million orders writes about half of it.
	DiskFloor uint64

	found  []Finding
	nodes  int             // that live
	tunnel *bastion.Tunnel // to the database; nil: none
}

// Examine returns the findings in the order in which they were made. It takes some seconds with mode "distributed", because it watches whether the
// nodes' counters rise. The error is a configuration that is wrong.
func (d *Doctor) Examine(ctx context.Context) ([]Finding, error) {
	if err := d.Config.fill(); err != nil {
		return nil, err
	}
	if d.Clock == nil {
		d.Clock = time.Now
	}
	if d.DiskFloor == 0 {
		d.DiskFloor = 1 << 30
	}
	d.ok("configuration", "mode "+d.Config.Mode)
	d.disk()
	if d.Config.distributed() {
		d.mysql(ctx)
		if len(d.Config.HTTP.TrustedProxies) == 0 {
			d.warn("trusted proxies", "there are none: behind a load balancer all callers look like it, and share its limits",
				"set http.trusted_proxies to the balancer's address")
		}
	}
	if d.Config.Redis != "" {
		d.redis(ctx)
	}
	if d.Config.Blob == "s3:" {
		d.files(ctx)
	}
	d.certificate(ctx)
	return d.found, nil
}

func (d *Doctor) ok(check, said string) {
	d.found = append(d.found, Finding{check, FindingOK, said, ""})
}
func (d *Doctor) warn(check, said, do string) {
	d.found = append(d.found, Finding{check, FindingWarn, said, do})
}
func (d *Doctor) wrong(check, said, do string) {
	d.found = append(d.found, Finding{check, FindingWrong, said, do})
}

// Away reports whether the findings say that the database or Redis cannot be reached, so that a house cannot be opened on them.
func Away(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool {
		return f.State == FindingWrong && (f.Check == checkDatabase || f.Check == checkRedis)
	})
}

const (
	checkDatabase = "database server"
	checkRedis    = "redis"
)

// reason shows an error with its cause, as a person at a terminal needs it.
func reason(err error) string {
	if e, ok := errors.AsType[*levee.Error](err); ok {
		if e.Err != nil {
			return e.Message + " (" + e.Err.Error() + ")"
		}
		return e.Message
	}
	return err.Error()
}

func (d *Doctor) disk() {
	// The folder may not be there before the first start: its parent's disk is the one, then.
	free, err := freeBytes(d.Config.Data)
	if errors.Is(err, fs.ErrNotExist) {
		free, err = freeBytes(".")
	}
	if err != nil {
		d.wrong("disk", "the free space of "+d.Config.Data+" cannot be told: "+err.Error(), "correct the line data, or the rights of the folder")
		return
	}
	if free < d.DiskFloor {
		d.wrong("disk", fmt.Sprintf("only %d MiB are free at %s", free>>20, d.Config.Data), "make room, or move data to a larger disk")
		return
	}
	d.ok("disk", fmt.Sprintf("%d MiB are free", free>>20))
}

// clock judges a server's clock: nodes give up each other's takings by age, so a clock may be wrong by half of that age at most.
func (d *Doctor) clock(check string, ahead, within time.Duration) {
	said, ok := d.judge(ahead, within)
	if !ok {
		d.wrong(check, said, setClocks)
		return
	}
	d.ok(check, said)
}

const setClocks = "have chrony or systemd-timesyncd set the clocks of all machines, this one too"

func (d *Doctor) judge(ahead, within time.Duration) (said string, ok bool) {
	lease := d.Config.Sale.GateLease
	if lease == 0 {
		lease = 10 * time.Second
	}
	where, by := "ahead of", ahead
	if ahead < 0 {
		where, by = "behind", -ahead
	}
	said = fmt.Sprintf("%v %s this machine (± %v)", by.Round(time.Millisecond), where, within.Round(100*time.Microsecond))
	if by-within > lease/2 {
		return fmt.Sprintf("%s, more than half of sale.gate_lease (%v)", said, lease/2), false
	}
	return said, true
}

// files stores, reads and removes a small file in the S3-compatible store.
func (d *Doctor) files(ctx context.Context) {
	const check, do = "store of files", "correct files.s3, or what the store allows these credentials: to put, get, list and delete in the bucket"
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		d.wrong(check, reason(err), do)
		return
	}
	defer func() { _ = o.Close(ctx) }()
	files, err := blob.OpenS3(d.Config.Files, make([]byte, 32), o) // no link is signed
	if err == nil {
		err = files.Check(ctx)
	}
	if err != nil {
		d.wrong(check, reason(err), do)
		return
	}
	d.ok(check, "a file was stored, read and removed in the bucket "+d.Config.Files.S3.Bucket)
}

func (d *Doctor) redis(ctx context.Context) {
	states, err := redis.Examine(ctx, d.Config.RedisServer, d.Clock)
	if err != nil {
		d.wrong(checkRedis, "it does not answer: "+reason(err), "start it, or correct the line redis and redis_server.password; until then nothing is sold")
	} else if len(states) == 0 {
		d.wrong(checkRedis, "the cluster has no primary", "repair the cluster; until then nothing is sold")
	}
	for _, s := range states {
		at := s.Address
		if s.Unfit != nil {
			d.wrong("redis can be used", at+": "+reason(s.Unfit), "set it as it says; no node starts before")
		} else {
			d.ok("redis can be used", fmt.Sprintf("%s: version %s, %s", at, s.Version, s.Policy))
		}
		d.clock("clock of Redis", s.Ahead, s.Within)
		switch {
		case s.WriteFailed:
			d.wrong("redis keeps its data", at+": its log or its snapshot could not be written the last time", "look into its log; most often its disk is full")
		case !s.AppendOnly:
			d.warn("redis keeps its data", at+": it keeps no log of its writes; after a crash it comes back empty, and sales stop until they are loaded again",
				"set appendonly yes and appendfsync everysec")
		default:
			d.ok("redis keeps its data", at+": append-only file")
		}
		switch {
		case s.Sentinels && s.Replicas == 0:
			d.wrong("redis fails over", at+": it has no replica, so the sentinels have nothing to put in its place", "start a replica (replicaof)")
		case s.Sentinels && !s.MinReplicas:
			d.warn("redis fails over", at+": cut off from its replicas it goes on taking writes, which are lost when it comes back",
				"set min-replicas-to-write 1 and min-replicas-max-lag 10 on all of them")
		case s.Cluster && s.Replicas == 0:
			d.warn("redis fails over", at+": this master of the cluster has no replica: when it dies, its sales stop", "give it one (CLUSTER REPLICATE)")
		case s.Sentinels || s.Cluster:
			d.ok("redis fails over", fmt.Sprintf("%s: %d replicas", at, s.Replicas))
		}
		if s.MemoryMax > 0 && s.MemoryUsed > s.MemoryMax/10*8 {
			d.warn("memory of Redis", fmt.Sprintf("%s: %d of %d MiB are used; when it is full, nothing is sold", at, s.MemoryUsed>>20, s.MemoryMax>>20), "raise maxmemory")
		}
	}
}

// certificateSoon is how long before its end a certificate is told of.
const certificateSoon = 14 * 24 * time.Hour

func (d *Doctor) certificate(ctx context.Context) {
	const check = "certificate"
	u, err := url.Parse(d.Config.HTTP.PublicURL)
	if err != nil || u.Scheme != "https" {
		return // no certificate is claimed
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{RootCAs: d.Roots, Time: d.Clock, MinVersion: tls.VersionTLS12}}
	c, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		d.wrong(check, fmt.Sprintf("that of %s is good from %s to %s", u.Host, day(invalid.Cert.NotBefore), day(invalid.Cert.NotAfter)), "renew it and have the load balancer load it")
		return
	}
	if name, ok := errors.AsType[x509.HostnameError](err); ok {
		d.wrong(check, fmt.Sprintf("%s shows one for %s", u.Host, strings.Join(name.Certificate.DNSNames, ", ")), "get one for this name, or correct http.public_url")
		return
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		d.wrong(check, "that of "+u.Host+" is signed by nobody whom this machine knows", "give the load balancer the whole chain, or have it signed by an authority")
		return
	}
	if err != nil {
		d.wrong(check, u.Host+" cannot be reached from here: "+err.Error(), "start the load balancer, or correct http.public_url")
		return
	}
	defer c.Close()
	last := c.(*tls.Conn).ConnectionState().PeerCertificates[0].NotAfter //nolint:errcheck // tls.Dialer returns nothing else
	if left := last.Sub(d.Clock()); left < certificateSoon {
		d.warn(check, fmt.Sprintf("that of %s ends on %s", u.Host, day(last)), "renew it, and find out why it was not renewed by itself")
		return
	}
	d.ok(check, fmt.Sprintf("that of %s is good to %s", u.Host, day(last)))
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// direct asks nodes themselves: a proxy that is set for the way out does not reach them.
var direct = http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// reach asks a node for a page and returns what it answered with.
func reach(ctx context.Context, address, path string) (status int, text []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return 0, nil, err
	}
	answer, err := direct.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	text, err = io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	return answer.StatusCode, text, err
}

// clockAt reads the clock of a node.
func (d *Doctor) clockAt(ctx context.Context, address string) (ahead, within time.Duration, err error) {
	for i := range clockTries {
		before := d.Clock()
		_, text, err := reach(ctx, address, "/v1/time")
		half := d.Clock().Sub(before) / 2
		var said struct{ Time time.Time }
		if err == nil {
			err = json.Unmarshal(text, &said)
		}
		if err != nil {
			return 0, 0, err
		}
		if i == 0 || half < within {
			ahead, within = said.Time.Sub(before.Add(half)), half
		}
	}
	return ahead, within, nil
}
