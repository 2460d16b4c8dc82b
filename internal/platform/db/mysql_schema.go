package db

import (
	"context"
	"crypto/sha256"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"levee"
	"levee/internal/platform/db/mysqlconn"
)

const createStepTable = `CREATE TABLE IF NOT EXISTS db_step (
  owner VARCHAR(64) NOT NULL,
  name VARCHAR(190) NOT NULL,
  done INT NOT NULL,
  begun SMALLINT NOT NULL,
  checksum CHAR(64) NOT NULL,
  PRIMARY KEY (owner, name)
)`

// db_beat counts up by one each second while a node has replicas to watch.
const createBeatTable = `CREATE TABLE IF NOT EXISTS db_beat (id INT NOT NULL PRIMARY KEY, n BIGINT NOT NULL)`

// prepare makes the part's own tables and so proves that the database can be written.
func (m *mysqlEngine) prepare(ctx context.Context) (err error) {
	c, err := m.server.Open(ctx, mysqlconn.ForKeeping)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	// No statement changes anything where the tables stand, and a user without the right to make them may start then.
	rows, err := c.Ask(ctx, "SELECT count(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name IN ('db_migration', 'db_step', 'db_beat')")
	if err != nil {
		return mysqlconn.ConnectError(ctx, m.server.Addr, err)
	}
	if rows[0][0] != int64(3) {
		for _, q := range []string{createMigrationTable, createStepTable, createBeatTable} {
			ddl, err := mysqlconn.Translate(splitSQL(q)[0], m.server.Collation)
			if err != nil {
				return err
			}
			if err := c.Command(ctx, ddl); err != nil {
				return m.explain(ctx, err)
			}
		}
	}
	if err := c.Command(ctx, "INSERT INTO db_beat (id, n) VALUES (1, 0) ON DUPLICATE KEY UPDATE id=1"); err != nil {
		return m.explain(ctx, err)
	}
	if err := c.Command(ctx, "START TRANSACTION"); err != nil {
		return m.explain(ctx, err)
	}
	if err := c.Command(ctx, "INSERT INTO db_step (owner, name, done, begun, checksum) VALUES ('db', 'open', 0, 0, '') ON DUPLICATE KEY UPDATE done=0"); err != nil {
		return m.explain(ctx, err)
	}
	return m.explain(ctx, c.Command(ctx, "ROLLBACK"))
}

// explain turns the error of a statement of the part's own into words for an operator.
func (m *mysqlEngine) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	err = mysqlconn.FromServer(err)
	if n := mysqlconn.Number(err); n == 1142 || n == 1044 || n == 1227 {
		return levee.E(levee.CodeInternal, "the database user lacks a right; grant him ALL on the database").Because(err)
	}
	if kind, _ := mysqlconn.Judge(err, false); kind == mysqlconn.FaultNone && ctx.Err() == nil {
		return err
	}
	return mysqlconn.ConnectError(ctx, m.server.Addr, err)
}

// migrateLock is held by the node that migrates. A server has one space of such names for all its databases.
func (m *mysqlEngine) migrateLock() string {
	sum := sha256.Sum256([]byte(m.server.Database))
	return "levee.migrate." + hex.EncodeToString(sum[:8])
}

// apply runs one migration under a lock of the server. MySQL commits each statement that changes a table by itself; so before each
// one it is noted that it begins, and after it that it is done. A node that died in between leaves the note, and who
// comes next takes "is there already" as an answer to that statement. Statements that change rows commit with their note.
func (m *mysqlEngine) apply(ctx context.Context, d *DB, mig migration) (ran bool, err error) {
	c, err := m.server.Open(ctx, mysqlconn.ForKeeping)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, c.Close()) }() // which gives the lock back
	w := &stepper{m: m, c: c, ctx: ctx, mig: mig}
	if err := w.lock(); err != nil {
		return false, err
	}
	if rows, err := w.ask("SELECT count(*) FROM db_migration WHERE owner=? AND name=?", mig.owner, mig.name); err != nil || rows[0][0] != int64(0) {
		return false, err
	}
	done, begun, err := w.where()
	if err != nil {
		return false, err
	}
	for i := done; i < len(mig.statements); i++ {
		if err := w.step(i, begun && i == done); err != nil {
			return false, err
		}
	}
	return true, w.together(func() error {
		if err := w.exec(recordMigration, mig.owner, mig.name, mig.checksum, d.clock().UnixMicro()); err != nil {
			return err
		}
		return w.exec("DELETE FROM db_step WHERE owner=? AND name=?", mig.owner, mig.name)
	})
}

// stepper goes through one migration's statements.
type stepper struct {
	m   *mysqlEngine
	c   *mysqlconn.Conn
	ctx context.Context
	mig migration
}

func named(args []any) []driver.NamedValue {
	out := make([]driver.NamedValue, len(args))
	for i, a := range args {
		out[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	return out
}

func (w *stepper) ask(query string, args ...any) ([][]driver.Value, error) {
	rows, err := w.c.Ask(w.ctx, query, named(args)...)
	return rows, w.m.explain(w.ctx, err)
}

func (w *stepper) exec(query string, args ...any) error {
	_, err := w.c.Send(w.ctx, query, named(args))
	return w.m.explain(w.ctx, err)
}

// lock waits for the lock in short turns, so that the end of ctx is seen.
func (w *stepper) lock() error {
	for {
		rows, err := w.ask("SELECT GET_LOCK(?, 1)", w.m.migrateLock())
		switch {
		case err != nil:
			return err
		case rows[0][0] == int64(1):
			return nil
		}
		if err := mysqlconn.Pause(w.ctx, 5); err != nil {
			return err
		}
	}
}

// sum is over the statements before the one numbered n: those that are done must not have been changed.
func (w *stepper) sum(n int) string {
	h := sha256.New()
	for _, st := range w.mig.statements[:n] {
		h.Write([]byte(st.Text))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))
}

// where returns how many statements are done, and whether the next one was begun.
func (w *stepper) where() (done int, begun bool, err error) {
	rows, err := w.ask("SELECT done, begun, checksum FROM db_step WHERE owner=? AND name=?", w.mig.owner, w.mig.name)
	if err != nil || len(rows) == 0 {
		return 0, false, err
	}
	n, _ := rows[0][0].(int64)
	upTo := n + rows[0][1].(int64) // one that was begun counts: it may be done
	if upTo > int64(len(w.mig.statements)) || w.sum(int(upTo)) != rows[0][2] {
		return 0, false, levee.E(levee.CodeInternal, "the migration %s was changed after a part of it had been applied: "+
			"put back the text of the first %d statements", w.mig, upTo)
	}
	return int(n), upTo > n, nil
}

func (w *stepper) note(done, begun int) error {
	return w.exec("INSERT INTO db_step (owner, name, done, begun, checksum) VALUES (?,?,?,?,?) "+
		"ON DUPLICATE KEY UPDATE done=VALUES(done), begun=VALUES(begun), checksum=VALUES(checksum)",
		w.mig.owner, w.mig.name, int64(done), int64(begun), w.sum(done+begun))
}

// step runs the statement numbered i. It was begun before when perhaps is set, and may be done.
func (w *stepper) step(i int, perhaps bool) error {
	st := w.mig.statements[i]
	if !mysqlconn.ChangesSchema(st.Verb) {
		if !mysqlconn.Writes(st.Verb) {
			return fmt.Errorf("%q: %s is not allowed in a migration", levee.Shorten(st.Text, 160), st.Verb)
		}
		return w.together(func() error {
			if err := w.exec(st.Text); err != nil {
				return fmt.Errorf("%q: %w", levee.Shorten(st.Text, 160), err)
			}
			return w.note(i+1, 0)
		})
	}
	ddl, err := mysqlconn.Translate(st, w.m.server.Collation)
	if err != nil {
		return err
	}
	if err := w.note(i, 1); err != nil {
		return err
	}
	if err := w.exec(ddl); err != nil && !(perhaps && mysqlconn.IsThere(err)) {
		err = fmt.Errorf("%q: %w", levee.Shorten(st.Text, 160), err)
		if mysqlconn.Number(err) != 0 && levee.CodeOf(err) != levee.CodeUnavailable { // answered: it is not done
			return errors.Join(err, w.note(i, 0))
		}
		return err
	}
	return w.note(i+1, 0)
}

// together runs fn in one transaction.
func (w *stepper) together(fn func() error) error {
	if err := w.exec("START TRANSACTION"); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return errors.Join(err, w.exec("ROLLBACK"))
	}
	return w.exec("COMMIT")
}

// check has the server check each table, and looks whether each is as a migration makes it.
func (m *mysqlEngine) check(ctx context.Context, _ *DB) (err error) {
	c, err := m.server.Open(ctx, mysqlconn.ForKeeping)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	tables, err := c.Ask(ctx, "SELECT table_name, engine, table_collation FROM information_schema.tables "+
		"WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' ORDER BY table_name")
	if err != nil {
		return m.explain(ctx, err)
	}
	var bad []string
	for _, t := range tables {
		name := mysqlconn.Text(t[0])
		if mysqlconn.Text(t[1]) != "InnoDB" || mysqlconn.Text(t[2]) != m.server.Collation {
			bad = append(bad, fmt.Sprintf("table %s has engine %v and collation %v, not InnoDB and %s", name, mysqlconn.Text(t[1]), mysqlconn.Text(t[2]), m.server.Collation))
		}
		found, err := c.Ask(ctx, `CHECK TABLE "`+name+`" QUICK`)
		if err != nil {
			return m.explain(ctx, err)
		}
		for _, line := range found {
			if kind, text := mysqlconn.Text(line[2]), mysqlconn.Text(line[3]); kind == "error" || kind == "status" && text != "OK" {
				bad = append(bad, fmt.Sprintf("table %s: %s", name, text))
			}
		}
	}
	columns, err := c.Ask(ctx, "SELECT table_name, column_name, collation_name FROM information_schema.columns WHERE table_schema = DATABASE() "+
		"AND collation_name IS NOT NULL AND collation_name <> '"+m.server.Collation+"' ORDER BY table_name, column_name")
	if err != nil {
		return m.explain(ctx, err)
	}
	for _, t := range columns {
		bad = append(bad, fmt.Sprintf("column %s.%s has collation %s, not %s", mysqlconn.Text(t[0]), mysqlconn.Text(t[1]), mysqlconn.Text(t[2]), m.server.Collation))
	}
	if len(bad) > 0 {
		return levee.E(levee.CodeInternal, "the database is not as it should be: %s", strings.Join(bad[:min(len(bad), 10)], "; "))
	}
	return nil
}

// dumpMySQL returns the CREATE statements of all tables as the server has them.
func dumpMySQL(ctx context.Context, d *DB) (text string, err error) {
	rows, err := d.Query(ctx, "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return "", err
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		return "", err
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		var same, create string
		if err := d.QueryRow(ctx, `SHOW CREATE TABLE "`+name+`"`).Scan(&same, &create); err != nil {
			return "", err
		}
		b.WriteString(create + ";\n\n")
	}
	return strings.TrimSpace(b.String()) + "\n", nil
}
