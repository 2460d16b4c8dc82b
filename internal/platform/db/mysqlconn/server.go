// Package mysqlconn is one connection to a MySQL or MariaDB server, set up so that it answers as platform/db promises: strict, with the
// collation, the isolation and the counting of rows that the house relies on, with errors that hold no values and say what
// they mean for the transaction. It knows no pool and runs no transaction; platform/db does.
package mysqlconn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"

	"levee"
	"levee/internal/platform/obs"
)

// Server is one MySQL server and how connections to it are set up.
type Server struct {
	Addr     string // host:port
	user     string
	Database string
	password obs.Secret
	tls      *tls.Config // nil: none
	connect  time.Duration
	answer   time.Duration
	busy     time.Duration
	dial     func(ctx context.Context, network, addr string) (net.Conn, error)

	Facts // learned from the first connection
}

// Facts are what a server tells of itself.
type Facts struct {
	Version   string
	MariaDB   bool
	Collation string
	MaxPacket int
}

const URLForm = "mysql://USER@HOST:PORT/DATABASE, then perhaps ?tls=on|off, tls_ca=FILE, connect_timeout=1s to 1m, " +
	"answer_timeout=1s to 10m joined by &; the password has a field of its own"

var databaseName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Parse reads a URL of MySQL.
func Parse(field, text string, password obs.Secret, busy time.Duration) (*Server, error) {
	bad := func() error { return levee.Invalid(field, URLForm, WithoutPassword(text)) }
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "mysql" || u.Opaque != "" || u.Fragment != "" || u.User == nil || u.User.Username() == "" || u.Hostname() == "" {
		return nil, bad()
	}
	if _, given := u.User.Password(); given {
		return nil, levee.Invalid(field, "without a password: it has a field of its own", WithoutPassword(text))
	}
	s := &Server{
		user: u.User.Username(), password: password, Database: strings.TrimPrefix(u.Path, "/"), busy: busy,
		connect: 5 * time.Second, answer: 10 * time.Second, dial: (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext,
	}
	port := u.Port()
	if port == "" {
		port = "3306"
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || !databaseName.MatchString(s.Database) {
		return nil, bad()
	}
	s.Addr = net.JoinHostPort(u.Hostname(), port)
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, bad()
	}
	for key, values := range query {
		v := values[0]
		if len(values) != 1 {
			return nil, levee.Invalid(field, "each parameter once", key)
		}
		switch key {
		case "tls":
			switch v {
			case "on":
				s.secure()
			case "off":
			default:
				return nil, levee.Invalid(field+"?tls", "on or off", v)
			}
		case "tls_ca":
			pem, err := os.ReadFile(v)
			if err != nil {
				return nil, levee.Invalid(field+"?tls_ca", "a file that can be read", v).Because(err)
			}
			s.secure().RootCAs = x509.NewCertPool()
			if !s.tls.RootCAs.AppendCertsFromPEM(pem) {
				return nil, levee.Invalid(field+"?tls_ca", "a file with certificates in PEM form", v)
			}
		case "connect_timeout":
			if s.connect, err = time.ParseDuration(v); err != nil || s.connect < time.Second || s.connect > time.Minute {
				return nil, levee.Invalid(field+"?connect_timeout", "from 1s to 1m", v)
			}
		case "answer_timeout":
			if s.answer, err = time.ParseDuration(v); err != nil || s.answer < time.Second || s.answer > 10*time.Minute {
				return nil, levee.Invalid(field+"?answer_timeout", "from 1s to 10m", v)
			}
		default:
			return nil, levee.Invalid(field, URLForm, "?"+key)
		}
	}
	if query.Get("tls") == "off" && query.Has("tls_ca") {
		return nil, levee.Invalid(field+"?tls", "on with tls_ca", "off")
	}
	return s, nil
}

// Through has connections made by dial instead of directly: through a tunnel. Names are looked up at its other end.
func (s *Server) Through(dial func(ctx context.Context, network, addr string) (net.Conn, error)) {
	s.dial = dial
}

func (s *Server) secure() *tls.Config {
	if s.tls == nil {
		host, _, _ := net.SplitHostPort(s.Addr)
		s.tls = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	}
	return s.tls
}

// WithoutPassword is a URL as it may be shown.
func WithoutPassword(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	at := strings.LastIndexByte(rest, '@')
	if !ok {
		if i := strings.LastIndexByte(text, '@'); i >= 0 {
			return "…" + text[i:]
		}
	}
	if !ok || at < 0 {
		return text
	}
	user, _, hidden := strings.Cut(rest[:at], ":")
	if hidden {
		user += ":…"
	}
	return scheme + "://" + user + rest[at:]
}

// Mode says what a connection is for.
type Mode int

const (
	ForReading Mode = iota // statements on their own, READ COMMITTED, read-only
	ForWriting             // transactions, SERIALIZABLE
	ForKeeping             // migrations and checks: statements on their own that may take long
	ForBeating             // the heartbeat: statements on their own that must be quick
)

// keepingAnswer is how long a migration's statement or a check may take: a large table is rebuilt.
const keepingAnswer = time.Hour

// BeatAnswer is how long a heartbeat may take: a replica that does not answer is left out within a second.
const BeatAnswer = 500 * time.Millisecond

// How long a transaction may be without a statement before the server undoes it, where it can (MariaDB), and how long a connection that
// writes, where it cannot (MySQL). Then the locks of a node that fell silent are free; a node that wakes runs its function again. The
// function of a transaction waits for nothing but the database, so only a process that is starved comes near to this.
const (
	silentTx   = 3 * time.Second
	silentConn = 30 * time.Second
)

// sqlMode has a server refuse what it would otherwise change silently, and read SQL as the standard and SQLite do: || joins texts,
// "x" is a name, and a backslash is a character like any other.
const sqlMode = "STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION," +
	"PIPES_AS_CONCAT,ANSI_QUOTES,NO_BACKSLASH_ESCAPES"

// Open makes one connection and sets it up.
func (s *Server) Open(ctx context.Context, m Mode) (*Conn, error) {
	answer := max(s.answer, s.busy+time.Second)
	connect := s.connect
	switch m {
	case ForKeeping:
		answer = keepingAnswer
	case ForBeating:
		answer = BeatAnswer
		connect = min(connect, 2*BeatAnswer)
	}
	var w *wire
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd, cfg.Net, cfg.Addr, cfg.DBName = s.user, s.password.Reveal(), "tcp", s.Addr, s.Database
	cfg.TLS = s.tls.Clone()
	cfg.Timeout, cfg.ReadTimeout, cfg.WriteTimeout = connect, connect, answer
	cfg.ClientFoundRows = true // an UPDATE reports the rows it matched, as SQLite does
	cfg.InterpolateParams = true
	cfg.MaxAllowedPacket = s.MaxPacket
	cfg.Logger = &mysql.NopLogger{}
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := s.dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		w = &wire{Conn: c}
		if _, ok := c.(syscall.Conn); ok {
			return &tcpWire{w}, nil
		}
		return w, nil
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	raw, err := connector.Connect(ctx)
	if err != nil {
		return nil, ConnectError(ctx, s.Addr, err)
	}
	rc, ok := raw.(rawMySQL)
	if !ok {
		return nil, errors.Join(errors.New("the MySQL driver lacks methods that are needed"), raw.Close())
	}
	c := &Conn{raw: rc, wire: w, mode: m, server: s, texts: map[string]*text{}, open: map[*kept]struct{}{}}
	for _, q := range s.setup(m, answer) {
		if _, err := rc.ExecContext(ctx, q, nil); err != nil {
			return nil, errors.Join(ConnectError(ctx, s.Addr, err), raw.Close())
		}
	}
	w.allow.Store(int64(answer))
	return c, nil
}

// setup are the statements that a new connection begins with.
func (s *Server) setup(m Mode, answer time.Duration) []string {
	if s.Collation == "" {
		return nil // the first connection of all: it only asks
	}
	busy := int64((s.busy + time.Second - 1) / time.Second)
	set := fmt.Sprintf("SET SESSION sql_mode='%s', time_zone='+00:00', innodb_lock_wait_timeout=%d, lock_wait_timeout=%d", sqlMode, busy, busy)
	if m != ForKeeping {
		// The server gives up what nobody waits for any more. MySQL knows this for SELECT only.
		if s.MariaDB {
			set += fmt.Sprintf(", max_statement_time=%.1f", answer.Seconds())
		} else {
			set += fmt.Sprintf(", max_execution_time=%d", answer/time.Millisecond)
		}
	}
	// A process that sleeps, or whose machine is gone without a word, leaves its transaction open on the server, and others wait for its
	// locks. MySQL has no bound for a transaction: there it is the connection, and one that was ended while it lay idle is not used again.
	switch {
	case m == ForKeeping:
	case s.MariaDB:
		set += fmt.Sprintf(", idle_transaction_timeout=%d", silentTx/time.Second)
	case m == ForWriting:
		set += fmt.Sprintf(", wait_timeout=%d", silentConn/time.Second)
	}
	names := "SET NAMES utf8mb4 COLLATE " + s.Collation
	switch m {
	case ForReading:
		return []string{names, set, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY"}
	case ForWriting:
		// Without autocommit the first statement begins a transaction: one journey less.
		return []string{names, set + ", autocommit=0", "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE"}
	}
	return []string{names, set}
}

var serverVersion = regexp.MustCompile(`^(\d+)\.(\d+)\.(\d+)`)

// Ask learns the facts and refuses servers that are too old.
func (s *Server) Ask(ctx context.Context) (durable bool, err error) {
	c, err := s.Open(ctx, ForKeeping)
	if err != nil {
		return false, err
	}
	defer func() {
		if e := c.Close(); err == nil {
			err = e
		}
	}()
	row, err := c.Ask(ctx, "SELECT VERSION(), @@max_allowed_packet, @@innodb_flush_log_at_trx_commit, @@log_bin, @@sync_binlog")
	if err != nil {
		return false, ConnectError(ctx, s.Addr, err)
	}
	if len(row) != 1 || len(row[0]) != 5 {
		return false, levee.E(levee.CodeInternal, "the server at db.url does not answer as MySQL does")
	}
	number := func(i int) int64 { n, _ := row[0][i].(int64); return n }
	s.Version = Text(row[0][0])
	s.MaxPacket = int(number(1)) - 1
	s.MariaDB = strings.Contains(s.Version, "MariaDB")
	need, least := [3]int{8, 0, 17}, "MySQL 8.0.17"
	s.Collation = "utf8mb4_0900_bin"
	if s.MariaDB {
		need, least = [3]int{10, 6, 0}, "MariaDB 10.6"
		s.Collation = "utf8mb4_nopad_bin"
	}
	m := serverVersion.FindStringSubmatch(s.Version)
	var have [3]int
	for i := range have {
		if m != nil {
			have[i], _ = strconv.Atoi(m[i+1])
		}
	}
	for i := range have {
		if have[i] > need[i] {
			break
		}
		if have[i] < need[i] {
			return false, levee.E(levee.CodeInternal, "the database server is version %s; at least %s is needed", s.Version, least)
		}
	}
	return number(2) == 1 && (number(3) == 0 || number(4) == 1), nil
}

// wire is the network connection under a driver's connection. It puts the deadline itself, because the driver knows one only for a
// connection's whole life, and remembers that one passed, because the driver then says no more than that the connection is lost.
type wire struct {
	net.Conn
	allow atomic.Int64 // nanoseconds for an answer; 0: the driver's own
	late  atomic.Bool
}

// SetReadDeadline is called by the driver before it reads.
func (w *wire) SetReadDeadline(t time.Time) error {
	if d := w.allow.Load(); d > 0 {
		t = time.Now().Add(time.Duration(d))
	}
	return w.Conn.SetReadDeadline(t)
}

// Read reads.
func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.note(err)
	return n, err
}

// Write writes.
func (w *wire) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	w.note(err)
	return n, err
}

func (w *wire) note(err error) {
	if err == nil {
		return
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		w.late.Store(true)
	}
}

// tcpWire is a wire whose socket the driver may look at, to find out whether the server has closed it.
type tcpWire struct{ *wire }

// SyscallConn gives the socket.
func (w *tcpWire) SyscallConn() (syscall.RawConn, error) { return w.Conn.(syscall.Conn).SyscallConn() }

func isNetError(err error) bool {
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrShortWrite) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// ReadPool opens the connections of the reader pool.
type ReadPool struct {
	Server *Server
	Spare  func() bool // gives a connection back to a server that has none free, if it can
}

// Connect opens a reader.
func (r ReadPool) Connect(ctx context.Context) (driver.Conn, error) {
	for step := 0; ; step++ {
		c, err := r.Server.Open(ctx, ForReading)
		if err == nil {
			return c, nil
		}
		if n := Number(err); n != myTooManyConns && n != 1203 && n != 1226 || step == spareMax || !r.Spare() {
			return nil, err
		}
		if err := Pause(ctx, step+3); err != nil { // the server takes a moment to notice
			return nil, err
		}
	}
}

// spareMax is how many writing connections are given back for one of a reader.
const spareMax = 3

// Driver is asked for by database/sql.DB.Driver only.
func (r ReadPool) Driver() driver.Driver { return noDriver{} }

type noDriver struct{}

// Open is never called: connections come from connectors.
func (noDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("connections are opened by db.Open")
}

// Pause waits before the next attempt, a random time that doubles with each up to half a second.
func Pause(ctx context.Context, step int) error {
	most := min(time.Millisecond<<min(step, 9), 500*time.Millisecond)
	timer := time.NewTimer(most/4 + rand.N(most))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
