package binlog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/go-mysql-org/go-mysql/client"
	"github.com/go-mysql-org/go-mysql/mysql"

	"levee"
)

const (
	connectTimeout = 5 * time.Second
	silence        = 10 * time.Second // of a server that sends heartbeats: it counts as away
	heartbeat      = 2 * time.Second
)

// server is what the follower must know of one.
type server struct {
	flavor string // mysql or mariadb
	now    string // the position of what is committed last
}

func (f *Follower) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if f.cfg.Dial != nil {
		return f.cfg.Dial(ctx, network, address)
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

func (f *Follower) connect(ctx context.Context) (*client.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	c, err := client.ConnectWithDialer(ctx, "", net.JoinHostPort(f.at.host, strconv.Itoa(int(f.at.port))), f.at.user, f.cfg.Password.Reveal(), f.at.database,
		f.dial, func(c *client.Conn) error {
			c.SetTLSConfig(f.cfg.TLS)
			c.ReadTimeout, c.WriteTimeout = silence, silence
			return nil
		})
	if err != nil {
		return nil, f.explain(err)
	}
	return c, nil
}

// Check connects to the server and says whether it can be followed: ErrOff (CodeInvalid), ErrPrivilege (CodeForbidden), or CodeUnavailable
// when it cannot be reached. It does not read the log.
func (f *Follower) Check(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "binlog.Check")
	c, err := f.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err = f.examine(c); err != nil {
		return err
	}
	return f.mayRead(c)
}

// mayRead looks for the privilege, which a server tells of oneself to everybody.
func (f *Follower) mayRead(c *client.Conn) error {
	r, err := c.Execute("SHOW GRANTS")
	if err != nil {
		return f.explain(err)
	}
	for i := range r.Values {
		g, err := r.GetString(i, 0)
		if err != nil {
			return err
		}
		for _, p := range []string{"REPLICATION SLAVE", "REPLICATION REPLICA", "ALL PRIVILEGES ON *.*"} {
			if strings.Contains(g, p) {
				return nil
			}
		}
	}
	return f.forbidden(nil)
}

func (f *Follower) forbidden(cause error) error {
	return levee.E(levee.CodeForbidden, "the user %s may not read the binary log: GRANT REPLICATION SLAVE ON *.* TO %s", f.at.user, f.at.user).
		Because(errors.Join(ErrPrivilege, cause))
}

func off(format string, args ...any) error {
	return levee.E(levee.CodeInvalid, format, args...).Because(ErrOff)
}

// examine asks the server how it logs.
func (f *Follower) examine(c *client.Conn) (s server, err error) {
	ask := func(what string) string {
		if err != nil {
			return ""
		}
		r, e := c.Execute("SELECT " + what)
		if e != nil {
			err = f.explain(e)
			return ""
		}
		v, e := r.GetString(0, 0)
		if e != nil {
			err = e
		}
		return v
	}
	version := ask("@@version")
	on, format, image := ask("@@log_bin"), ask("@@global.binlog_format"), ask("@@global.binlog_row_image")
	if err != nil {
		return s, err
	}
	switch {
	case on != "1":
		return s, off("the server writes no binary log: set log_bin and restart it")
	case format != "ROW":
		return s, off("the server logs statements in place of rows: set binlog_format = ROW, it is %s", format)
	case image != "FULL" && image != "FULL_NODUP":
		return s, off("the server logs parts of rows only: set binlog_row_image = FULL, it is %s", image)
	}
	if s.flavor = mysql.MySQLFlavor; strings.Contains(version, "MariaDB") {
		s.flavor = mysql.MariaDBFlavor
		s.now = ask("@@global.gtid_binlog_pos")
		return s, err
	}
	if mode := ask("@@global.gtid_mode"); err == nil && mode != "ON" {
		return s, off("the server's transactions have no global ids: set gtid_mode = ON and enforce_gtid_consistency = ON, it is %s", mode)
	}
	s.now = strings.ReplaceAll(ask("@@global.gtid_executed"), "\n", "")
	return s, err
}

// explain gives a server's error its meaning.
func (f *Follower) explain(err error) error {
	told := toldBy(err)
	if told == nil {
		if known := (*levee.Error)(nil); errors.As(err, &known) {
			return err
		}
		return levee.E(levee.CodeUnavailable, "the database server cannot be followed: the connection failed").After(time.Second).Because(err)
	}
	switch told.Code {
	case mysql.ER_SPECIFIC_ACCESS_DENIED_ERROR, mysql.ER_DBACCESS_DENIED_ERROR:
		return f.forbidden(err)
	case mysql.ER_ACCESS_DENIED_ERROR:
		return levee.E(levee.CodeForbidden, "the database server refuses the user %s or its password", f.at.user).Because(err)
	case mysql.ER_MASTER_FATAL_ERROR_READING_BINLOG:
		return levee.E(levee.CodeGone, "the server does not have what follows the position: it has thrown it away (keep it for longer: binlog_expire_logs_seconds), "+
			"or it took the place of one that had more, or a row is larger than its max_allowed_packet").Because(errors.Join(ErrPurged, err))
	case mysql.ER_NOT_SUPPORTED_YET, mysql.ER_NO_BINARY_LOGGING:
		return off("the server writes no binary log: set log_bin and restart it")
	}
	return levee.E(levee.CodeUnavailable, "the database server cannot be followed").After(time.Second).Because(err)
}

// refused is explain for a user who has just connected: then it is not the password that is wrong.
func (f *Follower) refused(err error) error {
	if told := toldBy(err); told != nil && told.Code == mysql.ER_ACCESS_DENIED_ERROR {
		return f.forbidden(err)
	}
	return f.explain(err)
}

// toldBy returns the server's own error within err. The library wraps errors in a way of its own.
func toldBy(err error) *mysql.MyError {
	for err != nil {
		if told := (*mysql.MyError)(nil); errors.As(err, &told) {
			return told
		}
		c, ok := err.(interface{ Cause() error })
		if !ok {
			return nil
		}
		if next := c.Cause(); next == nil || next == err {
			return nil
		} else {
			err = next
		}
	}
	return nil
}

// learn reads a table's columns, as they are now.
func (f *Follower) learn(ctx context.Context, t *table) error {
	c, err := f.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	r, err := c.Execute("SELECT column_name FROM information_schema.columns WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position", f.at.database, t.Name)
	if err != nil {
		return f.explain(err)
	}
	var columns []string
	for i := range r.Values {
		name, err := r.GetString(i, 0)
		if err != nil {
			return err
		}
		columns = append(columns, name)
	}
	return t.take(columns)
}

// take notes where the wanted columns are.
func (t *table) take(columns []string) error {
	places := make([]int, len(t.Columns))
	for i, want := range t.Columns {
		places[i] = -1
		for j, c := range columns {
			if strings.EqualFold(c, want) {
				places[i] = j
			}
		}
		if places[i] < 0 {
			return levee.Invalid("binlog.tables."+t.Name, "columns that the table has", want)
		}
	}
	t.columns, t.places = columns, places
	return nil
}

// value makes a column's value one of the types that Change promises.
func value(v any, kind byte, unsigned bool) any {
	switch x := v.(type) {
	case nil, string, int64, float64, uint64:
		if n, ok := x.(int64); ok && unsigned && n < 0 {
			return uint64(n)
		}
		return x
	case []byte:
		return string(x)
	case int8:
		if unsigned {
			return int64(uint8(x))
		}
		return int64(x)
	case int16:
		if unsigned {
			return int64(uint16(x))
		}
		return int64(x)
	case int32:
		if unsigned && kind == mysql.MYSQL_TYPE_INT24 {
			return int64(uint32(x) & 0xFFFFFF)
		}
		if unsigned {
			return int64(uint32(x))
		}
		return int64(x)
	case int:
		return int64(x)
	case float32:
		return float64(x)
	}
	return fmt.Sprint(v)
}
