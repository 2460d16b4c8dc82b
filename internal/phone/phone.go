// Package phone owns proofs that somebody holds a phone number: codes that are sent there by SMS, which account has proven which number, and
// what follows from a proof: a session, a new account, a number on one's account. It does not own accounts and sessions: identity makes them.
//
// A number that was typed at sign-up proves nothing: whoever proves it by a code takes it from the account that only claims it, and never
// enters that account. A number that an account has proven opens that account, and is never moved to another by a second proof.
package phone

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"embed"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"levee"
	"levee/internal/handle"
	"levee/internal/identity"
	"levee/internal/platform/db"
	"levee/internal/platform/job"
	"levee/internal/platform/limit"
	"levee/internal/platform/obs"
	"levee/internal/platform/schedule"
	"levee/internal/trail"
)

//go:embed schema
var schemaFS embed.FS

// Schema returns the tables phone_*.
func Schema() db.Schema { return db.Schema{Owner: "phone", FS: schemaFS} }

// The senders.
const (
	senderNone    = "none"
	senderConsole = "console"
	senderAliyun  = "aliyun"
)

// Config of the room. The zero value sends nothing: nobody can sign in by phone.
type Config struct {
	// Sender is who delivers messages: "none" (default); "aliyun", the SMS service of Alibaba Cloud, each of whose messages costs money; or
	// "console", which writes each code into the log instead, for development alone: it is refused with mode "distributed" and where
	// http.public_url is not on this machine, because whoever reads the log could sign in as anybody.
	Sender string
	// Countries are the country calling codes to which codes are sent, at most 50 of 1 to 3 digits: default "86". Messages to far countries are
	// dear, and numbers there are what fraud with premium numbers uses.
	Countries []string
	// Aliyun is the account for the sender "aliyun".
	Aliyun AliyunConfig
}

// AliyunConfig is an account at Alibaba Cloud's SMS service (Dysmsapi 2017-05-25).
type AliyunConfig struct {
	// Endpoint is where the service is: default https://dysmsapi.aliyuncs.com. Plain http is for an address of this machine alone.
	Endpoint string
	// KeyID and KeySecret are an access key that may call SendSms, and should be able to do nothing else. Who has them sends at your cost.
	KeyID     string
	KeySecret obs.Secret
	// SignName is the signature and Template the code of the template (SMS_123456789), both approved by the provider. The template has one
	// variable, ${code}.
	SignName string
	Template string
}

func (c Config) withDefaults() Config {
	if c.Sender == "" {
		c.Sender = senderNone
	}
	if len(c.Countries) == 0 {
		c.Countries = []string{"86"}
	}
	if c.Aliyun.Endpoint == "" {
		c.Aliyun.Endpoint = "https://dysmsapi.aliyuncs.com"
	}
	return c
}

// Validate returns CodeInvalid for the first field that is out of its bounds. No error shows a secret.
func (c Config) Validate() error {
	c = c.withDefaults()
	for _, code := range c.Countries {
		if len(c.Countries) > 50 || len(code) > 3 || !handle.AllDigits(code) || code[0] == '0' {
			return levee.Invalid("phone.countries", "at most 50 codes of 1 to 3 digits that do not begin with 0", strings.Join(c.Countries, ","))
		}
	}
	switch c.Sender {
	case senderNone, senderConsole:
		return nil
	case senderAliyun:
	default:
		return levee.Invalid("phone.sender", `"none", "aliyun" or "console"`, c.Sender)
	}
	a := c.Aliyun
	u, err := url.Parse(a.Endpoint)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" ||
		u.Scheme != "https" && (u.Scheme != "http" || !here(u)) {
		return levee.Invalid("phone.aliyun.endpoint", "an https address without path and query", a.Endpoint)
	}
	for _, f := range []struct{ field, given string }{{"key_id", a.KeyID}, {"sign_name", a.SignName}, {"template", a.Template}} {
		if f.given == "" || len(f.given) > 128 {
			return levee.Invalid("phone.aliyun."+f.field, `1 to 128 bytes with phone.sender = "aliyun"`, f.given)
		}
	}
	if a.KeySecret == "" || len(a.KeySecret) > 256 {
		return levee.Invalid("phone.aliyun.key_secret", `1 to 256 bytes with phone.sender = "aliyun"`, fmt.Sprintf("%d bytes", len(a.KeySecret)))
	}
	return nil
}

// here reports whether an address is on this machine.
func here(u *url.URL) bool {
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.IsLoopback() || u.Hostname() == "localhost"
}

// Deps is what the room is built from.
type Deps struct {
	DB       *db.DB
	Obs      *obs.Obs
	Limits   *limit.Limits
	Jobs     *job.Jobs
	Identity *identity.Service
	Trail    *trail.Service
	Config   Config
	// Key is what codes are hashed and sealed with: 32 bytes, the same on all nodes. With another one the codes under way are void.
	Key []byte
	// PublicURL is where people reach the house, and Shared says that other processes serve it too: the sender "console" looks at both.
	PublicURL string
	Shared    bool
}

// Service is the room. Its methods may be called from any number of goroutines.
type Service struct {
	Deps
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	mark    []byte      // key of the hashes
	seal    cipher.AEAD // of codes that wait to be sent
	sender  sender
	send    *job.Kind[message]
}

// New builds the room. CodeInvalid for a Config that Validate refuses, for the sender "console" where it must not be, and for a key that has
// not 32 bytes.
func New(d Deps) (s *Service, err error) {
	defer levee.Wrap(&err, "phone.New")
	if err := d.Config.Validate(); err != nil {
		return nil, err
	}
	if len(d.Key) != 32 {
		return nil, levee.E(levee.CodeInvalid, "the key of the codes by SMS must have 32 bytes, it has %d", len(d.Key))
	}
	s = &Service{Deps: d, cfg: d.Config.withDefaults(), log: d.Obs.Named("phone"), metrics: newMetrics(d.Obs.Metrics), mark: derive(d.Key, "hash")}
	block, err := aes.NewCipher(derive(d.Key, "seal"))
	if err != nil {
		return nil, err
	}
	if s.seal, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		return nil, err
	}
	switch s.cfg.Sender {
	case senderAliyun:
		s.sender = newAliyun(s.cfg.Aliyun, d.Obs.Clock)
	case senderConsole:
		u, err := url.Parse(d.PublicURL)
		if err != nil || d.Shared || !here(u) {
			return nil, levee.Invalid("phone.sender", `"none" or "aliyun": "console" is for development on one machine, with mode "embedded" and an http.public_url such as http://127.0.0.1:8080`,
				senderConsole)
		}
		s.log.Warn("codes by SMS are written into this log: whoever reads it can sign in as anybody (phone.sender = console)")
		s.sender = console{s.log}
	}
	s.send = job.Define("phone.send", job.Options{Pool: "phone", Timeout: 30 * time.Second, MaxAttempts: 30, Backoff: pause}, s.deliver)
	return s, nil
}

// derive makes a key for one use.
func derive(key []byte, use string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(use))
	return h.Sum(nil)
}

// Jobs returns the room's kinds of jobs.
func (s *Service) Jobs() []job.Registration { return []job.Registration{s.send} }

// Work returns the room's timed work.
func (s *Service) Work() []schedule.Work {
	return []schedule.Work{schedule.Every("phone.prune", time.Hour, job.Options{}, s.Prune)}
}
