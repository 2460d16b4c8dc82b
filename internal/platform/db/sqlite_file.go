package db

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db/mysqlconn"
)

// file is the SQLite file and how connections to it are set up.
type file struct {
	path string
	busy time.Duration
}

const (
	// applicationID stands in the file's header (offset 68) and says that it is ours: "Leve".
	applicationID = 0x4c657665
	// layoutVersion is the header's user_version: the layout of db_migration itself. A larger one was written by a newer version.
	layoutVersion = 1
)

const createMigrationTable = `CREATE TABLE IF NOT EXISTS db_migration (
  owner VARCHAR(64) NOT NULL,
  name VARCHAR(190) NOT NULL,
  checksum CHAR(64) NOT NULL,
  applied_at BIGINT NOT NULL,
  PRIMARY KEY (owner, name)
)`

// parsePath reads a Config.URL of SQLite.
func parsePath(u string, busy time.Duration) (file, error) {
	const allowed = "sqlite:<path of a file>, for example sqlite:data/levee.db, or " + mysqlconn.URLForm
	path, ok := strings.CutPrefix(u, "sqlite:")
	if !ok || path == "" || strings.Contains(path, ":memory:") || strings.HasPrefix(path, "file:") ||
		strings.ContainsAny(path, "?#\x00") || strings.HasSuffix(path, "/") {
		return file{}, levee.Invalid("db.url", allowed, mysqlconn.WithoutPassword(u))
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return file{}, levee.Invalid("db.url", allowed, mysqlconn.WithoutPassword(u))
	}
	return file{path: abs, busy: busy}, nil
}

// uri is the path in SQLite's form, with everything escaped that means something there.
func (f file) uri() string { return (&url.URL{Scheme: "file", Path: f.path}).String() }

// open opens one connection. Only the writer's may write.
func (f file) open(writer bool) (*conn, error) {
	pragmas := []string{fmt.Sprintf("busy_timeout = %d", f.busy.Milliseconds()), "foreign_keys = OFF", "temp_store = MEMORY"}
	if writer {
		pragmas = append(pragmas,
			"journal_mode = WAL",
			"synchronous = FULL",            // a commit returns after the log is on disk
			"cache_size = -65536",           // 64 MiB: the hot parts of all indexes
			"wal_autocheckpoint = 0",        // the keeper does it beside the writer
			"journal_size_limit = 67108864", // what a burst left behind is cut to 64 MiB
		)
	} else {
		pragmas = append(pragmas, "query_only = ON", "cache_size = -16384")
	}
	c, err := newConn(f.uri(), pragmas, writer)
	if err != nil {
		return nil, f.explain(err)
	}
	return c, nil
}

// prepare makes the folder, opens the file once, checks what it is and proves that it can be written.
func (f file) prepare() (err error) {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o750); err != nil {
		return levee.E(levee.CodeInternal, "the folder of the database cannot be made; create %s for this user, or change db.url",
			filepath.Dir(f.path)).Because(err)
	}
	if st, err := os.Stat(f.path); err == nil && !st.Mode().IsRegular() {
		return levee.Invalid("db.url", "the path of a file", "sqlite:"+f.path)
	}
	// Personal data lies in it, so it is made readable for this user only; SQLite gives its -wal and -shm the same mode.
	if made, err := os.OpenFile(f.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err == nil {
		if err := made.Close(); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return levee.E(levee.CodeInternal, "%s cannot be made: the folder may not be written by this user; give it, or change db.url",
			f.path).Because(err)
	}
	c, err := f.open(true)
	if err != nil {
		return err
	}
	defer func() {
		if e := c.Close(); err == nil && e != nil {
			err = f.explain(e)
		}
	}()
	if err := f.identify(c); err != nil {
		return f.explain(err)
	}
	for _, q := range []string{
		"BEGIN IMMEDIATE", createMigrationTable, fmt.Sprintf("PRAGMA application_id = %d", applicationID),
		fmt.Sprintf("PRAGMA user_version = %d", layoutVersion), "COMMIT",
	} {
		if _, err := c.raw.ExecContext(background, q, nil); err != nil {
			return f.explain(err)
		}
	}
	return nil
}

// identify refuses files of others and of newer versions.
func (f file) identify(c *conn) error {
	get := func(q string) (any, error) {
		rows, err := c.ask(background, q)
		if err != nil || len(rows) == 0 {
			return nil, err
		}
		return rows[0][0], nil
	}
	mode, err := get("PRAGMA journal_mode")
	if err != nil {
		return err
	}
	if fmt.Sprint(mode) != "wal" {
		return levee.E(levee.CodeInternal, "%s cannot use a write-ahead log (journal mode %v): it must lie on a local disk", f.path, mode)
	}
	app, err := get("PRAGMA application_id")
	if err != nil {
		return err
	}
	tables, err := get("SELECT count(*) FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
	if err != nil {
		return err
	}
	if app != int64(applicationID) && (app != int64(0) || tables != int64(0)) {
		return levee.E(levee.CodeInternal, "%s is another program's database (application id %v, %v tables); choose another file",
			f.path, app, tables)
	}
	version, err := get("PRAGMA user_version")
	if err != nil {
		return err
	}
	if v, _ := version.(int64); v > layoutVersion {
		return levee.E(levee.CodeInternal, "%s was written by a newer version of this program (layout %d, this one knows %d); start that version",
			f.path, v, layoutVersion)
	}
	return nil
}

// explain turns an error of opening into words for an operator.
func (f file) explain(err error) error {
	if _, ok := errors.AsType[*levee.Error](err); ok {
		return err
	}
	reason := lostReason(err)
	code, _ := resultCode(err)
	switch code & 0xff {
	case 0:
		return err
	case codeBusy, codeLocked, codeProtocol:
		return levee.E(levee.CodeUnavailable, "%s is locked by another process; end it (or wait for it) and start again", f.path).
			After(retryAfter).Because(err)
	case codeNotADB:
		return levee.E(levee.CodeInternal, "%s is not a database, or its beginning is damaged; move it away or restore a backup", f.path).
			Because(err)
	case codeCorrupt:
		return levee.E(levee.CodeInternal, "%s is damaged; restore a backup, with its -wal file if there is one", f.path).Because(err)
	case codeReadOnly, codePerm, codeCantOpen:
		return levee.E(levee.CodeInternal, "%s or its folder may not be written by this user; give it both, or change db.url", f.path).
			Because(err)
	}
	if reason == "" {
		reason = "SQLite refused it"
	}
	return levee.E(levee.CodeInternal, "%s cannot be used: %s", f.path, reason).Because(err)
}

// ask runs a query without arguments past all checks and returns its rows; for pragmas and the part's own housekeeping.
func (c *conn) ask(ctx context.Context, query string) (out [][]driver.Value, err error) {
	rs, err := c.raw.QueryContext(ctx, query, nil)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := rs.Close(); err == nil {
			err = e
		}
	}()
	for {
		row := make([]driver.Value, len(rs.Columns()))
		switch err := rs.Next(row); {
		case err == io.EOF:
			return out, nil
		case err != nil:
			return out, err
		}
		out = append(out, row)
	}
}

// readerConnector opens the connections of the reader pool.
type readerConnector struct{ file file }

// Connect opens a reader.
func (r readerConnector) Connect(context.Context) (driver.Conn, error) { return r.file.open(false) }

// Driver is asked for by database/sql.DB.Driver only.
func (r readerConnector) Driver() driver.Driver { return noDriver{} }

// oneConnector hands database/sql one connection that is open already.
type oneConnector struct{ c driver.Conn }

// Connect hands out the connection.
func (w oneConnector) Connect(context.Context) (driver.Conn, error) { return w.c, nil }

// Driver is asked for by database/sql.DB.Driver only.
func (w oneConnector) Driver() driver.Driver { return noDriver{} }

// failingConnector gives every caller its error.
type failingConnector struct{ err error }

// Connect returns the error.
func (f failingConnector) Connect(context.Context) (driver.Conn, error) { return nil, f.err }

// Driver is asked for by database/sql.DB.Driver only.
func (f failingConnector) Driver() driver.Driver { return noDriver{} }

type noDriver struct{}

// Open is never called: connections come from connectors.
func (noDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("connections are opened by db.Open")
}
