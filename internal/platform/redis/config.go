package redis

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"levee"
	"levee/internal/platform/obs"
)

// Config says where Redis is and how long it may take. URL is needed; the zero value of everything else is usable.
type Config struct {
	// URL names the server: redis://[USER@]HOST[:PORT][/NUMBER], redis+sentinel://[USER@]HOST[:PORT],…/MASTER[/NUMBER] or
	// redis+cluster://[USER@]HOST[:PORT],…; with rediss in place of redis the connection is encrypted. Ports default to 6379, for
	// sentinels to 26379. NUMBER is that of a database, from 0 to 1023. At most 32 hosts. A password has no place in it.
	URL string
	// Password of the user, or of the default user. At most 4,096 bytes. Default: none.
	Password obs.Secret
	// SentinelPassword is the sentinels' own. At most 4,096 bytes. Default: none.
	SentinelPassword obs.Secret
	// CA is the path of a PEM file with the certificates that may have signed the server's, for rediss. At most 1 MiB. Default: those
	// of the system.
	CA string
	// Prefix is put before each key and channel, so that several houses may share a server: up to 64 of a-z, 0-9, '-', '_', '.' and
	// ':'. Default "levee:". Two houses of one prefix would sell each other's goods.
	Prefix string
	// Timeout is the longest that a call may take, from 10 ms to 5 s. Default 100 ms. It must be well over the round trip; what
	// waits for Redis waits this long when it hangs, until the breaker opens.
	Timeout time.Duration
	// Connections is the most connections to each server for calls, from 4 to 1000. Default 64. Up to ten more are used for
	// messages and bulk work.
	Connections int
}

const (
	prefixDefault                             = "levee:"
	timeoutDefault, timeoutMin, timeoutMax    = 100 * time.Millisecond, 10 * time.Millisecond, 5 * time.Second
	connsDefault, connsMin, connsMax          = 64, 4, 1000
	hostsMax, urlMax, passwordMax, prefixMost = 32, 4096, 4096, 64
	caMax                                     = 1 << 20
	databaseMax                               = 1023
	// patientTimeout is the longest that bulk work and set-up may take.
	patientTimeout = 5 * time.Second
	patientConns   = 4
)

const urlForm = "redis://[USER@]HOST[:PORT][/NUMBER], redis+sentinel://HOST[:PORT],…/MASTER[/NUMBER] or redis+cluster://HOST[:PORT],… " +
	"(rediss for TLS), without a password, which has a field of its own"

// Validate returns CodeInvalid, which names field, allowed and given, for the first value that is out of its bounds.
func (c Config) Validate() error {
	_, err := c.address()
	return err
}

// address is what a URL says.
type address struct {
	kind   string // "", sentinel or cluster
	tls    bool
	user   string
	hosts  []string
	master string
	number int
}

func (c Config) filled() Config {
	if c.Prefix == "" {
		c.Prefix = prefixDefault
	}
	if c.Timeout == 0 {
		c.Timeout = timeoutDefault
	}
	if c.Connections == 0 {
		c.Connections = connsDefault
	}
	return c
}

// address checks the whole config and reads the URL.
func (c Config) address() (address, error) {
	c = c.filled()
	a, err := parseURL(c.URL)
	switch {
	case err != nil:
		return a, err
	case len(c.Password) > passwordMax:
		return a, levee.Invalid("redis.password", "at most 4096 bytes", strconv.Itoa(len(c.Password))+" bytes")
	case len(c.SentinelPassword) > passwordMax:
		return a, levee.Invalid("redis.sentinel_password", "at most 4096 bytes", strconv.Itoa(len(c.SentinelPassword))+" bytes")
	case c.SentinelPassword != "" && a.kind != "sentinel":
		return a, levee.Invalid("redis.sentinel_password", "set for redis+sentinel:// alone", "a password")
	case c.CA != "" && !a.tls:
		return a, levee.Invalid("redis.ca", "set for rediss:// alone", c.CA)
	case len(c.Prefix) > prefixMost || strings.Trim(c.Prefix, "abcdefghijklmnopqrstuvwxyz0123456789-_.:") != "":
		return a, levee.Invalid("redis.prefix", "up to 64 of a-z, 0-9, '-', '_', '.' and ':'", c.Prefix)
	case c.Timeout < timeoutMin || c.Timeout > timeoutMax:
		return a, levee.Invalid("redis.timeout", "from 10ms to 5s", c.Timeout)
	case c.Connections < connsMin || c.Connections > connsMax:
		return a, levee.Invalid("redis.connections", "from 4 to 1000", c.Connections)
	}
	return a, nil
}

// parseURL reads a URL by hand: net/url knows no list of hosts, and its errors quote what may be a password.
func parseURL(s string) (a address, err error) {
	if len(s) > urlMax {
		return a, levee.Invalid("redis", urlForm, strconv.Itoa(len(s))+" bytes")
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return a, levee.Invalid("redis", urlForm, "a text without ://")
	}
	refuse := func(what string) (address, error) {
		return address{}, levee.Invalid("redis", urlForm, scheme+"://, "+what)
	}
	switch scheme {
	case "redis", "rediss":
	case "redis+sentinel", "rediss+sentinel":
		a.kind = "sentinel"
	case "redis+cluster", "rediss+cluster":
		a.kind = "cluster"
	default:
		// What stands before :// is no secret even in a hurry, but it may be long.
		return a, levee.Invalid("redis", urlForm, levee.Shorten(scheme, 20)+"://…")
	}
	a.tls = strings.HasPrefix(scheme, "rediss")
	// The last @, because a password may hold anything.
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		if a.user = rest[:at]; a.user == "" || len(a.user) > 128 || !isWord(a.user) {
			return refuse("with a password, or a user of other than up to 128 letters, digits, '-', '_' and '.'")
		}
		rest = rest[at+1:]
	}
	if strings.ContainsAny(rest, "?#") {
		return refuse("with ? or #") // which may hold a password
	}
	hosts, path, hasPath := strings.Cut(rest, "/")
	port := "6379"
	if a.kind == "sentinel" {
		port = "26379"
	}
	for h := range strings.SplitSeq(hosts, ",") {
		host, ok := hostPort(h, port)
		if !ok {
			return refuse("host " + levee.Shorten(h, 40))
		}
		a.hosts = append(a.hosts, host)
	}
	if len(a.hosts) > hostsMax || a.kind == "" && len(a.hosts) > 1 {
		return refuse(strconv.Itoa(len(a.hosts)) + " hosts")
	}
	if a.kind == "sentinel" {
		a.master, path, hasPath = strings.Cut(path, "/")
		if a.master == "" || len(a.master) > 128 || !isWord(a.master) {
			return refuse("master " + levee.Shorten(a.master, 40))
		}
	}
	if hasPath && path != "" {
		n, err := strconv.Atoi(path)
		if err != nil || n < 0 || n > databaseMax || strconv.Itoa(n) != path || a.kind == "cluster" {
			return refuse("path /" + levee.Shorten(path, 40))
		}
		a.number = n
	}
	return a, nil
}

// isWord reports whether s holds only letters, digits, '-', '_' and '.'.
func isWord(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

// hostPort checks a host with or without a port: a name, an IPv4 address or an IPv6 address in brackets.
func hostPort(s, port string) (string, bool) {
	host := s
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		n, err := strconv.Atoi(s[i+1:])
		if err != nil || n < 1 || n > 65535 {
			return "", false
		}
		host, port = s[:i], strconv.Itoa(n)
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		if !ok || net.ParseIP(inner) == nil {
			return "", false
		}
		return net.JoinHostPort(inner, port), true
	}
	return net.JoinHostPort(host, port), host != "" && len(host) <= 253 && isWord(host)
}

// client makes a client. Nothing is sent yet.
func (c Config) client(a address, timeout time.Duration, conns int) (goredis.UniversalClient, error) {
	o := &goredis.UniversalOptions{
		Addrs: a.hosts, MasterName: a.master, DB: a.number, IsClusterMode: a.kind == "cluster",
		Username: a.user, Password: c.Password.Reveal(), SentinelPassword: c.SentinelPassword.Reveal(),
		ClientName: "levee", DisableIdentity: true,
		Protocol:                 2, // no messages between replies, and the same on every server that speaks the protocol
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		// What failed may have been carried out, so nothing is sent twice. In a cluster this also counts answers that point elsewhere.
		MaxRetries: -1, MaxRedirects: 3, MinRetryBackoff: time.Millisecond, MaxRetryBackoff: 4 * time.Millisecond,
		DialTimeout: max(2*timeout, 200*time.Millisecond), DialerRetries: 1,
		ReadTimeout: timeout, WriteTimeout: timeout, PoolTimeout: timeout, ContextTimeoutEnabled: true,
		PoolSize: conns, MaxActiveConns: conns, ConnMaxIdleTime: 5 * time.Minute,
		PipelinePoolSize: -1, // pipelines share the connections, so that their number is what the config says
	}
	if a.tls {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if c.CA != "" {
			pool, err := readCA(c.CA)
			if err != nil {
				return nil, err
			}
			o.TLSConfig.RootCAs = pool
		}
	}
	return goredis.NewUniversalClient(o), nil
}

func readCA(path string) (*x509.CertPool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, levee.Invalid("redis.ca", "a PEM file that can be read", path).Because(err)
	}
	if info.Size() > caMax {
		return nil, levee.Invalid("redis.ca", "at most 1 MiB", info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, levee.Invalid("redis.ca", "a PEM file that can be read", path).Because(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, levee.Invalid("redis.ca", "a PEM file with a certificate", path)
	}
	return pool, nil
}
