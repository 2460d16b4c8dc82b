package db

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"

	"levee"
)

// Schema is one owner's migrations: files schema/NNNN_what.sql, applied in order of their numbers, each in one transaction.
// Where engines differ a file has a twin per engine: NNNN_what.sqlite.sql and NNNN_what.mysql.sql.
type Schema struct {
	Owner string
	FS    fs.FS
}

// migration is one file as it is for this engine.
type migration struct {
	owner, name, checksum string
	number                string
	statements            []statement
}

func (m migration) String() string { return m.owner + "/" + m.name }

const schemaFileMax = 1 << 20 // bytes; a migration is written by hand

var (
	schemaFileName = regexp.MustCompile(`^(\d{4})_[a-z0-9_]+$`)
	ownerName      = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
	// singleKey is how a schema writes a primary key of one integer; SQLite keeps rows in its order, without a second tree,
	// only when the type is spelled INTEGER.
	singleKey    = regexp.MustCompile(`(?i)(\b[a-z_][a-z0-9_]*\s+)BIGINT(\s+NOT\s+NULL\s+PRIMARY\s+KEY\b)`)
	withoutRowID = regexp.MustCompile(`(?i)\bWITHOUT\s+ROWID\b`)
)

// load reads the migrations of all schemas as they are for the engine, in order.
func load(schemas []Schema, engine string) ([]migration, error) {
	var out []migration
	owners := map[string]bool{}
	for _, s := range schemas {
		if !ownerName.MatchString(s.Owner) {
			return nil, levee.Invalid("schema.owner", "a short lower-case word", s.Owner)
		}
		if owners[s.Owner] {
			return nil, fmt.Errorf("schema %s is given twice", s.Owner)
		}
		owners[s.Owner] = true
		ms, err := loadOwner(s, engine)
		if err != nil {
			return nil, fmt.Errorf("schema %s: %w", s.Owner, err)
		}
		out = append(out, ms...)
	}
	return out, nil
}

func loadOwner(s Schema, engine string) ([]migration, error) {
	files, err := fs.Glob(s.FS, "schema/*.sql")
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no files schema/*.sql")
	}
	chosen := map[string]string{} // name → file for this engine
	other := map[string]string{}  // name → file for another engine
	for _, f := range files {
		base := strings.TrimSuffix(strings.TrimPrefix(f, "schema/"), ".sql")
		name, twin, _ := strings.Cut(base, ".")
		if !schemaFileName.MatchString(name) || twin != "" && twin != "sqlite" && twin != "mysql" {
			return nil, fmt.Errorf("file %s: the name must be NNNN_what.sql, NNNN_what.sqlite.sql or NNNN_what.mysql.sql", f)
		}
		switch {
		case twin != "" && twin != engine:
			other[name] = f
		case chosen[name] == "" || twin == engine:
			chosen[name] = f
		}
	}
	for name, f := range other {
		if chosen[name] == "" {
			return nil, fmt.Errorf("file %s has no twin for %s", f, engine)
		}
	}
	var out []migration
	for _, name := range slices.Sorted(maps.Keys(chosen)) {
		m, err := loadFile(s, name, chosen[name], engine)
		if err != nil {
			return nil, fmt.Errorf("file %s: %w", chosen[name], err)
		}
		if n := len(out); n > 0 && out[n-1].number == m.number {
			return nil, fmt.Errorf("files %s and %s have the same number", out[n-1].name, m.name)
		}
		out = append(out, m)
	}
	return out, nil
}

func loadFile(s Schema, name, path, engine string) (m migration, err error) {
	text, err := fs.ReadFile(s.FS, path)
	if err != nil {
		return m, err
	}
	if len(text) > schemaFileMax {
		return m, fmt.Errorf("larger than %d bytes", schemaFileMax)
	}
	plain := strings.ReplaceAll(string(text), "\r\n", "\n")
	sum := sha256.Sum256([]byte(plain))
	m = migration{owner: s.Owner, name: name, number: name[:4], checksum: hex.EncodeToString(sum[:])}
	for _, st := range splitSQL(plain) {
		if refused[st.Verb] {
			return m, fmt.Errorf("%s is not allowed in a migration", st.Verb)
		}
		if st.Params != 0 {
			return m, fmt.Errorf("a ? outside of quotes in %q", levee.Shorten(st.Text, 80))
		}
		if withoutRowID.MatchString(st.Text) && !strings.HasSuffix(path, ".sqlite.sql") {
			return m, fmt.Errorf("WITHOUT ROWID is SQLite's own: allowed in .sqlite.sql files only")
		}
		if st.Verb == "CREATE" && engine == "sqlite" {
			st.Text = singleKey.ReplaceAllString(st.Text, "${1}INTEGER${2}")
		}
		m.statements = append(m.statements, st)
	}
	if len(m.statements) == 0 {
		return m, fmt.Errorf("no statements in it")
	}
	return m, nil
}

// recorded returns what was applied: owner/name → checksum.
func recorded(query func(q string) (*Rows, error)) (out map[string]string, err error) {
	rows, err := query("SELECT owner, name, checksum FROM db_migration")
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := rows.Close(); err == nil {
			err = e
		}
	}()
	out = map[string]string{}
	for rows.Next() {
		var owner, name, sum string
		if err := rows.Scan(&owner, &name, &sum); err != nil {
			return nil, err
		}
		out[owner+"/"+name] = sum
	}
	return out, rows.Err()
}

// pending compares files and records, and returns what is still to be applied. A changed or unknown file is an error; unknown
// ones of owners that are not given are one only when all is set.
func pending(have []migration, done map[string]string, all bool) ([]migration, error) {
	known := map[string]bool{}
	owners := map[string]bool{}
	highest := map[string]string{}
	var todo []migration
	for _, m := range have {
		known[m.String()] = true
		owners[m.owner] = true
		switch sum, ok := done[m.String()]; {
		case !ok:
			todo = append(todo, m)
		case sum != m.checksum:
			return nil, levee.E(levee.CodeInternal, "the migration %s was changed after it had been applied; "+
				"put the old text back and write a new file", m)
		default:
			highest[m.owner] = m.name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(done)) {
		owner, _, _ := strings.Cut(name, "/")
		if !known[name] && (all || owners[owner]) {
			return nil, levee.E(levee.CodeInternal, "the database has the migration %s, which this version does not know: "+
				"a newer version wrote it; start that version", name)
		}
	}
	for _, m := range todo {
		if m.name < highest[m.owner] {
			return nil, levee.E(levee.CodeInternal, "the migration %s comes before %s/%s, which is applied already; give it a higher number",
				m, m.owner, highest[m.owner])
		}
	}
	return todo, nil
}

// Migrate applies what is missing, forward only, and returns the names applied (owner/name). On SQLite each file is one transaction.
// MySQL commits each statement that changes a table by itself, so there each step is recorded, and the next call goes on
// after the last one done. Several processes may call it at once: each file is applied by one of them. A file that changed after
// it was applied, or one that this version does not know, is CodeInternal and nothing is applied.
func (d *DB) Migrate(ctx context.Context, schemas []Schema) (applied []string, err error) {
	defer levee.Wrap(&err, "db.Migrate")
	have, err := load(schemas, d.dialect.Name())
	if err != nil {
		return nil, err
	}
	done, err := recorded(func(q string) (*Rows, error) { return d.Query(ctx, q) })
	if err != nil {
		return nil, err
	}
	todo, err := pending(have, done, false)
	if err != nil {
		return nil, err
	}
	for _, m := range todo {
		ran, err := d.engine.apply(ctx, d, m)
		if err != nil {
			return applied, fmt.Errorf("migration %s: %w", m, err)
		}
		if ran {
			applied = append(applied, m.String())
			d.log.Info("migration applied", "migration", m.String())
		}
	}
	return applied, nil
}

const recordMigration = "INSERT INTO db_migration (owner, name, checksum, applied_at) VALUES (?,?,?,?)"

// CheckMigrations returns nil when the database has exactly the migrations given. Pending ones are named, as are changed ones
// and those of a newer version; all are CodeInternal.
func (d *DB) CheckMigrations(ctx context.Context, schemas []Schema) (err error) {
	defer levee.Wrap(&err, "db.CheckMigrations")
	have, err := load(schemas, d.dialect.Name())
	if err != nil {
		return err
	}
	done, err := recorded(func(q string) (*Rows, error) { return d.Query(ctx, q) })
	if err != nil {
		return err
	}
	todo, err := pending(have, done, true)
	if err != nil {
		return err
	}
	if len(todo) > 0 {
		names := make([]string, len(todo))
		for i, m := range todo {
			names[i] = m.String()
		}
		return levee.E(levee.CodeInternal, "the database lacks %s; run `levee migrate`", strings.Join(names, ", "))
	}
	return nil
}

// DumpSchema returns the CREATE statements of all tables and indexes, sorted and with even white space: the golden map.
func (d *DB) DumpSchema(ctx context.Context) (text string, err error) {
	defer levee.Wrap(&err, "db.DumpSchema")
	if d.dialect.mysql {
		return dumpMySQL(ctx, d)
	}
	rows, err := d.Query(ctx, "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")
	if err != nil {
		return "", err
	}
	defer func() {
		if e := rows.Close(); err == nil {
			err = e
		}
	}()
	type object struct{ kind, name, table, sql string }
	var all []object
	for rows.Next() {
		var o object
		if err := rows.Scan(&o.kind, &o.name, &o.table, &o.sql); err != nil {
			return "", err
		}
		all = append(all, o)
	}
	if err := rows.Err(); err != nil {
		return "", err
	}
	slices.SortFunc(all, func(a, b object) int {
		return cmp.Or(cmp.Compare(a.table, b.table), -cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name))
	})
	var b strings.Builder
	for _, o := range all {
		for line := range strings.SplitSeq(o.sql, "\n") {
			if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "--") {
				continue
			} else if !strings.HasPrefix(line, "CREATE") && line[0] != ')' && line[0] != ',' {
				line = "  " + line
			}
			b.WriteString(line + "\n")
		}
		b.WriteString(";\n\n")
	}
	return strings.TrimSpace(strings.ReplaceAll(b.String(), "\n;", ";")) + "\n", nil
}
